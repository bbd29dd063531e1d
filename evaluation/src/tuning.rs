//! Threshold rules that are tuned on validation.
//!
//! - `global`: one threshold for all classes, the one with the best micro F1. For calibrated scores it is
//!   the best there is for micro F1 (a label is worth predicting from half the reachable F1 on, whatever
//!   its class), and it rests on the positives of all classes.
//! - `per_class`: for each class the threshold with its best F1. It undoes what is wrong with a class's
//!   scores, and with few positives it follows noise.
//! - `shrunk`: between the two, class by class. In logits, a class with `n` positives keeps `n / (n + 30)`
//!   of its way from the common threshold to its own.

use crate::input::SplitScores;

/// Where validation says nothing about a class.
pub(crate) const DEFAULT_THRESHOLD: f64 = 0.5;
/// Positives at which a class's own threshold counts half. In simulations with a known truth (60 to 2,000
/// pictures, 5 to 19 classes, calibrated and not) anything from 10 to 80 is within 0.01 of the best.
const HALF_WAY_POSITIVES: f64 = 30.0;
/// Thresholds of exactly 0 and 1 have no logit; what lies beyond these is as good as never or always.
const EDGE: f64 = 1e-6;

/// A rule among which validation chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Half,
    Global,
    Shrunk,
    PerClass,
}

impl Rule {
    /// The plainest first: of equals the plainer one is chosen.
    pub(crate) const ALL: [Self; 4] = [Self::Half, Self::Global, Self::Shrunk, Self::PerClass];

    /// Its name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Half => "0.5",
            Self::Global => "global",
            Self::Shrunk => "shrunk",
            Self::PerClass => "per_class",
        }
    }
}

/// The thresholds of each rule in [`Rule::ALL`], one for each class.
pub(crate) type Tuned = [Vec<f64>; 4];

/// Scores sorted once, to be tuned on again and again with other weights of the rows.
#[derive(Debug)]
pub(crate) struct Tuner {
    classes: usize,
    /// For each class, its cells; then all cells together.
    by_class: Vec<Descending>,
    all: Descending,
}

/// Cells, the highest score first.
#[derive(Debug, Default)]
struct Descending(Vec<Cell>);

#[derive(Debug, Clone, Copy)]
struct Cell {
    score: f32,
    // Four bytes and not eight: there is one of these for each picture and class, and each is kept
    // twice.
    row: u32,
    is_true: bool,
}

impl Tuner {
    pub(crate) fn new(split: &SplitScores, classes: usize) -> Self {
        let cell = |at: usize| Cell {
            score: split.scores[at],
            row: u32::try_from(at / classes).unwrap_or(u32::MAX),
            is_true: split.truth[at] != 0,
        };
        let cells = split.scores.len();
        let by_class = (0..classes)
            .map(|class| Descending::new((class..cells).step_by(classes).map(cell)))
            .collect();
        Self {
            classes,
            by_class,
            all: Descending::new((0..cells).map(cell)),
        }
    }

    /// All rules, tuned on each row as often as `times` says.
    pub(crate) fn tune(&self, times: &[u32]) -> Tuned {
        let (global, _) = self.all.best(times);
        let own: Vec<(f64, u64)> = self
            .by_class
            .iter()
            .map(|class| class.best(times))
            .collect();
        let shrunk = own
            .iter()
            .map(|&(threshold, positives)| shrink(threshold, positives, global))
            .collect();
        [
            vec![DEFAULT_THRESHOLD; self.classes],
            vec![global; self.classes],
            shrunk,
            own.into_iter().map(|(threshold, _)| threshold).collect(),
        ]
    }
}

impl Descending {
    fn new(cells: impl Iterator<Item = Cell>) -> Self {
        let mut cells: Vec<Cell> = cells.collect();
        cells.sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
        Self(cells)
    }

