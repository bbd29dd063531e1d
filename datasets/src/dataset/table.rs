//! Parquet tables, which pandas, polars and DuckDB open as they are: written aside, in row groups of
//! bounded size.

use std::io;
use std::path::Path;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::DatasetError;
use crate::durable::AsideFile;

/// Rows of one row group: what a writer holds in memory, and a reader may skip.
const GROUP_ROWS: usize = 65_536;

fn fault(file: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DatasetError {
    DatasetError::Io {
        file: file.to_owned(),
        source: io::Error::other(source),
    }
}

/// Begins a table.
pub(crate) fn create(
    file: &Path,
    schema: &SchemaRef,
) -> Result<ArrowWriter<AsideFile>, DatasetError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let aside = AsideFile::create(file).map_err(|error| fault(file, error))?;
    ArrowWriter::try_new(aside, schema.clone(), Some(properties))
        .map_err(|error| fault(file, error))
}

/// Appends rows, column by column.
pub(crate) fn write(
    file: &Path,
    table: &mut ArrowWriter<AsideFile>,
    schema: SchemaRef,
    columns: Vec<ArrayRef>,
) -> Result<(), DatasetError> {
    if columns.first().is_none_or(|column| column.is_empty()) {
        return Ok(());
    }
    let batch = RecordBatch::try_new(schema, columns).map_err(|error| fault(file, error))?;
    table.write(&batch).map_err(|error| fault(file, error))
}

/// Ends a table and gives it its name.
pub(crate) fn commit(file: &Path, table: ArrowWriter<AsideFile>) -> Result<(), DatasetError> {
    let aside = table.into_inner().map_err(|error| fault(file, error))?;
    aside.commit().map_err(|error| fault(file, error))?;
    Ok(())
}
