//! The generated films: what the catalogue knows of each, drawn from (seed, position) alone, so
//! that any film can be made at any time without those before it.

use chrono::{Days, NaiveDate};
use marquee_datasets::dice::Dice;

use super::genres::{
    CATALOGUE, CUE_GIVEN_GENRE, CUE_GIVEN_OTHER, CUES_PER_GENRE, GENRES, Genre, GenreModel,
    GenreSet,
};
use super::words;

/// Version of the generator: the same seed gives other films when it changes.
pub(crate) const GENERATOR_VERSION: u64 = 1;

/// Films of a block; at most one collection lives in each.
const BLOCK: usize = 25;
/// Probability that a block has a collection, and the most films it has.
const BLOCK_HAS_COLLECTION: f64 = 0.8;
const COLLECTION_FILMS_MAX: usize = 5;
/// Shares of the films that are not as one would wish.
const SHARE_WITHOUT_POSTER: f64 = 0.02;
const SHARE_WITHOUT_GENRES: f64 = 0.01;
const SHARE_ADULT: f64 = 0.01;
const SHARE_VANISHED: f64 = 0.01;
const SHARE_BROKEN_POSTER: f64 = 0.005;
const SHARE_WITHOUT_DATE: f64 = 0.01;

/// What draw a stream of dice is for.
mod purpose {
    pub(super) const ID: u64 = 1;
    pub(super) const BLOCK: u64 = 2;
    pub(super) const GENRES: u64 = 3;
    pub(super) const FATE: u64 = 4;
    pub(super) const CUES: u64 = 5;
    pub(super) const FACTS: u64 = 6;
    pub(super) const POSTER: u64 = 7;
    pub(super) const COLLECTION: u64 = 8;
    pub(super) const CHANGE: u64 = 9;
}

/// Whether a film can be had, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Plain,
    WithoutPoster,
    WithoutGenres,
    Adult,
    /// In the daily export, but gone since.
    Vanished,
    /// The poster's file is damaged.
    BrokenPoster,
}

/// One generated film.
#[derive(Debug, Clone)]
pub(crate) struct Film {
    pub(crate) id: i64,
    pub(crate) fate: Fate,
    pub(crate) genres: GenreSet,
    pub(crate) cues: Cues,
    pub(crate) title: String,
    pub(crate) release_date: Option<NaiveDate>,
    pub(crate) popularity: f64,
    pub(crate) collection: Option<i64>,
}

/// Which cues a poster shows: `[genre][0]` the global one, `[genre][1]` the local one.
pub(crate) type Cues = [[bool; CUES_PER_GENRE]; GENRES];

/// All films of one seed.
#[derive(Debug, Clone)]
pub(crate) struct Films {
    seed: u64,
    count: usize,
    model: GenreModel,
}

