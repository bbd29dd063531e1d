//! Numbers drawn from the seed. Each part of a world draws from a stream of its own, so that what one draws does
//! not shift what another gets.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// One stream of numbers.
#[derive(Debug, Clone)]
pub struct Draw(ChaCha8Rng);

impl Draw {
    /// The stream called `name` of a seed.
    #[must_use]
    pub fn of(seed: u64, name: &str) -> Self {
        // FNV-1a over the name: any fixed spread will do.
        let spread = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(ChaCha8Rng::seed_from_u64(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ spread,
        ))
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        // The remainder favours small numbers by next to nothing: ranges are tiny beside 2^64.
        low + self.0.next_u64() % (high - low + 1)
    }

    /// An index of something with `len` places.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.between(0, len as u64 - 1)).unwrap_or(0)
    }

    /// True this many times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.between(0, 99) < percent
    }

    /// Puts things in a drawn order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let other = self.index(end + 1);
            items.swap(end, other);
        }
    }

    /// 16 bytes, as of a name that nobody else draws.
    pub fn bytes(&mut self) -> [u8; 16] {
        let (a, b) = (self.0.next_u64(), self.0.next_u64());
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&a.to_le_bytes());
        bytes[8..].copy_from_slice(&b.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_each_time_and_another_for_each_name() {
        let some = |seed, name| {
            let mut draw = Draw::of(seed, name);
            (0..8).map(|_| draw.between(3, 1_000)).collect::<Vec<_>>()
        };
        assert_eq!(some(1, "faults"), some(1, "faults"));
        assert_ne!(some(1, "faults"), some(2, "faults"));
        assert_ne!(some(1, "faults"), some(1, "relay"));
        assert!(some(9, "x").iter().all(|n| (3..=1_000).contains(n)));
    }
}
