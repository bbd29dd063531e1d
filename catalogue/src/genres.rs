//! The genres of the generated films: how often they come, which sets of them a film can have, and
//! the best that any classifier can do on the posters.

use marquee_datasets::dice::Dice;

/// How many genres the catalogue has.
pub(crate) const GENRES: usize = 8;
/// Cues a genre has: one global, one local.
pub(crate) const CUES_PER_GENRE: usize = 2;
/// Probability that a poster shows a cue of a genre that the film has. Below 1, so that no classifier can
/// be perfect and the ceiling is known.
pub(crate) const CUE_GIVEN_GENRE: f64 = 0.8;
/// Probability that a poster shows a cue of a genre that the film has not.
pub(crate) const CUE_GIVEN_OTHER: f64 = 0.06;

/// A genre of the catalogue, with TMDb's id and name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Genre {
    pub(crate) id: i64,
    pub(crate) name: &'static str,
    /// Share of the films that have it.
    pub(crate) share: f64,
}

/// In the order in which the API lists them. The shares add up to the mean number of genres.
pub(crate) const CATALOGUE: [Genre; GENRES] = [
    Genre {
        id: 28,
        name: "Action",
        share: 0.24,
    },
    Genre {
        id: 80,
        name: "Crime",
        share: 0.20,
    },
    Genre {
        id: 99,
        name: "Documentary",
        share: 0.22,
    },
    Genre {
        id: 27,
        name: "Horror",
        share: 0.26,
    },
    Genre {
        id: 10749,
        name: "Romance",
        share: 0.30,
    },
    Genre {
        id: 878,
        name: "Science Fiction",
        share: 0.17,
    },
    Genre {
        id: 53,
        name: "Thriller",
        share: 0.28,
    },
    Genre {
        id: 37,
        name: "Western",
        share: 0.14,
    },
];

/// Probability that a film has one, two or three genres; the mean is 1.81.
const GENRES_OF_A_FILM: [f64; 3] = [0.37, 0.45, 0.18];
/// Rounds in which the weights are fitted to the shares; each round about halves what is left.
const FITTING_ROUNDS: usize = 200;

/// A set of genres, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GenreSet(u8);

impl GenreSet {
    pub(crate) fn has(self, genre: usize) -> bool {
        self.0 & (1 << genre) != 0
    }

    fn size(self) -> usize {
        self.0.count_ones() as usize
    }
}

/// The joint distribution of a film's genres: every possible set with its probability.
#[derive(Debug, Clone)]
pub(crate) struct GenreModel {
    sets: Vec<(GenreSet, f64)>,
}

impl GenreModel {
    /// The distribution in which a film has one to three genres as [`GENRES_OF_A_FILM`] says and
    /// each genre comes with its share. Given its size, a set is as likely as the product of its
    /// genres' weights; the weights are fitted until the shares are met.
    pub(crate) fn new() -> Self {
        let mut weights = CATALOGUE.map(|genre| genre.share);
        let mut sets = Self::weigh(&weights);
        for _ in 0..FITTING_ROUNDS {
            for (genre, weight) in weights.iter_mut().enumerate() {
                *weight *= CATALOGUE[genre].share / share_of(&sets, genre);
            }
            sets = Self::weigh(&weights);
        }
        Self { sets }
    }

    fn weigh(weights: &[f64; GENRES]) -> Vec<(GenreSet, f64)> {
        let mut sets: Vec<_> = (1..=u8::MAX)
            .map(GenreSet)
            .filter(|set| set.size() <= GENRES_OF_A_FILM.len())
            .map(|set| {
                let product = (0..GENRES)
                    .filter(|g| set.has(*g))
                    .map(|g| weights[g])
                    .product();
                (set, product)
            })
            .collect::<Vec<(GenreSet, f64)>>();
        // For each size by itself: how many genres films have must stay as it is, whatever the
        // weights.
        let mut totals = [0.0; GENRES_OF_A_FILM.len()];
        for (set, weight) in &sets {
            totals[set.size() - 1] += weight;
        }
        for (set, weight) in &mut sets {
            *weight *= GENRES_OF_A_FILM[set.size() - 1] / totals[set.size() - 1];
        }
        sets
    }

    /// Draws the genres of one film.
    pub(crate) fn draw(&self, dice: &mut Dice) -> GenreSet {
        let mut left = dice.unit();
        for (set, probability) in &self.sets {
            left -= probability;
            if left < 0.0 {
                return *set;
            }
        }
        // Reached by rounding alone: the probabilities add up to 1 but for the last bits.
        self.sets[self.sets.len() - 1].0
    }

