//! Blobs that somebody counts on without a row that names them yet: they stay while others are removed.
//!
//! Two count on blobs before they are named: whoever commits a manifest, from the look at its files until the commit
//! (a [`Vouch`]), and a worker that was told it need not send a file, until it names that file or [`ANSWER_HOLDS`] has
//! passed. Removing is the other side: what is to go is condemned first, then the stored manifests are asked for names,
//! and then goes what is condemned still.
//!
//! Invariant: a condemned blob that somebody begins to count on is condemned no more, and what is counted on cannot be
//! condemned. So the manifests are read after anybody who has committed has committed, and whoever has not yet is seen
//! here. All of it happens under one lock, and a file is unlinked under it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use marquee_domain::artifact::Digest;
use tokio::sync::OwnedMutexGuard;

/// How long a worker may count on a file that it was told is here: longer than an output takes to be sent.
const ANSWER_HOLDS: Duration = Duration::from_secs(3600);
/// Answers that are remembered. Beyond them a file may be gone when its output is committed, which fails that attempt,
/// and the next one sends it.
const ANSWERS_MAX: usize = 200_000;

/// Who counts on what.
#[derive(Debug, Clone, Default)]
pub(super) struct Vouches {
    shared: Arc<Mutex<Shared>>,
    /// One removes at a time: condemned is what that one would remove.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    held: HashMap<Digest, usize>,
    /// Until when each answer holds, the earliest first.
    answered: HashMap<Digest, VecDeque<Instant>>,
    answers: usize,
    condemned: HashSet<Digest>,
}

/// The promise that the blobs of a manifest stay. Held until the row that names them is committed.
#[derive(Debug)]
#[must_use = "the blobs may go as soon as it is dropped"]
pub struct Vouch {
    vouches: Vouches,
    digests: Vec<Digest>,
}

/// Blobs that are to go, unless somebody counts on them meanwhile.
#[derive(Debug)]
pub(super) struct Turn {
    vouches: Vouches,
    _turn: OwnedMutexGuard<()>,
}

impl Vouches {
    pub(super) fn vouch(&self, digests: Vec<Digest>) -> Vouch {
        let mut shared = self.lock();
        for digest in &digests {
            shared.condemned.remove(digest);
            *shared.held.entry(digest.clone()).or_default() += 1;
        }
        drop(shared);
        Vouch {
            vouches: self.clone(),
            digests,
        }
    }

    /// A file that is being stored now is not the one that was to go.
    pub(super) fn spare(&self, digest: &Digest) {
        self.lock().condemned.remove(digest);
    }

    /// Somebody is about to be told that these are here. Those that turn out not to be are settled at once.
    pub(super) fn answer(&self, digests: &[Digest]) {
        let now = Instant::now();
        let mut shared = self.lock();
        if shared.answers + digests.len() > ANSWERS_MAX {
            shared.forget_expired(now);
        }
        for digest in digests {
            shared.condemned.remove(digest);
            // See `ANSWERS_MAX`: what is not remembered costs an attempt at worst, never a result.
            if shared.answers >= ANSWERS_MAX {
                continue;
            }
            shared.answers += 1;
            let holds = shared.answered.entry(digest.clone()).or_default();
            holds.push_back(now + ANSWER_HOLDS);
        }
    }

    /// Whoever was told that these are here has what he wanted, or they are not here at all.
    pub(super) fn settle_answers(&self, digests: &[Digest]) {
        let mut shared = self.lock();
        for digest in digests {
            let Some(holds) = shared.answered.get_mut(digest) else {
                continue;
            };
            // The oldest of them, whoever had it: an answer that is left over only keeps the file
            // for longer.
            let had_one = holds.pop_front().is_some();
            if holds.is_empty() {
                shared.answered.remove(digest);
            }
            shared.answers -= usize::from(had_one);
        }
    }

