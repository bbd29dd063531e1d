//! Parity with scikit-learn on a thousand random cases and on one that can be checked by hand.
//!
//! `tests/make_sklearn.py` computes the expected figures and describes the cases; each case is
//! rebuilt here from its number.

use serde::Deserialize;

use crate::confusion::Confusion;
use crate::decisions::Decisions;
use crate::input::SplitScores;
use crate::ranking::Ranking;
use crate::rules;
use crate::tuning::{DEFAULT_THRESHOLD, Tuned, Tuner};

const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct Vectors {
    pinned: Pinned,
    cases: Vec<Expected>,
}

#[derive(Deserialize)]
struct Pinned {
    truth: Vec<u8>,
    scores: Vec<f32>,
    fpr: Vec<f64>,
    tpr: Vec<f64>,
    auc: f64,
    ap: f64,
}

/// `auc` and `ap`: the mean over classes with a value, then the first two classes.
#[derive(Deserialize)]
struct Expected {
    half: [f64; 8],
    thresholds: [f64; 8],
    auc: [Option<f64>; 3],
    ap: [Option<f64>; 3],
    /// The best F1 of any one threshold for all classes, then of any for the first two classes.
    best: [f64; 3],
}

struct Case {
    split: SplitScores,
    classes: usize,
    thresholds: Vec<f64>,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../tests/sklearn.json")).unwrap()
}

/// `SplitMix64`, as in `make_sklearn.py`.
fn draw(case: u64, stream: u64, count: usize) -> Vec<u64> {
    let start = (case + 1)
        .wrapping_mul(0xD134_2543_DE82_EF95)
        .wrapping_add(stream.wrapping_mul(0x2545_F491_4F6C_DD1D));
    (1..=count as u64)
        .map(|index| {
            let mut z = start.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        })
        .collect()
}

