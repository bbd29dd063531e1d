//! What everything that shows progress can be told.

use chrono::{DateTime, Utc};
use marquee_proto::v1::Job;

/// Something that follows jobs on behalf of the user.
pub(crate) trait Reporter {
    /// A job as it is now. Comes at first for each job, in the order of the pipeline.
    fn job(&mut self, job: &Job, now: DateTime<Utc>);
    /// Time has passed; called about once a second.
    fn tick(&mut self, now: DateTime<Utc>);
    /// A remark that is not about one job.
    fn note(&mut self, text: &str);
    /// Nothing more comes.
    fn finish(&mut self, now: DateTime<Utc>);
}
