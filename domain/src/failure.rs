//! Why an attempt failed, in classes that say whether another one may help. What then happens to the
//! job is decided in [`crate::end`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The class of a failure. What follows from it stands in its [`RetryRule`].
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
    /// A remote service could not be reached.
    Network,
    /// The child died by a signal nobody sent on purpose, or broke the child contract.
    Crash,
    /// A disk of the host ran out.
    DiskFull,
    /// A rank lived and made no progress for its `step_timeout`.
    Hang,
    /// An exchange between ranks failed: a peer was lost, or did not answer in time.
    Collective,
    /// Its GPUs did nothing for as long as its project lets them.
    Idle,
}

/// What follows from a class of failure: one row of the table in `docs/failures.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRule {
    /// By what it is recognised.
    pub evidence: &'static str,
    /// Whether another attempt could end differently.
    pub is_retried: bool,
    /// The back-off after the first attempt that was spent; each further one doubles it.
    pub first_wait: Duration,
    /// Where the doubling ends.
    pub longest_wait: Duration,
    /// Whether the next attempt is placed elsewhere where that is possible.
    pub avoids_host: bool,
    /// Whether the other ranks of a gang may go on without the one that failed so. They take over its
    /// share of each step: a rank that ran out of memory would be followed by the others.
    pub spares_the_others: bool,
    /// Which class names the cause when several ranks of a gang fail together, the highest: the rank that
    /// died knows more than the peers that merely lost their connection to it.
    pub precedence: u8,
}

/// Longest back-off of nearly all: a fault that a minute did not cure is worth a look each minute, not each
/// hour.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl RetryRule {
    const fn never(precedence: u8, evidence: &'static str) -> Self {
        Self {
            evidence,
            is_retried: false,
            first_wait: Duration::ZERO,
            longest_wait: Duration::ZERO,
            avoids_host: false,
            spares_the_others: false,
            precedence,
        }
    }

    const fn after(first_s: u64, precedence: u8, evidence: &'static str) -> Self {
        Self {
            evidence,
            is_retried: true,
            first_wait: Duration::from_secs(first_s),
            longest_wait: LONGEST_WAIT,
            avoids_host: false,
            spares_the_others: false,
            precedence,
        }
    }

    const fn elsewhere(mut self) -> Self {
        self.avoids_host = true;
        self
    }

    const fn sparing_the_others(mut self) -> Self {
        self.spares_the_others = true;
        self
    }

    const fn up_to(mut self, longest: Duration) -> Self {
        self.longest_wait = longest;
        self
    }
}

impl FailureClass {
    /// Every class, for documentation and conversion tables.
    pub const ALL: [Self; 12] = [
        Self::UserError,
        Self::OutOfMemory,
        Self::BadInput,
        Self::DeviceFault,
        Self::LostWorker,
        Self::Timeout,
        Self::Network,
        Self::Crash,
        Self::DiskFull,
        Self::Hang,
        Self::Collective,
        Self::Idle,
    ];

