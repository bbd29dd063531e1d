//! Why something cannot happen to a job, and the status that says so.

use marquee_domain::artifact::Digest;
use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::job::JobStateName;
use marquee_domain::pipeline::FieldError;
use marquee_domain::users::UserName;
use marquee_proto::error::{ErrorCode, invalid_document, not_leading};
use marquee_store::StoreError;
use tonic::Status;

use crate::blobs::{BlobError, ObjectTrouble};
use crate::walls::Panicked;

/// Why something cannot happen to a job.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    #[error("the document has {} wrong fields", .0.len())]
    InvalidDocument(Vec<FieldError>),
    #[error(
        "request id {0:?} was used before for another document; choose a new id, or send the same document again"
    )]
    RequestIdReused(String),
    #[error(
        "job {job} has {} already; only a job that waits or runs can be cancelled", state.as_str()
    )]
    JobHasEnded { job: JobId, state: JobStateName },
    #[error(
        "job {job} is {}; only a failed or cancelled job can be retried, or one whose artifact is damaged", state.as_str()
    )]
    JobHasNotEnded { job: JobId, state: JobStateName },
    #[error("the artifact of job {job} is damaged, and cannot be made again: {why}")]
    CannotBeMadeAgain { job: JobId, why: String },
    #[error(
        "job {job} needs job {needs} ({name:?}), which has not succeeded; retry that one: \"marquee retry {needs}\""
    )]
    NeedHasNotSucceeded {
        job: JobId,
        needs: JobId,
        name: String,
    },
    #[error(
        "job {job} is there for an end of job {needs} ({name:?}) that did not come: it {ended}; there is nothing left for it to do"
    )]
    NotNeeded {
        job: JobId,
        needs: JobId,
        name: String,
        ended: &'static str,
    },
    #[error(
        "job {by} is at work because of how job {job} ended; retry it when that has ended, or cancel that first (\"marquee cancel {by}\")"
    )]
    FollowerAtWork { job: JobId, by: JobId },
    #[error(
        "{elements} element(s) of job {job} are still being stopped; retry it when they have ended (\"marquee jobs --array {job}\")"
    )]
    ElementsStop { job: JobId, elements: usize },
    #[error(
        "job {job} is an element of job array {array}, which has succeeded without it: its artifact does not change any more; submit it again"
    )]
    ArrayIsCommitted { job: JobId, array: JobId },
    #[error(
        "job {job} is {}; only a job that waits or is queued can be held and released", state.as_str()
    )]
    JobCannotBeHeld { job: JobId, state: JobStateName },
    #[error(
        "job {job} is {}, or is being stopped; only a job that runs, or an element of an array that does, can be moved", state.as_str()
    )]
    JobCannotBeMoved { job: JobId, state: JobStateName },
    #[error(
        "there is no project {0}; \"marquee project list\" shows those there are, and \"marquee project set {0}\" makes it"
    )]
    ProjectNotFound(String),
    #[error("there is no schedule {0:?}; \"marquee schedule list\" shows those there are")]
    ScheduleNotFound(String),
    #[error(
        "there is a schedule {0:?} already; \"marquee schedule add --replace\" replaces it, or choose another name"
    )]
    ScheduleExists(String),
    #[error("{0}")]
    OverQuota(String),
    #[error("there is no worker {0:?} that is here or may come back; run \"marquee workers\"")]
    WorkerNotFound(String),
    #[error("no worker {0:?} has joined; \"marquee admin worker list\" shows those that did")]
    NoMember(String),
    #[error(
        "worker {0:?} is here; revoke it first (\"marquee admin worker revoke {0}\"), or stop it and wait until its lease ends"
    )]
    StillHere(String),
    #[error("{0}")]
    BadSetting(String),
    /// What came with others' could not be stored now; each of them tries again.
    #[error("{0}")]
    Unstored(String),
    #[error("there is no artifact {0}; run \"marquee artifacts ls\"")]
    ArtifactNotFound(Digest),
    #[error("{what} is still needed: jobs {by} {how}")]
    Needed {
        what: String,
        /// The first of those that need it.
        by: String,
        how: &'static str,
    },
    #[error("pipeline p{pipeline} is kept by {by}; \"marquee keep p{pipeline} --lift\" lets it go")]
    Kept { pipeline: PipelineId, by: String },
    #[error(
        "pipeline p{0} is to stay after all: something of it was retried, kept or taken meanwhile"
    )]
    NotAged(PipelineId),
    #[error("there is no user {:?}; \"marquee admin user list\" shows those there are", .0.as_str())]
    UserNotFound(UserName),
    #[error(
        "there is a user {:?} already; \"marquee admin user role {}\" changes his roles", .0.as_str(), .0
    )]
    UserExists(UserName),
    #[error("there is no token {0:?}; \"marquee admin token list\" shows those there are")]
    TokenNotFound(String),
    /// What the role of whoever asks does not allow, and which would.
    #[error("{0}")]
    RoleTooLow(String),
    #[error("{0}")]
    NoSecretKey(String),
    #[error("{0}")]
    SecretUnreadable(String),
    #[error("{0}")]
    SecretNotFound(String),
    #[error("{0}")]
    SecretRefused(String),
    #[error("{0}")]
    CannotRehearse(String),
    #[error("{0}")]
    CannotBurnIn(String),
    #[error(
        "{gpu} is being burnt in by job {job}; wait for it (\"marquee logs {job} --follow\"), or cancel it first (\"marquee cancel {job}\")"
    )]
    BurnInAtWork { gpu: String, job: JobId },
    #[error("the coordinator stops")]
    Stopping,
    #[error(transparent)]
    Panicked(#[from] Panicked),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

impl LifecycleError {
    /// Whether the same call may work later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) => error.may_pass(),
            // A full or broken disk is mended by people, and then everything goes on.
            Self::Blobs(_) | Self::Unstored(_) => true,
            // Each by name: whoever adds an error has to say whether it passes.
            Self::Stopping
            | Self::Panicked(_)
            | Self::ArtifactNotFound(_)
            | Self::Needed { .. }
            | Self::Kept { .. }
            | Self::NotAged(_)
            | Self::CannotRehearse(_)
            | Self::CannotBurnIn(_)
            | Self::BurnInAtWork { .. }
            | Self::InvalidDocument(_)
            | Self::RequestIdReused(_)
            | Self::JobHasEnded { .. }
            | Self::JobHasNotEnded { .. }
            | Self::CannotBeMadeAgain { .. }
            | Self::ElementsStop { .. }
            | Self::ArrayIsCommitted { .. }
            | Self::NotNeeded { .. }
            | Self::FollowerAtWork { .. }
            | Self::JobCannotBeHeld { .. }
            | Self::JobCannotBeMoved { .. }
            | Self::ProjectNotFound(_)
            | Self::ScheduleNotFound(_)
            | Self::ScheduleExists(_)
            | Self::OverQuota(_)
            | Self::WorkerNotFound(_)
            | Self::NoMember(_)
            | Self::StillHere(_)
            | Self::BadSetting(_)
            | Self::UserNotFound(_)
            | Self::UserExists(_)
            | Self::TokenNotFound(_)
            | Self::RoleTooLow(_)
            | Self::NoSecretKey(_)
            | Self::SecretUnreadable(_)
            | Self::SecretNotFound(_)
            | Self::SecretRefused(_)
            | Self::NeedHasNotSucceeded { .. } => false,
        }
    }

    /// Whether the same again at once most likely works: another transaction was in the way of this one.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_conflict())
    }

    /// Whether somebody else changed the job first: the caller looks again, or lets it be.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::StaleAttempt { .. } | StoreError::StaleRank { .. })
        )
    }
}

