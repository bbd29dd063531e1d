//! What the service answers, read tolerantly: only a film's id must be there, and unknown fields
//! are ignored.

use chrono::NaiveDate;
use serde::Deserialize;

use crate::fetch::tolerant;

/// `/configuration`.
#[derive(Debug, Deserialize)]
pub(super) struct Configuration {
    pub(super) images: Images,
    /// Ours: the local catalogue says here that it is synthetic.
    pub(super) marquee: Option<Synthetic>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Images {
    pub(super) base_url: Option<String>,
    pub(super) secure_base_url: Option<String>,
    #[serde(default)]
    pub(super) poster_sizes: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Synthetic {
    #[serde(default)]
    synthetic: bool,
    f1_micro_ceiling: Option<f64>,
}

impl Configuration {
    pub(super) fn is_synthetic(&self) -> bool {
        self.marquee
            .as_ref()
            .is_some_and(|marquee| marquee.synthetic)
    }

    /// The best micro F1 that any classifier of the pictures can expect, if it is known.
    pub(super) fn ceiling(&self) -> Option<f64> {
        self.marquee.as_ref()?.f1_micro_ceiling
    }
}

/// `/genre/movie/list`.
#[derive(Debug, Deserialize)]
pub(super) struct GenreList {
    pub(super) genres: Vec<Genre>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Genre {
    pub(super) id: i64,
    pub(super) name: Option<String>,
}

/// `/movie/{id}`.
#[derive(Debug, Deserialize)]
pub(super) struct Movie {
    pub(super) id: i64,
    pub(super) adult: Option<bool>,
    pub(super) genres: Option<Vec<Genre>>,
    pub(super) poster_path: Option<String>,
    pub(super) title: Option<String>,
    original_title: Option<String>,
    pub(super) original_language: Option<String>,
    release_date: Option<String>,
    pub(super) popularity: Option<f64>,
    belongs_to_collection: Option<Collection>,
}

#[derive(Debug, Deserialize)]
struct Collection {
    id: Option<i64>,
}

impl Movie {
    /// The first title that is not empty.
    pub(super) fn title(&self) -> Option<String> {
        let titles = [&self.title, &self.original_title];
        titles
            .into_iter()
            .flatten()
            .find(|title| !title.is_empty())
            .cloned()
    }

    /// Whether a text that is kept had characters that could not be read, so that
    /// [`tolerant::REPLACEMENT`] stands in their place.
    pub(super) fn has_replaced_text(&self) -> bool {
        let genres = self.genres.iter().flatten();
        let names = genres.filter_map(|genre| genre.name.as_deref());
        let texts = [self.title(), self.original_language.clone()];
        let is_replaced = |text: &str| text.contains(tolerant::REPLACEMENT);
        texts.iter().flatten().any(|text| is_replaced(text)) || names.into_iter().any(is_replaced)
    }

    /// The release date. `""` stands for none, and nonsense is none as well: a wrong date is no
    /// reason to lose a film.
    pub(super) fn release_date(&self) -> Option<NaiveDate> {
        self.release_date.as_deref()?.parse().ok()
    }

    /// Films of one collection look alike.
    pub(super) fn group(&self) -> Option<String> {
        let id = self.belongs_to_collection.as_ref()?.id?;
        Some(format!("collection-{id}"))
    }
}

/// One line of the daily export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct ExportLine {
    pub(super) id: i64,
    #[serde(default)]
    pub(super) adult: bool,
}

/// A page of `/movie/changes` or `/discover/movie`.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub(super) results: Vec<Listed>,
    #[serde(default)]
    pub(super) total_pages: u32,
}

#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    pub(super) id: i64,
    pub(super) adult: Option<bool>,
}

/// Whether whatever bytes are the details of a film. All other answers are tried on them, too.
#[must_use]
pub fn read_any_answer(bytes: &[u8]) -> bool {
    let _ = crate::fetch::judge::judge(200, bytes);
    let _ = tolerant::read::<Configuration>(bytes).map(|read| read.ceiling());
    let _ = tolerant::read::<GenreList>(bytes);
    let _ = tolerant::read::<Page>(bytes);
    match tolerant::read::<Movie>(bytes) {
        Ok(movie) => {
            let _ = (movie.title(), movie.release_date(), movie.group());
            let _ = movie.has_replaced_text();
            true
        }
        Err(_) => false,
    }
}

/// Whether whatever bytes are a line of the export.
#[must_use]
pub fn read_any_export_line(bytes: &[u8]) -> bool {
    tolerant::read::<ExportLine>(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn movie(text: &str) -> Movie {
        tolerant::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_sparse_film_is_read_and_an_empty_date_is_none() {
        let sparse = movie(
            r#"{"adult":false,"belongs_to_collection":null,"budget":0,"genres":[],"id":1119232,
                "imdb_id":null,"popularity":0,"poster_path":null,"release_date":"","title":"",
                "original_title":"König Charles III","something_new":[1]}"#,
        );
        assert_eq!(sparse.release_date(), None);
        assert_eq!(sparse.title().as_deref(), Some("König Charles III"));
        assert_eq!(sparse.popularity, Some(0.0));
        assert_eq!(
            movie(r#"{"id":5,"release_date":"0000-00-00"}"#).release_date(),
            None
        );
        assert!(!sparse.has_replaced_text());
        let half = movie(r#"{"id":7,"title":"Half a smile \ud83d"}"#);
        assert_eq!(half.title().as_deref(), Some("Half a smile \u{fffd}"));
        assert!(half.has_replaced_text());
        let full =
            movie(r#"{"id":11,"release_date":"1977-05-25","belongs_to_collection":{"id":10}}"#);
        assert_eq!(full.release_date().unwrap().to_string(), "1977-05-25");
        assert_eq!(full.group().as_deref(), Some("collection-10"));
    }
}
