//! The life of a job: waiting, queued, running, ended; and back, by a retry.
//!
//! ```text
//!             release           place              succeed
//! waiting ------------> queued -------> running -----------> succeeded
//!    ^                    ^ ^             | |
//!    |                    | +-------------+ +--- give up ---> failed
//!    |                    |  requeue, interrupt
//!    |                    |
//!    +--------------------+---- retry, revive --- failed, cancelled
//!    +--------------------+---- make again ------ succeeded
//! ```
//!
//! A job that is queued waits again when something that it needs is made again.
//!
//! A cancel ends a waiting or queued job at once and a running one when its ranks are gone.

use std::fmt;

use chrono::{DateTime, Utc};

use super::InvalidTransition;
use crate::end::{AfterEnd, AttemptBudget};
use crate::ids::JobId;
use crate::job::JobStateName;

/// A job as its transitions see it. Not `Copy`: who has let something happen to it cannot go on with
/// what it was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobLife {
    pub stage: JobStage,
    pub budget: AttemptBudget,
    /// An array's work is done by its elements: it waits until its last element has succeeded.
    pub is_array: bool,
}

/// The state of a job with the facts that its next transition needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobStage {
    /// A job that it needs has not ended yet.
    Waiting,
    Queued {
        /// Since when it could run. Its place in the queue depends on it.
        queued_at: DateTime<Utc>,
        /// Not to be placed before.
        not_before: Option<DateTime<Utc>>,
    },
    Running {
        /// Kept while it runs: a job that has to make room goes back to its old place.
        queued_at: DateTime<Utc>,
        cancel_requested: bool,
    },
    Succeeded,
    Failed,
    Cancelled {
        /// The job whose end was the cause. None: a user cancelled it by name.
        for_job: Option<JobId>,
    },
}

impl JobStage {
    /// The state's name.
    #[must_use]
    pub fn name(self) -> JobStateName {
        match self {
            Self::Waiting => JobStateName::Waiting,
            Self::Queued { .. } => JobStateName::Queued,
            Self::Running { .. } => JobStateName::Running,
            Self::Succeeded => JobStateName::Succeeded,
            Self::Failed => JobStateName::Failed,
            Self::Cancelled { .. } => JobStateName::Cancelled,
        }
    }
}

impl JobStage {
    /// Whether somebody may keep the job from being placed. It stays in its state: a hold is no event of its life.
    #[must_use]
    pub fn may_be_held(self) -> bool {
        match self {
            Self::Waiting | Self::Queued { .. } => true,
            Self::Running { .. } | Self::Succeeded | Self::Failed | Self::Cancelled { .. } => false,
        }
    }
}

impl fmt::Display for JobStage {
    /// To be read after "a job that".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waits",
            Self::Queued { .. } => "is queued",
            Self::Running {
                cancel_requested: false,
                ..
            } => "is running",
            Self::Running {
                cancel_requested: true,
                ..
            } => "is running and is to be cancelled",
            Self::Succeeded => "has succeeded",
            Self::Failed => "has failed",
            Self::Cancelled { .. } => "is cancelled",
        })
    }
}

/// What may happen to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobEvent {
    /// All that it needs has ended as it wants it.
    Release,
    /// The scheduler found it a place, or its work need not be done again.
    Place,
    /// Its attempt committed an artifact.
    Succeed,
    /// Its attempt failed, and another may mend that.
    Requeue,
    /// Its attempt had to make room, through no fault of the job.
    Interrupt,
    /// Its attempt failed, and no further one is made.
    GiveUp,
    /// It can never be placed: what is stored of it cannot be read, or an element of it has failed.
    FailUnplaced,
    /// A user wants it to end.
    RequestCancel,
    /// Nothing is left of the ranks of a job that was to be cancelled.
    FinishCancel,
    /// A job that it needs ended in another way than it wants.
    CancelForNeed,
    /// A user wants it to be done after all.
    Retry,
    /// A job for whose sake it ended is retried.
    Revive,
    /// Its artifact is damaged, and its work is done once more.
    MakeAgain,
    /// A job that it needs is made again.
    WaitAgain,
}

impl JobEvent {
    /// Every event.
    pub const ALL: [Self; 14] = [
        Self::Release,
        Self::Place,
        Self::Succeed,
        Self::Requeue,
        Self::Interrupt,
        Self::GiveUp,
        Self::FailUnplaced,
        Self::RequestCancel,
        Self::FinishCancel,
        Self::CancelForNeed,
        Self::Retry,
        Self::Revive,
        Self::MakeAgain,
        Self::WaitAgain,
    ];

    /// What the event does to the job, to be read after "cannot be".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Release => "released",
            Self::Place => "placed",
            Self::Succeed => "succeeded",
            Self::Requeue => "queued again after a failure",
            Self::Interrupt => "queued again after an interruption",
            Self::GiveUp => "given up",
            Self::FailUnplaced => "failed without an attempt",
            Self::RequestCancel => "asked to stop",
            Self::FinishCancel => "reported as stopped",
            Self::CancelForNeed => "cancelled for a job that it needs",
            Self::Retry => "retried",
            Self::Revive => "brought back",
            Self::MakeAgain => "made again",
            Self::WaitAgain => "made to wait again",
        }
    }
}

