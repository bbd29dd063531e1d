//! The bodies of the API's answers, in TMDb's own form.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::film::{Fate, Film, Films, GENERATOR_VERSION};
use super::genres::CATALOGUE;
use super::storm::{Plant, Storm, Truth};

/// Widths in which posters are served, narrowest first, as `/configuration` lists them.
const POSTER_WIDTHS: [u32; 6] = [92, 154, 185, 342, 500, 780];

/// `/3/configuration`. The object `marquee` is ours: it says that all of this is generated, and
/// what can be expected of a classifier.
pub(super) fn configuration(image_base: &str, films: &Films, seed: u64, ceiling: f64) -> Value {
    let mut sizes: Vec<_> = POSTER_WIDTHS
        .iter()
        .map(|width| format!("w{width}"))
        .collect();
    sizes.push("original".to_owned());
    json!({
        "images": {
            "base_url": image_base,
            "secure_base_url": image_base,
            "poster_sizes": sizes,
            "backdrop_sizes": [], "logo_sizes": [], "profile_sizes": [], "still_sizes": [],
        },
        "change_keys": ["genres", "images", "title"],
        "marquee": {
            "synthetic": true,
            "generator": GENERATOR_VERSION,
            "seed": seed,
            "films": films.count(),
            "f1_micro_ceiling": ceiling,
        },
    })
}

/// The width that a size of the API stands for; posters are never enlarged.
pub(super) fn poster_width(size: &str) -> Option<u32> {
    if size == "original" {
        return Some(u32::MAX);
    }
    let width = size.strip_prefix('w')?.parse().ok()?;
    POSTER_WIDTHS.contains(&width).then_some(width)
}

/// `/3/genre/movie/list`.
pub(super) fn genre_list() -> Value {
    let genres: Vec<_> = CATALOGUE
        .iter()
        .map(|genre| json!({"id": genre.id, "name": genre.name}))
        .collect();
    json!({ "genres": genres })
}

/// `/3/movie/{id}`.
pub(super) fn movie(film: &Film) -> Value {
    let genres: Vec<_> = film
        .genres()
        .map(|genre| json!({"id": genre.id, "name": genre.name}))
        .collect();
    // A broken one has its path too: a client cannot know before it asks.
    let poster = (film.fate != Fate::WithoutPoster).then(|| poster_path(film.id));
    let collection = film.collection.map(|id| {
        json!({
            "id": id, "name": format!("Collection {id}"),
            "poster_path": null, "backdrop_path": null,
        })
    });
    json!({
        "adult": film.fate == Fate::Adult,
        "backdrop_path": null,
        "belongs_to_collection": collection,
        "budget": 0,
        "genres": genres,
        "homepage": "",
        "id": film.id,
        "imdb_id": null,
        "original_language": "en",
        "original_title": film.title,
        "overview": "",
        "popularity": number_of(film.popularity),
        "poster_path": poster,
        "production_companies": [],
        "production_countries": [],
        "release_date": film.release_date.map(|date| date.to_string()).unwrap_or_default(),
        "revenue": 0,
        "runtime": 0,
        "spoken_languages": [],
        "status": "Released",
        "tagline": "",
        "title": film.title,
        "video": false,
        "vote_average": 0,
        "vote_count": 0,
    })
}

/// A whole number is written without a fraction, as the API does.
// serde_json alone would write 1.0 where the API writes 1: a reader that wants a fraction must fail
// here too.
fn number_of(value: f64) -> Value {
    if value.fract() == 0.0 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

fn poster_path(id: i64) -> String {
    format!("/poster-{id}.jpg")
}

/// The film whose poster has this file name.
pub(super) fn poster_id(file: &str) -> Option<i64> {
    file.strip_prefix("poster-")?
        .strip_suffix(".jpg")?
        .parse()
        .ok()
}

/// One line of what must become of what the export lists.
fn truth_of_line(id: &str, class: &'static str, planted: &Plant) -> Truth {
    Truth {
        id: id.to_owned(),
        outcome: "rejected",
        class: Some(class),
        skipped: None,
        flags: Vec::new(),
        planted: Some(format!("{planted:?}")),
    }
}

/// The daily export: one JSON object a line. Films that vanished later are in it, and of the adult
/// films every second is marked already. `truth` is told what must become of each line, in order.
pub(super) fn write_export(
    films: &Films,
    storm: Option<&Storm>,
    to: &mut impl Write,
    mut truth: impl FnMut(Truth),
) -> io::Result<()> {
    let mut number = 0_u64;
    for position in 0..films.count() {
        let plant = storm.and_then(|storm| storm.plant_at(position));
        if let Some(plant @ Plant::Nonsense) = plant {
            writeln!(to, "{{\"id\": \"none of your business\"")?;
            number += 1;
            truth(truth_of_line(
                &format!("line {number}"),
                "unreadable_line",
                &plant,
            ));
        }
        let film = films.listed_at(position);
        let line = json!({
            "adult": film.fate == Fate::Adult && position.is_multiple_of(2),
            "id": film.id,
            "original_title": film.title,
            "popularity": number_of(film.popularity),
            "video": false,
        });
        // With no storm the truth is that of the fates alone: one of no share befalls nobody.
        let fate = Storm {
            seed: 0,
            share: 0.0,
        };
        writeln!(to, "{line}")?;
        number += 1;
        let is_marked = film.fate == Fate::Adult && position.is_multiple_of(2);
        truth(match storm.unwrap_or(&fate).truth_at(films, position) {
            // What the line itself says is heard before the film is asked for, so nothing later can befall it.
            told if is_marked => Truth {
                outcome: "rejected",
                class: Some("adult"),
                ..told
            },
            told => told,
        });
        if let Some(plant @ Plant::Twice) = plant {
            writeln!(to, "{line}")?;
            number += 1;
            truth(truth_of_line(&film.id.to_string(), "duplicate_id", &plant));
        }
    }
    Ok(())
}

/// A list of films, as `/discover/movie` gives it.
pub(super) fn page(films: &[Film], page: usize, pages: usize, total: usize) -> Value {
    let results: Vec<_> = films
        .iter()
        .map(|film| {
            let ids: Vec<_> = film.genres().map(|genre| genre.id).collect();
            json!({
                "adult": film.fate == Fate::Adult, "id": film.id, "genre_ids": ids,
                "original_language": "en", "original_title": film.title, "title": film.title,
                "overview": "", "popularity": number_of(film.popularity), "backdrop_path": null,
                "poster_path": (film.fate != Fate::WithoutPoster).then(|| poster_path(film.id)),
                "release_date": film.release_date.map(|date| date.to_string()).unwrap_or_default(),
                "video": false, "vote_average": 0, "vote_count": 0,
            })
        })
        .collect();
    json!({"page": page, "results": results, "total_pages": pages, "total_results": total})
}

/// A list of films, as `/movie/changes` gives it.
pub(super) fn changes_page(films: &[Film], page: usize, pages: usize, total: usize) -> Value {
    let results: Vec<_> = films
        .iter()
        .map(|film| json!({"id": film.id, "adult": film.fate == Fate::Adult}))
        .collect();
    json!({"page": page, "results": results, "total_pages": pages, "total_results": total})
}

/// An error in the API's form.
pub(super) fn problem(code: u32, message: &str) -> Value {
    json!({"success": false, "status_code": code, "status_message": message})
}
