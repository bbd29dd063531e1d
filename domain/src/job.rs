//! The states of a job, of its attempts and of their ranks, and what is true in each. Which may
//! follow which is said in [`crate::transitions`].

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::ids::AttemptNumber;

/// The state of a job, without what is true in it: for SQL, filters and listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStateName {
    Waiting,
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl JobStateName {
    /// Every state, in the order of a job's life.
    pub const ALL: [Self; 6] = [
        Self::Waiting,
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The word used in SQL, JSON and on screen.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state that a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether the job will never change again, but by `retry`.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Waiting | Self::Queued | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// The state of a job with what is true in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum JobState {
    /// Some job it needs has not succeeded yet; `reason` names them.
    Waiting { reason: String },
    /// Could run; `reason` says why it does not yet. Not placed before `not_before` (back-off).
    Queued {
        reason: String,
        not_before: Option<DateTime<Utc>>,
    },
    /// `attempt` holds devices. A cancel that was asked for is on its way to the ranks.
    Running {
        attempt: AttemptNumber,
        started_at: DateTime<Utc>,
        cancel_requested: bool,
    },
    /// `attempt` committed its artifact.
    Succeeded {
        attempt: AttemptNumber,
        finished_at: DateTime<Utc>,
    },
    Failed {
        failure: Failure,
        finished_at: DateTime<Utc>,
    },
    /// By a user, or for the sake of a job that it needs: `reason` says which.
    Cancelled {
        reason: String,
        finished_at: DateTime<Utc>,
    },
}

impl JobState {
    /// The state's name.
    #[must_use]
    pub fn name(&self) -> JobStateName {
        match self {
            Self::Waiting { .. } => JobStateName::Waiting,
            Self::Queued { .. } => JobStateName::Queued,
            Self::Running { .. } => JobStateName::Running,
            Self::Succeeded { .. } => JobStateName::Succeeded,
            Self::Failed { .. } => JobStateName::Failed,
            Self::Cancelled { .. } => JobStateName::Cancelled,
        }
    }
}

/// The state of one attempt. An attempt that ended never changes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttemptStateName {
    /// Placed; its workers prepare.
    Assigned,
    /// Every rank was told to start.
    Running,
    Succeeded,
    Failed,
    Cancelled,
    /// It made room through no fault of its job, which does not pay for it.
    Interrupted,
}

impl AttemptStateName {
    /// Every state, in the order of an attempt's life.
    pub const ALL: [Self; 6] = [
        Self::Assigned,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Interrupted,
    ];

    /// The word used in SQL, JSON and on screen.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }

    /// The state that a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
    /// Whether the attempt never changes again.
    #[must_use]
    pub fn has_ended(self) -> bool {
        match self {
            Self::Assigned | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Interrupted => true,
        }
    }
}

/// The state of one rank of an attempt, as its worker holds it. A rank only moves forward.
// Ordered by how far it is: workers ask whether a rank is running or beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RankState {
    /// Placed; the worker may not know yet.
    Assigned,
    /// Inputs are in the cache and the work directory is ready.
    Prepared,
    /// The child runs.
    Running,
    /// The child left well, and rank 0's outputs are uploaded.
    Finished,
    /// The child failed, or could not be started.
    Failed,
    /// The child was told to stop, and nothing of it is left.
    Stopped,
}

impl RankState {
    /// Every state, in order.
    pub const ALL: [Self; 6] = [
        Self::Assigned,
        Self::Prepared,
        Self::Running,
        Self::Finished,
        Self::Failed,
        Self::Stopped,
    ];

    /// The word used in SQL, JSON and on screen.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Prepared => "prepared",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// The state that a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether the rank holds its devices no longer.
    #[must_use]
    pub fn has_ended(self) -> bool {
        match self {
            Self::Assigned | Self::Prepared | Self::Running => false,
            Self::Finished | Self::Failed | Self::Stopped => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_both_ways() {
        for state in JobStateName::ALL {
            assert_eq!(JobStateName::from_word(state.as_str()), Some(state));
        }
        for state in AttemptStateName::ALL {
            assert_eq!(AttemptStateName::from_word(state.as_str()), Some(state));
        }
        for state in RankState::ALL {
            assert_eq!(RankState::from_word(state.as_str()), Some(state));
        }
    }
}
