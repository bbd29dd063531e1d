//! Reading a dataset: the table in memory, the pictures mapped.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use marquee_domain::child::ELEMENTS_FOLDER;
use marquee_domain::step::RUN_NOTE_FILE;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::pictures::Pictures;
use super::{
    DatasetError, FETCH_FILE, FILMS_FILE, FetchBooks, FilmRow, LABELS_FILE, PROBLEMS_MAX, films,
};

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
    /// Opens the dataset in `dir`: of one fetch job, or of all elements of an array.
    pub fn open(dir: &Path) -> Result<Self, DatasetError> {
        let elements = elements_in(dir)?;
        if elements.is_empty() {
            return Self::open_one(dir);
        }
        let parts: Result<Vec<Self>, _> = elements.iter().map(|dir| Self::open_one(dir)).collect();
        Self::merge(parts?, dir)
    }

    /// The parts as one, its films by id: an order that no number of elements changes.
    fn merge(parts: Vec<Self>, dir: &Path) -> Result<Self, DatasetError> {
        let mut whole: Option<Self> = None;
        for part in parts {
            let Some(whole) = &mut whole else {
                whole = Some(part);
                continue;
            };
            whole.films.extend(part.films);
            whole.pictures.extend(part.pictures);
            for label in part.labels {
                if !whole.labels.contains(&label) {
                    whole.labels.push(label);
                }
            }
            let books = &mut whole.books;
            books.summary = std::mem::take(&mut books.summary).and(part.books.summary);
            books.problems.extend(part.books.problems);
        }
        let mut whole = whole.ok_or_else(|| DatasetError::Incomplete {
            folder: dir.to_owned(),
        })?;
        whole.books.problems.truncate(PROBLEMS_MAX);
        // Numbers as numbers, so that 9 comes before 10.
        whole.films.sort_by_cached_key(|film| {
            (film.id.parse::<u64>().unwrap_or(u64::MAX), film.id.clone())
        });
        if let Some(twice) = whole.films.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(DatasetError::Damaged {
                file: dir.to_owned(),
                problem: format!("two elements have the film {}", twice[0].id),
            });
        }
        whole.places = places_of(&whole.films);
        Ok(whole)
    }

    fn open_one(dir: &Path) -> Result<Self, DatasetError> {
        let books = read_books(dir).map_err(|error| match error {
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
        Ok(Self {
            places: places_of(&films),
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

fn places_of(films: &[FilmRow]) -> HashMap<String, usize> {
    let places = films.iter().enumerate();
    places.map(|(at, film)| (film.id.clone(), at)).collect()
}

/// The folders of an array's elements, in order; none where `dir` is a dataset itself.
fn elements_in(dir: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let folder = dir.join(ELEMENTS_FOLDER);
    let fault = |source: io::Error| DatasetError::Io {
        file: folder.clone(),
        source,
    };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fault(error)),
    };
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(fault)?;
    folders.sort();
    Ok(folders)
}

/// The books, which earlier versions kept in one file.
fn read_books(dir: &Path) -> Result<FetchBooks, DatasetError> {
    let file = dir.join(FETCH_FILE);
    let mut fields: Map<String, Value> = read_json(&file)?;
    let note = dir.join(RUN_NOTE_FILE);
    if note.exists() {
        let run: Map<String, Value> = read_json(&note)?;
        fields.extend(run);
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| DatasetError::Damaged {
        file,
        problem: error.to_string(),
    })
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
