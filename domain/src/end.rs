//! How an attempt ends, and what follows for its job.
//!
//! Invariant: [`after_end`] is the only place that decides whether an ended attempt is followed by
//! another one. What then happens to the job's stored state is decided in [`crate::transitions`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, FailureClass};
use crate::job::AttemptStateName;

/// Why an attempt was stopped although nothing was wrong with its job. The cluster wanted the
/// devices or the host back, so the job must not pay for it with one of its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interruption {
    /// A job that goes first needed its devices.
    Preempted,
    /// An operator emptied one of its hosts.
    Drained,
    /// One of its hosts was stopped in order, as for a new version, and started anew.
    HostUpgraded,
    /// A worker heard nothing of the coordinator for its whole lease, and the job is one that then stops
    /// (`on_disconnect = "stop"`).
    Disconnected,
    /// What it was given was damaged, and is made again.
    InputDamaged,
    /// It goes on with fewer ranks than it asked for, and devices for all of them are free.
    Grown,
    /// Its GPUs did nothing for as long as its project lets them. The one cause that the job pays for: it is not queued
    /// again, but fails as [`FailureClass::Idle`].
    #[serde(rename = "gpus_idle")]
    Idle,
}

impl Interruption {
    /// Every cause, for documentation and conversion tables.
    pub const ALL: [Self; 7] = [
        Self::Preempted,
        Self::Drained,
        Self::HostUpgraded,
        Self::Disconnected,
        Self::InputDamaged,
        Self::Grown,
        Self::Idle,
    ];

    /// The word used in SQL, JSON and on screen.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preempted => "preempted",
            Self::Drained => "drained",
            Self::HostUpgraded => "host_upgraded",
            Self::Disconnected => "disconnected",
            Self::InputDamaged => "input_damaged",
            Self::Grown => "grown",
            Self::Idle => "gpus_idle",
        }
    }

    /// The cause that a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == word)
    }
}

/// Why a worker stopped a rank of its own accord, as the rank's row keeps it in place of a summary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedFor {
    #[serde(rename = "stopped_for")]
    pub cause: Interruption,
    /// In words.
    pub reason: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptEnd {
    /// Its artifact was committed.
    Succeeded,
    Failed(Failure),
    /// A user asked for it, and nothing of it is left.
    Cancelled,
    Interrupted {
        cause: Interruption,
        /// For whose sake, or by whom; shown to the user as it is.
        message: String,
    },
}

impl AttemptEnd {
    /// The state that the attempt stays in.
    #[must_use]
    pub fn state(&self) -> AttemptStateName {
        match self {
            Self::Succeeded => AttemptStateName::Succeeded,
            Self::Failed(_) => AttemptStateName::Failed,
            Self::Cancelled => AttemptStateName::Cancelled,
            Self::Interrupted { .. } => AttemptStateName::Interrupted,
        }
    }

    /// The word that says why, finer than the state: a failure's class or an interruption's cause.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed(failure) => failure.class.as_str(),
            Self::Cancelled => "cancelled",
            Self::Interrupted { cause, .. } => cause.as_str(),
        }
    }

    /// What a user should read about it.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Failed(failure) => Some(&failure.message),
            Self::Interrupted { message, .. } => Some(message),
            Self::Succeeded | Self::Cancelled => None,
        }
    }
}

/// How many attempts a job has made and may still make.
///
/// The number of an attempt is the fence and always grows, also for attempts that cost nothing. So
/// it does not count what was spent: the distance to `last` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptBudget {
    /// Number of the newest attempt, 0 before the first.
    pub newest: u32,
    /// The highest attempt number that may still be made.
    pub last: u32,
    /// How many attempts the job is given at first, and again by each retry by hand.
    pub granted: u32,
}

impl AttemptBudget {
    /// How many attempts may still be made.
    #[must_use]
    pub fn left(self) -> u32 {
        self.last.saturating_sub(self.newest)
    }

    /// How many attempts were spent since the job was last given all of them, the newest included.
    #[must_use]
    pub fn spent(self) -> u32 {
        self.granted.saturating_sub(self.left())
    }

    /// After an attempt that failed, but got further than all before it: whatever those spent is forgiven, and
    /// this one is the first that counts. A training of weeks is not to end by the third fault of the world.
    #[must_use]
    pub fn renewed_by_progress(self) -> Self {
        let left = self.granted.saturating_sub(1);
        Self {
            last: self.newest.saturating_add(left).max(self.last),
            ..self
        }
    }