    /// The highest threshold among those with the best F1, and how many positives it rests on.
    /// [`DEFAULT_THRESHOLD`] without any.
    fn best(&self, times: &[u32]) -> (f64, u64) {
        let weight = |cell: &Cell| u64::from(times[cell.row as usize]);
        let positives: u64 = self.0.iter().filter(|cell| cell.is_true).map(weight).sum();
        let (mut true_positive, mut predicted) = (0_u64, 0_u64);
        let mut best: Option<(u64, u64, f32)> = None;
        // Equal scores are predicted together or not at all. By `==`, for which -0.0 is 0.0.
        for tied in self.0.chunk_by(|a, b| a.score == b.score) {
            let before = predicted;
            for cell in tied {
                let weight = weight(cell);
                predicted += weight;
                true_positive += if cell.is_true { weight } else { 0 };
            }
            // A score that no drawn row has is no threshold of theirs.
            if predicted == before {
                continue;
            }
            // F1 = 2 TP / (predicted + positives), compared as fractions: a tie is a tie.
            let whole = predicted + positives;
            let is_better = match best {
                None => true_positive > 0,
                Some((part, of, _)) => {
                    u128::from(true_positive) * u128::from(of)
                        > u128::from(part) * u128::from(whole)
                }
            };
            if is_better {
                best = Some((true_positive, whole, tied[0].score));
            }
        }
        // Adding zero turns -0.0 into 0.0, which reads better in a report.
        let threshold = best.map_or(DEFAULT_THRESHOLD, |(_, _, score)| f64::from(score) + 0.0);
        (threshold, positives)
    }
}

/// A class's `own` threshold, drawn to the common one the fewer positives it rests on.
fn shrink(own: f64, positives: u64, common: f64) -> f64 {
    let share = positives as f64 / (positives as f64 + HALF_WAY_POSITIVES);
    // Equal thresholds stay equal to the last bit.
    if own.to_bits() == common.to_bits() {
        return own;
    }
    let mixed = share * logit(own) + (1.0 - share) * logit(common);
    1.0 / (1.0 + (-mixed).exp())
}

fn logit(threshold: f64) -> f64 {
    let inside = threshold.clamp(EDGE, 1.0 - EDGE);
    (inside / (1.0 - inside)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rare_class_stays_near_the_common_threshold_and_a_frequent_one_near_its_own() {
        assert!((shrink(0.9, 0, 0.3) - 0.3).abs() < 1e-12);
        assert!((shrink(0.9, 1_000_000, 0.3) - 0.9).abs() < 1e-3);
        // Half way in logits: (ln 9 + ln (3/7)) / 2.
        let half = shrink(0.9, 30, 0.3);
        assert!((logit(half) - (9.0_f64.ln() + (3.0_f64 / 7.0).ln()) / 2.0).abs() < 1e-9);
        for (own, common) in [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)] {
            let found = shrink(own, 30, common);
            assert!((0.0..=1.0).contains(&found), "{own} {common}: {found}");
        }
        assert_eq!(shrink(0.123, 7, 0.123).to_bits(), 0.123_f64.to_bits());
    }

    #[test]
    fn rows_that_are_drawn_more_than_once_count_as_copies_of_them() {
        let split = SplitScores {
            ids: Vec::new(),
            truth: vec![1, 0, 0, 1, 0, 0, 1, 1, 0, 0],
            scores: vec![0.9, 0.2, 0.8, 0.7, 0.3, 0.7, 0.3, 0.1, -0.0, 0.0],
        };
        let times = [2, 0, 3, 1, 1];
        let mut copies = SplitScores::default();
        for (row, &times) in times.iter().enumerate() {
            for _ in 0..times {
                copies.truth.extend(&split.truth[2 * row..2 * row + 2]);
                copies.scores.extend(&split.scores[2 * row..2 * row + 2]);
            }
        }
        let drawn = Tuner::new(&split, 2).tune(&times);
        assert_eq!(drawn, Tuner::new(&copies, 2).tune(&[1; 7]));
    }

    #[test]
    fn without_rows_or_positives_every_rule_is_a_half() {
        let none = Tuner::new(&SplitScores::default(), 3).tune(&[]);
        let barren = SplitScores {
            ids: Vec::new(),
            truth: vec![0; 6],
            scores: vec![0.9; 6],
        };
        for tuned in [none, Tuner::new(&barren, 3).tune(&[1; 2])] {
            assert!(
                tuned.iter().all(|thresholds| thresholds == &[0.5; 3]),
                "{tuned:?}"
            );
        }
    }
}
