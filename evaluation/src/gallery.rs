//! The "reality check": which test pictures the page shows.
//!
//! Best, worst and over-confident share no picture. The random ones are drawn from all, so that they
//! stay a fair sample.

use rand::SeedableRng as _;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

use crate::decisions::{Decisions, Outcome};
use crate::input::SplitScores;

/// Keeps the log loss of a certain but wrong score finite.
const SMALLEST_CHANCE: f64 = 1e-7;

/// So that the gallery's draws and the bootstrap's differ under one seed.
const RANDOM_STREAM: u64 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Best,
    Worst,
    OverConfident,
    Random,
}

/// Rows of the test split, up to `each` of every kind.
pub(crate) fn choose(
    test: &SplitScores,
    decisions: &Decisions,
    each: usize,
    seed: u64,
) -> Vec<(Kind, Vec<usize>)> {
    let pictures: Vec<Picture> = (0..decisions.pictures())
        .map(|row| Picture::new(test, decisions, row))
        .collect();
    let mut best_first: Vec<usize> = (0..pictures.len()).collect();
    // A stable sort: of equals the earlier row comes first, so that the page of one evaluation is
    // the same each time.
    best_first.sort_by(|&a, &b| pictures[a].best_first(&pictures[b]));
    let best: Vec<usize> = best_first.iter().copied().take(each).collect();
    let worst: Vec<usize> = best_first
        .iter()
        .rev()
        .copied()
        .filter(|row| !best.contains(row))
        .take(each)
        .collect();

    let mut wrong: Vec<(f32, usize)> = pictures
        .iter()
        .enumerate()
        .filter_map(|(row, picture)| Some((picture.surest_mistake?, row)))
        .filter(|(_, row)| !best.contains(row) && !worst.contains(row))
        .collect();
    // Of equals the earlier row, so that the page of one evaluation is the same each time.
    wrong.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let over_confident = wrong.into_iter().map(|(_, row)| row).take(each).collect();

    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(RANDOM_STREAM);
    let random = sample(&mut random, pictures.len(), each.min(pictures.len())).into_vec();
    vec![
        (Kind::Best, best),
        (Kind::Worst, worst),
        (Kind::OverConfident, over_confident),
        (Kind::Random, random),
    ]
}

struct Picture {
    f1: f64,
    /// No true label and none predicted: right, but there is nothing to see.
    is_empty: bool,
    log_loss: f64,
    /// The highest score of a label that was predicted but is not true.
    surest_mistake: Option<f32>,
}

impl Picture {
    fn new(test: &SplitScores, decisions: &Decisions, row: usize) -> Self {
        let classes = decisions.classes();
        let cells = row * classes..(row + 1) * classes;
        let (truth, scores) = (&test.truth[cells.clone()], &test.scores[cells]);
        let log_loss = truth
            .iter()
            .zip(scores)
            .map(|(&is_true, &score)| {
                let score = f64::from(score);
                let chance = if is_true == 1 { score } else { 1.0 - score };
                -chance.max(SMALLEST_CHANCE).ln()
            })
            .sum();
        let decided = decisions.of_picture(row);
        let surest_mistake = decided
            .iter()
            .filter(|decision| decision.outcome == Outcome::Wrong)
            .map(|decision| scores[decision.class])
            .max_by(f32::total_cmp);
        let is_empty = decided.is_empty();
        // F1 calls nothing a 0; here it is right.
        let f1 = if is_empty {
            1.0
        } else {
            decisions.counts_of_picture(row).f1()
        };
        Self {
            f1,
            is_empty,
            log_loss,
            surest_mistake,
        }
    }

    /// By F1; among equals by how sure the model was of the right answer.
    fn best_first(&self, other: &Self) -> std::cmp::Ordering {
        (other.f1.total_cmp(&self.f1))
            // Of two that are wholly right, one that has labels shows more.
            .then(self.is_empty.cmp(&other.is_empty))
            .then(self.log_loss.total_cmp(&other.log_loss))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_found_by_what_they_show() {
        let test = SplitScores {
            ids: ["sure", "shaky", "missed", "blunder", "half"]
                .map(str::to_owned)
                .to_vec(),
            truth: vec![1, 0, 1, 0, 1, 0, 0, 1, 1, 1],
            scores: vec![0.99, 0.01, 0.6, 0.4, 0.01, 0.1, 0.97, 0.2, 0.9, 0.1],
        };
        let decisions = Decisions::new(&test, &[0.5, 0.5]);
        let chosen = choose(&test, &decisions, 1, 3);
        assert_eq!(chosen[0], (Kind::Best, vec![0]));
        assert_eq!(
            chosen[1],
            (Kind::Worst, vec![3]),
            "nothing right, and sure of it"
        );
        assert_eq!(
            chosen[2],
            (Kind::OverConfident, vec![]),
            "the only mistake is shown already"
        );
        assert_eq!(chosen[3].1.len(), 1);
        let all = choose(&test, &decisions, 9, 3);
        let mut random = all[3].1.clone();
        random.sort_unstable();
        assert_eq!(random, [0, 1, 2, 3, 4], "each picture once");
    }
}
