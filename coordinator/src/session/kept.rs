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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use marquee_domain::failure::FailureClass;
    use tokio::time::timeout;

    use super::*;

    fn said(job_id: i64, attempt: u32) -> v1::KeptOutput {
        v1::KeptOutput {
            job_id,
            attempt,
            rank: 0,
            path: format!("/var/lib/marquee/kept/{job_id}"),
            until: Some(marquee_proto::convert::timestamp(
                DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            )),
        }
    }

    #[test]
    fn what_a_worker_says_that_it_keeps_is_bounded_and_odd_times_are_none() {
        let many: Vec<v1::KeptOutput> = (0..10_000).map(|job| said(job, 1)).collect();
        assert_eq!(read(many).len(), KEPT_MAX);
        let far = v1::KeptOutput {
            until: Some(marquee_proto::convert::timestamp(DateTime::<Utc>::MAX_UTC)),
            ..said(1, 1)
        };
        let none = v1::KeptOutput {
            until: None,
            ..said(2, 1)
        };
        let kept = read(vec![far, none, said(3, 1)]);
        let known: Vec<bool> = kept.iter().map(|kept| kept.until.is_some()).collect();
        assert_eq!(known, [false, false, true]);
    }

    #[test]
    fn of_several_outputs_of_a_job_the_newest_attempts_is_taken() {
        let kept = read(vec![said(1, 2), said(1, 10), said(1, 9), said(2, 99)]);
        assert_eq!(newest(&kept, JobId(1)).unwrap().key.attempt.0, 10);
        assert_eq!(newest(&kept, JobId(3)), None);
        assert_eq!(newest(&[], JobId(1)), None);
    }

    #[tokio::test]
    async fn all_who_asked_for_one_output_hear_how_it_went_and_the_worker_is_asked_once_for_each() {
        let rescues = Rescues::default();
        let key = hello::key(1, 1, 0);
        let (first, second) = (rescues.ask(key), rescues.ask(key));
        let other = rescues.ask(hello::key(2, 1, 0));
        let asked = timeout(Duration::from_secs(20), rescues.next())
            .await
            .unwrap();
        assert_eq!(asked, [key, key, hello::key(2, 1, 0)]);
        let failure = Failure {
            class: FailureClass::DiskFull,
            message: "the disk is full".into(),
        };
        rescues.answer(key, &Err(failure.clone()));
        assert_eq!(first.await.unwrap(), Err(failure.clone()));
        assert_eq!(second.await.unwrap(), Err(failure));
        // An answer that comes twice, or that nobody waits for, does nothing.
        rescues.answer(key, &Ok(()));
        rescues.answer(hello::key(9, 9, 9), &Ok(()));
        // The worker goes: who still waits hears that nobody will answer, and does not wait for ever.
        rescues.give_up();
        assert!(other.await.is_err());
        rescues.answer(hello::key(2, 1, 0), &Ok(()));
    }

    #[tokio::test]
    async fn who_asked_and_went_away_keeps_nobody_from_an_answer() {
        let rescues = Rescues::default();
        let key = hello::key(1, 1, 0);
        drop(rescues.ask(key));
        let stays = rescues.ask(key);
        rescues.answer(key, &Ok(()));
        assert_eq!(stays.await.unwrap(), Ok(()));
    }
}