    /// Condemns those that nobody counts on, until the turn is over.
    pub(super) async fn condemn(&self, digests: &[Digest]) -> Turn {
        let turn = Turn {
            vouches: self.clone(),
            _turn: self.turn.clone().lock_owned().await,
        };
        let now = Instant::now();
        let mut shared = self.lock();
        let free = digests
            .iter()
            .filter(|digest| !shared.is_counted_on(digest, now));
        shared.condemned = free.cloned().collect();
        drop(shared);
        turn
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Each change is one step: a panic elsewhere leaves nothing half done.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn is_counted_on(&self, digest: &Digest, now: Instant) -> bool {
        let last = self.answered.get(digest).and_then(VecDeque::back);
        self.held.contains_key(digest) || last.is_some_and(|until| *until > now)
    }

    fn forget_expired(&mut self, now: Instant) {
        self.answered.retain(|_, holds| {
            holds.retain(|until| *until > now);
            !holds.is_empty()
        });
        self.answers = self.answered.values().map(VecDeque::len).sum();
    }
}

impl Turn {
    /// Does it, if the blob is condemned still. While it is done nobody can begin to count on the blob.
    pub(super) fn if_condemned<T>(&self, digest: &Digest, done: impl FnOnce() -> T) -> Option<T> {
        let shared = self.vouches.lock();
        shared.condemned.contains(digest).then(done)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.vouches.lock().condemned = HashSet::new();
    }
}

impl Vouch {
    /// A committed row names the blobs now: whoever was told of them has got what he waited for.
    pub fn named(self) {
        self.vouches.settle_answers(&self.digests);
    }
}

impl Drop for Vouch {
    fn drop(&mut self) {
        let mut shared = self.vouches.lock();
        for digest in &self.digests {
            if let Some(count) = shared.held.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    shared.held.remove(digest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    async fn goes(vouches: &Vouches, name: &str) -> bool {
        let turn = vouches.condemn(&[digest(name)]).await;
        turn.if_condemned(&digest(name), || ()).is_some()
    }

    #[tokio::test]
    async fn what_is_counted_on_stays_until_the_last_lets_go() {
        let vouches = Vouches::default();
        let (one, two) = (
            vouches.vouch(vec![digest("a"), digest("b")]),
            vouches.vouch(vec![digest("a")]),
        );
        assert!(!goes(&vouches, "a").await && goes(&vouches, "c").await);
        drop(one);
        assert!(!goes(&vouches, "a").await && goes(&vouches, "b").await);
        drop(two);
        assert!(goes(&vouches, "a").await);
        assert!(vouches.lock().held.is_empty());
    }

    #[tokio::test]
    async fn whoever_begins_to_count_on_a_condemned_blob_saves_it_also_when_he_is_through() {
        let vouches = Vouches::default();
        let all = ["a", "b", "c", "d"].map(digest);
        let turn = vouches.condemn(&all).await;
        // His row was committed before the removal, which has read the rows before that.
        vouches.vouch(vec![digest("a")]).named();
        vouches.answer(&[digest("b")]);
        vouches.spare(&digest("c"));
        let gone = all.map(|digest| turn.if_condemned(&digest, || ()).is_some());
        assert_eq!(gone, [false, false, false, true]);
        drop(turn);
        assert!(goes(&vouches, "a").await, "the next one may");
    }

    #[tokio::test]
    async fn an_answer_holds_until_its_file_is_named_and_there_are_so_many_and_no_more() {
        let vouches = Vouches::default();
        vouches.answer(&[digest("a")]);
        vouches.answer(&[digest("a")]);
        vouches.vouch(vec![digest("a")]).named();
        assert!(!goes(&vouches, "a").await, "another one was told too");
        vouches.vouch(vec![digest("a")]).named();
        assert!(goes(&vouches, "a").await);
        assert_eq!(vouches.lock().answers, 0);

        let many = vec![digest("m"); ANSWERS_MAX + 7];
        vouches.answer(&many);
        assert_eq!(vouches.lock().answers, ANSWERS_MAX);
        vouches.answer(&[digest("n")]);
        assert!(goes(&vouches, "n").await && !goes(&vouches, "m").await);
        let past = Instant::now();
        for holds in vouches.lock().answered.values_mut() {
            holds.iter_mut().for_each(|until| *until = past);
        }
        assert!(goes(&vouches, "m").await, "none holds for ever");
        vouches.answer(&[digest("n")]);
        assert_eq!(vouches.lock().answers, 1);
    }
}
