//! Queued jobs, hosts and held devices in memory: what a round of the scheduler looks at.
//!
//! Invariant: Postgres has the truth. What is here was read there, and is read again for each job that a
//! committed transaction names ([`Index::touch`]); the order of those words does not matter, since the rows
//! are read after them. Only the schedule loop changes it, so that a plan and what it was made from agree.
//! A slow look at everything compares the two and says every difference ([`Open::reconcile`]).

mod accounts;
mod changes;
mod compare;
mod elements;
mod ends;
mod growth;
mod holdings;
mod lengths;
mod names;
mod plays;
mod told;
mod turns;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use chrono::{DateTime, NaiveDate, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::ids::{JobId, PipelineId, WorkerId};
use marquee_domain::spec::{HostRules, JobSpec};
use marquee_store::ranks::{RankKey, ShortGang};
use marquee_store::workers::{Worker, WorkerState};

pub use aside::Aside;

use crate::scheduler::{
    Claim, Group, Limits, Line, Preemptible, Queue, Reservation, RulesId, Shape,
};
pub use accounts::{Account, Accounts};
use elements::Elements;
use holdings::Holding;
pub use lengths::{Length, Lengths, Measured, Step};
use names::Names;
pub use plays::{Expected, Play, Plays};
use told::Told;
use turns::Turns;

pub mod aside;

/// Jobs that avoid hosts: far more than fail at a time.
const AVOIDING_MAX: usize = 10_000;

/// The index, shared by the schedule loop, which keeps it, and those who ask why a job waits.
#[derive(Debug, Default)]
pub struct Index {
    touched: Mutex<Touched>,
    open: Mutex<Open>,
    /// Workers on which attempts of a job failed in a way that may be their fault. A wish, no rule: it is lost
    /// with this process.
    avoided: Mutex<BTreeMap<JobId, BTreeSet<WorkerId>>>,
    /// When waiting jobs are expected to start, as somebody asked last.
    pub plays: Plays,
}

/// What changed since somebody read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Jobs to read again. An array stands for its elements too.
    pub jobs: BTreeSet<JobId>,
    /// Jobs that have succeeded: they are open no more and hold nothing, and will not come back.
    pub succeeded: BTreeSet<JobId>,
    /// Jobs of which it is not known whether they were placed. They are among `jobs` too.
    pub unsure: BTreeSet<JobId>,
    /// A worker came, went, or said something new of itself.
    pub workers: bool,
    /// A project was made, or its weight or quotas were changed.
    pub projects: bool,
}

/// A job that is queued or runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    pub pipeline: PipelineId,
    /// Of an element: its array and its place in it.
    pub element: Option<(JobId, u32)>,
    /// Number of the newest attempt, 0 before the first.
    pub attempt: u32,
    pub is_running: bool,
    /// Of an element: its array's.
    pub spec: Arc<JobSpec>,
    pub priority: i32,
    pub queued_at: DateTime<Utc>,
    /// End of its back-off.
    pub not_before: Option<DateTime<Utc>>,
    /// When its newest attempt was placed.
    pub started_at: Option<DateTime<Utc>>,
    /// Who holds it, and since when.
    pub held: Option<(String, DateTime<Utc>)>,
    /// It runs and is to make room, or to be cancelled.
    pub is_leaving: bool,
    /// Since when the GPUs of one that runs have done nothing, once that was said.
    pub idle_since: Option<DateTime<Utc>>,
    /// How often it made room, and on which day it did so last.
    pub preempted: (u32, Option<NaiveDate>),
    /// What it asks of the hosts.
    pub shape: Shape,
    /// Those of which only some may run at a time.
    pub group: Group,
    /// What it does, of a kind whose results are used again.
    pub step: Option<Digest>,
    /// Class of what keeps it waiting, as it is stored.
    pub obstacle: Option<String>,
    /// The job that is at the same step, whose result will be taken.
    pub twin: Option<JobId>,
}

