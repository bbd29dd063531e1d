//! Bootstrap intervals: how far a figure would move with another test split of the same size.
//!
//! Pictures are drawn with replacement, and the 2.5 % and 97.5 % percentiles (linear interpolation
//! between order statistics, as NumPy's default) bound the interval: Efron's percentile method. All
//! rules see the same draws, so their intervals can be compared. Same seed, same interval.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::confusion::Confusion;
use crate::decisions::Decisions;
use crate::rules::f1_weighted;

/// The bounds of a 95 % interval.
const PERCENTILES: (f64, f64) = (0.025, 0.975);

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Intervals {
    pub(crate) f1_micro: (f64, f64),
    pub(crate) f1_weighted: (f64, f64),
}

/// Intervals for each rule, or `None` for zero `resamples`. All rules are over the same pictures.
pub(crate) fn intervals(rules: &[Decisions], resamples: u32, seed: u64) -> Option<Vec<Intervals>> {
    let pictures = rules.first()?.pictures();
    if resamples == 0 || pictures == 0 {
        // Without pictures or draws there is no interval, and a made-up one would be believed.
        return None;
    }
    // A generator whose stream never changes between versions, unlike the library's default one: a report
    // that is made again has the same bounds.
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut times_drawn = vec![0_u64; pictures];
    let mut figures = vec![(Vec::new(), Vec::new()); rules.len()];
    for _ in 0..resamples {
        // Whole pictures are drawn, with all their labels: labels of one picture depend on each other, and
        // an interval from single labels would be too narrow.
        times_drawn.fill(0);
        for _ in 0..pictures {
            // How often each was drawn, and no list of those drawn: a picture that came three times
            // is looked at once.
            times_drawn[random.random_range(0..pictures)] += 1;
        }
        for (rule, (micro, weighted)) in rules.iter().zip(&mut figures) {
            let per_class = resampled(rule, &times_drawn);
            micro.push(per_class.iter().copied().sum::<Confusion>().f1());
            weighted.push(f1_weighted(&per_class));
        }
    }
    let bounds = figures.into_iter().map(|(micro, weighted)| Intervals {
        f1_micro: percentile_interval(micro),
        f1_weighted: percentile_interval(weighted),
    });
    Some(bounds.collect())
}

fn resampled(rule: &Decisions, times_drawn: &[u64]) -> Vec<Confusion> {
    let mut per_class = vec![Confusion::default(); rule.classes()];
    for (row, &times) in times_drawn
        .iter()
        .enumerate()
        .filter(|(_, times)| **times > 0)
    {
        for decision in rule.of_picture(row) {
            per_class[decision.class].record(decision.outcome, times);
        }
    }
    per_class
}

fn percentile_interval(mut figures: Vec<f64>) -> (f64, f64) {
    figures.sort_unstable_by(f64::total_cmp);
    (
        percentile(&figures, PERCENTILES.0),
        percentile(&figures, PERCENTILES.1),
    )
}

/// `sorted` has at least one value.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the length"
    )]
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::SplitScores;

    #[test]
    fn percentiles_interpolate_as_numpy_does() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        // numpy.percentile([1, 2, 4, 8], [0, 2.5, 50, 97.5, 100])
        for (share, expected) in [
            (0.0, 1.0),
            (0.025, 1.075),
            (0.5, 3.0),
            (0.975, 7.7),
            (1.0, 8.0),
        ] {
            assert!(
                (percentile(&sorted, share) - expected).abs() < 1e-12,
                "{share}"
            );
        }
    }

    /// 300 pictures, two classes; the first right in 80 % of the pictures.
    fn decisions() -> Decisions {
        let split = SplitScores {
            ids: (0..300).map(|row| row.to_string()).collect(),
            truth: [1, 0].repeat(300),
            scores: (0..300)
                .flat_map(|row| [if row % 5 == 0 { 0.1 } else { 0.9 }, 0.2])
                .collect(),
        };
        Decisions::new(&split, &[0.5, 0.5])
    }

    #[test]
    fn interval_has_the_width_that_theory_gives_and_repeats_with_its_seed() {
        let rules = [decisions()];
        let found = intervals(&rules, 2_000, 7).unwrap()[0];
        // F1 = 2r / (1 + r) of the recall r = 0.8, whose standard error is sqrt(0.8 * 0.2 / 300).
        let f1 = |recall: f64| 2.0 * recall / (1.0 + recall);
        let spread = 1.96 * (0.8_f64 * 0.2 / 300.0).sqrt();
        assert!(
            (found.f1_micro.0 - f1(0.8 - spread)).abs() < 0.006,
            "{found:?}"
        );
        assert!(
            (found.f1_micro.1 - f1(0.8 + spread)).abs() < 0.006,
            "{found:?}"
        );
        assert_eq!(found, intervals(&rules, 2_000, 7).unwrap()[0]);
        assert_ne!(found, intervals(&rules, 2_000, 8).unwrap()[0]);
        assert_eq!(intervals(&rules, 0, 7), None);
    }
}
