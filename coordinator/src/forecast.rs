//! When a waiting job will start, as far as one can tell, for whoever asks: the planner played forward over what is in
//! the index, with lengths from time limits and from earlier runs.
//!
//! Invariant: dispatch does not wait for it. The index is held while it is copied; the play runs on the copy, for all
//! jobs at once, and its answer stands for ten seconds.

mod what_if;

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::ids::JobId;

use crate::app::App;
use crate::background::hosts;
use crate::blocking::blocking;
use crate::index::{Expected, Length, Open, Play};
use crate::scheduler::{Host, Pending, forecast};
pub use what_if::{Change, WhatIf, what_if};

/// In a longer queue only time limits are looked at: looking up each job's earlier runs would hold up the index.
const LOOKED_UP_MAX: usize = 20_000;

/// Elements of arrays that are no jobs yet, and are played: far more than starts that are looked for.
const TO_COME_MAX: usize = 20_000;

/// A copy of what is to be played.
struct Board {
    queue: crate::scheduler::Queue,
    limits: crate::scheduler::Limits,
    /// By a half, and by nine tenths, of what runs of the same step took.
    hosts: [Vec<Host>; 2],
    lengths: HashMap<JobId, Length>,
    basis: String,
    silent: BTreeSet<JobId>,
}

/// When a queued job is expected to start, or why nobody can tell. None where this coordinator does not have it in its
/// queue, as one that waits for its time, or that does not lead.
pub async fn expected(app: &App, job: JobId) -> Option<Result<Expected, String>> {
    let now = app.clock.now();
    app.index.open().queue.get(job)?;
    // One play answers for all jobs: a page that shows a thousand of them costs no more than one.
    if app.index.plays.look(now, |play| play.made_at).is_none() {
        let (index, sessions) = (app.index.clone(), app.sessions.clone());
        let played = blocking(move || {
            let board = Board::copy(&index.open(), &sessions, now);
            let play = board.play(now);
            index.plays.keep(play);
        });
        // Ends only with a panic of the planner: who asks is told nothing, and dispatch has walls of its own.
        played.await.ok()?;
    }
    app.index.plays.look(now, |play| play.of(job))
}

impl Board {
    fn copy(open: &Open, sessions: &crate::session::Sessions, now: DateTime<Utc>) -> Self {
        let mut half = hosts(open, sessions, now);
        let mut most = half.clone();
        let (mut limited, mut measured) = (BTreeSet::new(), BTreeSet::new());
        let mut silent = BTreeSet::new();
        for (half, most) in half.iter_mut().zip(&mut most) {
            for (half, most) in half.running.iter_mut().zip(&mut most.running) {
                let ends = open.expected_end(half.job, now);
                match ends {
                    None => silent.insert(half.job),
                    Some((_, _, true)) => measured.insert(half.job),
                    Some((_, _, false)) => limited.insert(half.job),
                };
                half.ends_at = ends.map(|(half, _, _)| half);
                most.ends_at = ends.map(|(_, most, _)| most);
            }
        }
        let lengths = if open.queue.len() > LOOKED_UP_MAX {
            HashMap::new()
        } else {
            let lengths = open.queue.iter();
            lengths
                .filter_map(|job| Some((job.job, open.length(job.job)?)))
                .collect()
        };
        let mut queue = open.queue.clone();
        let mut lengths = lengths;
        for pending in to_come(open) {
            if let Some(length) = open.length(pending.like) {
                lengths.insert(pending.job.job, length);
            }
            queue.insert(pending.job);
        }
        Self {
            queue,
            limits: open.limits(now),
            hosts: [half, most],
            lengths,
            basis: basis(limited.len(), measured.len(), silent.len()),
            silent,
        }
    }

    fn play(self, now: DateTime<Utc>) -> Play {
        let Self {
            queue,
            limits,
            hosts: [half, most],
            lengths,
            basis,
            silent,
        } = self;
        let limit = |job: &Pending| Some(TimeDelta::seconds(job.shape.limit_s?.into()));
        let limits_of: HashMap<JobId, TimeDelta> = queue
            .iter()
            .filter_map(|job| Some((job.job, limit(job)?)))
            .collect();
        let length = |pick: fn(&Length) -> TimeDelta| {
            let (lengths, limits_of) = (&lengths, &limits_of);
            move |job: JobId| {
                let known = lengths.get(&job).map(pick);
                known.or(limits_of.get(&job).copied())
            }
        };
        Play {
            made_at: now,
            // Played twice over the same queue: once with usual lengths, which gives the time to
            // expect, and once with long ones.
            half: forecast::starts(queue.clone(), half, limits.clone(), now, length(|l| l.half)),
            most: forecast::starts(queue, most, limits, now, length(|l| l.most)),
            basis,
            silent,
        }
    }
}

/// An element that is no job yet.
struct ToCome {
    job: Pending,
    /// The one of its array that it is like.
    like: JobId,
}

/// Elements that are no jobs yet, with numbers that no job has: whatever stands behind them waits for them too.
fn to_come(open: &Open) -> impl Iterator<Item = ToCome> {
    let arrays = open.queued_to_come();
    let elements = arrays.flat_map(|(like, count)| std::iter::repeat_n(like, count as usize));
    let numbers = (0..).map(|number| JobId(i64::MAX - number));
    elements
        .zip(numbers)
        .take(TO_COME_MAX)
        .map(|(like, job)| ToCome {
            job: Pending { job, ..*like },
            like: like.job,
        })
}

fn basis(limited: usize, measured: usize, silent: usize) -> String {
    let count = |number: usize| match number {
        1 => "1 running job".to_owned(),
        number => format!("{number} running jobs"),
    };
    let mut parts = Vec::new();
    if measured > 0 {
        parts.push(format!("earlier runs of the steps of {}", count(measured)));
    }
    if limited > 0 {
        parts.push(format!("the time limits of {}", count(limited)));
    }
    if silent > 0 {
        parts.push(format!(
            "nothing of {}, which may run for ever",
            count(silent)
        ));
    }
    match parts.as_slice() {
        [] => "the queue, with nothing running".to_owned(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_basis_says_what_is_known_and_what_is_not() {
        assert_eq!(basis(0, 0, 0), "the queue, with nothing running");
        assert_eq!(basis(2, 0, 0), "the time limits of 2 running jobs");
        assert_eq!(
            basis(1, 3, 1),
            "earlier runs of the steps of 3 running jobs, the time limits of 1 running job and nothing of 1 running \
             job, which may run for ever"
        );
    }
}
