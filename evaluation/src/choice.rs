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
    // Every threshold has the same F1 of 0 then, and whichever came first would look chosen.
    if validation.truth.iter().all(|is_true| *is_true == 0) {
        return unable("no label is true in validation, so nothing can be tuned or chosen there");
    }
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let part = part_of(validation, classes, rows, &mut random);
    let left_out = match &part {
        Some(part) => LeftOut::draw(part, &Tuner::new(part, classes), classes, &mut random),
        None => LeftOut::draw(validation, &tuner, classes, &mut random),
    };
    // Of one or two pictures a draw may well hold all, each time.
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
    // Each row once: the part stands for the split, and the resampling comes after.
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
    fn draw(split: &SplitScores, tuner: &Tuner, classes: usize, random: &mut ChaCha8Rng) -> Self {
        let rows = split.truth.len() / classes;
        let wanted =
            (DECISIONS_AT_ALL / split.truth.len().max(1)).clamp(RESAMPLES_MIN, RESAMPLES_MAX);
        let mut found = Self::default();
        let mut times = vec![0_u32; rows];
        for _ in 0..wanted {
            times.fill(0);
            for _ in 0..rows {
                times[random.random_range(0..rows)] += 1;
            }
            // Nothing was left out, so nothing can be scored that was not tuned on.
            if times.iter().all(|times| *times > 0) {
                continue;
            }
            let counts = score(split, &tuner.tune(&times), &times, classes);
            let f1 = counts.map(|counts| counts.f1());
            let best = (0..f1.len()).fold(0, |best, at| if f1[at] > f1[best] { at } else { best });
            found.wins[best] += 1;
            found.resamples += 1;
            // Counts are added up, not F1 values: a mean of F1 would weigh a draw with three positives like one
            // with three hundred.
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
    let rows = split
        .truth
        .chunks_exact(classes)
        .zip(split.scores.chunks_exact(classes));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decisions::Decisions;
    use crate::rules;

    /// Made-up scores of which the truth is known: a picture's evidence for a class is normal around plus
    /// or minus half of what sets the two apart, so its posterior is known in logits.
    #[derive(Clone, Copy)]
    struct World {
        classes: usize,
        /// How far the model's logits of each class are off, as a standard deviation over classes.
        off_by_class: f64,
        /// How far all of them are off.
        off: f64,
    }

    struct Class {
        prevalence: f64,
        apart: f64,
        off: f64,
    }

    fn normal(random: &mut ChaCha8Rng) -> f64 {
        // The sum of twelve uniform draws: variance 1, and normal enough.
        (0..12).map(|_| random.random_range(-0.5..0.5)).sum()
    }

    impl World {
        fn classes(self, random: &mut ChaCha8Rng) -> Vec<Class> {
            (0..self.classes)
                .map(|_| Class {
                    prevalence: random.random_range(0.02_f64.ln()..0.3_f64.ln()).exp(),
                    apart: random.random_range(1.0..2.5),
                    off: self.off + self.off_by_class * normal(random),
                })
                .collect()
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "scores are f32")]
    fn draw(classes: &[Class], rows: usize, random: &mut ChaCha8Rng) -> SplitScores {
        let mut split = SplitScores::default();
        for row in 0..rows {
            split.ids.push(row.to_string());
            for class in classes {
                let is_true = random.random_bool(class.prevalence);
                let side = if is_true { 0.5 } else { -0.5 };
                let evidence = normal(random) + side * class.apart;
                let prior = (class.prevalence / (1.0 - class.prevalence)).ln();
                let logit = prior + class.apart * evidence + class.off;
                split.truth.push(u8::from(is_true));
                split.scores.push((1.0 / (1.0 + (-logit).exp())) as f32);
            }
        }
        split
    }

    /// Over several data sets: the mean micro F1, on many fresh pictures, of each rule, of the chosen one
    /// and of the best, and how often each rule was chosen.
    struct Tried {
        rules: [f64; 4],
        chosen: f64,
        best: f64,
        choices: [u32; 4],
    }

    fn tried(world: World, validation_rows: usize, data_sets: u64) -> Tried {
        let mut sum = Tried {
            rules: [0.0; 4],
            chosen: 0.0,
            best: 0.0,
            choices: [0; 4],
        };
        let share = 1.0 / data_sets as f64;
        for seed in 0..data_sets {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let classes = world.classes(&mut random);
            let validation = draw(&classes, validation_rows, &mut random);
            let fresh = draw(&classes, 4_000, &mut random);
            let choice = choose(&validation, world.classes);
            let f1 = Rule::ALL
                .map(|rule| rules::score("", &Decisions::new(&fresh, choice.of(rule))).f1_micro);
            let chosen = Rule::ALL
                .iter()
                .position(|rule| *rule == choice.rule)
                .unwrap();
            sum.choices[chosen] += 1;
            sum.chosen += share * f1[chosen];
            sum.best += share * f1.into_iter().fold(0.0, f64::max);
            for (sum, f1) in sum.rules.iter_mut().zip(f1) {
                *sum += share * f1;
            }
        }
        sum
    }

    #[test]
    fn the_choice_is_near_the_best_rule_on_small_and_large_sets_whatever_is_wrong_with_the_scores()
    {
        let calibrated = World {
            classes: 12,
            off_by_class: 0.0,
            off: 0.0,
        };
        let shy = World {
            off: -1.5,
            ..calibrated
        };
        let uneven = World {
            off_by_class: 1.0,
            ..calibrated
        };
        // Where the best one threshold for all happens to be 0.5.
        let right = World {
            off: 0.75,
            ..calibrated
        };
        for (name, world) in [
            ("calibrated", calibrated),
            ("shy", shy),
            ("uneven", uneven),
            ("right", right),
        ] {
            for (rows, data_sets) in [(60, 12), (300, 8), (1_500, 4)] {
                let found = tried(world, rows, data_sets);
                let told = format!(
                    "{name}, {rows} rows: rules {:.3?}, chosen {:.3}, best {:.3}, choices {:?}",
                    found.rules, found.chosen, found.best, found.choices
                );
                println!("{told}");
                // On 60 pictures nobody can tell the rules apart for sure.
                let near = if rows < 100 { 0.03 } else { 0.01 };
                assert!(found.best - found.chosen < near, "{told}");
                // What used to be the headline is never better than the choice.
                assert!(found.chosen > found.rules[3] - 0.003, "{told}");
            }
        }
    }

    #[test]
    fn validation_decides_by_what_is_wrong_with_the_scores() {
        let world = World {
            classes: 12,
            off_by_class: 0.0,
            off: 0.0,
        };
        let [half, global, shrunk, own] = tried(world, 1_500, 4).choices;
        assert!(
            global == 4,
            "one threshold is best for calibrated scores: {half} {global} {shrunk} {own}"
        );
        let uneven = World {
            off_by_class: 1.5,
            ..world
        };
        let [_, _, shrunk, own] = tried(uneven, 1_500, 4).choices;
        assert_eq!(
            shrunk + own,
            4,
            "classes that are off in their own ways need their own"
        );
    }

    #[test]
    fn the_same_validation_gives_the_same_choice_and_says_why() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let world = World {
            classes: 5,
            off_by_class: 0.5,
            off: 0.0,
        };
        let classes = world.classes(&mut random);
        let mut validation = draw(&classes, 150, &mut random);
        let choice = choose(&validation, 5);
        // Ids have no say: a training has none at hand.
        validation.ids.clear();
        assert_eq!(choice, choose(&validation, 5));
        assert_eq!(choice.resamples, 200);
        assert_eq!(choice.candidates.len(), 4);
        let wins: f64 = choice
            .candidates
            .iter()
            .map(|candidate| candidate.best_share)
            .sum();
        assert!((wins - 1.0).abs() < 1e-9, "{wins}");
        assert!(
            choice
                .why
                .starts_with("chosen on validation alone: tuned on 200 resamples"),
            "{}",
            choice.why
        );
    }

    #[test]
    fn of_equal_rules_the_plainest_is_chosen() {
        // Every threshold between the two scores is as good.
        let split = SplitScores {
            ids: Vec::new(),
            truth: [1, 0].repeat(40),
            scores: [0.9, 0.1].repeat(40),
        };
        let choice = choose(&split, 2);
        assert_eq!(choice.rule, Rule::Half, "{:?}", choice.candidates);
    }

    #[test]
    fn what_cannot_be_chosen_on_is_a_half_and_says_so() {
        let empty = choose(&SplitScores::default(), 3);
        assert_eq!(
            (empty.rule, empty.thresholds()),
            (Rule::Half, &[0.5; 3][..])
        );
        assert!(empty.why.contains("no validation split"));
        let barren = SplitScores {
            ids: Vec::new(),
            truth: vec![0; 30],
            scores: vec![0.7; 30],
        };
        assert!(choose(&barren, 3).why.contains("no label is true"));
        let one = SplitScores {
            ids: Vec::new(),
            truth: vec![1, 0],
            scores: vec![0.7, 0.2],
        };
        let choice = choose(&one, 2);
        assert_eq!(choice.rule, Rule::Half);
        assert!(choice.why.contains("too small"), "{}", choice.why);
    }

    #[test]
    fn a_large_validation_is_drawn_from_and_not_walked_two_hundred_times() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let rows = DECISIONS_MAX / 1_000 + 7;
        let split = SplitScores {
            ids: Vec::new(),
            truth: vec![0; rows * 1_000],
            scores: Vec::new(),
        };
        let mut split = SplitScores {
            scores: vec![0.5; split.truth.len()],
            ..split
        };
        split.truth[0] = 1;
        let part = part_of(&split, 1_000, rows, &mut random).unwrap();
        assert_eq!(part.truth.len(), DECISIONS_MAX);
        assert!(part_of(&split, 100, rows, &mut random).is_none());
    }
}