    /// The word used in SQL, JSON and on screen.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
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
            Self::Hang => "hang",
            Self::Collective => "collective",
            Self::Idle => "idle",
        }
    }

    /// The class that a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == word)
    }

    /// What follows from it: the one table, which `docs/failures.md` repeats.
    #[must_use]
    pub const fn rule(self) -> RetryRule {
        match self {
            Self::UserError => RetryRule::never(
                10,
                "a program's exit status other than 0; what a program of Marquee says of the settings",
            ),
            Self::OutOfMemory => RetryRule::after(
                1,
                9,
                "`oom_kill` in `memory.events` of the rank's cgroup; where it has none, SIGKILL while the kernel's \
                 count of such kills rose; an allocation that libtorch or CUDA says it was refused",
            )
            .elsewhere(),
            Self::BadInput => {
                RetryRule::never(8, "what a program of Marquee says of an input; an input that is not stored any more")
            }
            Self::DeviceFault => RetryRule::after(
                1,
                7,
                "an error of CUDA, cuDNN, cuBLAS or NVML other than memory",
            )
            .elsewhere()
            .sparing_the_others(),
            Self::LostWorker => RetryRule::after(
                1,
                3,
                "nothing heard of the worker for its lease; a worker that is back without the rank; a host that was \
                 booted again",
            )
            .elsewhere()
            .sparing_the_others(),
            // A second attempt would take as long again: its owner has to give it more time.
            Self::Timeout => RetryRule::never(2, "the attempt's age beyond the job's `timeout`"),
            Self::Network => RetryRule::after(
                5,
                0,
                "a download, a remote service or the coordinator's files that could not be reached",
            )
            .sparing_the_others()
            .up_to(Duration::from_secs(300)),
            Self::Crash => RetryRule::after(
                1,
                4,
                "an end by a signal; no last word, or one that the exit status contradicts; a breach of the child \
                 contract",
            )
            .sparing_the_others(),
            Self::DiskFull => RetryRule::after(
                10,
                6,
                "ENOSPC or EDQUOT, of the worker's own writes or in a program's last words; less than 8 MiB left where \
                 the worker keeps its data",
            )
            .elsewhere()
            .sparing_the_others(),
            Self::Hang => RetryRule::after(
                1,
                5,
                "no progress for `step_timeout` while the process lives, or one that a signal holds up (state T) while \
                 its peers wait for it; stacks and phase of each rank are in its log",
            )
            .elsewhere()
            .sparing_the_others(),
            // Next to the lowest precedence: each peer of a rank that died says this, and only that
            // rank knows of what.
            Self::Collective => RetryRule::after(
                1,
                1,
                "what Gloo or NCCL say of a peer: its connection broke, or `collective_timeout_s` passed",
            )
            .sparing_the_others(),
            Self::Idle => RetryRule::never(
                11,
                "every reading of all its GPUs at most 1 % busy for the project's `idle_stop`",
            ),
        }
    }

    /// Whether another attempt at the same job could end differently.
    #[must_use]
    pub const fn is_worth_a_retry(self) -> bool {
        self.rule().is_retried
    }

    /// Whether the other ranks of a gang may go on without the one that failed so.
    #[must_use]
    pub const fn spares_the_others(self) -> bool {
        self.rule().spares_the_others
    }

    /// Which class names the cause when several ranks of a gang fail together, the highest.
    #[must_use]
    pub const fn precedence(self) -> u8 {
        self.rule().precedence
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
    fn no_two_classes_claim_the_cause_with_the_same_right() {
        let mut rights = FailureClass::ALL.map(FailureClass::precedence);
        rights.sort_unstable();
        assert!(
            rights.windows(2).all(|pair| pair[0] < pair[1]),
            "{rights:?}"
        );
    }

    /// The documents show the table as it is, a row for each class.
    #[test]
    fn the_documents_have_the_rules_as_they_are() {
        const DOCS: &str = include_str!("../../docs/failures.md");
        let yes = |holds: bool| if holds { "yes" } else { "no" };
        for class in FailureClass::ALL {
            let rule = class.rule();
            let waits = if rule.is_retried {
                let (first, longest) = (rule.first_wait.as_secs(), rule.longest_wait.as_secs());
                format!("{first} s, doubled up to {longest} s")
            } else {
                "never".to_owned()
            };
            let row = format!(
                "| `{}` | {} | {waits} | {} | {} |",
                class.as_str(),
                rule.evidence,
                yes(rule.avoids_host),
                yes(rule.spares_the_others),
            );
            assert!(
                DOCS.contains(&row),
                "docs/failures.md lacks this row:\n{row}"
            );
        }
        let rows = DOCS.lines().filter(|line| line.starts_with("| `"));
        // The last is that of a cancel, which is no failure.
        assert_eq!(rows.count(), FailureClass::ALL.len() + 1);
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
