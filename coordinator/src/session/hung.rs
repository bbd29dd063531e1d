//! What workers said with their newest heartbeats of ranks that do not get on.
//!
//! Invariant: nothing here is stored. Workers say it anew with each heartbeat, so that after a restart all of it is
//! there again within two seconds. Not here: what is said of it in a job's history (`hangs`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use marquee_domain::ids::{AttemptNumber, JobId, WorkerId};
use marquee_proto::v1;
use marquee_store::ranks::RankKey;
use tokio::time::Instant;

/// Bytes of a word that a worker says of a rank.
const WORD_MAX_BYTES: usize = 256;

/// What is known of ranks that do not get on.
#[derive(Debug, Default)]
pub struct Hangs {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    ranks: HashMap<WorkerId, BTreeMap<RankKey, v1::Stall>>,
    pub(super) attempts: BTreeMap<(JobId, AttemptNumber), Told>,
}

/// What was said of an attempt.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) since: Instant,
    pub(super) text: Option<String>,
}

impl Hangs {
    /// Takes what a worker's heartbeat says. Returns the attempts that are to be looked at for it.
    pub(super) fn heard(
        &self,
        worker: WorkerId,
        held: &[v1::HeldRank],
    ) -> BTreeSet<(JobId, AttemptNumber)> {
        let now: BTreeMap<RankKey, v1::Stall> = held
            .iter()
            .filter_map(|rank| {
                let stall = bounded(rank.stall.clone()?);
                Some((
                    super::hello::key(rank.job_id, rank.attempt, rank.rank),
                    stall,
                ))
            })
            .collect();
        let mut known = self.lock();
        // Those of the heartbeat before, too: that a rank gets on again is news of its attempt.
        let before = known.ranks.get(&worker).into_iter().flatten();
        let keys = before.map(|(key, _)| *key).chain(now.keys().copied());
        let attempts: BTreeSet<_> = keys.map(|key| (key.job, key.attempt)).collect();
        for attempt in &attempts {
            known.attempts.entry(*attempt).or_insert_with(|| Told {
                since: Instant::now(),
                text: None,
            });
        }
        if now.is_empty() {
            known.ranks.remove(&worker);
        } else {
            known.ranks.insert(worker, now);
        }
        attempts
    }

    /// Where a rank stands that does not get on.
    #[must_use]
    pub fn stall(&self, worker: WorkerId, key: RankKey) -> Option<v1::Stall> {
        self.lock().ranks.get(&worker)?.get(&key).cloned()
    }

    /// What was said of an attempt that hangs.
    #[must_use]
    pub fn told(&self, job: JobId, attempt: AttemptNumber) -> Option<String> {
        self.lock().attempts.get(&(job, attempt))?.text.clone()
    }

    pub(super) fn forget(&self, attempt: (JobId, AttemptNumber)) {
        self.lock().attempts.remove(&attempt);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's words within their limits.
fn bounded(mut stall: v1::Stall) -> v1::Stall {
    for word in [&mut stall.phase, &mut stall.process] {
        word.truncate(word.floor_char_boundary(WORD_MAX_BYTES));
        // It is shown in terminals and told in histories.
        if word.contains(char::is_control) {
            *word = word.replace(char::is_control, "?");
        }
    }
    stall
}

#[cfg(test)]
mod tests {
    use marquee_domain::ids::Rank;
    use uuid::Uuid;

    use super::*;

    fn stopped() -> Option<v1::Stall> {
        Some(v1::Stall {
            idle_ms: 46_700,
            step: Some(12),
            phase: "forward".into(),
            is_stopped: true,
            waits_for_peers: false,
            process: "is stopped by a signal (state T)".into(),
        })
    }

    #[test]
    fn a_workers_words_have_their_limits() {
        let odd = v1::Stall {
            phase: "\u{1b}]52;c;eA==\u{7}".into(),
            process: "p".repeat(10_000),
            ..v1::Stall::default()
        };
        let bounded = bounded(odd);
        assert_eq!(bounded.phase, "?]52;c;eA==?");
        assert_eq!(bounded.process.len(), WORD_MAX_BYTES);
    }

    #[test]
    fn what_a_heartbeat_does_not_say_any_more_is_looked_at_once_more() {
        let hangs = Hangs::default();
        let worker = WorkerId(Uuid::from_u128(1));
        let key = RankKey {
            job: JobId(7),
            attempt: AttemptNumber(1),
            rank: Rank(0),
        };
        let held = |stall| v1::HeldRank {
            job_id: 7,
            attempt: 1,
            rank: 0,
            stall,
            ..v1::HeldRank::default()
        };
        assert!(hangs.heard(worker, &[held(None)]).is_empty());
        let attempt = BTreeSet::from([(JobId(7), AttemptNumber(1))]);
        assert_eq!(hangs.heard(worker, &[held(stopped())]), attempt);
        assert!(hangs.stall(worker, key).is_some());
        assert_eq!(hangs.heard(worker, &[held(None)]), attempt);
        assert!(hangs.stall(worker, key).is_none());
        assert!(hangs.heard(worker, &[held(None)]).is_empty());
    }
}
