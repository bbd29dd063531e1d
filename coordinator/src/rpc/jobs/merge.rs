//! Rows of several ranks, each in its own order, as one stream by time.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, Utc};
use marquee_domain::ids::Rank;

/// Rows that were read and not given out yet.
#[derive(Debug)]
pub(super) struct Merge<T> {
    ranks: BTreeMap<Rank, Queue<T>>,
}

#[derive(Debug)]
struct Queue<T> {
    rows: VecDeque<(DateTime<Utc>, T)>,
    /// All that is stored of this rank has been read, so an empty queue holds nobody up.
    read_up: bool,
}

impl<T> Merge<T> {
    pub(super) fn new(ranks: impl IntoIterator<Item = Rank>) -> Self {
        let queue = |rank| {
            (
                rank,
                Queue {
                    rows: VecDeque::new(),
                    read_up: false,
                },
            )
        };
        Self {
            ranks: ranks.into_iter().map(queue).collect(),
        }
    }

    /// The ranks to read on: those whose rows have all been given out.
    pub(super) fn hungry(&self) -> Vec<Rank> {
        let empty = self.ranks.iter().filter(|(_, queue)| queue.rows.is_empty());
        empty.map(|(rank, _)| *rank).collect()
    }

    /// Adds the rows of one reading of the ranks `asked`, at most `limit` of each.
    pub(super) fn add(
        &mut self,
        asked: &[Rank],
        rows: impl IntoIterator<Item = (Rank, DateTime<Utc>, T)>,
        limit: usize,
    ) {
        let mut counts: BTreeMap<Rank, usize> = BTreeMap::new();
        for (rank, at, row) in rows {
            *counts.entry(rank).or_default() += 1;
            if let Some(queue) = self.ranks.get_mut(&rank) {
                queue.rows.push_back((at, row));
            }
        }
        for rank in asked {
            if let Some(queue) = self.ranks.get_mut(rank) {
                // Fewer than could have come: nothing more is stored of this rank.
                queue.read_up = counts.get(rank).copied().unwrap_or(0) < limit;
            }
        }
    }

    /// The earliest row, as far as it is certain: None when a rank must be read on first, or
    /// nothing is left.
    pub(super) fn pop(&mut self) -> Option<(Rank, T)> {
        if self
            .ranks
            .values()
            .any(|queue| queue.rows.is_empty() && !queue.read_up)
        {
            return None;
        }
        let heads = self
            .ranks
            .iter()
            .filter_map(|(rank, q)| q.rows.front().map(|(at, _)| (at, rank)));
        // Of one instant the lower rank's row comes first: every reader gets the same order.
        let (_, rank) = heads.min()?;
        let rank = *rank;
        let (_, row) = self.ranks.get_mut(&rank)?.rows.pop_front()?;
        Some((rank, row))
    }

    /// Whether all that was stored has been read and given out.
    pub(super) fn is_done(&self) -> bool {
        self.ranks
            .values()
            .all(|queue| queue.read_up && queue.rows.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn drain(merge: &mut Merge<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| merge.pop().map(|(_, row)| row)).collect()
    }

    #[test]
    fn rows_come_by_time_and_a_rank_that_is_not_read_up_is_waited_for() {
        let (a, b) = (Rank(0), Rank(1));
        let mut merge = Merge::new([a, b]);
        assert_eq!(merge.hungry(), [a, b]);
        // Rank 0 has more than the limit of two.
        let rows = [
            (a, at(1), "a1"),
            (a, at(3), "a3"),
            (b, at(2), "b2"),
            (b, at(5), "b5"),
        ];
        merge.add(&[a, b], rows, 2);
        assert_eq!(drain(&mut merge), ["a1", "b2", "a3"]);
        assert_eq!(merge.hungry(), [a]);
        merge.add(&[a], [(a, at(4), "a4")], 2);
        assert_eq!(drain(&mut merge), ["a4", "b5"]);
        assert!(!merge.is_done(), "rank 1 may have more");
        merge.add(&[a, b], [], 2);
        assert!(merge.is_done());
    }

    #[test]
    fn a_rank_keeps_its_own_order_when_its_clock_goes_back() {
        let a = Rank(0);
        let mut merge = Merge::new([a]);
        merge.add(&[a], [(a, at(5), "first"), (a, at(1), "second")], 10);
        assert_eq!(drain(&mut merge), ["first", "second"]);
    }
}
