//! Which row an epoch draws at a position, where not every row is to come once.
//!
//! Invariant: a draw is a function of (seed, epoch, position) and the labels alone, like the order
//! of a plain epoch: the number of ranks and an interruption change nothing.

use marquee_domain::spec::Sampling;

use super::random::draw;
use super::reader::SplitReader;
use crate::error::RunError;

/// Draws rows with replacement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sampler {
    /// First a class, each equally likely, then one of its rows.
    Balanced {
        /// Rows of each class that has any.
        rows_of_class: Vec<Vec<u64>>,
    },
    /// Sums of weights up to and with each row; the last is the sum of all.
    Weighted { sums: Vec<f64> },
}

impl Sampler {
    /// What `sampling` asks for on the rows of `split`; None: each row once.
    pub(crate) fn new(sampling: Sampling, split: &SplitReader) -> Result<Option<Self>, RunError> {
        let labels = || {
            let rows = split.split();
            (0..rows.len()).map(move |row| Ok(rows.row(row)?.labels))
        };
        Ok(match sampling {
            Sampling::Shuffle => None,
            Sampling::Balanced => Some(Self::balanced(labels(), split.index().classes.len())?),
            Sampling::Weighted => Some(Self::weighted(labels(), &split.label_counts()?)?),
        })
    }

    fn balanced<'a>(
        labels: impl Iterator<Item = Result<&'a [u8], RunError>>,
        classes: usize,
    ) -> Result<Self, RunError> {
        let mut rows_of_class = vec![Vec::new(); classes];
        for (row, labels) in labels.enumerate() {
            for (rows, _) in rows_of_class
                .iter_mut()
                .zip(labels?)
                .filter(|(_, l)| **l == 1)
            {
                rows.push(row as u64);
            }
        }
        // A class without a picture cannot be drawn, and the others stay equally likely.
        rows_of_class.retain(|rows: &Vec<u64>| !rows.is_empty());
        if rows_of_class.is_empty() {
            return Err(RunError::input(
                "no training picture has a label, so none can be drawn by class; set sampling = \"shuffle\"",
            ));
        }
        Ok(Self::Balanced { rows_of_class })
    }

    /// A row weighs as the square root of how rare its rarest label is; one without labels as the
    /// most frequent label.
    fn weighted<'a>(
        labels: impl Iterator<Item = Result<&'a [u8], RunError>>,
        counts: &[u64],
    ) -> Result<Self, RunError> {
        let most = counts.iter().copied().max().unwrap_or(1).max(1);
        let mut sum = 0.0;
        let mut sums = Vec::new();
        for labels in labels {
            let pairs = counts.iter().zip(labels?).filter(|(_, label)| **label == 1);
            let rarest = pairs.map(|(count, _)| *count).min().unwrap_or(most);
            // The root, since by the rarity itself a class of ten pictures would fill every batch
            // with the same ten.
            sum += (most as f64 / rarest.max(1) as f64).sqrt();
            sums.push(sum);
        }
        Ok(Self::Weighted { sums })
    }

    /// The row drawn at `position` of `epoch`.
    pub(crate) fn row(&self, seed: u64, epoch: u32, position: u64) -> u64 {
        let [first, second] = draw(seed, epoch, position);
        match self {
            Self::Balanced { rows_of_class } => {
                let rows = &rows_of_class[place(first, rows_of_class.len())];
                rows[place(second, rows.len())]
            }
            Self::Weighted { sums } => {
                let all = sums.last().copied().unwrap_or(0.0);
                let at = sums.partition_point(|sum| *sum <= first * all);
                // Rounding may bring the number up to the last sum, behind which there is no row.
                at.min(sums.len().saturating_sub(1)) as u64
            }
        }
    }
}

/// A place below `count` for a number from 0 to below 1.
fn place(number: f64, count: usize) -> usize {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the product is from 0 to below count"
    )]
    let place = (number * count as f64) as usize;
    place.min(count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 90 rows of the first class, 9 of the second, one of both.
    fn labels() -> Vec<Vec<u8>> {
        let mut all = vec![vec![1, 0, 0]; 90];
        all.extend(vec![vec![0, 1, 0]; 9]);
        all.push(vec![1, 1, 0]);
        all
    }

    fn shares(sampler: &Sampler) -> [f64; 2] {
        let rows = labels();
        let mut counts = [0.0; 2];
        for position in 0..20_000 {
            let row = usize::try_from(sampler.row(3, 1, position)).unwrap();
            counts[0] += f64::from(rows[row][0]) / 20_000.0;
            counts[1] += f64::from(rows[row][1]) / 20_000.0;
        }
        counts
    }

    #[test]
    fn balanced_draws_see_each_class_equally_often() {
        let rows = labels();
        let sampler = Sampler::balanced(rows.iter().map(|l| Ok(l.as_slice())), 3).unwrap();
        let [first, second] = shares(&sampler);
        // The row of both classes is drawn in either turn: 1 in 91 and 1 in 10.
        assert!((first - (0.5 + 0.05)).abs() < 0.02, "{first}");
        assert!((second - (0.5 + 0.0055)).abs() < 0.02, "{second}");
        assert_eq!(sampler.row(3, 1, 17), sampler.row(3, 1, 17));
        let other = (0..50).filter(|&at| sampler.row(3, 1, at) != sampler.row(3, 2, at));
        assert!(other.count() > 30);
    }

    #[test]
    fn weighted_draws_lift_the_rare_by_the_root_of_their_rarity() {
        let rows = labels();
        let sampler =
            Sampler::weighted(rows.iter().map(|l| Ok(l.as_slice())), &[91, 10, 0]).unwrap();
        let rare = (91.0_f64 / 10.0).sqrt();
        let [_, second] = shares(&sampler);
        let expected = 10.0 * rare / (10.0 * rare + 90.0);
        assert!((second - expected).abs() < 0.02, "{second} for {expected}");
    }

    #[test]
    fn no_label_at_all_is_said() {
        let rows = [vec![0_u8, 0]];
        let error = Sampler::balanced(rows.iter().map(|l| Ok(l.as_slice())), 2).unwrap_err();
        assert!(error.message.contains("shuffle"), "{}", error.message);
    }
}
