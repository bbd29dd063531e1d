//! What a check of the cluster's history found, and the lines of that history.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use marquee_proto::v1::{AuditFinding, AuditLine, AuditSummary};
use serde_json::{Value, json};

use crate::page::{Cell, Page, Tone, View, left, right, toned};
use crate::{units, words};

/// What a check found.
#[derive(Debug)]
pub struct Verified<'a> {
    pub findings: &'a [AuditFinding],
    pub summary: &'a AuditSummary,
}

impl View for Verified<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        for finding in self.findings {
            page.line(format!("{} {}", finding.rule, finding.sentence));
            page.line(format!("   {}{}", place(finding), finding.text));
        }
        let summary = self.summary;
        let shown = self.findings.len() as u64;
        if summary.findings > shown {
            page.line(format!(
                "and {} more",
                units::count(summary.findings - shown)
            ));
        }
        if !self.findings.is_empty() {
            page.gap();
        }
        let verdict = match summary.findings {
            0 => toned("every rule was kept", Tone::Good),
            1 => toned("1 finding", Tone::Bad),
            more => toned(format!("{} findings", units::count(more)), Tone::Bad),
        };
        let since = units::time(summary.began_at.as_ref()).map(units::rfc3339);
        page.fields(vec![
            ("verdict", verdict),
            ("looked at", looked_at(summary).into()),
            ("since", since.unwrap_or_default().into()),
        ]);
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        let summary = self.summary;
        let mut by_rule: BTreeMap<&str, u64> = BTreeMap::new();
        for finding in self.findings {
            *by_rule.entry(&finding.rule).or_default() += 1;
        }
        json!({
            "clean": summary.findings == 0,
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "findings_count": summary.findings,
            "by_rule": by_rule,
            "lines": summary.lines,
            "jobs": summary.jobs,
            "grants": summary.grants,
            "commits": summary.commits,
            "artifacts": summary.artifacts,
            "seconds": seconds(summary),
            "began_at": units::time(summary.began_at.as_ref()).map(units::rfc3339),
        })
    }

    fn ids(&self) -> Vec<String> {
        self.findings
            .iter()
            .map(|finding| finding.rule.clone())
            .collect()
    }
}

fn looked_at(summary: &AuditSummary) -> String {
    let count =
        |number: u64, noun| units::plural(usize::try_from(number).unwrap_or(usize::MAX), noun);
    format!(
        "{} of {}, {}, {}, files of {}; {:.1} s",
        count(summary.lines, "line"),
        count(summary.jobs, "job"),
        count(summary.grants, "grant"),
        count(summary.commits, "commit"),
        count(summary.artifacts, "artifact"),
        seconds(summary)
    )
}

#[allow(
    clippy::cast_precision_loss,
    reason = "milliseconds of minutes are exact in an f64"
)]
fn seconds(summary: &AuditSummary) -> f64 {
    summary.took_ms as f64 / 1_000.0
}

/// `2026-11-30T06:12:04Z, line 17, job 4, attempt 2, rank 0: `.
fn place(finding: &AuditFinding) -> String {
    let mut parts: Vec<String> = units::time(finding.at.as_ref())
        .map(units::rfc3339)
        .into_iter()
        .collect();
    if finding.line > 0 {
        parts.push(format!("line {}", finding.line));
    }
    if finding.pipeline_id > 0 {
        parts.push(format!("pipeline p{}", finding.pipeline_id));
    }
    if finding.job_id > 0 {
        parts.push(format!("job {}", finding.job_id));
    }
    if finding.attempt > 0 {
        parts.push(format!("attempt {}", finding.attempt));
    }
    if let Some(rank) = finding.rank {
        parts.push(format!("rank {rank}"));
    }
    if !finding.worker_id.is_empty() {
        parts.push(format!("worker {}", finding.worker_id));
    }
    if let Some(device) = &finding.device {
        parts.push(words::device(device));
    }
    match parts.is_empty() {
        true => String::new(),
        false => format!("{}: ", parts.join(", ")),
    }
}

fn finding(finding: &AuditFinding) -> Value {
    json!({
        "rule": finding.rule,
        "sentence": finding.sentence,
        "text": finding.text,
        "at": units::time(finding.at.as_ref()).map(units::rfc3339),
        "line": set(finding.line),
        "pipeline_id": set(finding.pipeline_id),
        "job_id": set(finding.job_id),
        "attempt": set(finding.attempt.into()),
        "rank": finding.rank,
        "worker_id": (!finding.worker_id.is_empty()).then_some(&finding.worker_id),
        "device": finding.device.as_ref().map(words::device),
    })
}

/// A number, where there is one.
fn set(number: i64) -> Option<i64> {
    (number != 0).then_some(number)
}

/// Lines of the history.
#[derive(Debug)]
pub struct Lines<'a>(pub &'a [AuditLine]);

impl View for Lines<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        if self.0.is_empty() {
            return;
        }
        let heads = [
            left("AT"),
            left("WHAT"),
            right("JOB"),
            right("ATTEMPT"),
            right("RANK"),
            left("WORKER"),
            left("WHO"),
            left("DETAIL"),
        ];
        page.table(heads, self.0.iter().map(row).collect());
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        self.0.iter().map(line).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.iter().map(|line| line.number.to_string()).collect()
    }
}

fn row(line: &AuditLine) -> Vec<Cell> {
    let number = |number: i64| set(number).map(|n| n.to_string()).unwrap_or_default();
    let job = match line.pipeline_id {
        0 => number(line.job_id),
        pipeline => format!("p{pipeline}"),
    };
    let at = units::time(line.at.as_ref()).map(units::rfc3339);
    let worker = match line.worker_name.is_empty() {
        true => &line.worker_id,
        false => &line.worker_name,
    };
    vec![
        toned(at.unwrap_or_default(), Tone::Faint),
        toned(line.kind.as_str(), Tone::Strong),
        job.into(),
        number(line.attempt.into()).into(),
        line.rank
            .map(|rank| rank.to_string())
            .unwrap_or_default()
            .into(),
        worker.as_str().into(),
        line.actor.as_str().into(),
        line.detail_json.as_str().into(),
    ]
}

/// One line, for programs.
#[must_use]
pub fn line(line: &AuditLine) -> Value {
    let detail: Value = serde_json::from_str(&line.detail_json).unwrap_or_default();
    json!({
        "line": line.number,
        "at": units::time(line.at.as_ref()).map(units::rfc3339),
        "what": line.kind,
        "pipeline_id": set(line.pipeline_id),
        "job_id": set(line.job_id),
        "attempt": set(line.attempt.into()),
        "rank": line.rank,
        "worker_id": (!line.worker_id.is_empty()).then_some(&line.worker_id),
        "worker_name": (!line.worker_name.is_empty()).then_some(&line.worker_name),
        "epoch": set(line.epoch),
        "who": (!line.actor.is_empty()).then_some(&line.actor),
        "detail": detail,
    })
}