    /// After the next attempt was made: its number is `newest`.
    #[must_use]
    pub(crate) fn with_next(self) -> Self {
        Self {
            // The fence grows with every attempt, paid for or not: two attempts with one number could both
            // commit.
            newest: self.newest + 1,
            ..self
        }
    }

    /// After the newest attempt was given back: one more number may be made.
    #[must_use]
    pub(crate) fn with_newest_refunded(self) -> Self {
        Self {
            // The number itself stays used. Raising the ceiling is what gives the attempt back.
            last: self.last.saturating_add(1),
            ..self
        }
    }

    /// After the job was given all its attempts again.
    #[must_use]
    pub(crate) fn with_all_granted_again(self) -> Self {
        Self {
            // Counted from the newest number, for numbers never start again.
            last: self.newest.saturating_add(self.granted),
            ..self
        }
    }
}

/// What follows for a job when its attempt has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterEnd {
    /// The job has succeeded.
    Succeed,
    /// The job is cancelled.
    Cancel,
    /// Queue the job again, not to be placed before this long from now.
    Requeue {
        spends_attempt: bool,
        after: Duration,
    },
    /// The job has failed for good.
    GiveUp,
}

/// Doublings after which the back-off has long reached its ceiling; more would overflow.
const DOUBLINGS_MAX: u32 = 10;

/// Decides what follows when the newest attempt of a job has ended. `jitter` in [0, 1) spreads
/// retries of jobs that failed together over half of the back-off.
#[must_use]
pub fn after_end(end: &AttemptEnd, budget: AttemptBudget, jitter: f64) -> AfterEnd {
    match end {
        AttemptEnd::Succeeded => AfterEnd::Succeed,
        AttemptEnd::Cancelled => AfterEnd::Cancel,
        // At once: nothing is broken that time would mend, and the job keeps its place in the queue.
        AttemptEnd::Interrupted { .. } => AfterEnd::Requeue {
            spends_attempt: false,
            after: Duration::ZERO,
        },
        AttemptEnd::Failed(failure) => {
            // Both: a bad document fails the same way each time, and a flaky host must not hold devices for ever.
            if failure.class.is_worth_a_retry() && budget.left() > 0 {
                AfterEnd::Requeue {
                    spends_attempt: true,
                    after: back_off(failure.class, budget.spent(), jitter),
                }
            } else {
                AfterEnd::GiveUp
            }
        }
    }
}