/// Everything that is open.
#[derive(Debug, Default)]
pub struct Open {
    pub queue: Queue,
    jobs: HashMap<JobId, Known>,
    running: BTreeSet<JobId>,
    elements: HashMap<JobId, Elements>,
    /// How many elements of an array are no jobs yet, of those that have all that they need.
    to_come: BTreeMap<JobId, u32>,
    /// What is stored of why jobs wait, by their line in the queue.
    told: HashMap<Line, Told>,
    held: HashMap<WorkerId, BTreeMap<RankKey, Holding>>,
    held_by: HashMap<JobId, BTreeSet<(WorkerId, RankKey)>>,
    specs: HashMap<JobId, Arc<JobSpec>>,
    /// Which job is at a step: it runs, or is the first in the queue.
    steps: HashMap<Digest, JobId>,
    pub workers: Vec<Worker>,
    /// What the planner cannot plan.
    pub aside: Aside,
    /// What the newest round held back, and for whom.
    pub reservations: Vec<Reservation>,
    /// When queued jobs for which devices are held back were first told that they start.
    promised: BTreeMap<JobId, DateTime<Utc>>,
    /// What others left for jobs that have not started yet.
    pub claims: BTreeMap<JobId, Claim>,
    /// Running gangs that lost ranks, as somebody looked last.
    pub short: Vec<ShortGang>,
    /// When somebody last looked.
    pub short_read_at: Option<DateTime<Utc>>,
    /// What projects use and may have.
    pub accounts: Accounts,
    rules: Names<HostRules>,
    turns: Turns,
    /// Jobs that run and give way to a higher priority.
    preemptible: BTreeSet<JobId>,
    /// When their newest checkpoints were stored, as far as somebody has looked.
    pub saved_at: HashMap<JobId, DateTime<Utc>>,
    /// When somebody last looked.
    pub saved_read_at: Option<DateTime<Utc>>,
    /// How long jobs of each step ran.
    pub lengths: Lengths,
    /// Queued jobs that fail when they have not ended by a time.
    deadlines: BTreeSet<(DateTime<Utc>, JobId)>,
}

impl Index {
    /// Says that a transaction has changed these jobs: their rows are read before the next plan.
    pub fn touch(&self, jobs: impl IntoIterator<Item = JobId>) {
        lock(&self.touched).jobs.extend(jobs);
    }

    /// Says that a transaction which placed these jobs failed, and may be committed all the same, now or in a moment: its
    /// connection may have been lost between the COMMIT and the answer. Until that is known nothing may be planned, since
    /// their devices look free.
    pub fn touch_unsure(&self, jobs: impl IntoIterator<Item = JobId>) {
        let mut touched = lock(&self.touched);
        for job in jobs {
            touched.jobs.insert(job);
            touched.unsure.insert(job);
        }
    }

    /// Says that these jobs have succeeded and hold no devices, of no attempt. Nothing is left to be read of them.
    pub fn touch_succeeded(&self, jobs: impl IntoIterator<Item = JobId>) {
        let jobs: Vec<JobId> = jobs.into_iter().collect();
        // One lock after the other, never both at once.
        let mut avoided = lock(&self.avoided);
        jobs.iter().for_each(|job| drop(avoided.remove(job)));
        drop(avoided);
        lock(&self.touched).succeeded.extend(jobs);
    }

    /// Says that a job's next attempts had better not be placed on these workers.
    pub fn avoid(&self, job: JobId, workers: impl IntoIterator<Item = WorkerId>) {
        let mut avoided = lock(&self.avoided);
        let mut workers = workers.into_iter().peekable();
        if workers.peek().is_none() {
            return;
        }
        avoided.entry(job).or_default().extend(workers);
        // The oldest jobs have long ended, in whatever way.
        // Bounded here, not when a job ends: ends are told from many places, and a wish that is forgotten costs
        // nothing.
        if avoided.len() > AVOIDING_MAX {
            avoided.pop_first();
        }
    }

    /// The workers that a job had better not be placed on.
    #[must_use]
    pub fn avoided(&self, job: JobId) -> BTreeSet<WorkerId> {
        lock(&self.avoided).get(&job).cloned().unwrap_or_default()
    }

    /// Says that a worker's row has changed.
    pub fn touch_workers(&self) {
        lock(&self.touched).workers = true;
    }

    /// Says that a project has changed.
    pub fn touch_projects(&self) {
        lock(&self.touched).projects = true;
    }

    /// What is to be read again; it counts as read from now on. What cannot be read after all is given back
    /// with [`touch`](Self::touch).
    pub fn take_touched(&self) -> Touched {
        std::mem::take(&mut *lock(&self.touched))
    }

    /// What is to be read again.
    pub fn touched(&self) -> Touched {
        lock(&self.touched).clone()
    }

