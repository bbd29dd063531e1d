//! Writing a dataset, row by row in the order of the source.

use std::io;
use std::path::{Path, PathBuf};

use parquet::arrow::ArrowWriter;

use super::pictures::PicturesWriter;
use super::{DatasetError, FETCH_FILE, FILMS_FILE, FetchBooks, FilmRow, LABELS_FILE, films};
use crate::durable::{AsideFile, write_json};

/// Rows of the table that are gathered before they are written.
const ROWS_PENDING_MAX: usize = 8_192;

/// Writes a dataset folder. Until [`DatasetWriter::finish`] it has no `fetch.json`.
pub struct DatasetWriter {
    dir: PathBuf,
    table: ArrowWriter<AsideFile>,
    rows: Vec<FilmRow>,
    pictures: PicturesWriter,
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
        let file = dir.join(FILMS_FILE);
        let fault = |source: io::Error| DatasetError::Io {
            file: file.clone(),
            source,
        };
        let aside = AsideFile::create(&file).map_err(fault)?;
        let table = films::writer(aside).map_err(|error| fault(io::Error::other(error)))?;
        let pictures = PicturesWriter::new(dir);
        Ok(Self {
            dir: dir.to_owned(),
            table,
            rows: Vec::new(),
            pictures,
        })
    }

    /// Appends a film with its picture's file.
    pub fn push(&mut self, film: FilmRow, picture: Vec<u8>) -> Result<(), DatasetError> {
        self.pictures.push(&film.id, picture)?;
        self.rows.push(film);
        if self.rows.len() >= ROWS_PENDING_MAX {
            self.write_rows()
        } else {
            Ok(())
        }
    }

    /// Completes the folder: the pictures, the table, the labels, and the books last.
    pub fn finish(mut self, labels: &[String], books: &FetchBooks) -> Result<(), DatasetError> {
        self.write_rows()?;
        self.pictures.finish()?;
        let file = self.dir.join(FILMS_FILE);
        let fault = |source: io::Error| DatasetError::Io {
            file: file.clone(),
            source,
        };
        let aside = self
            .table
            .into_inner()
            .map_err(|error| fault(io::Error::other(error)))?;
        aside.commit().map_err(fault)?;
        for (name, result) in [
            (
                LABELS_FILE,
                write_json(&self.dir.join(LABELS_FILE), &labels),
            ),
            (FETCH_FILE, write_json(&self.dir.join(FETCH_FILE), books)),
        ] {
            result.map_err(|source| DatasetError::Io {
                file: self.dir.join(name),
                source,
            })?;
        }
        Ok(())
    }

    fn write_rows(&mut self) -> Result<(), DatasetError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let batch = films::batch_of(&self.rows).map_err(io::Error::other);
        self.rows.clear();
        batch
            .and_then(|batch| self.table.write(&batch).map_err(io::Error::other))
            .map_err(|source| DatasetError::Io {
                file: self.dir.join(FILMS_FILE),
                source,
            })
    }
}
