//! A table of films, as large as the study's catalogue.

use std::fs::File;
use std::path::Path;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::Round;
use crate::catalogue;
use crate::dataset::{FILMS_FILE, films};

/// Writes a table of `rows` films, unless it is there.
pub fn make_table(folder: &Path, rows: usize) -> anyhow::Result<()> {
    if !folder.join(FILMS_FILE).exists() {
        films::write(folder, catalogue::bench_rows(rows))?;
    }
    Ok(())
}

/// All columns into Arrow arrays, as `pyarrow.parquet.read_table` does.
pub(super) fn arrow(folder: &Path) -> Box<Round> {
    let file = folder.join(FILMS_FILE);
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
    let file = folder.join(FILMS_FILE);
    Box::new(move |items| {
        let mut rows = 0;
        for _ in 0..items {
            rows += films::read(&file)?.len();
        }
        Ok((items, rows as f64))
    })
}
