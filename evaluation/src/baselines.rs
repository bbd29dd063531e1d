//! Classifiers that look at no picture. A model is worth no more than what it adds to these.
//!
//! The chance baselines are given by their *expected counts* on the test split, which needs no draw:
//! a label predicted with chance q in each of n pictures, p of them positive, has q*p true positives
//! among q*n predictions. (The expected F1 itself differs by a term of order 1/n.)

use marquee_domain::report::Baseline;

use crate::input::SplitScores;

/// How often the fair coin predicts a label.
const COIN: f64 = 0.5;

/// "all", "none", "coin" and "prevalence" on the test split. "prevalence" predicts a label as often
/// as it is true in validation: what is known without a look at the test split.
pub(crate) fn baselines(
    validation: &SplitScores,
    test: &SplitScores,
    classes: usize,
) -> Vec<Baseline> {
    let positives = positives(test, classes);
    let pictures = test.ids.len() as f64;
    // From validation and not from test: a baseline that has seen the answers would be beaten by nothing.
    let prevalence: Vec<f64> = self::positives(validation, classes)
        .into_iter()
        .map(|count| {
            // Without validation nothing is known beforehand, and the baseline predicts nothing.
            if validation.ids.is_empty() {
                0.0
            } else {
                count / validation.ids.len() as f64
            }
        })
        .collect();
    [
        ("all", vec![1.0; classes]),
        ("none", vec![0.0; classes]),
        ("coin", vec![COIN; classes]),
        ("prevalence", prevalence),
    ]
    .into_iter()
    .map(|(name, chances)| of_chances(name, &chances, &positives, pictures))
    .collect()
}

/// How often each class is true.
fn positives(split: &SplitScores, classes: usize) -> Vec<f64> {
    let mut sums = vec![0.0; classes];
    for row in split.truth.chunks_exact(classes) {
        for (sum, &is_true) in sums.iter_mut().zip(row) {
            *sum += f64::from(is_true);
        }
    }
    sums
}

fn of_chances(name: &str, chances: &[f64], positives: &[f64], pictures: f64) -> Baseline {
    let f1 = |right: f64, predicted: f64, positives: f64| {
        let whole = predicted + positives;
        // Nothing true and nothing predicted: scikit-learn calls this 0 too.
        if whole == 0.0 {
            0.0
        } else {
            2.0 * right / whole
        }
    };
    // Micro F1 is of the sums over classes, weighted F1 a mean of the classes' own: hence both in
    // one pass.
    let (mut right, mut predicted, mut support, mut weighted) = (0.0, 0.0, 0.0, 0.0);
    for (&chance, &positives) in chances.iter().zip(positives) {
        right += chance * positives;
        predicted += chance * pictures;
        support += positives;
        weighted += positives * f1(chance * positives, chance * pictures, positives);
    }
    Baseline {
        name: name.to_owned(),
        f1_micro: f1(right, predicted, support),
        f1_weighted: if support == 0.0 {
            0.0
        } else {
            weighted / support
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(truth: &[u8]) -> SplitScores {
        let ids = (0..truth.len() / 2).map(|row| row.to_string()).collect();
        SplitScores {
            ids,
            truth: truth.to_vec(),
            scores: vec![0.0; truth.len()],
        }
    }

    #[test]
    fn figures_are_those_worked_out_by_hand() {
        let validation = split(&[1, 0, 1, 0, 0, 1, 0, 0]); // prevalences 1/2 and 1/4
        let test = split(&[1, 0, 0, 1, 0, 0, 1, 0]); // 2 and 1 of 4
        let found = baselines(&validation, &test, 2);
        let expected = [
            // All: TP 3, predicted 8, true 3. By class 2*2/(4+2) and 2*1/(4+1).
            ("all", 6.0 / 11.0, (2.0 * 4.0 / 6.0 + 2.0 / 5.0) / 3.0),
            ("none", 0.0, 0.0),
            // Coin: TP 1.5, predicted 4, true 3. By class 2*1/(2+2) and 2*0.5/(2+1).
            ("coin", 3.0 / 7.0, (2.0 * 0.5 + 1.0 / 3.0) / 3.0),
            // Prevalence: TP 1 + 0.25, predicted 2 + 1. By class 2*1/(2+2) and 2*0.25/(1+1).
            ("prevalence", 2.5 / 6.0, (2.0 * 0.5 + 0.25) / 3.0),
        ];
        assert_eq!(found.len(), expected.len());
        for (found, (name, micro, weighted)) in found.iter().zip(expected) {
            assert_eq!(found.name, name);
            assert!(
                (found.f1_micro - micro).abs() < 1e-12,
                "{name}: {}",
                found.f1_micro
            );
            assert!(
                (found.f1_weighted - weighted).abs() < 1e-12,
                "{name}: {}",
                found.f1_weighted
            );
        }
    }
}
