//! Schedules: when they are due, and what became of their due times.

use chrono::{DateTime, Utc};
use marquee_proto::v1::document::Format;
use marquee_proto::v1::{Schedule, ScheduleRun};
use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::page::{Cell, Page, Tone, View, left, toned};
use crate::{json, units};

/// A list of schedules, one row each, with what went wrong lately.
#[derive(Debug)]
pub struct Schedules<'a>(pub &'a [Schedule]);

impl View for Schedules<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        if self.0.is_empty() {
            page.line("There is no schedule; \"marquee schedule add\" makes one.");
            return;
        }
        let heads = [
            left("NAME"),
            left("CRON"),
            left("ZONE"),
            left("NEXT (UTC)"),
            left("LAST (UTC)"),
            left("BECAME"),
        ];
        page.table(
            heads,
            self.0.iter().map(|schedule| row(schedule, now)).collect(),
        );
        for schedule in self.0 {
            let name = &schedule.name;
            if !schedule.paused_by.is_empty() {
                let since = clock(schedule.paused_at.as_ref());
                page.line(format!(
                    "{name} is paused since {since} UTC by {}; \"marquee schedule resume {name}\" lets it go on",
                    schedule.paused_by
                ));
            }
            if let Some(due) = &schedule.waiting_due {
                page.line(format!(
                    "{name}: the run of {} UTC waits for the end of the one before it",
                    clock(Some(due))
                ));
            }
            // The newest one that did not go as usual. All of them stand in `schedule show`.
            let notable = schedule
                .runs
                .iter()
                .find(|run| run.outcome != "submitted" || !run.text.is_empty());
            if let Some(run) = notable {
                let due = clock(run.due_at.as_ref());
                page.line(format!("{name}: {due} UTC {}", became(run)));
            }
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        self.0.iter().map(json::schedule).collect()
    }

    fn ids(&self) -> Vec<String> {
        let names = self.0.iter();
        names.map(|schedule| schedule.name.clone()).collect()
    }
}

fn row(schedule: &Schedule, now: DateTime<Utc>) -> Vec<Cell> {
    let next = match units::time(schedule.next_due.as_ref()) {
        Some(at) if at > now => format!(
            "{} (in {})",
            clock(schedule.next_due.as_ref()),
            units::about(units::between(now, at))
        )
        .into(),
        // Due and not submitted yet: rounds that look at schedules are a second apart.
        Some(_) => toned("now", Tone::Busy),
        None if !schedule.paused_by.is_empty() => toned("paused", Tone::Warn),
        None => toned("never", Tone::Faint),
    };
    // The coordinator sends the newest first.
    let last = schedule.runs.first();
    let due = last.map(|run| clock(run.due_at.as_ref()));
    vec![
        toned(schedule.name.as_str(), Tone::Strong),
        schedule.cron.clone().into(),
        schedule.time_zone.clone().into(),
        next,
        due.unwrap_or_default().into(),
        last.map_or_else(|| "".into(), short),
    ]
}

/// `p12`, or how it passed without one.
fn short(run: &ScheduleRun) -> Cell {
    match (run.outcome.as_str(), run.pipeline_id) {
        // The due time was used up all the same: its pipeline was removed later.
        ("submitted", 0) => toned("removed since", Tone::Faint),
        ("submitted", id) => toned(format!("p{id}"), Tone::Good),
        ("refused", _) => toned("refused", Tone::Bad),
        (other, _) => toned(other, Tone::Warn),
    }
}

/// To be read after the due time.
fn became(run: &ScheduleRun) -> String {
    let what = match (run.outcome.as_str(), run.pipeline_id) {
        // A pipeline that was removed takes its number along; that its due time was used stays.
        ("submitted", 0) => "was submitted, and its pipeline removed since".to_owned(),
        ("submitted", id) => format!("was submitted as p{id}"),
        (outcome, _) => format!("was {outcome}"),
    };
    if run.text.is_empty() {
        what
    } else {
        format!("{what}: {}", run.text)
    }
}

