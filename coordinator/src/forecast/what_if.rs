//! When a job would start with other wishes, and when it would end then, as far as that was measured.
//!
//! Invariant: nothing is changed by asking. An end follows from runs of the same step with that number of ranks, or
//! from what lies between two other numbers that were measured; beyond them nobody knows, and that is said.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::resources::DeviceKind;
use marquee_domain::spec::JobSpec;
use marquee_store::{StoreError, jobs};

use super::Board;
use crate::app::App;
use crate::blocking::blocking;
use crate::index::{Expected, Length, Measured, Open, Step};
use crate::lifecycle::LifecycleError;
use crate::scheduler::{Group, Host, Pending, RulesId, Shape, forecast};

/// What would be otherwise. What is not set is as the job says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    pub ranks: Option<u32>,
    pub device: Option<DeviceKind>,
    pub priority: Option<i32>,
    pub timeout_s: Option<u32>,
}

/// What would be, or why nobody can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhatIf {
    pub ranks: u32,
    pub start: Result<Expected, String>,
    pub end: Result<Expected, String>,
}

/// Rules of a job that is not in the index: no other job has this number.
const OWN_RULES: RulesId = RulesId(u32::MAX);

/// When a job that does not run would start, and end.
///
/// # Errors
/// The job is not there, or runs.
pub async fn what_if(app: &App, job: JobId, change: Change) -> Result<WhatIf, LifecycleError> {
    let now = app.clock.now();
    let mut conn = app.db.read().await?;
    let mut spec = jobs::get_job_spec(&mut conn, job).await?;
    drop(conn);
    spec.resources.ranks = change.ranks.unwrap_or(spec.resources.ranks);
    spec.resources.device = change.device.unwrap_or(spec.resources.device);
    spec.priority = change.priority.unwrap_or(spec.priority);
    spec.timeout_s = change.timeout_s.or(spec.timeout_s);
    if app
        .index
        .open()
        .job(job)
        .is_some_and(|known| known.is_running)
    {
        return Err(LifecycleError::BadSetting(format!(
            "job {job} runs; only of one that does not can be said when it would start"
        )));
    }
    let (index, sessions) = (app.index.clone(), app.sessions.clone());
    let asked = spec.clone();
    let played = blocking(move || {
        let mut open = index.open();
        let pending = pending(&mut open, job, &asked, now);
        let lengths = open.lengths.by_ranks(&Step::of(&asked));
        let mut board = Board::copy(&open, &sessions, now);
        // Let go before the planner begins: the rounds that place jobs wait for it.
        drop(open);
        if pending.shape.rules == OWN_RULES {
            let rules = asked.sharing.hosts.clone();
            // The index may not be changed for a question, so these rules are known to the copy alone.
            board.limits.rules.insert(OWN_RULES, rules);
        }
        board.queue.insert(pending);
        (board.start_of(job, now), lengths)
    });
    // Ends only with a panic of the planner.
    let (start, lengths) = played
        .await
        .map_err(|_| StoreError::Vanished("answer of the planner"))?;
    let end = match &start {
        Ok(start) => end(&spec, &lengths, start),
        Err(_) => Err("it is not known when it would start".to_owned()),
    };
    Ok(WhatIf {
        ranks: spec.resources.ranks,
        start,
        end,
    })
}

/// The job as it would stand in the queue.
fn pending(open: &mut Open, job: JobId, spec: &JobSpec, now: DateTime<Utc>) -> Pending {
    let known = open.job(job);
    let rules = match (known, spec.sharing.hosts.is_empty()) {
        (Some(known), _) => known.shape.rules,
        (None, true) => RulesId::NONE,
        (None, false) => OWN_RULES,
    };
    let group = known.map_or(Group::None, |known| known.group);
    let array = known.and_then(|known| Some(known.element?.0));
    let queued_at = known.map_or(now, |known| known.queued_at);
    let not_before = known.and_then(|known| known.not_before);
    let expected_s = open.lengths.expected_s(&Step::of(spec));
    Pending {
        job,
        array,
        shape: Shape::of(spec, rules, expected_s),
        priority: spec.priority,
        project: open.accounts.id(spec.sharing.project.as_str()),
        group,
        queued_at,
        not_before: not_before.max(spec.sharing.start_after),
    }
}

