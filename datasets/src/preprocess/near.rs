//! Hashes that are near another one, found without comparing it with all.

/// Hashes that one picture's are compared with, and sketches, at most: a set in which nearly all look alike
/// must not take all day. More than that show the same as so many others that they are found by those.
const LOOKED_AT_MAX: usize = 200_000;
pub(super) const COMPARED_MAX: usize = 400;

/// How much may still be looked at for one picture.
#[derive(Debug)]
pub(super) struct Budget {
    hashes: usize,
    comparisons: usize,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self {
            hashes: LOOKED_AT_MAX,
            comparisons: COMPARED_MAX,
        }
    }

    pub(super) fn compares(&mut self) -> bool {
        let may = self.comparisons > 0;
        self.comparisons = self.comparisons.saturating_sub(1);
        may
    }
}

/// In how many bits a part of a hash may differ from that of a hash that it is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Finds all hashes that differ in 7 bits at most, and many of those that differ in a few more.
    One,
    /// Finds all that differ in 11 bits at most, and most of those that differ in a few more.
    Two,
}

/// Hashes by each of their four parts of 16 bits: hashes that differ in few bits have a part in which they
/// hardly differ.
#[derive(Debug)]
pub(super) struct Index {
    hashes: Vec<u64>,
    /// By part: where the places begin of those with this value, and all places in that order.
    parts: Vec<(Vec<u32>, Vec<u32>)>,
}

impl Index {
    const PARTS: usize = 4;
    const PART_BITS: u32 = 16;
    const VALUES: usize = 1 << Self::PART_BITS;

    pub(super) fn new(hashes: Vec<u64>) -> Self {
        let parts = (0..Self::PARTS).map(|part| {
            let mut starts = vec![0_u32; Self::VALUES + 1];
            for hash in &hashes {
                starts[Self::value(*hash, part) + 1] += 1;
            }
            for value in 0..Self::VALUES {
                starts[value + 1] += starts[value];
            }
            // A counting sort: four tables of fixed size instead of a map with a list for each of
            // 65,536 values.
            let mut next = starts.clone();
            let mut places = vec![0; hashes.len()];
            for (at, hash) in (0_u32..).zip(&hashes) {
                let slot = &mut next[Self::value(*hash, part)];
                places[*slot as usize] = at;
                *slot += 1;
            }
            (starts, places)
        });
        let parts = parts.collect();
        Self { hashes, parts }
    }

    fn value(hash: u64, part: usize) -> usize {
        (hash >> (part as u32 * Self::PART_BITS)) as usize & (Self::VALUES - 1)
    }

    /// The places of hashes that differ from this one in so many bits at most; some more than once.
    pub(super) fn near(
        &self,
        hash: u64,
        reach: Reach,
        bits: u32,
        budget: &mut Budget,
    ) -> Vec<usize> {
        let mut near = Vec::new();
        for (part, (starts, places)) in self.parts.iter().enumerate() {
            let own = Self::value(hash, part);
            let mut look = |value: usize| {
                let range = starts[value] as usize..starts[value + 1] as usize;
                for place in &places[range] {
                    if budget.hashes == 0 {
                        return;
                    }
                    budget.hashes -= 1;
                    let place = *place as usize;
                    if (self.hashes[place] ^ hash).count_ones() <= bits {
                        near.push(place);
                    }
                }
            };
            look(own);
            for first in 0..Self::PART_BITS {
                look(own ^ 1 << first);
                if reach == Reach::Two {
                    for second in 0..first {
                        look(own ^ 1 << first ^ 1 << second);
                    }
                }
            }
        }
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;

    #[test]
    fn an_index_finds_all_that_are_near_enough_and_none_that_are_not() {
        let mut dice = Dice::keyed(&[1]);
        let asked = dice.bits();
        let mut hashes = Vec::new();
        for bits in 0..20 {
            let mut places: Vec<u32> = (0..64).collect();
            dice.shuffle(&mut places);
            hashes.push(
                places[..bits]
                    .iter()
                    .fold(asked, |hash, bit| hash ^ 1 << bit),
            );
        }
        let index = Index::new(hashes);
        let found = |reach, bits| {
            let mut near = index.near(asked, reach, bits, &mut Budget::new());
            near.sort_unstable();
            near.dedup();
            near
        };
        assert_eq!(found(Reach::Two, 11), (0..=11).collect::<Vec<_>>());
        assert_eq!(found(Reach::One, 7), (0..=7).collect::<Vec<_>>());
        assert!(
            Index::new(Vec::new())
                .near(asked, Reach::Two, 11, &mut Budget::new())
                .is_empty()
        );
    }
}
