//! Which threshold rule the headline is of: the one that does best on validation pictures that it was not
//! tuned on.
//!
//! Validation pictures are drawn with replacement, as many as there are; each rule is tuned on those drawn
//! and scored on those left out (about 37 of 100), again and again, and the counts are added up. The rule
//! with the highest micro F1 is chosen, of equals the plainer one. The test split has no say: a rule that
//! is chosen by the figures it is then reported with would flatter itself.
//!
//! The draws are the same in every job, so that a model's card and each of its reports choose alike.

use marquee_domain::report::{Candidate, rule_words};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::confusion::{Confusion, is_predicted};
use crate::input::SplitScores;
use crate::tuning::{Rule, Tuned, Tuner};

/// Seed of the draws.
const SEED: u64 = 0;
/// Resamples of a validation split of up to a million decisions (pictures times classes).
const RESAMPLES_MAX: usize = 200;
/// And of the largest: with so many decisions figures hardly move between resamples.
const RESAMPLES_MIN: usize = 25;
/// Decisions over all resamples that are aimed at: a few seconds.
const DECISIONS_AT_ALL: usize = 200_000_000;
/// Of more decisions than these, as many pictures as make up so many have their say.
const DECISIONS_MAX: usize = 20_000_000;

/// What validation came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    pub(crate) rule: Rule,
    /// Of all rules, tuned on the whole of validation.
    pub(crate) tuned: Tuned,
    /// One for each rule, the plainest first; empty where there was nothing to choose by.
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) resamples: u32,
    /// The choice in words.
    pub(crate) why: String,
}

impl Choice {
    /// The thresholds of the chosen rule.
    pub(crate) fn thresholds(&self) -> &[f64] {
        self.of(self.rule)
    }

    /// The thresholds of `rule`.
    pub(crate) fn of(&self, rule: Rule) -> &[f64] {
        let at = Rule::ALL.iter().position(|known| *known == rule);
        &self.tuned[at.unwrap_or(0)]
    }
}

/// Tunes every rule on `validation`, and chooses one.
pub(crate) fn choose(validation: &SplitScores, classes: usize) -> Choice {
    let rows = validation.truth.len() / classes.max(1);
    let tuner = Tuner::new(validation, classes);
    let tuned = tuner.tune(&vec![1; rows]);
    let unable = |why: &str| Choice {
        rule: Rule::Half,
        tuned: tuned.clone(),
        candidates: Vec::new(),
        resamples: 0,
        why: why.to_owned(),
    };
    if rows == 0 {
        return unable("there is no validation split to tune or to choose on");
    }
    if validation.truth.iter().all(|is_true| *is_true == 0) {
        return unable("no label is true in validation, so nothing can be tuned or chosen there");
    }
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let part = part_of(validation, classes, rows, &mut random);
    let left_out = match &part {
        Some(part) => LeftOut::draw(part, &Tuner::new(part, classes), classes, &mut random),
        None => LeftOut::draw(validation, &tuner, classes, &mut random),
    };
    if left_out.resamples == 0 {
        return unable("validation is too small to leave pictures out for a choice");
    }
    let f1 = left_out.counts.map(|counts| counts.f1());
    let chosen = (0..Rule::ALL.len())
        // Strictly better, so that of equals the first stays.
        .fold(0, |best, at| if f1[at] > f1[best] { at } else { best });
    let candidates: Vec<Candidate> = Rule::ALL
        .iter()
        .zip(f1)
        .zip(left_out.wins)
        .map(|((rule, f1_micro), wins)| Candidate {
            rule: rule.name().to_owned(),
            f1_micro,
            best_share: f64::from(wins) / f64::from(left_out.resamples),
        })
        .collect();
    let why = in_words(&candidates, chosen, left_out.resamples);
    Choice {
        rule: Rule::ALL[chosen],
        tuned,
        candidates,
        resamples: left_out.resamples,
        why,
    }
}

/// The rows that have a say where there are too many.
fn part_of(
    validation: &SplitScores,
    classes: usize,
    rows: usize,
    random: &mut ChaCha8Rng,
) -> Option<SplitScores> {
    let wanted = (DECISIONS_MAX / classes).max(1);
    if rows <= wanted {
        return None;
    }
    let mut part = SplitScores::default();
    for row in rand::seq::index::sample(random, rows, wanted) {
        let cells = row * classes..(row + 1) * classes;
        part.truth.extend(&validation.truth[cells.clone()]);
        part.scores.extend(&validation.scores[cells]);
    }
    Some(part)
}

/// How each rule did on pictures that were left out of its tuning.
#[derive(Debug, Default)]
struct LeftOut {
    counts: [Confusion; 4],
    /// Resamples in which the rule did best, of equals the plainer.
    wins: [u32; 4],
    /// Those that left any picture out.
    resamples: u32,
}

impl LeftOut {
    fn draw(
        split: &SplitScores,
        tuner: &Tuner,
        classes: usize,
        random: &mut ChaCha8Rng,
    ) -> Self {
        let rows = split.truth.len() / classes;
        let wanted = (DECISIONS_AT_ALL / split.truth.len().max(1)).clamp(RESAMPLES_MIN, RESAMPLES_MAX);
        let mut found = Self::default();
        let mut times = vec![0_u32; rows];
        for _ in 0..wanted {
            times.fill(0);
            for _ in 0..rows {
                times[random.random_range(0..rows)] += 1;
            }
            if times.iter().all(|times| *times > 0) {
                continue;
            }
            let counts = score(split, &tuner.tune(&times), &times, classes);
            let f1 = counts.map(|counts| counts.f1());
            let best = (0..f1.len()).fold(0, |best, at| if f1[at] > f1[best] { at } else { best });
            found.wins[best] += 1;
            found.resamples += 1;
            for (sum, counts) in found.counts.iter_mut().zip(counts) {
                *sum += counts;
            }
        }
        found
    }
}

/// The counts of each rule on the rows that were not drawn.
fn score(split: &SplitScores, tuned: &Tuned, times: &[u32], classes: usize) -> [Confusion; 4] {
    let mut counts = [Confusion::default(); 4];
    let rows = split.truth.chunks_exact(classes).zip(split.scores.chunks_exact(classes));
    for ((truth, scores), _) in rows.zip(times).filter(|(_, times)| **times == 0) {
        for (thresholds, counts) in tuned.iter().zip(&mut counts) {
            for ((is_true, score), threshold) in truth.iter().zip(scores).zip(thresholds) {
                let (is_true, is_predicted) = (*is_true != 0, is_predicted(*score, *threshold));
                counts.true_positive += u64::from(is_true && is_predicted);
                counts.false_positive += u64::from(!is_true && is_predicted);
                counts.false_negative += u64::from(is_true && !is_predicted);
            }
        }
    }
    counts
}

fn in_words(candidates: &[Candidate], chosen: usize, resamples: u32) -> String {
    let others: Vec<String> = candidates
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != chosen)
        .map(|(_, other)| format!("{:.3} {}", other.f1_micro, rule_words(&other.rule)))
        .collect();
    let chosen = &candidates[chosen];
    format!(
        "chosen on validation alone: tuned on {resamples} resamples of it and scored on the pictures left \
         out, micro F1 is {:.3} {}, against {}",
        chosen.f1_micro,
        rule_words(&chosen.rule),
        others.join(", ")
    )
}
