//! Jobs over which the planner stumbled. They stay queued and are kept out of rounds for a while, so that
//! everybody else's go on.
//!
//! Invariant: nothing of this is stored. A coordinator that starts tries them all, and it may be of a version
//! that can plan them.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::ids::JobId;

use crate::scheduler::{Pending, Queue, Shape};

/// How long jobs are kept out of rounds before they are tried again: what they stumbled over may have been the
/// hosts of that moment. Each try costs a few plans and a few lines in the log.
const AGAIN_AFTER: TimeDelta = TimeDelta::minutes(5);

/// What is kept out of rounds, and why.
#[derive(Debug, Default)]
pub struct Aside {
    shapes: BTreeMap<Shape, String>,
    jobs: BTreeMap<JobId, String>,
    /// When all of it is tried again.
    until: Option<DateTime<Utc>>,
}

impl Aside {
    /// Keeps all jobs of a shape out.
    pub fn keep_shape_out(&mut self, shape: Shape, why: String, now: DateTime<Utc>) {
        self.shapes.insert(shape, why);
        self.until.get_or_insert(now + AGAIN_AFTER);
    }

    /// Keeps one job out.
    pub fn keep_job_out(&mut self, job: JobId, why: String, now: DateTime<Utc>) {
        self.jobs.insert(job, why);
        self.until.get_or_insert(now + AGAIN_AFTER);
    }

    /// Lets everything in again whose time is over.
    pub fn let_in(&mut self, now: DateTime<Utc>) {
        if self.until.is_some_and(|until| until <= now) {
            *self = Self::default();
        }
    }

    /// Why a job is kept out.
    #[must_use]
    pub fn why(&self, job: JobId, shape: Shape) -> Option<&str> {
        let why = self.jobs.get(&job).or_else(|| self.shapes.get(&shape));
        why.map(String::as_str)
    }

    /// The queue without what is kept out; None where that is nothing.
    #[must_use]
    pub fn without(&self, queue: &Queue) -> Option<Queue> {
        let is_in = |pending: &&Pending| self.why(pending.job, pending.shape).is_none();
        self.until
            .map(|_| queue.iter().filter(is_in).copied().collect())
    }
}

/// What people read of a job that is kept out.
#[must_use]
pub fn words(why: &str) -> String {
    format!(
        "this version of Marquee cannot plan it, a fault of its own (MQ0503): {why}; it is set aside so that other \
         jobs go on, and tried again every {} minutes and when the coordinator starts",
        AGAIN_AFTER.num_minutes()
    )
}