fn small(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

fn make_case(case: u64) -> Case {
    let shape = draw(case, 0, 4);
    let rows = 1 + small(shape[1] % [8, 60, 400, 2000][small(shape[0] % 4)]);
    let classes = 2 + small(shape[2] % [4, 39][small(shape[0] >> 8 & 1)]);
    // Of 64; 64 itself is always and 0 never, so that some classes have no negative, and some no
    // positive.
    let chance: Vec<u64> = draw(case, 1, classes)
        .into_iter()
        .map(|number| if number >> 58 == 1 { 64 } else { number >> 58 })
        .collect();
    // One picture in eight has no label at all.
    let unlabelled = draw(case, 3, rows);
    let truth: Vec<u8> = draw(case, 2, rows * classes)
        .into_iter()
        .enumerate()
        .map(|(cell, number)| {
            let is_true = number >> 58 < chance[cell % classes];
            u8::from(is_true && !unlabelled[cell / classes].is_multiple_of(8))
        })
        .collect();
    let scores = draw(case, 4, rows * classes)
        .into_iter()
        .zip(&truth)
        .map(|(number, &is_true)| make_score(shape[3] % 4, number, is_true))
        .collect();
    let thresholds = draw(case, 5, classes)
        .into_iter()
        .map(|number| small(number % 9) as f64 / 8.0)
        .collect();
    let ids = (0..rows).map(|row| row.to_string()).collect();
    Case {
        split: SplitScores { ids, truth, scores },
        classes,
        thresholds,
    }
}

// Scores that tell, scores with many ties, numbers near the smallest there are, and zeros of both
// signs: where sorting and comparing may go wrong.
fn make_score(mode: u64, number: u64, is_true: u8) -> f32 {
    match mode {
        0 => small((number >> 41) + (u64::from(is_true) << 22)) as f32 / (1 << 24) as f32,
        // Of nine values most are tied.
        1 => small(number % 9) as f32 / 8.0,
        // Subnormal: equal to whatever takes such numbers for 0.
        2 => f32::from_bits(u32::try_from(number & 0x7F_FFFF).unwrap()),
        // Zeros of either sign, which compare as equal and sort as different.
        _ => [0.0, -0.0, 0.5, 1e-45][small(number % 4)],
    }
}

fn assert_same(case: usize, what: &str, found: Option<f64>, expected: Option<f64>) {
    let same = match (found, expected) {
        (Some(found), Some(expected)) => (found - expected).abs() <= TOLERANCE,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    assert!(
        same,
        "case {case}, {what}: {found:?}, but scikit-learn says {expected:?}"
    );
}

fn known_mean(values: &[Option<f64>]) -> Option<f64> {
    let known: Vec<f64> = values.iter().copied().flatten().collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

#[test]
fn a_thousand_random_cases_agree_with_sklearn() {
    let cases = vectors().cases;
    assert_eq!(cases.len(), 1000);
    for (number, expected) in cases.iter().enumerate() {
        let Case {
            split,
            classes,
            thresholds,
        } = make_case(number as u64);
        let half = vec![0.5; classes];
        for (rule, expected) in [(&half, &expected.half), (&thresholds, &expected.thresholds)] {
            let found = rules::score("rule", &Decisions::new(&split, rule));
            let figures = [
                ("f1_micro", found.f1_micro),
                ("f1_macro", found.f1_macro),
                ("f1_weighted", found.f1_weighted),
                ("f1_samples", found.f1_samples),
                ("precision_micro", found.precision_micro),
                ("recall_micro", found.recall_micro),
                ("subset_accuracy", found.subset_accuracy),
                ("hamming_loss", found.hamming_loss),
            ];
            for ((what, found), &expected) in figures.into_iter().zip(expected) {
                assert_same(number, what, Some(found), Some(expected));
            }
        }
        let rankings = (0..classes).map(|class| Ranking::of_class(&split, classes, class));
        let (auc, ap): (Vec<_>, Vec<_>) = rankings
            .map(|ranking| (ranking.roc_auc(), ranking.average_precision()))
            .unzip();
        for (what, found, expected) in [("auc", auc, expected.auc), ("ap", ap, expected.ap)] {
            assert_same(number, what, known_mean(&found), expected[0]);
            assert_same(number, what, found[0], expected[1]);
            assert_same(number, what, found[1], expected[2]);
        }
    }
}

#[test]
fn training_helper_agrees_with_the_rule() {
    for number in 0..200 {
        let Case { split, classes, .. } = make_case(number);
        let rule = rules::score("0.5", &Decisions::new(&split, &vec![0.5; classes]));
        let helper = crate::f1_micro(&split.truth, &split.scores, 0.5);
        assert_eq!(helper.to_bits(), rule.f1_micro.to_bits(), "case {number}");
    }
}

#[test]
fn roc_curve_of_the_example_has_one_point_for_each_tie() {
    let Pinned {
        truth,
        scores,
        fpr,
        tpr,
        auc,
        ap,
    } = vectors().pinned;
    let ids = (0..truth.len()).map(|row| row.to_string()).collect();
    let ranking = Ranking::of_class(&SplitScores { ids, truth, scores }, 1, 0);
    assert_same(0, "auc", ranking.roc_auc(), Some(auc));
    assert_same(0, "auc", ranking.roc_auc(), Some(13.0 / 18.0));
    assert_same(0, "ap", ranking.average_precision(), Some(ap));
    let points = ranking.roc_points();
    assert_eq!(points.len(), fpr.len());
    for (point, expected) in points.into_iter().zip(fpr.into_iter().zip(tpr)) {
        assert_same(0, "fpr", Some(point.0), Some(expected.0));
        assert_same(0, "tpr", Some(point.1), Some(expected.1));
    }
}

/// F1 as an exact fraction at `score >= threshold`.
fn f1_fraction(split: &SplitScores, classes: usize, class: usize, threshold: f64) -> (u64, u64) {
    let mut counts = Confusion::default();
    for row in 0..split.ids.len() {
        let cell = row * classes + class;
        let is_predicted = f64::from(split.scores[cell]) >= threshold;
        let is_true = split.truth[cell] == 1;
        counts.true_positive += u64::from(is_true && is_predicted);
        counts.false_positive += u64::from(!is_true && is_predicted);
        counts.false_negative += u64::from(is_true && !is_predicted);
    }
    let twice = 2 * counts.true_positive;
    (
        twice,
        (twice + counts.false_positive + counts.false_negative).max(1),
    )
}

/// Each row once.
fn tuned(split: &SplitScores, classes: usize) -> Tuned {
    Tuner::new(split, classes).tune(&vec![1; split.ids.len()])
}

/// The split with all its cells as one class.
fn in_one_class(split: &SplitScores) -> SplitScores {
    SplitScores {
        ids: (0..split.truth.len())
            .map(|cell| cell.to_string())
            .collect(),
        ..split.clone()
    }
}

#[test]
fn tuned_thresholds_reach_the_best_f1_that_sklearn_finds() {
    for (number, expected) in vectors().cases.iter().enumerate() {
        let Case { split, classes, .. } = make_case(number as u64);
        let [_, global, _, own] = tuned(&split, classes);
        let whole = in_one_class(&split);
        let found = [
            f1_fraction(&whole, 1, 0, global[0]),
            f1_fraction(&split, classes, 0, own[0]),
            f1_fraction(&split, classes, 1, own[1]),
        ];
        for (what, (found, expected)) in ["global", "first class", "second class"]
            .into_iter()
            .zip(found.into_iter().zip(expected.best))
        {
            let found = found.0 as f64 / found.1 as f64;
            assert_same(number, what, Some(found), Some(expected));
        }
        // One threshold for all is a threshold for each, and micro F1 cannot tell the difference.
        let rule = rules::score("global", &Decisions::new(&split, &global));
        assert_same(
            number,
            "global",
            Some(rule.f1_micro),
            Some(expected.best[0]),
        );
    }
}

/// The highest of the thresholds with the best F1, found by trying each.
fn best_by_brute_force(split: &SplitScores, classes: usize, class: usize) -> f64 {
    let mut candidates: Vec<f64> = (0..split.ids.len())
        .map(|row| f64::from(split.scores[row * classes + class]))
        .collect();
    candidates.sort_by(f64::total_cmp);
    let mut best = (0, 1, DEFAULT_THRESHOLD);
    for &candidate in candidates.iter().rev() {
        let (part, whole) = f1_fraction(split, classes, class, candidate);
        if part * best.1 > best.0 * whole {
            best = (part, whole, candidate);
        }
    }
    best.2
}

#[test]
fn tuned_threshold_is_the_highest_of_the_best_by_brute_force() {
    for number in 0..400 {
        let Case { split, classes, .. } = make_case(number);
        // Brute force takes time with the square of the rows.
        if split.ids.len() > 120 {
            continue;
        }
        let [_, global, _, own] = tuned(&split, classes);
        for (class, found) in own.into_iter().enumerate() {
            let best = best_by_brute_force(&split, classes, class);
            assert!(
                found == best,
                "case {number}, class {class}: {found}, not {best}"
            );
        }
        if split.truth.len() < 400 {
            let best = best_by_brute_force(&in_one_class(&split), 1, 0);
            assert!(
                global[0] == best,
                "case {number}: {}, not {best}",
                global[0]
            );
        }
    }
}
