//! Randomness as a value: a stream of numbers that a key determines, the same on every machine and
//! with every version of every library. Splits, jitter and the catalogue's generated films are drawn from it.
//!
//! The generator is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): one word of state, and any
//! key starts a good stream. Not for secrets.

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
}

/// The generator's increment, 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dice {
    /// The stream of `key`. Keys that differ in any word or in length give unrelated streams.
    pub fn keyed(key: &[u64]) -> Self {
        let state = key
            .iter()
            // It begins with the length, so that no key is the beginning of another.
            .fold(key.len() as u64, |state, word| mix(state ^ mix(*word)));
        Self { state }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        finish(self.state)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        // The upper 53 bits are all that a double can hold.
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in [`low`, `high`).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform among 0..`count`; 0 if there is nothing to choose from.
    pub fn below(&mut self, count: usize) -> usize {
        // Multiply and shift: the bias is below count / 2^64.
        usize::try_from((u128::from(self.bits()) * count as u128) >> 64).unwrap_or(0)
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// Brings `items` into random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

fn mix(word: u64) -> u64 {
    finish(word.wrapping_add(GOLDEN))
}

fn finish(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_that_of_the_reference_implementation() {
        // First outputs of splitmix64.c for the state 0.
        let mut dice = Dice { state: 0 };
        assert_eq!(dice.bits(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(dice.bits(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn draws_stay_in_range_and_are_even() {
        let mut dice = Dice::keyed(&[1, 2]);
        let mut counts = [0_u32; 6];
        for _ in 0..60_000 {
            counts[dice.below(6)] += 1;
        }
        assert!(
            counts.iter().all(|count| count.abs_diff(10_000) < 400),
            "{counts:?}"
        );
        assert!(
            (0..1000)
                .map(|_| dice.between(-1.0, 2.0))
                .all(|x| (-1.0..2.0).contains(&x))
        );
    }

    #[test]
    fn keys_that_differ_give_streams_that_differ() {
        let first = |key: &[u64]| Dice::keyed(key).bits();
        assert_ne!(first(&[1, 2]), first(&[2, 1]));
        assert_ne!(first(&[1]), first(&[1, 0]));
        assert_eq!(first(&[1, 2]), first(&[1, 2]));
    }
}