    /// What is open. Held for moments, never over an await; a plan holds it while it is made.
    pub fn open(&self) -> MutexGuard<'_, Open> {
        lock(&self.open)
    }

    /// The same, where nobody holds it just now.
    pub fn try_open(&self) -> Option<MutexGuard<'_, Open>> {
        match self.open.try_lock() {
            Ok(open) => Some(open),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held: what was changed is put right by the slow look at everything.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Open {
    /// An open job.
    #[must_use]
    pub fn job(&self, job: JobId) -> Option<&Known> {
        self.jobs.get(&job)
    }

    /// The jobs that run.
    pub fn running(&self) -> impl Iterator<Item = JobId> {
        self.running.iter().copied()
    }

    /// What bounds the next plan besides devices.
    #[must_use]
    pub fn limits(&self, now: DateTime<Utc>) -> Limits {
        let rules = self.rules.iter();
        Limits {
            projects: self.accounts.shares(now),
            groups: self.turns.left(),
            rules: rules
                .map(|(id, rules)| (RulesId(id), rules.clone()))
                .collect(),
            preemptible: self.preemptible(now),
            leaving: self
                .preemptible
                .iter()
                .filter(|job| self.jobs.get(job).is_some_and(|known| known.is_leaving))
                .copied()
                .collect(),
            claims: self.claims.clone(),
            promised: self.promised.clone(),
            short: self.may_grow(now),
            growing: self.growing(),
        }
    }

    /// The running jobs that give way, where one that waits goes before any of them.
    fn preemptible(&self, now: DateTime<Utc>) -> Vec<Preemptible> {
        let today = now.date_naive();
        // Mostly nobody waits who goes before others: then no checkpoints are looked up either
        // (`may_give_way`).
        let Some(highest) = self.queue.highest_priority() else {
            return Vec::new();
        };
        let running = self.preemptible.iter().filter_map(|job| {
            let known = self.jobs.get(job)?;
            let started_at = known.started_at?;
            let (times, day) = known.preempted;
            Some(Preemptible {
                job: *job,
                priority: known.priority,
                saved_at: self
                    .saved_at
                    .get(job)
                    // A checkpoint of an earlier attempt saves nothing of what this one has done.
                    .map_or(started_at, |at| (*at).max(started_at)),
                started_at,
                times_today: if day == Some(today) { times } else { 0 },
            })
        });
        running.filter(|job| job.priority < highest).collect()
    }

    /// The running jobs whose checkpoints matter to the next plan.
    #[must_use]
    pub fn may_give_way(&self, now: DateTime<Utc>) -> Vec<JobId> {
        self.preemptible(now).iter().map(|job| job.job).collect()
    }

    /// Takes down what a round held back, and what it promised by that.
    pub fn held_back(&mut self, reservations: &[Reservation]) {
        let queue = &self.queue;
        self.promised.retain(|job, _| queue.get(*job).is_some());
        for Reservation { job, until, .. } in reservations {
            if let Some(until) = until {
                // The first promise stays: by it a later one is known to be late
                // (`HeldBack::is_late`).
                self.promised.entry(*job).or_insert(*until);
            }
        }
        self.reservations = reservations.to_vec();
    }

    /// At most `max` queued jobs whose deadline has passed.
    #[must_use]
    pub fn overdue(&self, now: DateTime<Utc>, max: usize) -> Vec<(JobId, DateTime<Utc>)> {
        let overdue = self.deadlines.iter().take_while(|(at, _)| *at <= now);
        overdue.take(max).map(|(at, job)| (*job, *at)).collect()
    }

    /// When the next deadline of a queued job passes.
    #[must_use]
    pub fn next_deadline(&self) -> Option<DateTime<Utc>> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Jobs of the same group that run, at most `max`: what one waits for whose turn has not come.
    #[must_use]
    pub fn running_of(&self, group: Group, max: usize) -> Vec<JobId> {
        self.turns.running_of(group, max)
    }

    /// The spec of an array, where its elements were read before.
    #[must_use]
    pub fn knows_spec(&self, array: JobId) -> bool {
        self.specs.contains_key(&array)
    }

    /// Keeps the spec of an array for its elements.
    pub fn learn_spec(&mut self, array: JobId, spec: JobSpec) {
        self.specs.insert(array, Arc::new(spec));
    }

    /// The version of the code that work whose results are used again would be done with, if all workers
    /// that are online agree on it.
    #[must_use]
    pub fn common_code(&self) -> Option<&str> {
        let online = self.workers.iter().filter(|worker| match worker.state {
            WorkerState::Online => true,
            WorkerState::Lost | WorkerState::Left => false,
        });
        let codes: BTreeSet<&str> = online.map(|worker| worker.prep_code.as_str()).collect();
        let mut codes = codes.into_iter();
        // Where workers have two versions of the code, what one of them made may not be what the other would
        // make.
        match (codes.next(), codes.next()) {
            (Some(code), None) if !code.is_empty() => Some(code),
            (_, _) => None,
        }
    }
}

#[cfg(test)]
mod tests;
