//! The order of an epoch that reads shards mostly from front to back: for sets that are larger than
//! memory, on disks that are slow where every row lies somewhere else.
//!
//! Rows are cut into runs that lie side by side in a shard. The runs come in random order, end to end,
//! and this stream goes through a buffer: it is cut into parts of the buffer's size, and each part is
//! shuffled by itself. While one part is trained on, the next can be read run by run.
//!
//! Invariant: like the order over all rows it is a function of (seed, epoch, position) alone, found
//! without a walk, so ranks and interruptions change nothing; and a part holds whole runs but
//! for the two at its ends.

use std::ops::Range;

use super::permutation::Permutation;
use super::random::{Purpose, bits};
use super::share::share;

/// Rows of a run, as many as a shard's record batch has: 6 MB of JPEGs or 69 MB of raw pixels at
/// 299x299. Reading that much takes a disk longer than moving to it, so the moves cost little.
pub(super) const RUN_ROWS: u64 = 256;

/// The order of one epoch.
#[derive(Debug, Clone)]
pub(crate) struct ShardOrder {
    rows: u64,
    seed: u64,
    epoch: u32,
    /// Parts of the stream, each as large as the buffer or a little smaller.
    parts: u64,
    /// The row at which the first run begins, another one in each epoch, so that other rows share a run.
    /// The last run goes on at row 0.
    begin: u64,
    runs: Permutation,
    /// Rows of the last run, and its place among the runs: all others are of full length.
    last: (u64, u64),
}

impl ShardOrder {
    pub(super) fn new(buffer: u32, seed: u64, epoch: u32, rows: u64) -> Self {
        let count = rows.div_ceil(RUN_ROWS).max(1);
        let runs = Permutation::new(count, |round| bits(seed, epoch, Purpose::RunOrder, round));
        let last_rows = rows - (count - 1) * RUN_ROWS;
        Self {
            rows,
            seed,
            epoch,
            parts: rows.div_ceil(u64::from(buffer.max(1))).max(1),
            begin: bits(seed, epoch, Purpose::Runs, 0) % rows.max(1),
            last: (last_rows, runs.place_of(count - 1)),
            runs,
        }
    }

    /// The row at `position`, both below the number of rows.
    pub(super) fn row(&self, position: u64) -> u64 {
        assert!(
            position < self.rows,
            "position {position} of {} rows",
            self.rows
        );
        let part = self.part_of(position);
        let Range { start, end } = self.part(part);
        let within = Permutation::new(end - start, |round| {
            bits(self.seed, self.epoch, Purpose::Buffer, part << 8 | round)
        });
        self.streamed(start + within.at(position - start))
    }

    /// How many parts there are.
    pub(super) fn parts(&self) -> u64 {
        self.parts
    }

    /// The positions of a part, below [`Self::parts`].
    pub(super) fn part(&self, part: u64) -> Range<u64> {
        share(self.rows, part, self.parts)
    }

    /// The part in which `position` is.
    pub(super) fn part_of(&self, position: u64) -> u64 {
        // Parts differ by one row at most, so the guess is off by one at most.
        let guess = u128::from(position) * u128::from(self.parts) / u128::from(self.rows);
        let guess = u64::try_from(guess).expect("a part is no larger than the number of parts");
        (guess..self.parts)
            .find(|part| self.part(*part).contains(&position))
            .unwrap_or(self.parts - 1)
    }

