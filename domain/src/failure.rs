//! Why an attempt failed, in classes that decide what happens next.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The class of a failure. It decides whether a retry can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The job itself is wrong: a bad option, a program that exits non-zero, a refused key.
    UserError,
    /// Host or device memory ran out.
    OutOfMemory,
    /// An input is damaged or not what the job can read.
    BadInput,
    /// The device failed.
    DeviceFault,
    /// The worker went away, or came back without the attempt.
    LostWorker,
    /// The job ran longer than its `timeout`.
    Timeout,
    /// A peer rank or a remote service could not be reached.
    Network,
    /// The child died by a signal nobody sent on purpose, or broke the child contract.
    Crash,
}

impl FailureClass {
    /// Every class, for documentation and conversion tables.
    pub const ALL: [Self; 8] = [
        Self::UserError,
        Self::OutOfMemory,
        Self::BadInput,
        Self::DeviceFault,
        Self::LostWorker,
        Self::Timeout,
        Self::Network,
        Self::Crash,
    ];

    /// The word used in SQL, JSON and on screen.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserError => "user_error",
            Self::OutOfMemory => "out_of_memory",
            Self::BadInput => "bad_input",
            Self::DeviceFault => "device_fault",
            Self::LostWorker => "lost_worker",
            Self::Timeout => "timeout",
            Self::Network => "network",
            Self::Crash => "crash",
        }
    }

    /// The class that a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == word)
    }

    /// Whether another attempt at the same job could end differently.
    #[must_use]
    pub fn is_worth_a_retry(self) -> bool {
        match self {
            Self::UserError | Self::BadInput | Self::Timeout => false,
            Self::OutOfMemory
            | Self::DeviceFault
            | Self::LostWorker
            | Self::Network
            | Self::Crash => true,
        }
    }

    /// Whether the other ranks of a gang may go on without the one that failed so. They take over its
    /// share of each step: a rank that ran out of memory would be followed by the others.
    #[must_use]
    pub fn spares_the_others(self) -> bool {
        match self {
            Self::DeviceFault | Self::LostWorker | Self::Network | Self::Crash => true,
            Self::UserError | Self::OutOfMemory | Self::BadInput | Self::Timeout => false,
        }
    }

    /// Which class names the cause when several ranks of a gang fail together: the rank that died
    /// knows more than the peers that merely lost their connection to it.
    #[must_use]
    pub fn precedence(self) -> u8 {
        match self {
            Self::Network => 0,
            Self::Timeout => 1,
            Self::LostWorker => 2,
            Self::Crash => 3,
            Self::DeviceFault => 4,
            Self::BadInput => 5,
            Self::OutOfMemory => 6,
            Self::UserError => 7,
        }
    }
}

/// A failure with its cause in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub class: FailureClass,
    /// Names the thing and the way out; shown to the user as it is.
    pub message: String,
}

/// First back-off; doubled by each further attempt.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest back-off: a fault that a minute did not cure is worth a look each minute, not each hour.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// Queue the job again, not before this long from now.
    Retry { after: Duration },
    /// The job has failed for good.
    GiveUp,
}

/// Decides what follows failed attempt number `attempt` of at most `max_attempts`. `jitter` in
/// [0, 1) spreads retries of jobs that failed together over half of the back-off.
#[must_use]
pub fn after_failure(
    class: FailureClass,
    attempt: u32,
    max_attempts: u32,
    jitter: f64,
) -> AfterFailure {
    if !class.is_worth_a_retry() || attempt >= max_attempts {
        return AfterFailure::GiveUp;
    }
    let doublings = attempt.saturating_sub(1).min(10);
    let full = BACKOFF_FIRST
        .saturating_mul(1 << doublings)
        .min(BACKOFF_MAX);
    AfterFailure::Retry {
        after: full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_both_ways() {
        for class in FailureClass::ALL {
            assert_eq!(FailureClass::from_word(class.as_str()), Some(class));
        }
        assert_eq!(FailureClass::from_word("gremlins"), None);
    }

    #[test]
    fn what_the_user_got_wrong_is_not_retried() {
        assert_eq!(
            after_failure(FailureClass::UserError, 1, 3, 0.5),
            AfterFailure::GiveUp
        );
        assert_eq!(
            after_failure(FailureClass::BadInput, 1, 3, 0.5),
            AfterFailure::GiveUp
        );
    }

    #[test]
    fn others_go_on_only_where_a_retry_is_worth_it() {
        for class in FailureClass::ALL {
            assert!(
                !class.spares_the_others() || class.is_worth_a_retry(),
                "{class:?}"
            );
        }
    }

    #[test]
    fn back_off_doubles_and_has_a_ceiling_and_attempts_an_end() {
        let wait = |attempt| match after_failure(FailureClass::LostWorker, attempt, 50, 1.0) {
            AfterFailure::Retry { after } => after.as_secs(),
            AfterFailure::GiveUp => panic!("gave up at attempt {attempt}"),
        };
        assert_eq!(
            (1..=8).map(wait).collect::<Vec<_>>(),
            [1, 2, 4, 8, 16, 32, 60, 60]
        );
        assert_eq!(
            after_failure(FailureClass::LostWorker, 50, 50, 1.0),
            AfterFailure::GiveUp
        );
    }
}
