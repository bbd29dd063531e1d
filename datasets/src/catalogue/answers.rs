//! The bodies of the API's answers, in TMDb's own form.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::film::{Fate, Film, Films, GENERATOR_VERSION};
use super::genres::CATALOGUE;

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
        "change_keys": [],
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
        "popularity": number(film.popularity),
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
fn number(value: f64) -> Value {
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

/// The daily export: one JSON object a line, compressed. Films that vanished later are in it, and
/// of the adult films every second is marked already.
pub(super) fn export(films: &Films) -> io::Result<Vec<u8>> {
    let mut file = GzEncoder::new(Vec::new(), Compression::fast());
    for position in 0..films.count() {
        let film = films.film_at(position);
        let line = json!({
            "adult": film.fate == Fate::Adult && position.is_multiple_of(2),
            "id": film.id,
            "original_title": film.title,
            "popularity": number(film.popularity),
            "video": false,
        });
        writeln!(file, "{line}")?;
    }
    file.finish()
}

/// An error in the API's form.
pub(super) fn problem(code: u32, message: &str) -> Value {
    json!({"success": false, "status_code": code, "status_message": message})
}