/// How long to wait after `spent` attempts. Interruptions do not count: a job that had to make room
/// five times waits no longer after its first failure than any other.
fn back_off(class: FailureClass, spent: u32, jitter: f64) -> Duration {
    let rule = class.rule();
    // The first failure waits one first step, not two.
    let doublings = spent.saturating_sub(1).min(DOUBLINGS_MAX);
    let full = rule
        .first_wait
        .saturating_mul(1 << doublings)
        .min(rule.longest_wait);
    // At least half of it, or jobs that failed together over one service would be back at it at once.
    full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(class: FailureClass) -> AttemptEnd {
        let message = "broke".into();
        AttemptEnd::Failed(Failure { class, message })
    }

    fn interrupted(cause: Interruption) -> AttemptEnd {
        let message = "job 7 goes first".into();
        AttemptEnd::Interrupted { cause, message }
    }

    fn every_end() -> Vec<AttemptEnd> {
        let mut ends = vec![AttemptEnd::Succeeded, AttemptEnd::Cancelled];
        ends.extend(FailureClass::ALL.map(failed));
        ends.extend(Interruption::ALL.map(interrupted));
        ends
    }

    fn budget(newest: u32, last: u32, granted: u32) -> AttemptBudget {
        AttemptBudget {
            newest,
            last,
            granted,
        }
    }

    #[test]
    fn words_go_both_ways_and_name_one_cause_each() {
        for cause in Interruption::ALL {
            assert_eq!(Interruption::from_word(cause.as_str()), Some(cause));
            assert_eq!(
                serde_json::to_value(cause).unwrap(),
                serde_json::json!(cause.as_str())
            );
        }
        assert_eq!(Interruption::from_word("tired"), None);
        let mut words: Vec<_> = every_end().iter().map(AttemptEnd::cause).collect();
        let all = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), all);
    }

    #[test]
    fn an_interruption_costs_nothing_even_with_no_attempt_left() {
        for cause in Interruption::ALL {
            for budget in [budget(1, 3, 3), budget(3, 3, 3), budget(1, 1, 1)] {
                assert_eq!(
                    after_end(&interrupted(cause), budget, 0.9),
                    AfterEnd::Requeue {
                        spends_attempt: false,
                        after: Duration::ZERO
                    },
                    "{cause:?}"
                );
            }
        }
    }

    #[test]
    fn a_failure_is_retried_where_that_can_help_and_attempts_are_left() {
        for class in FailureClass::ALL {
            let with_one_left = after_end(&failed(class), budget(2, 3, 3), 0.0);
            let is_retried = match with_one_left {
                AfterEnd::Requeue { spends_attempt, .. } => {
                    assert!(spends_attempt, "{class:?}");
                    true
                }
                AfterEnd::GiveUp => false,
                AfterEnd::Succeed | AfterEnd::Cancel => panic!("{class:?}: {with_one_left:?}"),
            };
            assert_eq!(is_retried, class.is_worth_a_retry(), "{class:?}");
            let with_none_left = after_end(&failed(class), budget(3, 3, 3), 0.0);
            assert_eq!(with_none_left, AfterEnd::GiveUp, "{class:?}");
        }
    }

    #[test]
    fn success_and_cancel_are_never_followed_by_another_attempt() {
        let all_left = budget(1, 5, 5);
        assert_eq!(
            after_end(&AttemptEnd::Succeeded, all_left, 0.5),
            AfterEnd::Succeed
        );
        assert_eq!(
            after_end(&AttemptEnd::Cancelled, all_left, 0.5),
            AfterEnd::Cancel
        );
    }

    fn wait_after(budget: AttemptBudget, jitter: f64) -> Duration {
        match after_end(&failed(FailureClass::LostWorker), budget, jitter) {
            AfterEnd::Requeue { after, .. } => after,
            other @ (AfterEnd::Succeed | AfterEnd::Cancel | AfterEnd::GiveUp) => {
                panic!("{budget:?}: {other:?}")
            }
        }
    }

    #[test]
    fn back_off_doubles_and_has_a_ceiling() {
        let waits: Vec<u64> = (1..=8)
            .map(|attempt| wait_after(budget(attempt, 50, 50), 1.0).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        let longest = wait_after(budget(u32::MAX - 1, u32::MAX, u32::MAX), 1.0);
        assert_eq!(longest, FailureClass::LostWorker.rule().longest_wait);
    }

    #[test]
    fn jitter_spreads_retries_over_half_of_the_back_off_and_no_further() {
        for (jitter, millis) in [
            (0.0, 500),
            (0.5, 750),
            (1.0, 1000),
            (-3.0, 500),
            (9.0, 1000),
        ] {
            let wait = wait_after(budget(1, 3, 3), jitter);
            assert_eq!(wait, Duration::from_millis(millis), "{jitter}");
        }
    }

    #[test]
    fn progress_forgives_what_was_spent_and_takes_nothing_away() {
        // The third of three failed, and had got further than those before: two more may follow.
        let renewed = budget(3, 3, 3).renewed_by_progress();
        assert_eq!((renewed.left(), renewed.spent()), (2, 1));
        // One that may be tried once is tried once.
        assert_eq!(budget(1, 1, 1).renewed_by_progress().left(), 0);
        // Interruptions had raised it already.
        assert_eq!(budget(2, 9, 3).renewed_by_progress().left(), 7);
    }

    #[test]
    fn each_class_waits_by_its_own_rule() {
        let after = |class| match after_end(&failed(class), budget(1, 3, 3), 1.0) {
            AfterEnd::Requeue { after, .. } => after.as_secs(),
            other @ (AfterEnd::Succeed | AfterEnd::Cancel | AfterEnd::GiveUp) => {
                panic!("{class:?}: {other:?}")
            }
        };
        assert_eq!(after(FailureClass::Crash), 1);
        assert_eq!(after(FailureClass::Network), 5);
        assert_eq!(after(FailureClass::DiskFull), 10);
    }

    #[test]
    fn interruptions_and_retries_by_hand_do_not_lengthen_the_back_off() {
        // Attempt 6 after five interruptions: `last` was raised five times.
        assert_eq!(wait_after(budget(6, 8, 3), 1.0), Duration::from_secs(1));
        // Attempt 4 of a job whose first three failed, after a retry by hand.
        assert_eq!(wait_after(budget(4, 6, 3), 1.0), Duration::from_secs(1));
    }
}
