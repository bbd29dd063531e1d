//! What the checker says.

use std::fmt;

use chrono::{DateTime, Utc};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, Rank, WorkerId};
use marquee_domain::rank::RankKey;
use marquee_domain::resources::Device;
use serde::{Serialize, Serializer};

// One list for all three, so that a rule without a number or a sentence does not compile.
macro_rules! rules {
    ($($name:ident $code:literal $sentence:literal)*) => {
        /// A rule that every history keeps. Numbers are those of docs/reliability.md.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $sentence] $name,)*
        }

        impl Rule {
            /// Every rule, in order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its number, such as `2a`.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// What it asks, as a sentence.
            #[must_use]
            pub fn sentence(self) -> &'static str {
                match self {
                    $(Self::$name => $sentence,)*
                }
            }
        }
    };
}

rules! {
    OneRequestOnePipeline "1a" "a request id has one pipeline"
    OneEnd "1b" "a job ends once, and nothing happens to it afterwards until it is retried"
    EndsWithItsAttempt "1c" "a job ends when no attempt of it lives"
    NothingLost "1d" "every job that was accepted is stored"
    StoredAsItHappened "1e" "a job is stored in the state and at the attempt that its history ends with"
    OneCommit "2a" "a job commits once"
    NewestCommits "2b" "the attempt that commits is the newest"
    WholeCommit "2c" "an attempt commits when each of its ranks has finished or was lost"
    FilesThere "2d" "the files of every artifact are there and whole"
    NoGap "3a" "the attempts of a job are numbered 1, 2, 3, without gap or return"
    OneLive "3b" "a job has one live attempt at most"
    Fenced "3c" "nothing is taken from an attempt after a newer one took its place"
    EpochsGrow "3d" "epochs of leaders only grow, and no older leader writes after a newer one"
    DeviceOnce "4a" "a device is held by one rank at a time"
    FreeOnProof "4b" "a device is free only on proof that its rank has ended"
    ReportsOnce "5a" "the reports of a rank are stored once each, in order and without gap"
    CancelIsFinal "6a" "after a cancel was asked for, the job gets no new attempt"
    GangWhole "7a" "an attempt's ranks are granted together, from 0 on without gap"
    GangTogether "7b" "no rank of a gang starts before all may"
    NotLostWhileHeard "8a" "no worker is lost that was heard within the lease"
    NoHasteAfterTakeOver "8b" "no worker is lost before a new leader has listened for one lease"
    NothingStuck "9a" "devices of an attempt that ended, and jobs whose cancel was asked for, are let go in time"
    QuietInTheEnd "9b" "when faults have stopped and all is quiet, nothing is open"
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // By the number, which docs and scripts go by: a variant may be renamed.
        serializer.serialize_str(self.code())
    }
}

/// What a finding is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<PipelineId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptNumber>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<Rank>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
}

impl From<JobId> for Subject {
    fn from(job: JobId) -> Self {
        Self {
            job: Some(job),
            ..Self::default()
        }
    }
}

impl From<(JobId, AttemptNumber)> for Subject {
    fn from((job, attempt): (JobId, AttemptNumber)) -> Self {
        Self {
            attempt: Some(attempt),
            ..job.into()
        }
    }
}

impl From<RankKey> for Subject {
    fn from(key: RankKey) -> Self {
        Self {
            rank: Some(key.rank),
            ..(key.job, key.attempt).into()
        }
    }
}

impl From<PipelineId> for Subject {
    fn from(pipeline: PipelineId) -> Self {
        Self {
            pipeline: Some(pipeline),
            ..Self::default()
        }
    }
}

impl From<WorkerId> for Subject {
    fn from(worker: WorkerId) -> Self {
        Self {
            worker: Some(worker),
            ..Self::default()
        }
    }
}

/// Where a history breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub rule: Rule,
    /// When, by the database's clock. None: it is about what is stored now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// The line of the audit table that broke it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<i64>,
    #[serde(flatten)]
    pub subject: Subject,
    /// What was seen, in words.
    pub text: String,
}

/// What became of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The first findings, in the order in which they were made.
    pub findings: Vec<Finding>,
    /// How many more there were.
    pub more: u64,
    /// Lines of the history that were looked at.
    pub events: u64,
    /// Jobs that they were about.
    pub jobs: u64,
    /// Artifacts that were committed in it.
    pub commits: u64,
    /// Ranks that were granted devices in it.
    pub grants: u64,
}

impl Report {
    /// Whether every rule was kept.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.more == 0
    }
}