type Outcome = Result<JobLife, InvalidTransition>;

impl JobLife {
    /// waiting -> queued: its wait for a place begins now.
    pub fn release(self, now: DateTime<Utc>) -> Outcome {
        match self.stage {
            JobStage::Waiting => Ok(self.at(JobStage::Queued {
                queued_at: now,
                not_before: None,
            })),
            JobStage::Queued { .. }
            | JobStage::Running { .. }
            | JobStage::Succeeded
            | JobStage::Failed
            | JobStage::Cancelled { .. } => Err(self.refuse(JobEvent::Release)),
        }
    }

    /// queued -> running, by an attempt with the next number.
    pub fn place(self) -> Outcome {
        match self.stage {
            JobStage::Queued { queued_at, .. } => Ok(Self {
                budget: self.budget.with_next(),
                ..self.at(JobStage::Running {
                    queued_at,
                    cancel_requested: false,
                })
            }),
            JobStage::Waiting
            | JobStage::Running { .. }
            | JobStage::Succeeded
            | JobStage::Failed
            | JobStage::Cancelled { .. } => Err(self.refuse(JobEvent::Place)),
        }
    }

    /// What follows from the end of its attempt, as [`crate::end::after_end`] decided it.
    pub fn end_attempt(self, after: AfterEnd, now: DateTime<Utc>) -> Outcome {
        match after {
            AfterEnd::Succeed => self.succeed(),
            AfterEnd::Cancel => self.finish_cancel(),
            AfterEnd::Requeue {
                spends_attempt: true,
                after,
            } => self.requeue(now + after),
            AfterEnd::Requeue {
                spends_attempt: false,
                ..
            } => self.interrupt(),
            AfterEnd::GiveUp => self.give_up(),
        }
    }

    /// running -> succeeded. A cancel that came too late to stop the work does not undo it.
    // The flag is not looked at: the artifact is complete, and throwing it away would give nobody his devices
    // back any sooner.
    pub fn succeed(self) -> Outcome {
        match self.stage {
            JobStage::Running { .. } => Ok(self.at(JobStage::Succeeded)),
            JobStage::Waiting
            | JobStage::Queued { .. }
            | JobStage::Succeeded
            | JobStage::Failed
            | JobStage::Cancelled { .. } => Err(self.refuse(JobEvent::Succeed)),
        }
    }

    /// running -> queued, until `not_before` at least. Refused without an attempt left, and for a job
    /// that is to be cancelled: it would start again although a user was told that it stops.
    pub fn requeue(self, not_before: DateTime<Utc>) -> Outcome {
        match self.stage {
            JobStage::Running {
                queued_at,
                cancel_requested: false,
            } if self.budget.left() > 0 => Ok(self.at(JobStage::Queued {
                queued_at,
                not_before: Some(not_before),
            })),
            JobStage::Running { .. }
            | JobStage::Waiting
            | JobStage::Queued { .. }
            | JobStage::Succeeded
            | JobStage::Failed
            | JobStage::Cancelled { .. } => Err(self.refuse(JobEvent::Requeue)),
        }
    }

    /// running -> queued at its old place and at once. The attempt's number stays used, for it is the
    /// fence, so the job may make one more. Refused for a job that is to be cancelled, as in
    /// [`Self::requeue`].
    pub fn interrupt(self) -> Outcome {
        match self.stage {
            JobStage::Running {
                queued_at,
                cancel_requested: false,
            } => Ok(Self {
                budget: self.budget.with_newest_refunded(),
                ..self.at(JobStage::Queued {
                    queued_at,
                    not_before: None,
                })
            }),
            JobStage::Running {
                cancel_requested: true,
                ..
            }
            | JobStage::Waiting
            | JobStage::Queued { .. }
            | JobStage::Succeeded
            | JobStage::Failed
            | JobStage::Cancelled { .. } => Err(self.refuse(JobEvent::Interrupt)),
        }
    }

    /// running -> failed, for good.
    // Also where a cancel was asked for: that it failed by itself is what its owner has to know.
    pub fn give_up(self) -> Outcome {
        match self.stage {
            JobStage::Running { .. } => Ok(self.at(JobStage::Failed)),
            JobStage::Waiting
            | JobStage::Queued { .. }
            | JobStage::Succeeded
            | JobStage::Failed
            | JobStage::Cancelled { .. } => Err(self.refuse(JobEvent::GiveUp)),
        }
    }

    /// waiting or queued -> failed, without an attempt.
    // A running job is refused: its ranks hold devices, and what becomes of those is decided by the end of its
    // attempt.
    pub fn fail_unplaced(self) -> Outcome {
        match self.stage {
            JobStage::Waiting | JobStage::Queued { .. } => Ok(self.at(JobStage::Failed)),
            JobStage::Running { .. }
            | JobStage::Succeeded
            | JobStage::Failed
            | JobStage::Cancelled { .. } => Err(self.refuse(JobEvent::FailUnplaced)),
        }
    }

