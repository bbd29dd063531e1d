//! Writing a dataset, row by row in the order of the source.

use std::path::{Path, PathBuf};

use marquee_domain::step::RUN_NOTE_FILE;
use parquet::arrow::ArrowWriter;
use serde::Serialize;
use serde_json::{Map, Value};

use super::outcomes::OutcomesWriter;
use super::pictures::PicturesWriter;
use super::table;
use super::{
    DatasetError, EXAMPLES_FILE, Example, FETCH_FILE, FetchBooks, LABELS_FILE, RUN_FIELDS, examples,
};
use crate::durable::{AsideFile, write_json};

/// Rows of the table that are gathered before they are written.
const ROWS_PENDING_MAX: usize = 8_192;

/// Writes a dataset folder. Until [`DatasetWriter::finish`] it has no `fetch.json`.
pub struct DatasetWriter {
    dir: PathBuf,
    table: ArrowWriter<AsideFile>,
    rows: Vec<Example>,
    pictures: PicturesWriter,
    outcomes: OutcomesWriter,
}

impl std::fmt::Debug for DatasetWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatasetWriter")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl DatasetWriter {
    /// Begins a dataset in `dir`, which must exist and be empty.
    pub fn create(dir: &Path) -> Result<Self, DatasetError> {
        let table = table::create(&dir.join(EXAMPLES_FILE), &examples::SCHEMA)?;
        let pictures = PicturesWriter::new(dir);
        Ok(Self {
            dir: dir.to_owned(),
            table,
            rows: Vec::new(),
            pictures,
            outcomes: OutcomesWriter::create(dir)?,
        })
    }

    /// Appends an example with its picture's file.
    pub fn push(&mut self, example: Example, picture: Vec<u8>) -> Result<(), DatasetError> {
        // The picture before its row: a row whose picture is missing would make the whole folder
        // unreadable.
        self.pictures.push(&example.id, picture)?;
        self.rows.push(example);
        if self.rows.len() >= ROWS_PENDING_MAX {
            self.write_rows()
        } else {
            Ok(())
        }
    }

    /// Notes what became of an id that was asked for: an outcome and, where it is not `fetched`, its
    /// class and detail.
    pub fn settled(
        &mut self,
        id: &str,
        outcome: &'static str,
        problem: Option<(&str, &str)>,
    ) -> Result<(), DatasetError> {
        self.outcomes.push(id, outcome, problem)
    }

    /// Completes the folder: the pictures, the table, the labels, and the books last.
    pub fn finish(mut self, labels: &[String], books: &FetchBooks) -> Result<(), DatasetError> {
        self.write_rows()?;
        self.pictures.finish()?;
        self.outcomes.finish()?;
        table::commit(&self.dir.join(EXAMPLES_FILE), self.table)?;
        let (found, run) = parted(books);
        json_file(&self.dir, LABELS_FILE, &labels)?;
        json_file(&self.dir, RUN_NOTE_FILE, &run)?;
        // Last: with it the folder is a dataset.
        json_file(&self.dir, FETCH_FILE, &found)
    }

    fn write_rows(&mut self) -> Result<(), DatasetError> {
        let columns = examples::columns(self.rows.iter());
        self.rows.clear();
        let file = self.dir.join(EXAMPLES_FILE);
        table::write(&file, &mut self.table, examples::SCHEMA.clone(), columns)
    }
}

fn json_file(dir: &Path, name: &str, value: &impl Serialize) -> Result<(), DatasetError> {
    let file = dir.join(name);
    write_json(&file, value).map_err(|source| DatasetError::Io { file, source })
}

/// The books as what was found, and how the fetch went.
fn parted(books: &FetchBooks) -> (Map<String, Value>, Map<String, Value>) {
    let mut found = match serde_json::to_value(books) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => Map::new(),
    };
    let run = RUN_FIELDS
        .iter()
        .filter_map(|field| found.remove_entry(*field))
        .collect();
    // The version before this one reads no books without it.
    found.insert("seconds".to_owned(), 0.0.into());
    (found, run)
}
