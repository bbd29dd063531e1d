//! A table of examples, as large as the study's catalogue.

use std::fs::File;
use std::path::Path;

use marquee_datasets::dataset::{EXAMPLES_FILE, Example, read_table, write_table};
use marquee_domain::artifact::Digest;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::Round;
use crate::film::Films;

/// Writes a table of `rows` examples, unless it is there.
pub fn make_table(folder: &Path, rows: usize) -> anyhow::Result<()> {
    if !folder.join(EXAMPLES_FILE).exists() {
        write_table(folder, generated(rows))?;
    }
    Ok(())
}

/// Rows as a fetch of the catalogue leaves them.
fn generated(count: usize) -> impl Iterator<Item = Example> {
    let films = Films::new(1, count);
    (0..count).map(move |position| {
        let film = films.film_at(position);
        let digest = Digest::of(&film.id.to_le_bytes());
        Example {
            id: film.id.to_string(),
            labels: film.genres().map(|genre| genre.name.to_owned()).collect(),
            label_ids: film.genres().map(|genre| genre.id).collect(),
            group: film.collection.map(|id| id.to_string()),
            title: Some(film.title),
            release_date: film.release_date,
            popularity: Some(film.popularity),
            language: Some("en".to_owned()),
            // About what a poster of 500 pixels has. There are no pictures: the table alone is
            // read.
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

/// All columns into Arrow arrays, as `pyarrow.parquet.read_table` does.
pub(super) fn arrow(folder: &Path) -> Box<Round> {
    let file = folder.join(EXAMPLES_FILE);
    Box::new(move |items| {
        let mut rows = 0;
        for _ in 0..items {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&file)?)?.build()?;
            for batch in reader {
                rows += batch?.num_rows();
            }
        }
        Ok((items, rows as f64))
    })
}

/// Into the rows that jobs work with.
pub(super) fn rows(folder: &Path) -> Box<Round> {
    let file = folder.join(EXAMPLES_FILE);
    Box::new(move |items| {
        let mut rows = 0;
        for _ in 0..items {
            rows += read_table(&file)?.len();
        }
        Ok((items, rows as f64))
    })
}
