//! One class's scores in descending order: ROC curve and average precision, from a single sort.
//!
//! Definitions: scikit-learn's `roc_auc_score` and `average_precision_score`. Equal scores form one
//! step, whatever their order in the input. A figure without a definition (one-class truth) is
//! `None` here, where scikit-learn warns and returns NaN (AUC) or 0 (average precision).

use crate::input::SplitScores;

/// What is predicted when every score down to one of them is.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    true_positive: u64,
    false_positive: u64,
}

#[derive(Debug)]
pub(crate) struct Ranking {
    /// One for each different score, highest first.
    steps: Vec<Step>,
    positives: u64,
    negatives: u64,
}

impl Ranking {
    pub(crate) fn of_class(split: &SplitScores, classes: usize, class: usize) -> Self {
        let column = |cells| std::iter::Iterator::step_by(cells, classes);
        let mut ranked: Vec<(f32, u8)> = column(class..split.scores.len())
            .map(|cell| (split.scores[cell], split.truth[cell]))
            .collect();
        ranked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let (mut true_positive, mut false_positive) = (0, 0);
        // By `==`, so that -0.0 and 0.0 are the one score that they are to a threshold.
        let steps = ranked
            .chunk_by(|a, b| a.0 == b.0)
            .map(|tied| {
                let positives = tied.iter().filter(|(_, is_true)| *is_true != 0).count();
                true_positive += positives as u64;
                false_positive += (tied.len() - positives) as u64;
                Step {
                    true_positive,
                    false_positive,
                }
            })
            .collect();
        Self {
            steps,
            positives: true_positive,
            negatives: false_positive,
        }
    }

    /// Area under the ROC curve by trapezoids. `None` unless both kinds of picture exist.
    pub(crate) fn roc_auc(&self) -> Option<f64> {
        if self.positives == 0 || self.negatives == 0 {
            return None;
        }
        // In whole numbers: twice the area, in units of (one positive x one negative).
        let mut twice_area: u128 = 0;
        let (mut last_tp, mut last_fp) = (0, 0);
        for step in &self.steps {
            let width = u128::from(step.false_positive - last_fp);
            twice_area += width * u128::from(step.true_positive + last_tp);
            (last_tp, last_fp) = (step.true_positive, step.false_positive);
        }
        Some(twice_area as f64 / (2.0 * self.positives as f64 * self.negatives as f64))
    }

    /// Sum of precision x gain in recall over the steps, without interpolation. `None` without
    /// positives.
    pub(crate) fn average_precision(&self) -> Option<f64> {
        if self.positives == 0 {
            return None;
        }
        let mut sum = 0.0;
        let mut last_tp = 0;
        for step in &self.steps {
            let predicted = step.true_positive + step.false_positive;
            let precision = step.true_positive as f64 / predicted as f64;
            sum += precision * (step.true_positive - last_tp) as f64;
            last_tp = step.true_positive;
        }
        Some(sum / self.positives as f64)
    }

    /// (false-positive rate, true-positive rate) from (0, 0) to (1, 1); empty where the AUC is
    /// `None`.
    pub(crate) fn roc_points(&self) -> Vec<(f64, f64)> {
        if self.positives == 0 || self.negatives == 0 {
            return Vec::new();
        }
        let rates = self.steps.iter().map(|step| {
            (
                step.false_positive as f64 / self.negatives as f64,
                step.true_positive as f64 / self.positives as f64,
            )
        });
        std::iter::once((0.0, 0.0)).chain(rates).collect()
    }
}
