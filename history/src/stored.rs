//! What is stored when a history ends, to be held against it.

use marquee_domain::ids::{AttemptNumber, JobId, PipelineId};
use marquee_domain::job::JobStateName;
use marquee_domain::rank::RankKey;

/// A pipeline that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredPipeline {
    pub id: PipelineId,
    /// Jobs that are stored of it, elements of arrays among them.
    pub jobs: u64,
}

/// A job that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredJob {
    pub id: JobId,
    pub state: JobStateName,
    /// Number of its newest attempt, 0 before the first.
    pub attempt: u32,
}

/// A rank that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRank {
    pub key: RankKey,
    /// Number of the newest report that counts as stored.
    pub last_sequence: u64,
    /// Highest number of a report of which a row is there, 0 where there is none.
    pub highest_row: u64,
}

/// A file of an artifact that is not there, or not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingFile {
    pub job: JobId,
    pub attempt: AttemptNumber,
    /// What is wrong with which file.
    pub what: String,
}