    /// waiting or queued -> cancelled at once; a running job stops its ranks first. Asking twice is
    /// the same as asking once.
    pub fn request_cancel(self) -> Outcome {
        match self.stage {
            JobStage::Waiting | JobStage::Queued { .. } => {
                Ok(self.at(JobStage::Cancelled { for_job: None }))
            }
            // It stays running, since its ranks still hold devices: only the end of its attempt may
            // give them to others.
            JobStage::Running { queued_at, .. } => Ok(self.at(JobStage::Running {
                queued_at,
                cancel_requested: true,
            })),
            JobStage::Succeeded | JobStage::Failed | JobStage::Cancelled { .. } => {
                Err(self.refuse(JobEvent::RequestCancel))
            }
        }
    }

    /// running -> cancelled, where a user asked for it.
    pub fn finish_cancel(self) -> Outcome {
        match self.stage {
            JobStage::Running {
                cancel_requested: true,
                ..
            } => Ok(self.at(JobStage::Cancelled { for_job: None })),
            JobStage::Running {
                cancel_requested: false,
                ..
            }
            | JobStage::Waiting
            | JobStage::Queued { .. }
            | JobStage::Succeeded
            | JobStage::Failed
            | JobStage::Cancelled { .. } => Err(self.refuse(JobEvent::FinishCancel)),
        }
    }

    /// waiting -> cancelled, because of how `need` ended. A queued or running job has all that it
    /// needs.
    pub fn cancel_for_need(self, need: JobId) -> Outcome {
        match self.stage {
            JobStage::Waiting => Ok(self.at(JobStage::Cancelled {
                for_job: Some(need),
            })),
            JobStage::Queued { .. }
            | JobStage::Running { .. }
            | JobStage::Succeeded
            | JobStage::Failed
            | JobStage::Cancelled { .. } => Err(self.refuse(JobEvent::CancelForNeed)),
        }
    }

    /// failed or cancelled -> queued, or waiting where `waits`, with all its attempts again.
    pub fn retry(self, waits: bool, now: DateTime<Utc>) -> Outcome {
        match self.stage {
            JobStage::Failed | JobStage::Cancelled { .. } => Ok(self.back(waits, now)),
            JobStage::Waiting
            | JobStage::Queued { .. }
            | JobStage::Running { .. }
            | JobStage::Succeeded => Err(self.refuse(JobEvent::Retry)),
        }
    }

    /// The same for a job that ended only because another one did. What a user cancelled by name, or
    /// what failed by itself, stays as it is until it is retried by name.
    pub fn revive(self, waits: bool, now: DateTime<Utc>) -> Outcome {
        match self.stage {
            JobStage::Cancelled { for_job: Some(_) } => Ok(self.back(waits, now)),
            // An array fails when an element does, and comes back with it.
            JobStage::Failed if self.is_array => Ok(self.back(waits, now)),
            JobStage::Failed
            | JobStage::Cancelled { for_job: None }
            | JobStage::Waiting
            | JobStage::Queued { .. }
            | JobStage::Running { .. }
            | JobStage::Succeeded => Err(self.refuse(JobEvent::Revive)),
        }
    }

    /// succeeded -> queued, or waiting where `waits`, with all its attempts again. Its artifact stays until another one
    /// takes its place.
    pub fn make_again(self, waits: bool, now: DateTime<Utc>) -> Outcome {
        match self.stage {
            JobStage::Succeeded => Ok(self.back(waits, now)),
            JobStage::Waiting
            | JobStage::Queued { .. }
            | JobStage::Running { .. }
            | JobStage::Failed
            | JobStage::Cancelled { .. } => Err(self.refuse(JobEvent::MakeAgain)),
        }
    }

    /// waiting or queued -> waiting. A running job has what it needs with it, or is queued first.
    pub fn wait_again(self) -> Outcome {
        match self.stage {
            JobStage::Waiting | JobStage::Queued { .. } => Ok(self.at(JobStage::Waiting)),
            JobStage::Running { .. }
            | JobStage::Succeeded
            | JobStage::Failed
            | JobStage::Cancelled { .. } => Err(self.refuse(JobEvent::WaitAgain)),
        }
    }

    fn back(self, waits: bool, now: DateTime<Utc>) -> Self {
        // An array has nothing to place: its elements are queued, and it waits for them.
        let stage = if waits || self.is_array {
            JobStage::Waiting
        } else {
            JobStage::Queued {
                queued_at: now,
                not_before: None,
            }
        };
        Self {
            budget: self.budget.with_all_granted_again(),
            ..self.at(stage)
        }
    }

    fn at(self, stage: JobStage) -> Self {
        Self { stage, ..self }
    }

    fn refuse(self, event: JobEvent) -> InvalidTransition {
        InvalidTransition::Job {
            from: self.stage,
            event,
        }
    }
}

#[cfg(test)]
mod tests;