fn clock(at: Option<&Timestamp>) -> String {
    units::time(at)
        .map(|at| at.format("%Y-%m-%d %H:%M").to_string())
        .unwrap_or_default()
}

/// One schedule with what it submits and what became of its due times.
#[derive(Debug)]
pub struct ScheduleView<'a>(pub &'a Schedule);

impl View for ScheduleView<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        let schedule = self.0;
        Schedules(std::slice::from_ref(schedule)).page(page, now);
        page.gap();
        page.fields(vec![
            ("overlap", schedule.overlap.clone().into()),
            ("missed", schedule.missed.clone().into()),
            (
                "set",
                format!(
                    "{} UTC by {}",
                    clock(schedule.set_at.as_ref()),
                    schedule.set_by
                )
                .into(),
            ),
        ]);
        if !schedule.runs.is_empty() {
            page.heading("What became of its due times (UTC)");
            for run in &schedule.runs {
                let due = clock(run.due_at.as_ref());
                page.line(format!("{due}  {}", became(run)));
            }
        }
        page.heading("What it submits");
        for set in &schedule.overrides {
            page.line(format!("--set {}={}", set.path, set.value));
        }
        let document = schedule.document.as_ref();
        let text = match document.and_then(|document| document.format.as_ref()) {
            Some(Format::Toml(text) | Format::Json(text)) => text.as_str(),
            None => "",
        };
        for line in text.lines() {
            page.line(line);
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        let mut value = json::schedule(self.0);
        let document = self.0.document.as_ref();
        let (format, text) = match document.and_then(|document| document.format.as_ref()) {
            Some(Format::Toml(text)) => ("toml", text.as_str()),
            Some(Format::Json(text)) => ("json", text.as_str()),
            None => ("toml", ""),
        };
        value["document"] = json!({ "format": format, "text": text });
        let overrides = self.0.overrides.iter();
        value["overrides"] = overrides
            .map(|set| json!({ "path": set.path, "value": set.value }))
            .collect();
        value
    }

    fn ids(&self) -> Vec<String> {
        vec![self.0.name.clone()]
    }
}

#[cfg(test)]
mod tests {
    use marquee_proto::convert::timestamp;

    use super::*;

    fn lines(schedule: &Schedule, now: i64) -> String {
        let now = DateTime::from_timestamp(1_800_000_000 + now, 0).unwrap();
        format!(
            "{:?}",
            Page::of(&Schedules(std::slice::from_ref(schedule)), now)
        )
    }

    #[test]
    fn a_listing_says_what_was_missed_and_who_paused() {
        let at = |seconds: i64| DateTime::from_timestamp(1_800_000_000 + seconds, 0).map(timestamp);
        let mut schedule = Schedule {
            name: "nightly".into(),
            next_due: at(3_600),
            runs: vec![
                ScheduleRun {
                    due_at: at(0),
                    outcome: "submitted".into(),
                    pipeline_id: 12,
                    ..ScheduleRun::default()
                },
                ScheduleRun {
                    due_at: at(-600),
                    outcome: "missed".into(),
                    text: "3 due times: no coordinator led".into(),
                    ..ScheduleRun::default()
                },
            ],
            ..Schedule::default()
        };
        let text = lines(&schedule, 0);
        assert!(text.contains("p12") && text.contains("(in 1 h)"), "{text}");
        let missed = "nightly: 2027-01-15 07:50 UTC was missed: 3 due times: no coordinator led";
        assert!(text.contains(missed), "{text}");
        schedule.next_due = None;
        schedule.paused_by = "lena".into();
        schedule.paused_at = at(0);
        let text = lines(&schedule, 0);
        assert!(
            text.contains("nightly is paused since 2027-01-15 08:00 UTC by lena"),
            "{text}"
        );
    }
}