impl From<LifecycleError> for Status {
    fn from(error: LifecycleError) -> Self {
        let code = match &error {
            LifecycleError::InvalidDocument(fields) => return invalid_document(fields),
            LifecycleError::RequestIdReused(_) => ErrorCode::RequestIdReused,
            LifecycleError::JobHasEnded { .. } => ErrorCode::JobHasEnded,
            LifecycleError::JobHasNotEnded { .. }
            | LifecycleError::CannotBeMadeAgain { .. }
            | LifecycleError::ElementsStop { .. }
            | LifecycleError::ArrayIsCommitted { .. }
            | LifecycleError::NotNeeded { .. }
            | LifecycleError::FollowerAtWork { .. }
            | LifecycleError::NeedHasNotSucceeded { .. } => ErrorCode::JobNotRetryable,
            LifecycleError::JobCannotBeHeld { .. } => ErrorCode::JobNotHoldable,
            LifecycleError::JobCannotBeMoved { .. } => ErrorCode::JobNotMovable,
            LifecycleError::ProjectNotFound(_) => ErrorCode::ProjectNotFound,
            LifecycleError::ScheduleNotFound(_) => ErrorCode::ScheduleNotFound,
            LifecycleError::ScheduleExists(_) => ErrorCode::ScheduleExists,
            LifecycleError::OverQuota(_) => ErrorCode::OverQuota,
            LifecycleError::WorkerNotFound(_) | LifecycleError::NoMember(_) => {
                ErrorCode::WorkerNotFound
            }
            LifecycleError::StillHere(_) => ErrorCode::StillNeeded,
            LifecycleError::BadSetting(_) => ErrorCode::InvalidRequest,
            LifecycleError::UserNotFound(_) => ErrorCode::UserNotFound,
            LifecycleError::UserExists(_) => ErrorCode::UserExists,
            LifecycleError::TokenNotFound(_) => ErrorCode::TokenNotFound,
            LifecycleError::RoleTooLow(_) => ErrorCode::RoleTooLow,
            LifecycleError::Unstored(_) | LifecycleError::Stopping => ErrorCode::StorageUnavailable,
            LifecycleError::ArtifactNotFound(_) => ErrorCode::ArtifactNotFound,
            LifecycleError::Needed { .. }
            | LifecycleError::Kept { .. }
            | LifecycleError::NotAged(_) => ErrorCode::StillNeeded,
            LifecycleError::CannotRehearse(_) => ErrorCode::CannotRehearse,
            LifecycleError::CannotBurnIn(_) => ErrorCode::CannotBurnIn,
            LifecycleError::BurnInAtWork { .. } => ErrorCode::BurnInAtWork,
            LifecycleError::NoSecretKey(_) => ErrorCode::NoSecretKey,
            LifecycleError::SecretUnreadable(_) => ErrorCode::SecretUnreadable,
            LifecycleError::SecretNotFound(_) => ErrorCode::SecretNotFound,
            LifecycleError::SecretRefused(_) => ErrorCode::SecretRefused,
            LifecycleError::Panicked(_) => ErrorCode::Internal,
            LifecycleError::Store(StoreError::NotLeading { leader, .. }) => {
                let leader = Some(leader.as_str()).filter(|leader| !leader.is_empty());
                return not_leading(error.to_string(), leader);
            }
            LifecycleError::Store(error) => store_code(error),
            LifecycleError::Blobs(BlobError::Objects { trouble, .. }) => {
                object_store_code(*trouble)
            }
            LifecycleError::Blobs(_) => ErrorCode::StorageUnavailable,
        };
        match code {
            ErrorCode::StorageUnavailable
            | ErrorCode::ObjectStoreAway
            | ErrorCode::ObjectStoreRefuses => {
                // It concerns whoever runs the cluster, and is no fault of this program.
                tracing::warn!(%error, "a request failed because storage is away");
            }
            ErrorCode::Internal => tracing::error!(%error, "a request failed"),
            // What a caller did wrong is told to him and is no news for the log.
            ErrorCode::InvalidDocument
            | ErrorCode::InvalidRequest
            | ErrorCode::RequestIdReused
            | ErrorCode::JobNotFound
            | ErrorCode::PipelineNotFound
            | ErrorCode::ArtifactNotFound
            | ErrorCode::BlobNotFound
            | ErrorCode::JobHasEnded
            | ErrorCode::JobNotRetryable
            | ErrorCode::WorkerNameTaken
            | ErrorCode::WorkerOwned
            | ErrorCode::OtherCluster
            | ErrorCode::CannotRescue
            | ErrorCode::WorkerIdInUse
            | ErrorCode::StillNeeded
            | ErrorCode::NotLeading
            | ErrorCode::JobNotHoldable
            | ErrorCode::JobNotMovable
            | ErrorCode::ProjectNotFound
            | ErrorCode::OverQuota
            | ErrorCode::WorkerNotFound
            | ErrorCode::ScheduleNotFound
            | ErrorCode::ScheduleExists
            | ErrorCode::BlobMismatch
            | ErrorCode::BlobDamaged
            | ErrorCode::LimitReached
            | ErrorCode::NotAllowed
            | ErrorCode::NotIdentified
            | ErrorCode::NotForWorkers
            | ErrorCode::JoinRefused
            | ErrorCode::NoAuthority
            | ErrorCode::WorkerRevoked
            | ErrorCode::NotLoggedIn
            | ErrorCode::RoleTooLow
            | ErrorCode::UserNotFound
            | ErrorCode::UserExists
            | ErrorCode::TokenNotFound
            | ErrorCode::CannotRehearse
            | ErrorCode::NoSecretKey
            | ErrorCode::SecretUnreadable
            | ErrorCode::SecretNotFound
            | ErrorCode::SecretRefused
            | ErrorCode::RotationNotReady
            | ErrorCode::CannotBurnIn
            | ErrorCode::BurnInAtWork
            | ErrorCode::CannotDump
            | ErrorCode::SafeMode => {}
        }
        code.status(error.to_string())
    }
}

