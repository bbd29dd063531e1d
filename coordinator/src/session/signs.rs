//! Signs of life that are still to be stored. A worker's heartbeat leaves one here, and all that have come are stored by
//! one statement: ten thousand workers would be five thousand transactions a second.
//!
//! Invariant: no verdict on a worker asks when it was stored to be here. Sessions know when each was heard, so a sign that
//! is stored late, or is lost with this process, costs nobody anything.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use marquee_domain::ids::WorkerId;
use tokio::sync::Notify;

/// When workers were heard that nobody has stored yet.
#[derive(Debug, Default)]
pub struct Signs {
    heard: Mutex<BTreeMap<WorkerId, DateTime<Utc>>>,
    news: Notify,
}

impl Signs {
    /// Notes that a worker was heard.
    pub(crate) fn note(&self, worker: WorkerId, at: DateTime<Utc>) {
        self.lock().insert(worker, at);
        self.news.notify_one();
    }

    /// Waits until there is something to store.
    pub(crate) async fn some(&self) {
        // What is noted before anybody waits leaves a permit here.
        self.news.notified().await;
    }

    /// All that is to be stored, in the order of the workers' ids.
    pub(crate) fn take(&self) -> Vec<(WorkerId, DateTime<Utc>)> {
        std::mem::take(&mut *self.lock()).into_iter().collect()
    }

    /// Gives back what could not be stored. What was heard since goes before it.
    pub(crate) fn give_back(&self, heard: Vec<(WorkerId, DateTime<Utc>)>) {
        let mut kept = self.lock();
        for (worker, at) in heard {
            kept.entry(worker).or_insert(at);
        }
        drop(kept);
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, DateTime<Utc>>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use uuid::Uuid;

    use super::*;

    fn worker(number: u128) -> WorkerId {
        WorkerId(Uuid::from_u128(number))
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[tokio::test]
    async fn the_newest_sign_of_each_worker_is_stored_also_when_storing_failed_before() {
        let signs = Signs::default();
        signs.note(worker(2), at(1));
        signs.note(worker(1), at(2));
        signs.note(worker(2), at(3));
        let soon = Duration::from_secs(20);
        timeout(soon, signs.some()).await.unwrap();
        let taken = signs.take();
        assert_eq!(taken, [(worker(1), at(2)), (worker(2), at(3))]);
        assert!(signs.take().is_empty());
        signs.note(worker(2), at(4));
        signs.give_back(taken);
        timeout(soon, signs.some()).await.unwrap();
        assert_eq!(signs.take(), [(worker(1), at(2)), (worker(2), at(4))]);
    }

    /// Rounds that fail and rounds that store, with heartbeats in between them and during them: in the end the newest of
    /// each worker is stored.
    #[test]
    fn however_storing_fails_the_newest_of_each_is_stored_in_the_end() {
        for seed in 0..100_u64 {
            let signs = Signs::default();
            let mut stored: BTreeMap<WorkerId, DateTime<Utc>> = BTreeMap::new();
            let mut newest = BTreeMap::new();
            let mut state = seed;
            let mut draw = |limit: u64| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % limit
            };
            let mut time = 0;
            let mut beat = |draw: &mut dyn FnMut(u64) -> u64| {
                for _ in 0..draw(4) {
                    time += 1;
                    let from = worker(u128::from(draw(5)));
                    signs.note(from, at(time));
                    newest.insert(from, at(time));
                }
            };
            for _ in 0..50 {
                beat(&mut draw);
                let taken = signs.take();
                assert!(taken.is_sorted_by_key(|(worker, _)| *worker));
                beat(&mut draw);
                if draw(3) == 0 {
                    for (worker, at) in taken {
                        let before = stored.insert(worker, at);
                        assert!(
                            before.is_none_or(|before| before < at),
                            "no older one after it"
                        );
                    }
                } else {
                    signs.give_back(taken);
                }
            }
            stored.extend(signs.take());
            assert_eq!(stored, newest, "seed {seed}");
            assert!(signs.take().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken_by_what_comes_and_by_what_is_given_back() {
        let signs = Signs::default();
        let long = Duration::from_secs(3_600);
        assert!(timeout(long, signs.some()).await.is_err(), "there is none");
        // One waits before it comes.
        let (waited, ()) = tokio::join!(timeout(long, signs.some()), async {
            signs.note(worker(1), at(1));
        });
        waited.unwrap();
        let taken = signs.take();
        assert!(timeout(long, signs.some()).await.is_err(), "it is taken");
        signs.give_back(taken);
        timeout(long, signs.some()).await.unwrap();
        assert_eq!(signs.take(), [(worker(1), at(1))]);
        // Many words are one, so that a round follows a round and no queue of them grows.
        for second in 0..1_000 {
            signs.note(worker(1), at(second));
        }
        timeout(long, signs.some()).await.unwrap();
        assert_eq!(signs.take(), [(worker(1), at(999))]);
        assert!(timeout(long, signs.some()).await.is_err());
    }
}