impl Films {
    pub(crate) fn new(seed: u64, count: usize) -> Self {
        Self {
            seed,
            count,
            model: GenreModel::new(),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn f1_micro_ceiling(&self) -> f64 {
        self.model.f1_micro_ceiling()
    }

    /// The id of the film at `position`: they grow, with gaps, as a catalogue's do.
    pub(crate) fn id_at(&self, position: usize) -> i64 {
        // Gaps below the step of 3, so that a position follows from its id without a search.
        let gap = self.dice(purpose::ID, position).below(3);
        i64::try_from(11 + 3 * position + gap).unwrap_or(i64::MAX)
    }

    /// The position of the film `id`, if there is one.
    pub(crate) fn position_of(&self, id: i64) -> Option<usize> {
        let position = usize::try_from(id.checked_sub(11)?).ok()? / 3;
        (position < self.count && self.id_at(position) == id).then_some(position)
    }

    /// What becomes of the film at `position`.
    pub(crate) fn fate_at(&self, position: usize) -> Fate {
        // One draw for all fates: they exclude each other, and their shares add up.
        let mut left = self.dice(purpose::FATE, position).unit();
        for (share, fate) in [
            (SHARE_WITHOUT_POSTER, Fate::WithoutPoster),
            (SHARE_WITHOUT_GENRES, Fate::WithoutGenres),
            (SHARE_ADULT, Fate::Adult),
            (SHARE_VANISHED, Fate::Vanished),
            (SHARE_BROKEN_POSTER, Fate::BrokenPoster),
        ] {
            left -= share;
            if left < 0.0 {
                return fate;
            }
        }
        Fate::Plain
    }

    /// The film at `position`.
    pub(crate) fn film_at(&self, position: usize) -> Film {
        let listed = self.listed_at(position);
        let cues = draw_cues(listed.genres, &mut self.dice(purpose::CUES, position));
        Film { cues, ..listed }
    }

    fn film_with(&self, position: usize, cues: Cues) -> Film {
        let collection = self.collection_of(position);
        // Films of a collection are of one kind, as sequels are: their genres are drawn once.
        let genres = match collection {
            Some(_) => self
                .model
                .draw(&mut self.dice(purpose::COLLECTION, position / BLOCK)),
            None => self.model.draw(&mut self.dice(purpose::GENRES, position)),
        };
        // What follows draws from the same dice, so its order is part of the generator's version.
        let mut facts = self.dice(purpose::FACTS, position);
        let popularity = (facts.between(-1.0, 1.5) + facts.between(-1.0, 1.5)).exp();
        Film {
            id: self.id_at(position),
            fate: self.fate_at(position),
            genres,
            cues,
            title: format!(
                "{} {}",
                facts.pick(&words::FIRST),
                facts.pick(&words::SECOND)
            ),
            release_date: draw_date(&mut facts),
            popularity: (popularity * 1000.0).round() / 1000.0,
            collection,
        }
    }

    /// The film at `position` as lists have it: without what only its picture needs.
    pub(crate) fn listed_at(&self, position: usize) -> Film {
        self.film_with(position, Cues::default())
    }

    /// Days before the newest day on which the film at `position` was changed last.
    pub(crate) fn changed_days_ago(&self, position: usize) -> u64 {
        const DAYS: usize = 120;
        self.dice(purpose::CHANGE, position).below(DAYS) as u64
    }

    /// The dice with which the poster at `position` is painted.
    pub(crate) fn poster_dice(&self, position: usize) -> Dice {
        self.dice(purpose::POSTER, position)
    }

    /// A collection has two to five films anywhere in its block.
    fn collection_of(&self, position: usize) -> Option<i64> {
        let block = position / BLOCK;
        let mut dice = self.dice(purpose::BLOCK, block);
        if !dice.chance(BLOCK_HAS_COLLECTION) {
            return None;
        }
        let members = 2 + dice.below(COLLECTION_FILMS_MAX - 1);
        let mut places: [usize; BLOCK] = std::array::from_fn(|place| place);
        dice.shuffle(&mut places);
        let is_member = places[..members].contains(&(position % BLOCK));
        is_member.then(|| i64::try_from(1000 + block).unwrap_or(i64::MAX))
    }

    fn dice(&self, purpose: u64, position: usize) -> Dice {
        Dice::keyed(&[GENERATOR_VERSION, self.seed, purpose, position as u64])
    }
}

impl Film {
    pub(crate) fn genres(&self) -> impl Iterator<Item = &'static Genre> {
        let shown = if self.fate == Fate::WithoutGenres {
            0
        } else {
            GENRES
        };
        CATALOGUE
            .iter()
            .enumerate()
            .take(shown)
            .filter(|(at, _)| self.genres.has(*at))
            .map(|(_, g)| g)
    }
}

fn draw_cues(genres: GenreSet, dice: &mut Dice) -> Cues {
    std::array::from_fn(|genre| {
        let p = if genres.has(genre) {
            CUE_GIVEN_GENRE
        } else {
            CUE_GIVEN_OTHER
        };
        std::array::from_fn(|_| dice.chance(p))
    })
}

fn draw_date(dice: &mut Dice) -> Option<NaiveDate> {
    if dice.chance(SHARE_WITHOUT_DATE) {
        return None;
    }
    // From 1920 on, about 107 years of days; more of them late than early.
    let days = (dice.unit().sqrt() * 39_000.0) as u64;
    NaiveDate::from_ymd_opt(1920, 1, 1)?.checked_add_days(Days::new(days))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_and_lead_back_to_their_positions() {
        let films = Films::new(1, 500);
        let ids: Vec<_> = (0..500).map(|position| films.id_at(position)).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        for (position, id) in ids.iter().enumerate() {
            assert_eq!(films.position_of(*id), Some(position));
        }
        let known: std::collections::BTreeSet<_> = ids.iter().copied().collect();
        for id in (-5..2_000).filter(|id| !known.contains(id)) {
            assert_eq!(films.position_of(id), None, "{id}");
        }
    }

    #[test]
    fn collections_have_two_to_five_films_of_the_same_genres() {
        let films = Films::new(1, 3_000);
        let mut collections = std::collections::BTreeMap::<i64, Vec<Film>>::new();
        for film in (0..films.count()).map(|position| films.film_at(position)) {
            if let Some(collection) = film.collection {
                collections.entry(collection).or_default().push(film);
            }
        }
        assert!(collections.len() > 70, "{}", collections.len());
        for members in collections.values() {
            assert!((2..=5).contains(&members.len()));
            assert!(members.iter().all(|film| film.genres == members[0].genres));
        }
    }

    #[test]
    fn cues_show_as_often_as_the_model_says() {
        let films = Films::new(1, 5_000);
        let (mut with, mut shown_with, mut without, mut shown_without) = (0.0, 0.0, 0.0, 0.0);
        for film in (0..films.count()).map(|position| films.film_at(position)) {
            for (genre, cues) in film.cues.iter().enumerate() {
                for cue in cues {
                    let shown = f64::from(u8::from(*cue));
                    if film.genres.has(genre) {
                        with += 1.0;
                        shown_with += shown;
                    } else {
                        without += 1.0;
                        shown_without += shown;
                    }
                }
            }
        }
        assert!(
            (shown_with / with - CUE_GIVEN_GENRE).abs() < 0.01,
            "{}",
            shown_with / with
        );
        assert!((shown_without / without - CUE_GIVEN_OTHER).abs() < 0.005);
    }
}
