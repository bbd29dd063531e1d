//! Pictures that look the same, found without comparing all with all.
//!
//! Those that are one picture are found here by two hashes; those that show the same in spite of more than another size
//! or quality by `alike`. A hash of 64 bits is cut into four parts of 16. Two hashes that differ in four bits at most
//! have a part in which they differ in one at most, so it is enough to compare a hash with those that have the same
//! part, or one of the 16 parts that are a bit away from it.

use std::collections::{BTreeMap, HashMap};

use super::alike;
use super::look::Look;

/// Bits in which the perceptual hashes of one picture differ at most, however it was stored.
const SURE_BITS: u32 = 4;
/// And the difference hashes, as the second vote.
const SECOND_BITS: u32 = 8;
/// Pictures in one cluster from which on it is what a service shows for none.
pub(super) const PLACEHOLDER_MIN: usize = 5;
const BAND_BITS: u32 = 16;
const BANDS: u32 = 4;

/// Perceptual hash, difference hash, and the colours of a picture without detail.
type Hashes = (u64, u64, u64);

/// The clusters of pictures that look the same, each with two places in `looks` or more, in order.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    /// Those that are one picture, at whatever size and quality it was stored.
    pub(super) strict: Vec<Vec<usize>>,
    /// Those that show the same, also mirrored, turned, cropped or coloured anew.
    pub(super) all: Vec<Vec<usize>>,
}

pub(super) fn clusters(looks: &[Option<Look>]) -> Clusters {
    let strict = strict_clusters(looks);
    let mut sets = DisjointSets::new(looks.len());
    // One of each strict cluster stands for all: a placeholder that is there a thousand times is compared
    // once.
    let mut stands = vec![true; looks.len()];
    for cluster in &strict {
        for other in &cluster[1..] {
            sets.join(cluster[0], *other);
            stands[*other] = false;
        }
    }
    let sketches: Vec<_> = looks
        .iter()
        .zip(stands)
        .map(|(look, stands)| look.as_ref().filter(|_| stands)?.sketch.as_ref())
        .collect();
    for (a, b) in alike::pairs(&sketches) {
        sets.join(a, b);
    }
    let mut by_root: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for at in 0..looks.len() {
        by_root.entry(sets.root(at)).or_default().push(at);
    }
    let all = by_root.into_values().filter(|cluster| cluster.len() > 1);
    Clusters {
        all: all.collect(),
        strict,
    }
}

fn strict_clusters(looks: &[Option<Look>]) -> Vec<Vec<usize>> {
    // Many pictures may have one hash, as placeholders do: each hash is compared once.
    let mut by_hash: BTreeMap<Hashes, Vec<usize>> = BTreeMap::new();
    for (at, look) in looks.iter().enumerate() {
        if let Some(look) = look {
            by_hash
                .entry((look.phash, look.dhash, look.colours))
                .or_default()
                .push(at);
        }
    }
    let hashes: Vec<Hashes> = by_hash.keys().copied().collect();
    let mut sets = DisjointSets::new(hashes.len());
    for band in 0..BANDS {
        let mut places: HashMap<u64, Vec<usize>> = HashMap::new();
        for (at, (phash, ..)) in hashes.iter().enumerate() {
            places.entry(part_of(*phash, band)).or_default().push(at);
        }
        for (at, (phash, ..)) in hashes.iter().enumerate() {
            let part = part_of(*phash, band);
            let near = (0..BAND_BITS).map(|bit| part ^ 1 << bit).chain([part]);
            for other in near.filter_map(|part| places.get(&part)).flatten() {
                if *other < at && is_same(hashes[at], hashes[*other]) {
                    sets.join(at, *other);
                }
            }
        }
    }
    let mut clusters: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, hash) in hashes.iter().enumerate() {
        clusters
            .entry(sets.root(at))
            .or_default()
            .extend(&by_hash[hash]);
    }
    let mut clusters: Vec<Vec<usize>> = clusters
        .into_values()
        .filter(|cluster| cluster.len() > 1)
        .collect();
    for cluster in &mut clusters {
        cluster.sort_unstable();
    }
    clusters.sort();
    clusters
}

fn part_of(hash: u64, band: u32) -> u64 {
    hash >> (band * BAND_BITS) & 0xffff
}

/// Both hashes have to agree: each alone takes pictures for the same that are not, and a wrong pair joins
/// units that could have gone to different splits. Of pictures without detail the hashes say nothing, so
/// there the colours decide.
fn is_same(a: Hashes, b: Hashes) -> bool {
    a.2 == b.2 && (a.0 ^ b.0).count_ones() <= SURE_BITS && (a.1 ^ b.1).count_ones() <= SECOND_BITS
}

/// Union-find with path halving.
#[derive(Debug)]
pub(super) struct DisjointSets(Vec<usize>);

impl DisjointSets {
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    pub(super) fn root(&mut self, mut at: usize) -> usize {
        while self.0[at] != at {
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    pub(super) fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        // The smaller number is the root, so that the result does not depend on the order of joins.
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;
    use crate::sniff::Format;

    fn look(phash: u64, dhash: u64) -> Option<Look> {
        Some(Look {
            width: 10,
            height: 10,
            format: Format::Jpeg,
            is_grey: false,
            brightest: 1.0,
            darkest: 1.0,
            information: 1.0,
            sharpness: 1.0,
            phash,
            dhash,
            colours: 0,
            contrast: 255,
            structure: 1.0,
            sketch: None,
        })
    }

    #[test]
    fn every_pair_within_the_limits_is_found_and_no_other() {
        let mut dice = Dice::keyed(&[1]);
        let flipped = |hash: u64, bits: usize, dice: &mut Dice| {
            let mut places: Vec<u32> = (0..64).collect();
            dice.shuffle(&mut places);
            places[..bits]
                .iter()
                .fold(hash, |hash, bit| hash ^ 1 << bit)
        };
        let mut looks = Vec::new();
        let mut wanted = Vec::new();
        for round in 0..600 {
            let hash = dice.bits();
            let near = flipped(hash, round % 7, &mut dice);
            let second = flipped(0, round % 11, &mut dice);
            looks.extend([look(hash, 0), None, look(near, second)]);
            if round % 7 <= 4 && round % 11 <= 8 {
                wanted.push(vec![looks.len() - 3, looks.len() - 1]);
            }
        }
        assert_eq!(clusters(&looks).strict, wanted);
        assert_eq!(clusters(&looks).all, wanted);
    }

    #[test]
    fn a_crowd_of_one_picture_is_one_cluster() {
        let looks: Vec<_> = (0..20_000).map(|_| look(7, 9)).collect();
        assert_eq!(clusters(&looks).all.len(), 1);
    }
}
