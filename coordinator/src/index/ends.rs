//! When running jobs end, as far as one can tell: by their time limits, or by how long their like took.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::spec::JobSpec;

use super::{Length, Open, Step};

impl Open {
    /// When a running job has ended at the latest, by its time limit from its placement on. Inputs that took long
    /// to fetch move its end: one that is overdue gets a quarter of its limit more, again and again.
    #[must_use]
    pub fn ends_at(&self, job: JobId, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let known = self.jobs.get(&job).filter(|known| known.is_running)?;
        let limit = TimeDelta::seconds(i64::from(known.spec.timeout_s?));
        let ends_at = known.started_at? + limit;
        Some(if ends_at > now {
            ends_at
        } else {
            now + limit / 4
        })
    }

    /// When a running job has ended, for what is planned by it, and whether that follows from earlier runs alone. One
    /// that runs longer than its like did gets half as much again as it has had.
    #[must_use]
    pub fn planned_end(&self, job: JobId, now: DateTime<Utc>) -> Option<(DateTime<Utc>, bool)> {
        if let Some(ends_at) = self.ends_at(job, now) {
            return Some((ends_at, false));
        }
        let known = self.jobs.get(&job).filter(|known| known.is_running)?;
        let expected = TimeDelta::seconds(known.shape.expected_s?.into());
        Some((overrun(known.started_at?, expected, now), true))
    }

    /// How long an open job runs once it has started, as far as one can tell.
    #[must_use]
    pub fn length(&self, job: JobId) -> Option<Length> {
        let known = self.jobs.get(&job)?;
        let limit = known.spec.timeout_s;
        let limit = limit.map(|limit| TimeDelta::seconds(i64::from(limit)));
        Length::of(self.lengths.of(&Step::of(&known.spec)), limit)
    }

    /// When a running job ends, as likely earlier as later, and in nine cases of ten; and whether that follows from
    /// earlier runs. One that runs longer than was expected gets half as much again as it has had.
    #[must_use]
    pub fn expected_end(
        &self,
        job: JobId,
        now: DateTime<Utc>,
    ) -> Option<(DateTime<Utc>, DateTime<Utc>, bool)> {
        let known = self.jobs.get(&job).filter(|known| known.is_running)?;
        let length = self.length(job)?;
        let started_at = known.started_at?;
        let end = |length| overrun(started_at, length, now);
        Some((end(length.half), end(length.most), length.is_measured))
    }

    /// When devices of a project come back at the latest, as far as time limits of its jobs tell.
    #[must_use]
    pub fn frees_at(&self, project: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let of_project = self.running.iter().filter(|job| {
            let known = self.jobs.get(job);
            known.is_some_and(|known| known.spec.sharing.project.as_str() == project)
        });
        of_project.filter_map(|job| self.ends_at(*job, now)).min()
    }

    /// Looks up anew how long the like of each open job took: what has ended since may have taken longer, or less.
    pub fn renew_lengths(&mut self) {
        let mut known_of: HashMap<*const JobSpec, Option<u32>> = HashMap::new();
        let mut changed = Vec::new();
        // By where the spec lies in memory: the elements of an array share one, which is looked up once for
        // all of them.
        for (job, known) in &self.jobs {
            let expected = *known_of
                .entry(Arc::as_ptr(&known.spec))
                .or_insert_with(|| self.expected_s(&known.spec));
            if known.shape.expected_s != expected {
                changed.push((*job, expected));
            }
        }
        for (job, expected) in changed {
            let was_queued = self.queue.get(job).is_some();
            self.leave_queue(job);
            if let Some(known) = self.jobs.get_mut(&job) {
                known.shape.expected_s = expected;
            }
            if was_queued {
                self.line_up(job);
            }
        }
    }

    /// How long the like of a job without a time limit took, in seconds.
    pub(super) fn expected_s(&self, spec: &JobSpec) -> Option<u32> {
        if spec.timeout_s.is_some() || self.lengths.is_empty() {
            return None;
        }
        self.lengths.expected_s(&Step::of(spec))
    }
}

/// When something ends that began then and was to take so long.
fn overrun(began: DateTime<Utc>, length: TimeDelta, now: DateTime<Utc>) -> DateTime<Utc> {
    let end = began + length;
    if end > now {
        end
    } else {
        now + ((now - began) / 2).max(TimeDelta::seconds(1))
    }
}
