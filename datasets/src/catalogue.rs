//! The local catalogue: a TMDb-compatible server of generated films and posters. The demo and the
//! tests fetch from it over HTTP, as they would from a real service.
//!
//! Invariant: what it serves depends on (generator version, seed, number of films) alone, is
//! labelled synthetic (`/3/configuration` has an object `marquee`), and the labels were drawn
//! before the pictures.
//! With a [`Storm`] it misbehaves by seed, and a truth file says what must become of every id.
//! Not here: searches, people, series, which no fetch job asks for.

mod answers;
mod count;
mod faults;
mod film;
mod genres;
mod image_file;
pub(crate) mod oddities;
mod poster;
mod server;
pub(crate) mod storm;
mod words;

use marquee_domain::artifact::Digest;

use crate::dataset::FilmRow;

pub use faults::{FaultRule, InvalidFault};
pub use server::{CatalogueOptions, CatalogueServer};
pub use storm::Storm;

/// Answers of the API, for the fuzzer.
pub(crate) fn fuzz_answers() -> Vec<Vec<u8>> {
    let films = film::Films::new(1, 40);
    let mut answers: Vec<Vec<u8>> = (0..8)
        .map(|at| answers::movie(&films.film_at(at)).to_string().into_bytes())
        .collect();
    let listed: Vec<_> = (0..5).map(|at| films.listed_at(at)).collect();
    let others = [
        answers::configuration("http://127.0.0.1/t/p/", &films, 1, 0.8),
        answers::genre_list(),
        answers::page(&listed, 1, 3, 50),
        answers::changes_page(&listed, 1, 3, 250),
        answers::problem(34, "The resource you requested could not be found."),
    ];
    answers.extend(
        others
            .into_iter()
            .map(|answer| answer.to_string().into_bytes()),
    );
    answers
}

/// Posters of every kind, for the fuzzer.
pub(crate) fn fuzz_pictures() -> Vec<Vec<u8>> {
    let storm = Storm {
        seed: 1,
        share: 1.0,
    };
    let painter = image_file::Painter {
        films: film::Films::new(1, 150),
        storm: Some(storm),
        style: image_file::Style::Sketch,
    };
    (0..150)
        .map(|position| painter.file(position, 92).bytes)
        .filter(|file| file.len() < 60_000)
        .collect()
}

/// Paints posters by their position, for benchmarks.
pub(crate) fn bench_posters(count: usize, width: u32) -> impl Fn(usize) -> crate::scale::Rgb {
    let painter = image_file::Painter {
        films: film::Films::new(1, count),
        storm: None,
        style: image_file::Style::Full,
    };
    move |position| painter.picture(position, width)
}

/// Rows of a table of films as a fetch leaves it, for benchmarks.
pub(crate) fn bench_rows(count: usize) -> impl Iterator<Item = FilmRow> {
    let films = film::Films::new(1, count);
    (0..count).map(move |position| {
        let film = films.film_at(position);
        let digest = Digest::of(&film.id.to_le_bytes());
        FilmRow {
            id: film.id.to_string(),
            labels: film.genres().map(|genre| genre.name.to_owned()).collect(),
            label_ids: film.genres().map(|genre| genre.id).collect(),
            group: film.collection.map(|id| id.to_string()),
            title: Some(film.title),
            release_date: film.release_date,
            popularity: Some(film.popularity),
            language: Some("en".to_owned()),
            picture_bytes: 70_000,
            picture_etag: Some(format!("\"{position}-500\"")),
            picture_digest: digest,
            picture_modified: None,
            details_etag: None,
            licence: None,
            source: "generated catalogue".to_owned(),
        }
    })
}
