//! What a fault on purpose did, and how the cluster took it.

use chrono::{DateTime, Utc};
use marquee_proto::v1::RehearseResponse;
use serde_json::{Value, json};

use crate::audit::Verified;
use crate::page::{Page, Tone, View, toned};

/// A rehearsal.
#[derive(Debug)]
pub struct Rehearsed<'a> {
    /// The word of its fault, such as `kill-rank`.
    pub fault: &'a str,
    pub answer: &'a RehearseResponse,
    /// How it was over, after how many seconds, and what the check of the history said then. None: nothing was done.
    pub over: Option<(&'a str, f64, Verified<'a>)>,
}

impl View for Rehearsed<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        // The tense is all that tells a rehearsal from a real fault in a log that somebody pastes.
        let done = if self.over.is_some() {
            "done"
        } else {
            "would be done"
        };
        let mut fields = vec![
            (done, self.answer.done.as_str().into()),
            ("expected", self.answer.expected.as_str().into()),
        ];
        if let Some((how, seconds, _)) = &self.over {
            fields.push((
                "over",
                toned(format!("{how}, {seconds:.1} s later"), Tone::Good),
            ));
        }
        page.fields(fields);
        if let Some((_, _, verified)) = &self.over {
            page.gap();
            verified.page(page, now);
        }
    }

    fn json(&self, now: DateTime<Utc>) -> Value {
        json!({
            "fault": self.fault,
            "done": self.over.is_some(),
            "what": self.answer.done,
            "expected": self.answer.expected,
            "over": self.over.as_ref().map(|(how, _, _)| how),
            "seconds": self.over.as_ref().map(|(_, seconds, _)| seconds),
            "history": self.over.as_ref().map(|(_, _, verified)| verified.json(now)),
        })
    }

    // Nothing that can be named came of it.
    fn ids(&self) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use marquee_proto::v1::AuditSummary;

    use super::*;

    #[test]
    fn what_was_only_looked_at_is_not_said_to_be_done() {
        let answer = RehearseResponse {
            done: "worker a is cut off".into(),
            expected: "it comes back".into(),
            ..RehearseResponse::default()
        };
        let mut rehearsed = Rehearsed {
            fault: "cut-worker",
            answer: &answer,
            over: None,
        };
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(rehearsed.json(now)["done"], false);
        let page = |rehearsed: &Rehearsed<'_>| format!("{:?}", Page::of(rehearsed, now));
        assert!(page(&rehearsed).contains("would be done"));
        let summary = AuditSummary::default();
        let verified = Verified {
            findings: &[],
            summary: &summary,
        };
        rehearsed.over = Some(("it is back", 3.25, verified));
        let json = rehearsed.json(now);
        assert_eq!(
            (&json["seconds"], &json["history"]["clean"]),
            (&json!(3.25), &json!(true))
        );
        let text = page(&rehearsed);
        assert!(text.contains("it is back, 3.2 s later") && text.contains("every rule was kept"));
    }
}
