//! Reading a dataset: the table in memory, the pictures mapped.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::pictures::Pictures;
use super::{DatasetError, FETCH_FILE, FILMS_FILE, FetchBooks, FilmRow, LABELS_FILE, films};

/// A dataset folder, open for reading.
#[derive(Debug)]
pub struct Dataset {
    films: Vec<FilmRow>,
    labels: Vec<String>,
    books: FetchBooks,
    pictures: Pictures,
    places: HashMap<String, usize>,
}

impl Dataset {
    /// Opens the dataset in `dir`.
    pub fn open(dir: &Path) -> Result<Self, DatasetError> {
        let books = read_json(&dir.join(FETCH_FILE)).map_err(|error| match error {
            DatasetError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                DatasetError::Incomplete {
                    folder: dir.to_owned(),
                }
            }
            DatasetError::Io { .. }
            | DatasetError::Damaged { .. }
            | DatasetError::Incomplete { .. } => error,
        })?;
        let films = films::read(&dir.join(FILMS_FILE))?;
        let pictures = Pictures::open(dir)?;
        if let Some(film) = films.iter().find(|film| pictures.get(&film.id).is_none()) {
            let problem = format!("film {} of {FILMS_FILE} has no picture in it", film.id);
            return Err(DatasetError::Damaged {
                file: dir.to_owned(),
                problem,
            });
        }
        let places = films
            .iter()
            .enumerate()
            .map(|(at, film)| (film.id.clone(), at))
            .collect();
        Ok(Self {
            places,
            films,
            labels: read_json(&dir.join(LABELS_FILE))?,
            books,
            pictures,
        })
    }

    /// The films, in the order of the source.
    #[must_use]
    pub fn films(&self) -> &[FilmRow] {
        &self.films
    }

    /// The film with this id.
    #[must_use]
    pub fn film(&self, id: &str) -> Option<&FilmRow> {
        self.places.get(id).map(|at| &self.films[*at])
    }

    /// Label names in the source's own order.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// What the fetch job wrote down.
    #[must_use]
    pub fn books(&self) -> &FetchBooks {
        &self.books
    }

    /// The file of a film's picture.
    #[must_use]
    pub fn picture(&self, id: &str) -> Option<&[u8]> {
        self.pictures.get(id)
    }
}

fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T, DatasetError> {
    let text = fs::read(file).map_err(|source| DatasetError::Io {
        file: file.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|error| DatasetError::Damaged {
        file: file.to_owned(),
        problem: error.to_string(),
    })
}
