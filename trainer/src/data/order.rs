//! The order in which an epoch visits its pictures.
//!
//! Invariant: like all of [`super::random`] it is a function of (seed, epoch, position) alone, and
//! finding a position takes no walk through those before it.

use marquee_domain::spec::Shuffle;

use super::permutation::Permutation;
use super::random::{Purpose, bits};
use super::shuffle::ShardOrder;

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
                bits(seed, epoch, Purpose::Order, round)
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
    fn rows_of_a_global_order_are_scattered_over_the_disk() {
        // The other way round than with a shuffle by shards, whose tests count the same.
        let order = EpochOrder::new(Shuffle::Global, 3, 2, 100_000);
        let mut rows: Vec<u64> = (0..4_096).map(|at| order.row(at)).collect();
        rows.sort_unstable();
        let jumps = rows.windows(2).filter(|pair| pair[0] + 1 < pair[1]).count();
        assert!(jumps > 3_800, "{jumps}");
    }
}
