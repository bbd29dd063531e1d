//! What happened to a job: its attempts, rank by rank, and its events.

use chrono::{DateTime, Utc};
use marquee_proto::v1::{self, Attempt};

use crate::page::{Cell, Page, Tone, left, right, toned};
use crate::{outcome, units, words};

/// Events shown of a job; its JSON has all that are kept.
const EVENTS_SHOWN: usize = 20;

/// One row a rank, newest attempt last.
pub fn attempts(page: &mut Page, attempts: &[Attempt], now: DateTime<Utc>) {
    let heads = [
        right("ATTEMPT"),
        left("STATE"),
        right("RAN"),
        right("RANK"),
        left("WORKER"),
        left("DEVICES"),
        left("RANK STATE"),
        left("FAILURE"),
    ];
    let mut rows = Vec::new();
    for attempt in attempts {
        let mut own = own_columns(attempt, now);
        if attempt.ranks.is_empty() {
            // An attempt without ranks took over an artifact that was there: it has a row, or its
            // number would be missing.
            own.extend(std::iter::repeat_n(Cell::from(""), 4));
            own.push(failure(attempt.failure.as_ref()));
            rows.push(own);
            continue;
        }
        // One cause is told once: with a rank to blame it stands in that rank's row.
        let blamed = attempt.ranks.iter().any(|rank| rank.failure.is_some());
        for (place, rank) in attempt.ranks.iter().enumerate() {
            let mut row = if place == 0 {
                std::mem::take(&mut own)
            } else {
                vec!["".into(); 3]
            };
            // The attempt's failure is that of one of its ranks, unless none has one.
            let of_attempt = attempt.failure.as_ref().filter(|_| place == 0 && !blamed);
            let cause = rank.failure.as_ref().or(of_attempt);
            row.extend([
                rank.rank.to_string().into(),
                rank.worker_name.as_str().into(),
                words::devices(&rank.devices).into(),
                rank_state(rank).into(),
                failure(cause),
            ]);
            rows.push(row);
        }
    }
    page.table(heads, rows);
}

/// A rank is lost when its attempt went on without it, whatever state it reported itself.
fn rank_state(rank: &v1::AttemptRank) -> &'static str {
    if rank.lost_at.is_some() {
        "lost"
    } else if let Some(stall) = &rank.stall {
        if outcome::waits(stall) {
            "waits"
        } else {
            "hangs"
        }
    } else {
        words::rank_state(rank)
    }
}

fn own_columns(attempt: &Attempt, now: DateTime<Utc>) -> Vec<Cell> {
    let started = units::time(attempt.started_at.as_ref());
    let ended = units::time(attempt.finished_at.as_ref()).unwrap_or(now);
    let ran = started.map(|started| units::duration(units::between(started, ended)));
    let state = match attempt.resumed_from_step {
        Some(step) => {
            format!(
                "{} (from step {})",
                words::attempt_state(attempt),
                units::count(step)
            )
        }
        None => words::attempt_state(attempt).to_owned(),
    };
    vec![
        attempt.number.to_string().into(),
        state.into(),
        ran.unwrap_or_default().into(),
    ]
}

fn failure(failure: Option<&v1::Failure>) -> Cell {
    match failure {
        Some(failure) => toned(
            format!(
                "{}: {}",
                words::failure_word(failure),
                units::first_line(&failure.message)
            ),
            Tone::Bad,
        ),
        None => "".into(),
    }
}

/// The newest events, in order.
pub fn events(page: &mut Page, events: &[v1::JobEvent]) {
    // The newest are what somebody who asks why wants to see.
    let left_out = events.len().saturating_sub(EVENTS_SHOWN);
    if left_out > 0 {
        page.line(format!(
            "({} before these)",
            units::plural(left_out, "event")
        ));
    }
    for event in &events[left_out..] {
        let at = units::time(event.at.as_ref())
            .map(units::clock_time)
            .unwrap_or_default();
        let attempt = if event.attempt > 0 {
            format!("attempt {}: ", event.attempt)
        } else {
            String::new()
        };
        page.line(format!("{at}  {attempt}{}", event.text));
    }
}
