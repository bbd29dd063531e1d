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
        // The coordinator tells the first thousand and counts the rest: a history that is wrong
        // throughout would otherwise fill the memory of whoever asked.
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
            // By the count and not by the list, which may hold a part of them.
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
    // One column for both: a line is about a job or about a whole pipeline, never about two things.
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
    // What a newer version wrote there may be no JSON to this one. The line is still one, with its
    // time and its actor.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn broken() -> AuditFinding {
        AuditFinding {
            rule: "4a".into(),
            sentence: "a device is held by one rank at a time".into(),
            text: "rank 4-2-0 was granted GPU 1, which rank 3-1-0 held".into(),
            line: 17,
            job_id: 4,
            attempt: 2,
            rank: Some(0),
            ..AuditFinding::default()
        }
    }

    fn shown(findings: &[AuditFinding], all: u64) -> (String, Value) {
        let summary = AuditSummary {
            lines: 40,
            jobs: 3,
            grants: 5,
            commits: 2,
            artifacts: 2,
            findings: all,
            took_ms: 1_240,
            ..AuditSummary::default()
        };
        let view = Verified {
            findings,
            summary: &summary,
        };
        let now = DateTime::UNIX_EPOCH;
        let page = Page::of(&view, now);
        (format!("{:?}", page.blocks()), view.json(now))
    }

    #[test]
    fn a_clean_history_says_how_much_was_looked_at() {
        let (page, json) = shown(&[], 0);
        assert!(page.contains("every rule was kept"), "{page}");
        assert!(
            page.contains("40 lines of 3 jobs, 5 grants, 2 commits"),
            "{page}"
        );
        assert_eq!(json["clean"], true);
        assert_eq!(json["seconds"], 1.24);
    }

    #[test]
    fn a_finding_names_its_rule_and_place_and_what_is_not_shown_is_counted() {
        let (page, json) = shown(&[broken()], 1_200);
        assert!(page.contains("4a a device is held by one rank"), "{page}");
        assert!(
            page.contains("line 17, job 4, attempt 2, rank 0: rank 4-2-0"),
            "{page}"
        );
        assert!(page.contains("and 1,199 more"), "{page}");
        assert_eq!(json["clean"], false);
        assert_eq!(json["by_rule"]["4a"], 1);
        assert_eq!(json["findings"][0]["job_id"], 4);
        assert_eq!(json["findings"][0]["worker_id"], Value::Null);
    }

    #[test]
    fn a_line_has_what_it_is_about_and_null_for_the_rest() {
        let json = line(&AuditLine {
            number: 9,
            kind: "cancel_asked".into(),
            job_id: 4,
            actor: "ada".into(),
            detail_json: r#"{"a":1}"#.into(),
            ..AuditLine::default()
        });
        assert_eq!(
            (&json["what"], &json["who"]),
            (&"cancel_asked".into(), &"ada".into())
        );
        assert_eq!(
            (&json["rank"], &json["epoch"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(json["detail"]["a"], 1);
    }
}