impl Board {
    fn start_of(self, job: JobId, now: DateTime<Utc>) -> Result<Expected, String> {
        let Self {
            queue,
            limits,
            hosts: [half, most],
            lengths,
            basis,
            ..
        } = self;
        let start = |hosts: Vec<Host>, pick: fn(&Length) -> TimeDelta| {
            let length = |job: JobId| lengths.get(&job).map(pick);
            forecast::start_of(job, queue.clone(), hosts, limits.clone(), now, length)
        };
        let (at, by) = (
            start(half, |length| length.half),
            start(most, |length| length.most),
        );
        match (at, by) {
            (Some(at), Some(by)) => Ok(Expected {
                at,
                // With other lengths jobs start in another order: the later time may come out as the earlier one.
                by: by.max(at),
                basis,
            }),
            _ => Err(
                "it would wait for jobs of which nobody knows how long they run, for a quota, or for hosts that are \
                 not there"
                    .to_owned(),
            ),
        }
    }
}

/// When it would end, by what was measured of its step.
fn end(
    spec: &JobSpec,
    lengths: &BTreeMap<u32, Measured>,
    start: &Expected,
) -> Result<Expected, String> {
    let ranks = spec.resources.ranks;
    let (half, most, basis) = scaled(lengths, ranks)?;
    let limit = spec.timeout_s.map(|limit| TimeDelta::seconds(limit.into()));
    let within = |length: TimeDelta| limit.map_or(length, |limit| length.min(limit));
    Ok(Expected {
        at: start.at + within(half),
        by: start.by + within(most),
        basis,
    })
}

/// How long it takes with so many ranks (half of the cases, and nine of ten), and by which runs.
fn scaled(
    lengths: &BTreeMap<u32, Measured>,
    ranks: u32,
) -> Result<(TimeDelta, TimeDelta, String), String> {
    if let Some(measured) = lengths.get(&ranks) {
        let runs = measured.runs;
        let basis = format!("{runs} runs of this step with {ranks} ranks");
        return Ok((measured.p50, measured.p90, basis));
    }
    let below = lengths.range(..ranks).next_back();
    let above = lengths.range(ranks..).next();
    let (Some((few, slow)), Some((many, fast))) = (below, above) else {
        let known: Vec<String> = lengths.keys().map(u32::to_string).collect();
        return Err(match known.as_slice() {
            [] => "not enough runs of this step were measured, with any number of ranks".to_owned(),
            known => format!(
                "this step was measured with {} ranks alone, which does not tell how it does with {ranks}",
                known.join(", ")
            ),
        });
    };
    let between = |few_took: TimeDelta, many_took: TimeDelta| {
        let (few_took, many_took) = (few_took.as_seconds_f64(), many_took.as_seconds_f64());
        // A part that the ranks share, and one that they do not.
        let share = |ranks: u32| 1.0 / f64::from(ranks);
        let weight = (share(ranks) - share(*many)) / (share(*few) - share(*many));
        let seconds = many_took + weight * (few_took - many_took);
        #[allow(
            clippy::cast_possible_truncation,
            reason = "between two lengths that are whole numbers of milliseconds"
        )]
        TimeDelta::milliseconds((seconds * 1e3).round() as i64)
    };
    Ok((
        between(slow.p50, fast.p50),
        between(slow.p90, fast.p90),
        format!(
            "{} runs of this step with {few} ranks and {} with {many}, and what lies between",
            slow.runs, fast.runs
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(seconds: i64) -> Measured {
        Measured {
            p50: TimeDelta::seconds(seconds),
            p90: TimeDelta::seconds(seconds * 2),
            runs: 5,
        }
    }

    #[test]
    fn a_length_follows_from_runs_with_that_number_of_ranks_or_from_both_sides_of_it() {
        let lengths = BTreeMap::from([(1, measured(1_000)), (4, measured(400))]);
        let of = |ranks| scaled(&lengths, ranks);
        let (half, most, basis) = of(4).unwrap();
        assert_eq!((half.num_seconds(), most.num_seconds()), (400, 800));
        assert_eq!(basis, "5 runs of this step with 4 ranks");
        // 200 s that are not shared and 800 s that are: with two ranks 600 s.
        let (half, most, basis) = of(2).unwrap();
        assert_eq!((half.num_seconds(), most.num_seconds()), (600, 1_200));
        assert!(basis.contains("with 1 ranks and 5 with 4"), "{basis}");
        // Beyond what was measured nobody knows.
        let why = of(8).unwrap_err();
        assert_eq!(
            why,
            "this step was measured with 1, 4 ranks alone, which does not tell how it does with 8"
        );
        assert!(
            scaled(&BTreeMap::new(), 2)
                .unwrap_err()
                .contains("with any number of ranks")
        );
    }
}
