//! Outputs that workers keep since they could not be stored: what they say of them, and the way back to a
//! user who asked for one to be rescued.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use marquee_domain::RankKey;
use marquee_domain::failure::Failure;
use marquee_domain::ids::JobId;
use marquee_proto::convert::datetime;
use marquee_proto::v1;
use tokio::sync::{Notify, oneshot};

use super::hello;

/// Kept outputs of one worker that are remembered: more than a worker keeps.
const KEPT_MAX: usize = 64;

/// An output that a worker keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptOutput {
    pub key: RankKey,
    /// Its folder on the worker's host.
    pub path: String,
    /// When it is removed.
    pub until: Option<DateTime<Utc>>,
}

/// What a worker says that it keeps.
pub(super) fn read(kept: Vec<v1::KeptOutput>) -> Vec<KeptOutput> {
    let read = |kept: v1::KeptOutput| KeptOutput {
        key: hello::key(kept.job_id, kept.attempt, kept.rank),
        until: kept.until.and_then(|until| datetime(&until).ok()),
        path: kept.path,
    };
    kept.into_iter().take(KEPT_MAX).map(read).collect()
}

/// The newest attempt's among those of a job.
pub(super) fn newest(kept: &[KeptOutput], job: JobId) -> Option<&KeptOutput> {
    let of_job = kept.iter().filter(|kept| kept.key.job == job);
    of_job.max_by_key(|kept| kept.key)
}

/// How a rescue went: it is the job's artifact, or why it is not.
pub(crate) type Outcome = Result<(), Failure>;

/// Rescues that were asked of one worker.
#[derive(Debug, Default)]
pub(super) struct Rescues {
    state: Mutex<Asked>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Asked {
    /// Not sent to the worker yet.
    unsent: Vec<RankKey>,
    waiting: HashMap<RankKey, Vec<oneshot::Sender<Outcome>>>,
}

impl Rescues {
    /// Asks for one. The answer is dropped when the worker goes away.
    pub(super) fn ask(&self, key: RankKey) -> oneshot::Receiver<Outcome> {
        let (told, answer) = oneshot::channel();
        let mut state = self.lock();
        state.waiting.entry(key).or_default().push(told);
        state.unsent.push(key);
        self.news.notify_one();
        answer
    }

    /// Waits for something to ask the worker for.
    pub(super) async fn next(&self) -> Vec<RankKey> {
        self.news.notified().await;
        std::mem::take(&mut self.lock().unsent)
    }

    /// Tells those who wait for it.
    pub(super) fn answer(&self, key: RankKey, outcome: &Outcome) {
        for told in self.lock().waiting.remove(&key).unwrap_or_default() {
            // Who asked may have gone.
            let _ = told.send(outcome.clone());
        }
    }

    /// The worker is gone: nobody is answered any more.
    pub(super) fn give_up(&self) {
        *self.lock() = Asked::default();
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
