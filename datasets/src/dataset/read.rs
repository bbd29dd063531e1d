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
    DatasetError, Example, FETCH_FILE, FetchBooks, LABELS_FILE, PROBLEMS_MAX, examples,
    examples_file_in,
};

/// A dataset folder, open for reading.
#[derive(Debug)]
pub struct Dataset {
    examples: Vec<Example>,
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

    /// The parts as one, its examples by id: an order that no number of elements changes.
    fn merge(parts: Vec<Self>, dir: &Path) -> Result<Self, DatasetError> {
        let mut whole: Option<Self> = None;
        for part in parts {
            let Some(whole) = &mut whole else {
                whole = Some(part);
                continue;
            };
            whole.examples.extend(part.examples);
            whole.pictures.extend(part.pictures);
            // Each element names only the labels that it met.
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
        // Each part has as many as may be listed; together they are to have no more.
        whole.books.problems.truncate(PROBLEMS_MAX);
        // Numbers as numbers, so that 9 comes before 10.
        whole.examples.sort_by_cached_key(|example| {
            (
                example.id.parse::<u64>().unwrap_or(u64::MAX),
                example.id.clone(),
            )
        });
        // Elements share out ids by hash, so an id in two of them means that two runs were mixed.
        if let Some(twice) = whole
            .examples
            .windows(2)
            .find(|pair| pair[0].id == pair[1].id)
        {
            return Err(DatasetError::Damaged {
                file: dir.to_owned(),
                problem: format!("two elements have the picture {}", twice[0].id),
            });
        }
        whole.places = places_of(&whole.examples);
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
        let file = examples_file_in(dir);
        let examples = examples::read(&file)?;
        let pictures = Pictures::open(dir)?;
        if let Some(example) = examples
            .iter()
            .find(|example| pictures.get(&example.id).is_none())
        {
            let problem = format!(
                "{} names the picture {}, which is not there",
                file.display(),
                example.id
            );
            return Err(DatasetError::Damaged {
                file: dir.to_owned(),
                problem,
            });
        }
        Ok(Self {
            places: places_of(&examples),
            examples,
            labels: read_json(&dir.join(LABELS_FILE))?,
            books,
            pictures,
        })
    }

    /// The examples, in the order of the source.
    #[must_use]
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// The example with this id.
    #[must_use]
    pub fn example(&self, id: &str) -> Option<&Example> {
        self.places.get(id).map(|at| &self.examples[*at])
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

    /// The picture of the example with this id, as the file came.
    #[must_use]
    pub fn picture(&self, id: &str) -> Option<&[u8]> {
        self.pictures.get(id)
    }
}

fn places_of(examples: &[Example]) -> HashMap<String, usize> {
    let places = examples.iter().enumerate();
    places
        .map(|(at, example)| (example.id.clone(), at))
        .collect()
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
        // The note comes last and wins: in the books there may be a 0 that is for earlier versions
        // alone.
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
