//! What the doctors of a host's programs found, each check with its cure below it.

use chrono::{DateTime, Utc};
use marquee_domain::doctor::{Check, Report, Verdict};
use serde_json::{Value, json};

use crate::page::{Cell, Page, Tone, View, left, toned};

/// The reports of all programs.
#[derive(Debug)]
pub struct Reports(pub Vec<Report>);

impl Reports {
    /// Checks that ended so.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.0.iter().map(|report| report.count(verdict)).sum()
    }
}

impl View for Reports {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        for report in &self.0 {
            page.heading(format!("{} {}", report.program, report.version));
            let heads = [left("VERDICT"), left("CHECK"), left("FOUND")];
            page.table(heads, report.checks.iter().flat_map(rows).collect());
        }
        page.gap();
        page.line(format!(
            "{} ok, {} skipped, {} to look at, {} failed",
            self.count(Verdict::Ok),
            self.count(Verdict::Skipped),
            self.count(Verdict::Warning),
            self.count(Verdict::Failed),
        ));
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        self.0.iter().map(|report| json!(report)).collect()
    }

    /// What needs somebody.
    fn ids(&self) -> Vec<String> {
        let checks = self.0.iter().flat_map(|report| &report.checks);
        // By the cure and not by the verdict: a warning needs somebody as well as a failure does.
        let wanting = checks.filter(|check| check.cure.is_some());
        wanting.map(|check| check.name.clone()).collect()
    }
}

/// A check, and its cure below it.
fn rows(check: &Check) -> Vec<Vec<Cell>> {
    let tone = match check.verdict {
        Verdict::Ok => Tone::Good,
        Verdict::Skipped => Tone::Faint,
        Verdict::Warning => Tone::Warn,
        Verdict::Failed => Tone::Bad,
    };
    let first = vec![
        toned(check.verdict.as_str(), tone),
        check.name.as_str().into(),
        check.found.as_str().into(),
    ];
    let cure = check.cure.as_ref().map(|cure| {
        vec![
            "".into(),
            "".into(),
            toned(format!("-> {cure}"), Tone::Strong),
        ]
    });
    std::iter::once(first).chain(cure).collect()
}
