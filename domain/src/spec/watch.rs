//! How a job's ranks are watched over while they run.

use serde::{Deserialize, Serialize};

/// What a worker does about a rank that makes no progress, or when it hears nothing of the coordinator.
///
/// Where nothing is stored of it, as of jobs of earlier versions, nobody is judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Seconds without progress after which a rank is said to hang, with its stacks. A rank whose progress comes
    /// slowly has some times its usual pause. None: only one that a signal holds up is.
    pub hang_after_s: Option<u32>,
    /// Seconds without progress after which it is ended as `hang`. None: never.
    pub step_timeout_s: Option<u32>,
    #[serde(default)]
    pub on_disconnect: OnDisconnect,
}

/// What a rank does when its worker hears nothing of the coordinator for its whole lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// It goes on. What it commits is fenced: should it have been placed elsewhere, nothing of it is taken.
    #[default]
    Keep,
    /// It is ended, before the coordinator may place it elsewhere: never do two run at once.
    Stop,
}
