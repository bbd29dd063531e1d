//! Which labels a threshold rule got right, wrong or missed, picture by picture.
//!
//! Kept sparse: a picture has a few true and a few predicted labels, and every figure of a rule,
//! the bootstrap and the gallery's chips follow from those alone.

use crate::confusion::{Confusion, is_predicted};
use crate::input::SplitScores;

/// What became of one label of one picture. True negatives are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// True and predicted.
    Right,
    /// Predicted, but not true.
    Wrong,
    /// True, but not predicted.
    Missed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) class: usize,
    pub(crate) outcome: Outcome,
}

/// All decisions of a rule on a split.
#[derive(Debug)]
pub(crate) struct Decisions {
    classes: usize,
    /// Row `i` is `decisions[starts[i]..starts[i + 1]]`.
    starts: Vec<usize>,
    decisions: Vec<Decision>,
}

impl Decisions {
    /// `thresholds`: one for each class.
    pub(crate) fn new(split: &SplitScores, thresholds: &[f64]) -> Self {
        let classes = thresholds.len();
        let mut starts = vec![0];
        let mut decisions = Vec::new();
        for (truth, scores) in split
            .truth
            .chunks_exact(classes)
            .zip(split.scores.chunks_exact(classes))
        {
            for (class, &threshold) in thresholds.iter().enumerate() {
                let outcome = match (truth[class] != 0, is_predicted(scores[class], threshold)) {
                    (true, true) => Outcome::Right,
                    (false, true) => Outcome::Wrong,
                    (true, false) => Outcome::Missed,
                    // Nearly all labels of nearly all pictures: leaving them out is what keeps this small.
                    (false, false) => continue,
                };
                decisions.push(Decision { class, outcome });
            }
            starts.push(decisions.len());
        }
        Self {
            classes,
            starts,
            decisions,
        }
    }

    pub(crate) fn pictures(&self) -> usize {
        self.starts.len() - 1
    }

    pub(crate) fn classes(&self) -> usize {
        self.classes
    }

    pub(crate) fn of_picture(&self, row: usize) -> &[Decision] {
        &self.decisions[self.starts[row]..self.starts[row + 1]]
    }

    pub(crate) fn per_class(&self) -> Vec<Confusion> {
        let mut per_class = vec![Confusion::default(); self.classes];
        for decision in &self.decisions {
            per_class[decision.class].record(decision.outcome, 1);
        }
        per_class
    }

    /// The counts of one picture over its labels.
    pub(crate) fn counts_of_picture(&self, row: usize) -> Confusion {
        let mut sum = Confusion::default();
        for decision in self.of_picture(row) {
            sum.record(decision.outcome, 1);
        }
        sum
    }
}

impl Confusion {
    pub(crate) fn record(&mut self, outcome: Outcome, times: u64) {
        match outcome {
            Outcome::Right => self.true_positive += times,
            Outcome::Wrong => self.false_positive += times,
            Outcome::Missed => self.false_negative += times,
        }
    }
}