    /// The micro F1 that no classifier of the posters can exceed in expectation.
    ///
    /// A poster tells of its film's genres through its cues and nothing else, so a classifier that
    /// sees the cue draws themselves knows at least as much as one that sees pixels. That one's
    /// best rule is to predict each genre whose posterior probability is at least some threshold
    /// (Lipton, Elkan and Naryanaswamy 2014). Both are computed here by enumeration, without
    /// sampling: the cues of a genre are alike, so how many of them show is all that counts, and
    /// there are 3^8 such patterns and 92 sets of genres.
    pub(crate) fn f1_micro_ceiling(&self) -> f64 {
        let patterns = (CUES_PER_GENRE + 1).pow(u32::try_from(GENRES).unwrap_or(u32::MAX));
        // One entry for each (pattern, genre): posterior, and probability of the pattern.
        let mut decisions = Vec::with_capacity(patterns * GENRES);
        for pattern in 0..patterns {
            // The pattern as a number with a digit (0, 1 or 2 cues) for each genre.
            let shown: [usize; GENRES] =
                std::array::from_fn(|genre| pattern / 3_usize.pow(genre as u32) % 3);
            let mut probability = 0.0;
            let mut with_genre = [0.0; GENRES];
            for (set, prior) in &self.sets {
                let joint = prior
                    * shown
                        .iter()
                        .enumerate()
                        .map(|(genre, count)| probability_of_count(*count, set.has(genre)))
                        .product::<f64>();
                probability += joint;
                for (genre, mass) in with_genre.iter_mut().enumerate() {
                    if set.has(genre) {
                        *mass += joint;
                    }
                }
            }
            decisions.extend(with_genre.map(|mass| (mass / probability, probability)));
        }
        best_f1(decisions, CATALOGUE.iter().map(|genre| genre.share).sum())
    }
}

fn share_of(sets: &[(GenreSet, f64)], genre: usize) -> f64 {
    sets.iter()
        .filter(|(set, _)| set.has(genre))
        .map(|(_, probability)| probability)
        .sum()
}

/// Probability that `count` of a genre's two cues show.
fn probability_of_count(count: usize, film_has_it: bool) -> f64 {
    let p = if film_has_it {
        CUE_GIVEN_GENRE
    } else {
        CUE_GIVEN_OTHER
    };
    match count {
        0 => (1.0 - p) * (1.0 - p),
        1 => 2.0 * p * (1.0 - p),
        _ => p * p,
    }
}

/// The largest 2 TP / (predicted + true) over all thresholds on the posterior, in expectation.
// The expected number of true labels is the same for all rules; so the F1 of the expected counts is
// what a rule is judged by.
fn best_f1(mut decisions: Vec<(f64, f64)>, mean_true: f64) -> f64 {
    decisions.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut true_positives, mut predicted, mut best) = (0.0, 0.0, 0.0_f64);
    for (posterior, probability) in decisions {
        true_positives += posterior * probability;
        predicted += probability;
        best = best.max(2.0 * true_positives / (predicted + mean_true));
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_genre_comes_with_its_share_and_every_size_with_its_own() {
        let model = GenreModel::new();
        assert_eq!(model.sets.len(), 8 + 28 + 56);
        for (genre, wanted) in CATALOGUE.iter().enumerate() {
            let share = share_of(&model.sets, genre);
            assert!(
                (share - wanted.share).abs() < 1e-9,
                "{}: {share}",
                wanted.name
            );
        }
        for (at, wanted) in GENRES_OF_A_FILM.iter().enumerate() {
            let of_size = model.sets.iter().filter(|(set, _)| set.size() == at + 1);
            let share: f64 = of_size.map(|(_, probability)| probability).sum();
            assert!((share - wanted).abs() < 1e-9, "{share}");
        }
    }

    /// Plays the best classifier on drawn films: the enumeration must agree with the experiment.
    #[test]
    fn the_ceiling_is_what_a_classifier_that_sees_the_cues_reaches() {
        let model = GenreModel::new();
        let ceiling = model.f1_micro_ceiling();
        let mut dice = Dice::keyed(&[7]);
        let films: Vec<_> = (0..4_000)
            .map(|_| {
                let truth = model.draw(&mut dice);
                let shown: [usize; GENRES] = std::array::from_fn(|genre| {
                    let p = if truth.has(genre) {
                        CUE_GIVEN_GENRE
                    } else {
                        CUE_GIVEN_OTHER
                    };
                    (0..CUES_PER_GENRE).filter(|_| dice.chance(p)).count()
                });
                (truth, posteriors(&model, &shown))
            })
            .collect();
        let f1_at = |threshold: f64| {
            let (mut hits, mut predicted, mut truths) = (0_usize, 0_usize, 0_usize);
            for (truth, posterior) in &films {
                for (genre, p) in posterior.iter().enumerate() {
                    hits += usize::from(truth.has(genre) && *p >= threshold);
                    predicted += usize::from(*p >= threshold);
                    truths += usize::from(truth.has(genre));
                }
            }
            2.0 * hits as f64 / (predicted + truths) as f64
        };
        // For calibrated scores the best threshold is half of the best F1.
        let played = f1_at(ceiling / 2.0);
        assert!(
            (played - ceiling).abs() < 0.01,
            "ceiling {ceiling}, played {played}"
        );
        assert!(f1_at(0.1) < played && f1_at(0.9) < played);
        insta::assert_snapshot!(format!("{ceiling:.4}"), @"0.8437");
    }

    fn posteriors(model: &GenreModel, shown: &[usize; GENRES]) -> [f64; GENRES] {
        let joint: Vec<_> = model
            .sets
            .iter()
            .map(|(set, prior)| {
                let cues = (0..GENRES).map(|g| probability_of_count(shown[g], set.has(g)));
                (*set, prior * cues.product::<f64>())
            })
            .collect();
        let all: f64 = joint.iter().map(|(_, p)| p).sum();
        std::array::from_fn(|genre| share_of(&joint, genre) / all)
    }
}
