//! Counts of right, wrong and missed labels, and the F1 that follows from them.
//!
//! Definition (scikit-learn `f1_score`, `zero_division=0`): F1 = 2TP / (2TP + FP + FN), and 0 where
//! TP + FP + FN = 0.

use std::ops::{Add, AddAssign};

/// Label decisions of one class, or of many classes together. Sums over batches and ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Confusion {
    /// True and predicted.
    pub true_positive: u64,
    /// Predicted, but not true.
    pub false_positive: u64,
    /// True, but not predicted.
    pub false_negative: u64,
}

impl Confusion {
    /// How often the label is true.
    #[must_use]
    pub fn support(&self) -> u64 {
        self.true_positive + self.false_negative
    }

    /// How often the label is predicted.
    #[must_use]
    pub fn predicted(&self) -> u64 {
        self.true_positive + self.false_positive
    }

    #[must_use]
    pub fn f1(&self) -> f64 {
        let twice = 2 * self.true_positive;
        ratio(twice, twice + self.false_positive + self.false_negative)
    }

    /// 0 where nothing was predicted.
    #[must_use]
    pub fn precision(&self) -> f64 {
        ratio(self.true_positive, self.predicted())
    }

    /// 0 where nothing was true.
    #[must_use]
    pub fn recall(&self) -> f64 {
        ratio(self.true_positive, self.support())
    }
}

impl Add for Confusion {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            true_positive: self.true_positive + other.true_positive,
            false_positive: self.false_positive + other.false_positive,
            false_negative: self.false_negative + other.false_negative,
        }
    }
}

impl AddAssign for Confusion {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Confusion {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), Add::add)
    }
}

/// `part / whole`, and 0 where there is no whole. Counts stay far below 2^53, so both are exact.
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// Whether `score` predicts its label: `score >= threshold`. The one place where this is decided.
pub(crate) fn is_predicted(score: f32, threshold: f64) -> bool {
    // In f64: a threshold that was tuned is a score itself, and must predict the very picture that it was taken
    // from.
    f64::from(score) >= threshold
}

/// Micro counts over all cells: every picture, every class, one threshold. A NaN predicts nothing.
///
/// For validation during training: each rank counts its own rows (without the padding of the last
/// batch), the counts are summed over ranks, and [`Confusion::f1`] of the sum is the micro F1.
/// Means of per-rank F1 would be wrong.
///
/// # Panics
/// If the slices differ in length.
#[must_use]
pub fn counts(truth: &[u8], scores: &[f32], threshold: f64) -> Confusion {
    assert_eq!(truth.len(), scores.len(), "one truth for each score");
    let mut sum = Confusion::default();
    for (&is_true, &score) in truth.iter().zip(scores) {
        let is_true = is_true != 0;
        let is_predicted = is_predicted(score, threshold);
        sum.true_positive += u64::from(is_true && is_predicted);
        sum.false_positive += u64::from(!is_true && is_predicted);
        sum.false_negative += u64::from(is_true && !is_predicted);
    }
    sum
}

/// Micro F1 at one threshold for all classes; see [`counts`].
#[must_use]
pub fn f1_micro(truth: &[u8], scores: &[f32], threshold: f64) -> f64 {
    counts(truth, scores, threshold).f1()
}
