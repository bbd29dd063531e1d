//! What every part of the coordinator shares: handles, not state. What is true lives in Postgres
//! and in the blob folder; what is lost with this process is only how quickly somebody notices.
//!
//! Invariant: every field is a cheap handle, so `App` is cloned freely and never borrowed across
//! tasks. Not here: decisions (`scheduler`), SQL (`marquee-store`).

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use marquee_domain::JobId;
use marquee_domain::limits;
use marquee_store::Db;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backup::dumps::Dumps;
use crate::blobs::BlobStore;
use crate::env::{Clock, Random};
use crate::faults::Faults;
use crate::index::Index;
use crate::rates::Rates;
use crate::role::Role;
use crate::scheduler::Planner;
use crate::secrets::SecretKeys;
use crate::session::{Counter, Sessions};
use crate::trust::authority::{SERVER_LIFE, WORKER_LIFE};
use crate::walls::Walls;

/// Changes that a watcher may lag behind before it must read the jobs anew: a burst of a large
/// pipeline's placement with room to spare, at 8 bytes each.
pub const CHANGES_MAX: usize = 4_096;

/// A job that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub job: JobId,
    /// It has ended: who waits for that looks at once.
    pub ended: bool,
}

/// The coordinator's shared handles.
#[derive(Debug, Clone)]
pub struct App {
    pub db: Db,
    pub blobs: BlobStore,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    /// How rounds are planned.
    pub planner: Planner,
    /// Wakes the scheduling loop early; its own slow poll is the truth.
    pub wake: Arc<Notify>,
    /// Jobs that changed. A hint for watchers: what changed is read from Postgres.
    pub changes: broadcast::Sender<Change>,
    /// Queued jobs, hosts and held devices, as the scheduler sees them.
    pub index: Arc<Index>,
    /// Where sessions bring their workers' reports, to be stored together.
    pub reports: Counter,
    /// The workers that are connected to this process.
    pub sessions: Sessions,
    /// Shares of hosts' rates that fetch ranks have.
    pub rates: Rates,
    /// Device faults of ranks, by GPU.
    pub faults: Faults,
    /// Where the keys are by which secrets for jobs are encrypted.
    pub secret_keys: SecretKeys,
    /// What a backup is made of.
    pub dumps: Dumps,
    /// Which cluster this is.
    pub cluster: Uuid,
    /// Drawn anew by each process.
    pub process: Uuid,
    pub settings: Settings,
    /// Whether this process leads, among others on the same database.
    pub role: Role,
    /// What keeps one part's fault from the others.
    pub walls: Walls,
    /// Cancelled when the coordinator is asked to stop: streams end, loops leave.
    pub shutdown: CancellationToken,
}

/// Times and numbers that tests make smaller; everywhere else they are the limits of `marquee_domain::limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// A worker is lost when nothing was heard from it for this long.
    pub lease: Duration,
    /// How often a worker is told to say that it lives.
    pub heartbeat_every: Duration,
    /// Slowest round of the scheduling and reconciling loops, when nothing wakes them earlier.
    pub poll_every: Duration,
    /// How long a stopped child may take to leave by itself.
    pub stop_grace: Duration,
    /// How long after a rank's failure its peers may still name a better cause: a lost connection
    /// is often reported sooner than the crash behind it.
    pub settle: Duration,
    /// How long certificates of workers and of coordinators are good.
    pub worker_certificate: TimeDelta,
    pub server_certificate: TimeDelta,
    /// How many elements of an array are jobs before their turn: the others become that later.
    pub elements_ahead: u32,
    /// How long a GPU is tested by itself once evidence has put it into quarantine. None: nobody tests it unasked.
    pub burn_in_minutes: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: limits::LEASE,
            heartbeat_every: limits::HEARTBEAT_EVERY,
            poll_every: Duration::from_secs(1),
            stop_grace: limits::STOP_GRACE,
            settle: Duration::from_secs(1),
            worker_certificate: WORKER_LIFE,
            server_certificate: SERVER_LIFE,
            elements_ahead: limits::ELEMENTS_AHEAD,
            burn_in_minutes: None,
        }
    }
}

impl App {
    /// Tells the scheduling loop and watchers that a transaction has changed these jobs. An array stands
    /// for its elements too.
    pub fn jobs_changed(&self, jobs: &[JobId]) {
        self.tell(jobs, false);
    }

    /// The same of jobs that have ended.
    pub fn jobs_ended(&self, jobs: &[JobId]) {
        self.tell(jobs, true);
    }

    /// The same of jobs that have succeeded and hold nothing any more: the scheduling loop has nothing to read of them.
    pub fn jobs_succeeded(&self, jobs: &[JobId]) {
        if jobs.is_empty() {
            return;
        }
        self.index.touch_succeeded(jobs.iter().copied());
        for job in jobs {
            let (job, ended) = (*job, true);
            let _ = self.changes.send(Change { job, ended });
        }
        self.wake.notify_one();
    }

    fn tell(&self, jobs: &[JobId], ended: bool) {
        if jobs.is_empty() {
            return;
        }
        self.index.touch(jobs.iter().copied());
        for job in jobs {
            // Nobody watching is no error.
            let _ = self.changes.send(Change { job: *job, ended });
        }
        self.wake.notify_one();
    }

    /// Tells watchers that what is shown of these jobs has changed, and nothing that the scheduler sees: progress,
    /// or the counts of an array.
    pub fn jobs_shown(&self, jobs: &[JobId]) {
        for job in jobs {
            let job = *job;
            let _ = self.changes.send(Change { job, ended: false });
        }
    }

    /// Tells the scheduling loop that a worker came, went or said something new.
    pub fn workers_changed(&self) {
        self.index.touch_workers();
        self.wake.notify_one();
    }
}
