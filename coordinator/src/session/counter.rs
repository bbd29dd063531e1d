//! The counter at which sessions leave their workers' reports for the desk, and wait for what became of them.

use std::sync::Arc;

use marquee_domain::ids::WorkerId;
use marquee_domain::job::RankState;
use marquee_proto::v1;
use marquee_store::ranks::RankKey;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, oneshot};

use crate::lifecycle::{LifecycleError, Result};

/// Batches that wait to be stored. Each session brings one at a time, so that this is more than there are
/// sessions.
const WAITING_MAX: usize = 1_024;

/// What became of one rank's reports.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) key: RankKey,
    pub(super) answer: Answer,
    /// Other ranks of its attempt were lost by what it said.
    pub(super) regrouped: bool,
    /// The rank is in another state than before.
    pub(super) moved: bool,
}

/// What to tell the worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Every report up to `sequence` is stored.
    Stored { sequence: u64, state: RankState },
    /// Nothing more is taken of this rank.
    Refused { reason: &'static str },
    /// The same, for the attempt has gone on without it.
    Lost,
}

/// A worker's batch, and who waits for it.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) worker: WorkerId,
    /// The worker as histories name it.
    pub(super) caller: Arc<str>,
    pub(super) reports: Vec<v1::Report>,
    pub(super) answer: oneshot::Sender<Result<Vec<Outcome>>>,
}

/// Takes reports, and is served by one loop (`desk`).
#[derive(Debug, Clone)]
pub struct Counter {
    batches: mpsc::Sender<Batch>,
    /// For the loop that serves it, which holds it for as long as it does.
    waiting: Arc<Mutex<mpsc::Receiver<Batch>>>,
}

impl Default for Counter {
    fn default() -> Self {
        let (batches, waiting) = mpsc::channel(WAITING_MAX);
        Self {
            batches,
            waiting: Arc::new(Mutex::new(waiting)),
        }
    }
}

impl Counter {
    /// Stores a batch, together with what others bring. Returns what became of each rank's reports.
    pub(super) async fn store(
        &self,
        worker: WorkerId,
        caller: Arc<str>,
        reports: Vec<v1::Report>,
    ) -> Result<Vec<Outcome>> {
        let (answer, answered) = oneshot::channel();
        let batch = Batch {
            worker,
            caller,
            reports,
            answer,
        };
        if self.batches.send(batch).await.is_err() {
            return Err(LifecycleError::Stopping);
        }
        answered.await.unwrap_or(Err(LifecycleError::Stopping))
    }

    /// What is brought, for the one loop that stores it. None: there is one already. One that fails lets go of it,
    /// for the next.
    pub(super) fn take(&self) -> Option<OwnedMutexGuard<mpsc::Receiver<Batch>>> {
        self.waiting.clone().try_lock_owned().ok()
    }
}
