//! A permutation that needs no memory: each place is computed when it is asked for.

use super::random::mix;

/// Rounds of the Feistel network. Four make a good shuffle of large sets; small ones, whose halves
/// have only a few bits, need more.
const ROUNDS: usize = 8;

/// A permutation of `0..count` that a seed determines.
///
/// A Feistel network permutes the numbers below the next power of four; what falls outside `0..count`
/// is put through it again until it falls inside, which keeps it a permutation.
#[derive(Debug, Clone)]
pub(super) struct Permutation {
    count: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// `key` gives the key of each round.
    pub(super) fn new(count: u64, key: impl Fn(u64) -> u64) -> Self {
        let bits = u64::BITS - count.saturating_sub(1).leading_zeros();
        Self {
            count,
            // Both halves equally long, so that a round can swap them.
            half_bits: bits.div_ceil(2).max(1),
            keys: std::array::from_fn(|round| key(round as u64)),
        }
    }

    /// What stands at `place`, both below the count.
    pub(super) fn at(&self, place: u64) -> u64 {
        assert!(place < self.count, "place {place} of {}", self.count);
        let mut x = self.permute(place);
        while x >= self.count {
            x = self.permute(x);
        }
        x
    }

    /// The place at which `what` stands.
    pub(super) fn place_of(&self, what: u64) -> u64 {
        assert!(what < self.count, "{what} of {}", self.count);
        let mut x = self.permute_back(what);
        while x >= self.count {
            x = self.permute_back(x);
        }
        x
    }

    fn permute(&self, x: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }

    fn permute_back(&self, x: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for key in self.keys.iter().rev() {
            (left, right) = (right ^ (mix(left ^ key) & mask), left);
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_knows_where_each_thing_stands() {
        for count in [1, 2, 5, 64, 1_000] {
            let permutation = Permutation::new(count, mix);
            for place in 0..count {
                assert_eq!(permutation.place_of(permutation.at(place)), place);
            }
        }
    }
}
