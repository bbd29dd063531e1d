//! Why an attempt failed, in classes that say whether another one may help. What then happens to the
//! job is decided in [`crate::end`].

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
    /// A disk of the host ran out.
    DiskFull,
}

impl FailureClass {
    /// Every class, for documentation and conversion tables.
    pub const ALL: [Self; 9] = [
        Self::UserError,
        Self::OutOfMemory,
        Self::BadInput,
        Self::DeviceFault,
        Self::LostWorker,
        Self::Timeout,
        Self::Network,
        Self::Crash,
        Self::DiskFull,
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
            Self::DiskFull => "disk_full",
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
            // The same document, the same bytes and the same time limit would end the same way. A time-out is no
            // bad luck: it was set because more time is not to be had.
            Self::UserError | Self::BadInput | Self::Timeout => false,
            // Memory is shared with whatever else ran there: the next host may have more left.
            Self::OutOfMemory
            | Self::DeviceFault
            | Self::LostWorker
            | Self::Network
            | Self::Crash
            | Self::DiskFull => true,
        }
    }

    /// Whether the other ranks of a gang may go on without the one that failed so. They take over its
    /// share of each step: a rank that ran out of memory would be followed by the others.
    #[must_use]
    pub fn spares_the_others(self) -> bool {
        match self {
            Self::DeviceFault | Self::LostWorker | Self::Network | Self::Crash | Self::DiskFull => {
                true
            }
            // Whoever goes on would meet the same: with fewer ranks each has a larger part of the batch in
            // memory.
            Self::UserError | Self::OutOfMemory | Self::BadInput | Self::Timeout => false,
        }
    }

    /// Which class names the cause when several ranks of a gang fail together: the rank that died
    /// knows more than the peers that merely lost their connection to it.
    #[must_use]
    pub fn precedence(self) -> u8 {
        match self {
            // Symptoms first, causes last: a connection breaks because something else happened to the rank at its
            // other end.
            Self::Network => 0,
            Self::Timeout => 1,
            Self::LostWorker => 2,
            Self::Crash => 3,
            Self::DiskFull => 4,
            Self::DeviceFault => 5,
            Self::BadInput => 6,
            Self::OutOfMemory => 7,
            // The program itself said what is wrong, which nothing that is seen from outside can better.
            Self::UserError => 8,
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
        for class in [FailureClass::UserError, FailureClass::BadInput] {
            assert!(!class.is_worth_a_retry(), "{class:?}");
        }
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
}
