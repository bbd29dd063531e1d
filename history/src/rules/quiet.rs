//! Rule 9: what should end, ends.

use chrono::{DateTime, TimeDelta, Utc};

use crate::finding::{Rule, Subject};
use crate::line::{Findings, Limits};
use crate::state::{Held, State};

/// 9a. A worker that is away lets go when it is back.
pub(crate) fn nothing_stuck(
    state: &State,
    limits: Limits,
    now: DateTime<Utc>,
    findings: &mut Findings,
) {
    let let_go = TimeDelta::from_std(limits.let_go).unwrap_or(TimeDelta::MAX);
    // Sorted, since a hash map has no order of its own: the same history must give the same report.
    let mut held: Vec<_> = state.held.iter().collect();
    held.sort_unstable_by_key(|(key, _)| **key);
    for (key, held) in held {
        let Some(ended) = held.attempt_ended_at else {
            continue;
        };
        // From its return on, if the worker was away when the attempt ended: it could not let go
        // before.
        let back = since_online(state, held).map(|since| since.max(ended));
        if back.is_some_and(|since| now - since > let_go) {
            let text = format!(
                "its attempt ended at {}, and it still holds devices",
                ended.to_rfc3339()
            );
            let subject = Subject {
                worker: Some(held.worker),
                ..(*key).into()
            };
            findings.add(Rule::NothingStuck, None, subject, text);
        }
    }
    let mut live: Vec<_> = state.live.iter().collect();
    live.sort_unstable_by_key(|(job, _)| **job);
    for (job, live) in live {
        if let Some(asked) = live.cancel_asked_at
            && now - asked > let_go
        {
            let text = format!(
                "its cancel was asked for at {}, and attempt {} still lives",
                asked.to_rfc3339(),
                live.number
            );
            findings.add(Rule::NothingStuck, None, (*job, live.number), text);
        }
    }
}

/// Since when the worker is online; None: it is not. One that the history does not name is taken for online.
fn since_online(state: &State, held: &Held) -> Option<DateTime<Utc>> {
    match state.workers.get(&held.worker) {
        None => Some(held.since),
        Some(worker) if worker.is_online => Some(worker.online_since.unwrap_or(held.since)),
        Some(_) => None,
    }
}

/// 9b.
pub(crate) fn nothing_open(state: &State, findings: &mut Findings) {
    let mut live: Vec<_> = state.live.iter().collect();
    live.sort_unstable_by_key(|(job, _)| **job);
    for (job, live) in live {
        let text = format!("all is quiet, and attempt {} still lives", live.number);
        findings.add(Rule::QuietInTheEnd, None, (*job, live.number), text);
    }
    let mut held: Vec<_> = state.held.iter().collect();
    held.sort_unstable_by_key(|(key, _)| **key);
    for (key, held) in held {
        if since_online(state, held).is_some() && !state.live.contains_key(&key.job) {
            let text = "all is quiet, and it still holds devices".to_owned();
            findings.add(Rule::QuietInTheEnd, None, *key, text);
        }
    }
}
