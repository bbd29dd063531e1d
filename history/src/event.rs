//! What happened, as the audit table has it.

use chrono::{DateTime, Utc};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, WorkerId};
use marquee_domain::job::{AttemptStateName, JobStateName, RankState};
use marquee_domain::rank::RankKey;
use marquee_domain::resources::Device;

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number in the audit table: lines come in this order.
    pub number: i64,
    /// When it was stored, by the database's clock.
    pub at: DateTime<Utc>,
    /// The leader's epoch under which it was written; None: nobody is elected.
    pub epoch: Option<i64>,
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The audit began. Of jobs up to `last_job` it does not know what was before.
    Began { last_job: JobId },
    /// A pipeline was accepted.
    Submitted {
        pipeline: PipelineId,
        request_id: String,
    },
    /// Jobs of a pipeline were accepted with it.
    Added { pipeline: PipelineId, jobs: u64 },
    /// A rank of a new attempt was given devices on a worker.
    Granted {
        key: RankKey,
        worker: WorkerId,
        devices: Vec<Device>,
    },
    /// Every rank of the attempt may start.
    Started { job: JobId, attempt: AttemptNumber },
    /// The rank's child runs.
    RankStarted { key: RankKey },
    /// The attempt goes on without the rank.
    RankLost { key: RankKey },
    /// Reports of the rank were stored, from the one to the other.
    Reported { key: RankKey, from: u64, to: u64 },
    /// The rank's devices are free: it was in this state then.
    Released {
        key: RankKey,
        worker: WorkerId,
        state: RankState,
    },
    /// The attempt ended without a result.
    AttemptEnded {
        job: JobId,
        attempt: AttemptNumber,
        state: AttemptStateName,
    },
    /// The attempt's output became the job's artifact, and the job succeeded.
    Committed {
        job: JobId,
        attempt: AttemptNumber,
        digest: String,
    },
    /// Somebody asked a running job to stop.
    CancelAsked { job: JobId },
    /// The job ended without a result: failed or cancelled.
    JobEnded { job: JobId, state: JobStateName },
    /// A job that had ended without a result is open again.
    Revived { job: JobId },
    /// A job that had succeeded is open again, because its artifact is damaged.
    MadeAgain { job: JobId },
    /// The worker said Hello, or was heard again after it was lost.
    WorkerOnline { worker: WorkerId },
    /// A sign of life of the worker reached a leader. Histories that are stored say it with the loss alone.
    WorkerHeard { worker: WorkerId },
    /// The worker's lease ran out. It was last heard at `heard_at`.
    WorkerLost {
        worker: WorkerId,
        heard_at: Option<DateTime<Utc>>,
    },
    /// Somebody shut the worker out, whether it was heard or not.
    WorkerShutOut { worker: WorkerId },
    /// The worker said goodbye.
    WorkerLeft { worker: WorkerId },
    /// A coordinator became the leader under this epoch.
    Leader { epoch: i64 },
    /// A pipeline with all that is stored of it was removed; its own lines are gone.
    Removed { pipeline: PipelineId },
}
