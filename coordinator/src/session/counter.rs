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
        // A batch that is dropped unanswered was in the hands of a loop that ended: its worker
        // keeps the reports, and sends them again.
        answered.await.unwrap_or(Err(LifecycleError::Stopping))
    }

    /// What is brought, for the one loop that stores it. None: there is one already. One that fails lets go of it,
    /// for the next.
    pub(super) fn take(&self) -> Option<OwnedMutexGuard<mpsc::Receiver<Batch>>> {
        self.waiting.clone().try_lock_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use uuid::Uuid;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn worker() -> WorkerId {
        WorkerId(Uuid::from_u128(1))
    }

    fn outcome() -> Outcome {
        Outcome {
            key: super::super::hello::key(1, 1, 0),
            answer: Answer::Lost,
            regrouped: false,
            moved: true,
        }
    }

    #[tokio::test]
    async fn one_loop_serves_the_counter_and_the_next_may_when_that_has_let_go() {
        let counter = Counter::default();
        let held = counter.take().unwrap();
        assert!(counter.take().is_none(), "there is one already");
        assert!(
            counter.clone().take().is_none(),
            "a handle is no second counter"
        );
        drop(held);
        assert!(counter.take().is_some());
    }

    #[tokio::test]
    async fn what_is_brought_before_anybody_serves_is_not_lost() {
        let counter = Counter::default();
        let brought = {
            let counter = counter.clone();
            tokio::spawn(async move {
                let reports = vec![v1::Report::default()];
                counter.store(worker(), "w1".into(), reports).await
            })
        };
        let mut waiting = counter.take().unwrap();
        let batch = timeout(SOON, waiting.recv()).await.unwrap().unwrap();
        assert_eq!((batch.worker, batch.reports.len()), (worker(), 1));
        batch.answer.send(Ok(vec![outcome()])).unwrap();
        let outcomes = timeout(SOON, brought).await.unwrap().unwrap().unwrap();
        assert_eq!(outcomes, [outcome()]);
    }

    #[tokio::test]
    async fn a_batch_that_is_dropped_is_said_to_be_unstored() {
        // The loop panicked, or the coordinator stops: the session must not wait for ever, nor take it for stored.
        let counter = Counter::default();
        let brought = {
            let counter = counter.clone();
            tokio::spawn(async move { counter.store(worker(), "w1".into(), Vec::new()).await })
        };
        let mut waiting = counter.take().unwrap();
        drop(timeout(SOON, waiting.recv()).await.unwrap());
        let refused = timeout(SOON, brought).await.unwrap().unwrap();
        assert!(matches!(refused, Err(LifecycleError::Stopping)));
    }
}
