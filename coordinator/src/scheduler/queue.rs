//! The jobs that could run, kept between rounds in the order in which they are tried.
//!
//! Invariant: each job stands in exactly one place: among those of its line, or among those whose time has
//! not come.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;

use super::shape::{Group, ProjectId, Shape};

/// A job that may run: all it needs has succeeded, nobody holds it, and no cancel was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    pub job: JobId,
    /// The array that it is an element of.
    pub array: Option<JobId>,
    pub shape: Shape,
    pub priority: i32,
    pub project: ProjectId,
    pub group: Group,
    /// When it was queued: a job that waits for long has devices held back for it.
    pub queued_at: DateTime<Utc>,
    /// End of the back-off after a failed attempt, or the time that its owner gave.
    pub not_before: Option<DateTime<Utc>>,
}

impl Pending {
    /// Where it stands among those of its priority and project.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            submitted: self.array.unwrap_or(self.job),
            job: self.job,
        }
    }

    /// The line that it stands in.
    #[must_use]
    pub fn line(&self) -> Line {
        Line {
            priority: self.priority,
            project: self.project,
            group: self.group,
            shape: self.shape,
        }
    }
}

/// By the order of submission. Elements of an array stand where it was submitted: those that become jobs of their own
/// later have higher numbers than jobs that were submitted after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The job, or the array that it is an element of.
    submitted: JobId,
    pub job: JobId,
}

/// Jobs alike: where one does not fit, none does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Alike {
    /// In the order of submission.
    pub(super) jobs: BTreeSet<Position>,
    /// The same, the one that has waited longest first.
    waits: BTreeSet<(DateTime<Utc>, Position)>,
}

impl Alike {
    /// The job that has waited longest among the one at `first` and those behind it, and since when.
    pub(super) fn longest_wait(&self, first: Position) -> Option<(DateTime<Utc>, JobId)> {
        let longest = self.waits.iter().find(|(_, job)| *job >= first);
        longest.map(|(since, position)| (*since, position.job))
    }
}

/// What jobs have in common that stand in one line. Lines of a priority and project are merged by the positions of
/// their jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line {
    pub priority: i32,
    pub project: ProjectId,
    pub group: Group,
    pub shape: Shape,
}

/// All pending jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    jobs: HashMap<JobId, Pending>,
    alike: BTreeMap<Line, Alike>,
    delayed: BTreeSet<(DateTime<Utc>, JobId)>,
}

impl Queue {
    /// Puts a job in; one that is there already is replaced.
    pub fn insert(&mut self, job: Pending) {
        // Its line may be another one now: it must not stand in both.
        self.remove(job.job);
        match job.not_before {
            Some(until) => {
                self.delayed.insert((until, job.job));
            }
            None => self.line_up(&job),
        }
        self.jobs.insert(job.job, job);
    }

    fn line_up(&mut self, job: &Pending) {
        let alike = self.alike.entry(job.line()).or_default();
        alike.jobs.insert(job.position());
        alike.waits.insert((job.queued_at, job.position()));
    }

    /// Takes a job out; gives it back if it was there.
    pub fn remove(&mut self, job: JobId) -> Option<Pending> {
        let job = self.jobs.remove(&job)?;
        if let Some(until) = job.not_before {
            self.delayed.remove(&(until, job.job));
        }
        let line = job.line();
        if let Some(alike) = self.alike.get_mut(&line) {
            alike.jobs.remove(&job.position());
            alike.waits.remove(&(job.queued_at, job.position()));
            if alike.jobs.is_empty() {
                // A line without jobs would be merged and looked at in every round to come.
                self.alike.remove(&line);
            }
        }
        Some(job)
    }

    /// Lines up the jobs whose time has come by `now`, and gives the time at which the next one's does.
    pub fn wake(&mut self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        while let Some((until, job)) = self.delayed.first().copied() {
            if until > now {
                return Some(until);
            }
            self.delayed.remove(&(until, job));
            if let Some(pending) = self.jobs.get_mut(&job) {
                pending.not_before = None;
                let pending = *pending;
                self.line_up(&pending);
            }
        }
        None
    }

    /// A pending job.
    #[must_use]
    pub fn get(&self, job: JobId) -> Option<&Pending> {
        self.jobs.get(&job)
    }

    /// How many jobs are pending.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// How many lines they stand in.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.alike.len()
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Every pending job, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.jobs.values()
    }

    /// The highest priority of a job whose time has come.
    #[must_use]
    pub fn highest_priority(&self) -> Option<i32> {
        // By the order of the fields of `Line`, of which the priority is the first.
        self.alike.last_key_value().map(|(line, _)| line.priority)
    }

    pub(super) fn alike(&self) -> &BTreeMap<Line, Alike> {
        &self.alike
    }
}

impl FromIterator<Pending> for Queue {
    fn from_iter<I: IntoIterator<Item = Pending>>(jobs: I) -> Self {
        let mut queue = Self::default();
        for job in jobs {
            queue.insert(job);
        }
        queue
    }
}