    /// The row at a place of the stream, before it went through the buffer.
    fn streamed(&self, place: u64) -> u64 {
        let (last_rows, last_place) = self.last;
        let before_last = last_place * RUN_ROWS;
        let (run_place, within) = if place < before_last {
            (place / RUN_ROWS, place % RUN_ROWS)
        } else if place < before_last + last_rows {
            (last_place, place - before_last)
        } else {
            let after = place - before_last - last_rows;
            (last_place + 1 + after / RUN_ROWS, after % RUN_ROWS)
        };
        (self.begin + self.runs.at(run_place) * RUN_ROWS + within) % self.rows
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn epoch_of(order: &ShardOrder) -> Vec<u64> {
        (0..order.rows)
            .map(|position| order.row(position))
            .collect()
    }

    #[test]
    fn every_row_comes_once_in_an_epoch() {
        for rows in [1, 2, 255, 256, 257, 5_000, 5_120] {
            for buffer in [1, 300, 1_000, 100_000] {
                for epoch in 0..3 {
                    let rows_seen = epoch_of(&ShardOrder::new(buffer, 9, epoch, rows));
                    let seen: BTreeSet<u64> = rows_seen.into_iter().collect();
                    assert_eq!(seen, (0..rows).collect(), "{rows} rows, buffer {buffer}");
                }
            }
        }
    }

    #[test]
    fn a_position_is_in_the_part_that_holds_it() {
        for (rows, buffer) in [(5_000, 300), (7, 2), (1, 9), (1_000, 1)] {
            let order = ShardOrder::new(buffer, 1, 0, rows);
            for position in 0..rows {
                assert!(order.part(order.part_of(position)).contains(&position));
            }
            assert!((0..order.parts()).all(|part| {
                let part = order.part(part);
                part.end - part.start <= u64::from(buffer)
            }));
        }
    }

    #[test]
    fn seeds_and_epochs_give_other_orders_and_the_same_ones_the_same() {
        let order = |seed, epoch| epoch_of(&ShardOrder::new(1_000, seed, epoch, 4_000));
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
    }

    /// The rows of a part in the order in which they lie on disk, as pieces without a gap.
    fn pieces(order: &ShardOrder, part: u64) -> usize {
        let mut rows: Vec<u64> = order.part(part).map(|at| order.row(at)).collect();
        rows.sort_unstable();
        1 + rows.windows(2).filter(|pair| pair[0] + 1 < pair[1]).count()
    }

    #[test]
    fn a_part_is_read_in_pieces_of_whole_runs() {
        let order = ShardOrder::new(4_096, 3, 2, 100_000);
        for part in 0..order.parts() {
            // 16 runs, one more for the piece at either end, one more for the run at the set's end.
            let found = pieces(&order, part);
            assert!(found <= 19, "part {part} is in {found} pieces");
        }
    }

    #[test]
    fn classes_that_lie_side_by_side_come_out_mixed() {
        // Ten classes in blocks, the worst that a set can be. A batch of a shuffle over all rows has 10 %
        // of each, give or take; read from front to back it would have one class alone.
        const ROWS: u64 = 100_000;
        const BATCH: usize = 100;
        let class_of = |row: u64| usize::try_from(row / (ROWS / 10)).unwrap();
        let order = ShardOrder::new(16_384, 4, 1, ROWS);
        let rows = epoch_of(&order);
        let mut classes_seen = 0;
        let mut largest = 0;
        for batch in rows.chunks(BATCH) {
            let mut counts = [0; 10];
            for row in batch {
                counts[class_of(*row)] += 1;
            }
            classes_seen += counts.iter().filter(|count| **count > 0).count();
            largest += counts.iter().max().unwrap();
        }
        let batches = rows.len() / BATCH;
        let classes = classes_seen as f64 / batches as f64;
        let share = largest as f64 / (batches * BATCH) as f64;
        assert!(classes > 9.5, "{classes} of 10 classes in a batch");
        // A shuffle over all rows has about 15 % of the largest class in a batch of 100.
        assert!(share < 0.21, "{share} of a batch is of one class");
    }

    #[test]
    fn neighbours_part_and_every_row_comes_early_as_often_as_late() {
        let (rows, epochs) = (2_000_u64, 200_u32);
        let mut sums = vec![0_u64; 2_000];
        let mut neighbours = 0;
        for epoch in 0..epochs {
            let order = epoch_of(&ShardOrder::new(1_000, 5, epoch, rows));
            for (position, row) in order.iter().enumerate() {
                sums[usize::try_from(*row).unwrap()] += position as u64;
            }
            neighbours += order
                .windows(2)
                .filter(|pair| pair[0] + 1 == pair[1])
                .count();
        }
        // The mean of 200 draws from 0..2000 has a standard deviation of 41.
        for (row, sum) in sums.iter().enumerate() {
            let mean = *sum as f64 / f64::from(epochs);
            assert!(
                (mean - 999.5).abs() < 210.0,
                "row {row} stands at {mean} on average"
            );
        }
        // A row's neighbour is in the same part of 1,000 about always, and then next to it once in 1,000.
        let pairs = neighbours as f64 / f64::from(epochs);
        assert!(pairs < 4.0, "{pairs} pairs of {rows} an epoch");
    }
}