/// The public error of an object store's trouble.
#[must_use]
pub fn object_store_code(trouble: ObjectTrouble) -> ErrorCode {
    match trouble {
        ObjectTrouble::Away => ErrorCode::ObjectStoreAway,
        ObjectTrouble::Refused => ErrorCode::ObjectStoreRefuses,
        ObjectTrouble::Full => ErrorCode::LimitReached,
    }
}

fn store_code(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::NotLeading { .. } => ErrorCode::NotLeading,
        StoreError::JobNotFound(_) => ErrorCode::JobNotFound,
        StoreError::PipelineNotFound(_) => ErrorCode::PipelineNotFound,
        StoreError::WorkerNameTaken(_) => ErrorCode::WorkerNameTaken,
        StoreError::WorkerOwned { .. } => ErrorCode::WorkerOwned,
        StoreError::Postgres(_) if error.may_pass() => ErrorCode::StorageUnavailable,
        StoreError::Postgres(_)
        | StoreError::StaleAttempt { .. }
        | StoreError::StaleRank { .. }
        | StoreError::Unreadable { .. }
        | StoreError::OutOfRange { .. }
        | StoreError::Vanished(_)
        | StoreError::Migrate(_) => ErrorCode::Internal,
    }
}

#[cfg(test)]
mod tests;
