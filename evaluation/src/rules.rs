//! The figures of one threshold rule.
//!
//! Definitions: scikit-learn's `precision_recall_fscore_support`, `accuracy_score` and
//! `hamming_loss` for multi-label indicator matrices, with `zero_division=0`.

use marquee_domain::report::RuleScores;

use crate::confusion::{Confusion, ratio};
use crate::decisions::Decisions;

/// Every figure of the rule `name` but the intervals.
pub(crate) fn score(name: &str, decisions: &Decisions) -> RuleScores {
    let per_class = decisions.per_class();
    let all: Confusion = per_class.iter().copied().sum();
    let pictures = decisions.pictures();
    let mut f1_of_pictures = 0.0;
    let mut all_right = 0;
    for row in 0..pictures {
        let counts = decisions.counts_of_picture(row);
        f1_of_pictures += counts.f1();
        all_right += u64::from(counts.false_positive + counts.false_negative == 0);
    }
    let cells = (pictures * decisions.classes()) as u64;
    RuleScores {
        rule: name.to_owned(),
        f1_micro: all.f1(),
        f1_macro: mean(per_class.iter().map(Confusion::f1)),
        f1_weighted: f1_weighted(&per_class),
        // Never of no pictures: an empty test split was refused before.
        f1_samples: f1_of_pictures / pictures as f64,
        precision_micro: all.precision(),
        recall_micro: all.recall(),
        subset_accuracy: ratio(all_right, pictures as u64),
        hamming_loss: ratio(all.false_positive + all.false_negative, cells),
        f1_micro_interval: None,
        f1_weighted_interval: None,
    }
}

/// Mean of the classes' F1, each weighted by how often it is true. 0 where nothing is true.
pub(crate) fn f1_weighted(per_class: &[Confusion]) -> f64 {
    let support: u64 = per_class.iter().map(Confusion::support).sum();
    if support == 0 {
        return 0.0;
    }
    let sum: f64 = per_class
        .iter()
        .map(|class| class.support() as f64 * class.f1())
        .sum();
    sum / support as f64
}

/// 0 for nothing at all.
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    if count == 0 {
        0.0
    } else {
        values.sum::<f64>() / count as f64
    }
}
