//! The order in which an epoch visits its pictures, and what chance does to each.
//!
//! Invariant: everything here is a function of (seed, epoch, position) alone. How many ranks there
//! are, and where a run was interrupted, changes nothing; no state has to be saved, and finding a
//! position takes no walk through those before it.

use marquee_domain::spec::Shuffle;

use super::shuffle::ShardOrder;

/// Rounds of the Feistel network. Four make a good shuffle of large sets; small ones, whose halves
/// have only a few bits, need more.
const ROUNDS: usize = 8;

/// Keeps the streams of chance apart that come from one seed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Order = 1,
    Flip = 2,
    Change = 3,
    Draw = 4,
    Mix = 5,
    /// Where the runs of a shuffle by shards begin, their order, and the order within a buffer.
    Runs = 6,
    RunOrder = 7,
    Buffer = 8,
}

/// Mixes all bits of a number into all bits of the result (the finaliser of splitmix64).
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

pub(super) fn chance(seed: u64, epoch: u32, purpose: Purpose, index: u64) -> u64 {
    mix(mix(mix(seed) ^ (u64::from(epoch) << 8 | purpose as u64)) ^ index)
}

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

/// The order of an epoch, made anew for each.
#[derive(Debug, Clone)]
pub(crate) enum EpochOrder {
    /// Any row may come anywhere.
    Global(Permutation),
    Shards(ShardOrder),
}

impl EpochOrder {
    pub(crate) fn new(shuffle: Shuffle, seed: u64, epoch: u32, rows: u64) -> Self {
        match shuffle {
            Shuffle::Global => Self::Global(Permutation::new(rows, |round| {
                chance(seed, epoch, Purpose::Order, round)
            })),
            Shuffle::Shards { buffer } => Self::Shards(ShardOrder::new(buffer, seed, epoch, rows)),
        }
    }

    /// The row at `position`, both below the number of rows.
    pub(crate) fn row(&self, position: u64) -> u64 {
        match self {
            Self::Global(permutation) => permutation.at(position),
            Self::Shards(order) => order.row(position),
        }
    }
}

/// Whether the picture `row` is mirrored in this epoch.
pub(crate) fn is_flipped(seed: u64, epoch: u32, row: u64) -> bool {
    chance(seed, epoch, Purpose::Flip, row) & 1 == 1
}

/// Two numbers from 0 to below 1 for the draw at `position` of this epoch.
pub(crate) fn draw(seed: u64, epoch: u32, position: u64) -> [f64; 2] {
    let bits = chance(seed, epoch, Purpose::Draw, position);
    [1, 2].map(|index| (mix(bits ^ index) >> 11) as f64 / (1_u64 << 53) as f64)
}

/// Random bits for what else happens to the picture `row` in this epoch.
pub(crate) fn dice(seed: u64, epoch: u32, row: u64) -> u64 {
    chance(seed, epoch, Purpose::Change, row)
}

/// Random bits for the mixing of the picture at `position` of this epoch.
pub(crate) fn mixing_dice(seed: u64, epoch: u32, position: u64) -> u64 {
    chance(seed, epoch, Purpose::Mix, position)
}

/// The number `index` of a stream that starts with `dice`, from 0 to below 1.
pub(crate) fn roll(dice: u64, index: u64) -> f64 {
    (mix(dice ^ mix(index)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The same as a whole number from 0 to below `end`.
pub(crate) fn roll_below(dice: u64, index: u64, end: u64) -> u64 {
    let product = u128::from(mix(dice ^ mix(index))) * u128::from(end);
    u64::try_from(product >> u64::BITS).expect("the upper half of a product has 64 bits")
}

/// The part of `0..rows` that belongs to `rank`: parts are in order and differ by one at most.
pub(crate) fn share(
    rows: u64,
    rank: impl Into<u64>,
    world_size: impl Into<u64>,
) -> std::ops::Range<u64> {
    let (rank, world_size) = (rank.into(), world_size.into());
    let bound = |rank: u64| {
        let product = u128::from(rows) * u128::from(rank) / u128::from(world_size);
        u64::try_from(product).expect("a share is no larger than the whole")
    };
    bound(rank)..bound(rank + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn epoch_of(seed: u64, epoch: u32, rows: u64) -> Vec<u64> {
        let order = EpochOrder::new(Shuffle::Global, seed, epoch, rows);
        (0..rows).map(|position| order.row(position)).collect()
    }

    #[test]
    fn every_row_comes_once_in_an_epoch() {
        for rows in [1, 2, 3, 4, 5, 16, 17, 100, 2_400, 4_097] {
            for epoch in 0..3 {
                let seen: BTreeSet<u64> = epoch_of(9, epoch, rows).into_iter().collect();
                assert_eq!(seen, (0..rows).collect(), "{rows} rows, epoch {epoch}");
            }
        }
    }

    #[test]
    fn a_permutation_knows_where_each_thing_stands() {
        for count in [1, 2, 5, 64, 1_000] {
            let permutation = Permutation::new(count, mix);
            for place in 0..count {
                assert_eq!(permutation.place_of(permutation.at(place)), place);
            }
        }
    }

    #[test]
    fn seeds_and_epochs_give_other_orders_and_the_same_ones_the_same() {
        assert_eq!(epoch_of(1, 0, 500), epoch_of(1, 0, 500));
        assert_ne!(epoch_of(1, 0, 500), epoch_of(1, 1, 500));
        assert_ne!(epoch_of(1, 0, 500), epoch_of(2, 0, 500));
    }

    #[test]
    fn an_order_is_well_mixed() {
        // Each row's position averages to the middle over many epochs, and neighbours part.
        let (rows, epochs) = (60_u64, 400_u32);
        let mut sums = vec![0_u64; 60];
        let mut neighbours = 0_u32;
        for epoch in 0..epochs {
            let order = epoch_of(5, epoch, rows);
            for (position, &row) in order.iter().enumerate() {
                sums[usize::try_from(row).unwrap()] += position as u64;
            }
            neighbours += order
                .windows(2)
                .map(|pair| u32::from(pair[0] + 1 == pair[1]))
                .sum::<u32>();
        }
        // The mean of 400 draws from 0..60 has a standard deviation of 0.87.
        for (row, sum) in sums.into_iter().enumerate() {
            let mean = sum as f64 / f64::from(epochs);
            assert!(
                (mean - 29.5).abs() < 4.5,
                "row {row} stands at {mean} on average"
            );
        }
        // A fair shuffle keeps (rows - 1) / rows such pairs an epoch, that is one.
        let pairs = f64::from(neighbours) / f64::from(epochs);
        assert!((0.7..1.4).contains(&pairs), "{pairs} pairs an epoch");
    }

    #[test]
    fn about_half_of_the_pictures_are_mirrored() {
        let count = (0..10_000).filter(|&row| is_flipped(3, 1, row)).count();
        assert!((4_700..5_300).contains(&count), "{count}");
    }

    #[test]
    fn shares_cover_all_rows_in_order_and_are_even() {
        for rows in [0, 1, 3, 7, 64, 65] {
            for world_size in [1, 2, 3, 4, 7] {
                let shares: Vec<_> = (0..world_size)
                    .map(|rank: u32| share(rows, rank, world_size))
                    .collect();
                assert_eq!(
                    shares.iter().cloned().flatten().collect::<Vec<_>>(),
                    (0..rows).collect::<Vec<_>>()
                );
                let lengths: Vec<u64> =
                    shares.iter().map(|share| share.end - share.start).collect();
                assert!(
                    lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1,
                    "{lengths:?}"
                );
            }
        }
    }
}
