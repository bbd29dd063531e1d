//! Under which key a blob stands. At first that is its digest. Each time it was to go, the next generation begins: what
//! is stored from then on has another key, so that a delete which comes late, from whomever, finds the old one alone.

use std::collections::{HashMap, HashSet};

use marquee_domain::artifact::Digest;
use serde::{Deserialize, Serialize};

/// The generations of those that are not of the first.
#[derive(Debug, Default)]
pub(super) struct Generations {
    of: HashMap<Digest, u32>,
    /// The batches that were read.
    pub(super) batches: HashSet<String>,
}

/// What `going/<id>` holds: blobs that one removal took, and the generation that began for each.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Batch {
    pub(super) next: HashMap<Digest, u32>,
}

impl Generations {
    pub(super) fn of(&self, digest: &Digest) -> u32 {
        self.of.get(digest).copied().unwrap_or(0)
    }

    /// The newest that anybody wrote down counts.
    pub(super) fn learn(&mut self, batch: &Batch) {
        for (digest, next) in &batch.next {
            let known = self.of.entry(digest.clone()).or_default();
            *known = (*known).max(*next);
        }
    }

    pub(super) fn set(&mut self, digest: &Digest, generation: u32) {
        match generation {
            0 => self.of.remove(digest),
            _ => self.of.insert(digest.clone(), generation),
        };
    }

    pub(super) fn digests(&self) -> Vec<Digest> {
        self.of.keys().cloned().collect()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The key of a blob in a generation.
pub(super) fn key(digest: &Digest, generation: u32) -> String {
    let text = digest.as_str();
    match generation {
        0 => format!("blobs/{}/{text}", &text[..2]),
        _ => format!("blobs/{}/{text}.{generation}", &text[..2]),
    }
}

/// What a key is of: the other way round.
pub(super) fn read_key(key: &str) -> Option<(Digest, u32)> {
    let (_, name) = key.rsplit_once('/')?;
    match name.split_once('.') {
        None => Some((name.parse().ok()?, 0)),
        Some((digest, generation)) => Some((digest.parse().ok()?, generation.parse().ok()?)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_digest_and_generation() {
        let digest = Digest::of(b"x");
        for generation in [0, 1, 17] {
            let key = key(&digest, generation);
            assert_eq!(read_key(&key), Some((digest.clone(), generation)), "{key}");
        }
        for odd in ["blobs/aa/x", "x", "blobs/aa/", &format!("a/{digest}.x")] {
            assert_eq!(read_key(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_newest_generation_counts_whoever_wrote_it_down() {
        let digest = Digest::of(b"x");
        let mut all = Generations::default();
        assert_eq!(all.of(&digest), 0);
        for next in [2, 1] {
            let batch = Batch {
                next: HashMap::from([(digest.clone(), next)]),
            };
            let text = serde_json::to_vec(&batch).unwrap();
            all.learn(&serde_json::from_slice(&text).unwrap());
        }
        assert_eq!(all.of(&digest), 2);
        all.set(&digest, 0);
        assert!(all.digests().is_empty());
    }
}
