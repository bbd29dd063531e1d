//! How long jobs ran that are like one another: what the next one of them will take, as far as one can tell.
//!
//! Kept in memory: read at the start from the newest jobs that succeeded, and learnt from each that does.

use std::collections::{BTreeMap, HashMap, VecDeque};

use chrono::TimeDelta;
use marquee_domain::spec::{JobKind, JobSpec};

/// Runs of a step that count, the newest.
const RUNS_MAX: usize = 50;
/// Fewer say nothing.
const RUNS_MIN: usize = 3;
/// Fewer decide nothing: devices that are held back for a gang are given away by them.
const RUNS_PLANNED_BY_MIN: usize = 5;
/// A job whose like takes longer than this counts as one of which nobody knows: nothing waits for its end.
const PLANNED_BY_MAX: TimeDelta = TimeDelta::days(30);
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
        // With a clock that was put back meanwhile a run takes less than no time.
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

    /// What is known of the same step with other numbers of ranks, and with its own.
    #[must_use]
    pub fn by_ranks(&self, step: &Step) -> BTreeMap<u32, Measured> {
        let alike = self.by_step.keys().filter(|other| {
            (&other.project, &other.name, other.kind) == (&step.project, &step.name, step.kind)
        });
        alike
            .filter_map(|other| Some((other.ranks, self.of(other)?)))
            .collect()
    }

    /// Seconds that nearly all runs of a step took (19 of 20, of a few all), where there were enough to plan by it.
    ///
    /// Rounded up to one of eight numbers between a power of two and the next: jobs whose steps took about as long
    /// stand in one line of the queue, and a step whose runs vary a little does not change its line with each.
    #[must_use]
    pub fn expected_s(&self, step: &Step) -> Option<u32> {
        let runs = self
            .by_step
            .get(step)
            .filter(|runs| runs.len() >= RUNS_PLANNED_BY_MIN)?;
        let mut sorted: Vec<i64> = runs.iter().copied().collect();
        sorted.sort_unstable();
        let longest = sorted[(sorted.len() * 19).div_ceil(20).max(1) - 1];
        if longest > PLANNED_BY_MAX.num_milliseconds() {
            return None;
        }
        // Below 2^32: a month has 2.6 million seconds.
        let seconds = u32::try_from((longest + 999) / 1_000).ok()?.max(1);
        let grain = 1 << seconds.ilog2().saturating_sub(3);
        Some(seconds.div_ceil(grain) * grain)
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
    fn what_is_planned_by_is_what_nearly_all_runs_took_and_no_more_than_a_month() {
        let expected = |lengths: &[i64]| {
            let mut known = Lengths::default();
            for seconds in lengths {
                known.learn(step("a"), TimeDelta::seconds(*seconds));
            }
            known.expected_s(&step("a"))
        };
        assert_eq!(expected(&[9; 4]), None, "too few");
        assert_eq!(expected(&[9; 5]), Some(9));
        assert_eq!(expected(&[0; 5]), Some(1));
        // Of a few the longest; of many one odd run is not what is waited for.
        assert_eq!(expected(&[1, 1, 1, 1, 16]), Some(16));
        let mut many = vec![12; 49];
        many.push(10_000);
        assert_eq!(expected(&many), Some(12));
        // In eighths of a power of two, never below what was measured.
        assert_eq!(expected(&[1_000; 5]), Some(1_024));
        assert_eq!(expected(&[1_025; 5]), Some(1_152));
        let month = 30 * 24 * 3_600;
        assert!(expected(&[month; 5]).is_some_and(|s| i64::from(s) >= month));
        assert_eq!(expected(&[month + 1; 5]), None);
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
