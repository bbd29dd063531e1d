//! What the checker remembers of a history.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, WorkerId};
use marquee_domain::job::{JobStateName, RankState};
use marquee_domain::rank::RankKey;
use marquee_domain::resources::Device;

/// One job, in a few bytes: there may be a million.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Job {
    /// Number of the newest attempt, 0 before the first.
    pub(crate) newest: u32,
    /// How it ended; None: it is open.
    pub(crate) end: Option<End>,
    pub(crate) cancel_asked: bool,
    /// It was there before the audit began: what it did until then is not known.
    pub(crate) is_old: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Committed,
    Failed,
    Cancelled,
}

impl End {
    pub(crate) fn state(self) -> JobStateName {
        match self {
            Self::Committed => JobStateName::Succeeded,
            Self::Failed => JobStateName::Failed,
            Self::Cancelled => JobStateName::Cancelled,
        }
    }
}

/// The live attempt of a job.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) number: AttemptNumber,
    pub(crate) started: bool,
    pub(crate) cancel_asked_at: Option<DateTime<Utc>>,
    /// By rank: how it ended, once it has.
    pub(crate) ranks: BTreeMap<u32, RankLife>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RankLife {
    Held,
    Ended(RankState),
    Lost,
}

/// A rank that holds devices.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) worker: WorkerId,
    pub(crate) devices: Vec<Device>,
    pub(crate) since: DateTime<Utc>,
    /// When its attempt ended.
    pub(crate) attempt_ended_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Worker {
    pub(crate) is_online: bool,
    pub(crate) heard_at: Option<DateTime<Utc>>,
    pub(crate) online_since: Option<DateTime<Utc>>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Jobs up to here were there before the audit began.
    pub(crate) last_old_job: Option<JobId>,
    pub(crate) jobs: HashMap<JobId, Job>,
    pub(crate) live: HashMap<JobId, Live>,
    pub(crate) held: HashMap<RankKey, Held>,
    pub(crate) devices: HashMap<(WorkerId, Device), RankKey>,
    /// Newest stored report of ranks, where the history has them.
    pub(crate) reported: HashMap<RankKey, u64>,
    /// Request ids, hashed: 16 bytes each instead of 128.
    pub(crate) requests: HashSet<u128>,
    /// Jobs that were accepted with each pipeline.
    pub(crate) accepted: HashMap<PipelineId, u64>,
    pub(crate) workers: HashMap<WorkerId, Worker>,
    pub(crate) epoch: Option<i64>,
    pub(crate) led_since: Option<DateTime<Utc>>,
}

impl State {
    /// The job, as it is new to this history.
    pub(crate) fn job(&mut self, id: JobId) -> &mut Job {
        let is_old = self.last_old_job.is_some_and(|last| id <= last);
        self.jobs.entry(id).or_insert_with(|| Job {
            is_old,
            ..Job::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bound that the crate promises for a million jobs: a table is at most half empty after it grew.
    #[test]
    fn a_job_that_has_ended_takes_a_few_bytes() {
        assert!(size_of::<(JobId, Job)>() * 2 + 2 <= 50);
    }
}
