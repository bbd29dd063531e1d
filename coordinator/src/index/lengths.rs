//! How long jobs ran that are like one another: what the next one of them will take, as far as one can tell.
//!
//! Kept in memory: read at the start from the newest jobs that succeeded, and learnt from each that does.

use std::collections::{HashMap, VecDeque};

use chrono::TimeDelta;
use marquee_domain::spec::{JobKind, JobSpec};

/// Runs of a step that count, the newest.
const RUNS_MAX: usize = 50;
/// Fewer say nothing.
const RUNS_MIN: usize = 3;
/// Steps that are remembered: the first that nobody ran for longest is forgotten.
const STEPS_MAX: usize = 5_000;

/// What jobs have in common whose lengths tell about each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Step {
    pub project: String,
    pub name: String,
    pub kind: JobKind,
    pub ranks: u32,
}

impl Step {
    /// The step of a job.
    #[must_use]
    pub fn of(spec: &JobSpec) -> Self {
        Self {
            project: spec.sharing.project.to_string(),
            name: spec.name.to_string(),
            kind: spec.work.kind(),
            ranks: spec.resources.ranks,
        }
    }
}

/// How long runs of a step took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Half of them no longer than this, and nine of ten no longer than that.
    pub p50: TimeDelta,
    pub p90: TimeDelta,
    pub runs: usize,
}

/// How long a job is expected to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    /// As likely shorter as longer, and in nine cases of ten no longer than that.
    pub half: TimeDelta,
    pub most: TimeDelta,
    /// It follows from earlier runs, and not from the time limit alone.
    pub is_measured: bool,
}

impl Length {
    /// From earlier runs where there were enough, and never beyond the time limit.
    #[must_use]
    pub fn of(measured: Option<Measured>, limit: Option<TimeDelta>) -> Option<Self> {
        let within = |length: TimeDelta| limit.map_or(length, |limit| length.min(limit));
        match (measured, limit) {
            (Some(measured), _) => Some(Self {
                half: within(measured.p50),
                most: within(measured.p90),
                is_measured: true,
            }),
            (None, Some(limit)) => Some(Self {
                half: limit,
                most: limit,
                is_measured: false,
            }),
            (None, None) => None,
        }
    }
}

/// Lengths by step.
#[derive(Debug, Default)]
pub struct Lengths {
    by_step: HashMap<Step, VecDeque<i64>>,
    /// Steps by when they were first learnt.
    order: VecDeque<Step>,
}

impl Lengths {
    /// Takes down that a run of a step took so long.
    pub fn learn(&mut self, step: Step, length: TimeDelta) {
        let millis = length.num_milliseconds().max(0);
        if !self.by_step.contains_key(&step) {
            self.order.push_back(step.clone());
            if self.order.len() > STEPS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.by_step.remove(&oldest);
            }
        }
        let runs = self.by_step.entry(step).or_default();
        runs.push_back(millis);
        if runs.len() > RUNS_MAX {
            runs.pop_front();
        }
    }

    /// How long runs of a step took, where there were enough.
    #[must_use]
    pub fn of(&self, step: &Step) -> Option<Measured> {
        let runs = self
            .by_step
            .get(step)
            .filter(|runs| runs.len() >= RUNS_MIN)?;
        let mut sorted: Vec<i64> = runs.iter().copied().collect();
        sorted.sort_unstable();
        // The nearest rank: a length that was measured.
        let at = |tenths: usize| sorted[(sorted.len() * tenths).div_ceil(10).max(1) - 1];
        Some(Measured {
            p50: TimeDelta::milliseconds(at(5)),
            p90: TimeDelta::milliseconds(at(9)),
            runs: sorted.len(),
        })
    }

    /// Whether nothing is known yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_step.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str) -> Step {
        Step {
            project: "default".into(),
            name: name.into(),
            kind: JobKind::Command,
            ranks: 1,
        }
    }

    #[test]
    fn a_step_is_known_by_its_newest_runs_once_there_are_enough() {
        let mut lengths = Lengths::default();
        let learn = |lengths: &mut Lengths, seconds| {
            lengths.learn(step("a"), TimeDelta::seconds(seconds));
        };
        learn(&mut lengths, 10);
        learn(&mut lengths, 30);
        assert_eq!(lengths.of(&step("a")), None);
        learn(&mut lengths, 20);
        let measured = lengths.of(&step("a")).unwrap();
        assert_eq!(
            (measured.p50, measured.p90, measured.runs),
            (TimeDelta::seconds(20), TimeDelta::seconds(30), 3)
        );
        for _ in 0..RUNS_MAX {
            learn(&mut lengths, 7);
        }
        assert_eq!(lengths.of(&step("a")).unwrap().p90, TimeDelta::seconds(7));
        assert_eq!(lengths.of(&step("b")), None);
        // A clock that was set back is no length.
        lengths.learn(step("a"), TimeDelta::seconds(-5));
        assert_eq!(lengths.of(&step("a")).unwrap().runs, RUNS_MAX);
    }

    #[test]
    fn a_length_is_never_beyond_the_time_limit() {
        let seconds = TimeDelta::seconds;
        let measured = Measured {
            p50: seconds(50),
            p90: seconds(90),
            runs: 9,
        };
        let of = |measured, limit| {
            let length = Length::of(measured, limit)?;
            Some((length.half, length.most, length.is_measured))
        };
        assert_eq!(of(None, None), None);
        assert_eq!(
            of(None, Some(seconds(7))),
            Some((seconds(7), seconds(7), false))
        );
        assert_eq!(
            of(Some(measured), None),
            Some((seconds(50), seconds(90), true))
        );
        let cut = of(Some(measured), Some(seconds(60)));
        assert_eq!(cut, Some((seconds(50), seconds(60), true)));
    }

    #[test]
    fn no_more_steps_are_kept_than_fit() {
        let mut lengths = Lengths::default();
        for number in 0..STEPS_MAX + 10 {
            for _ in 0..RUNS_MIN {
                lengths.learn(step(&format!("s{number}")), TimeDelta::seconds(1));
            }
        }
        assert_eq!(lengths.by_step.len(), STEPS_MAX);
        assert_eq!(lengths.of(&step("s0")), None);
        assert!(lengths.of(&step(&format!("s{}", STEPS_MAX + 9))).is_some());
    }
}
