//! The table of films as Parquet, which pandas, polars and DuckDB open as it is.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Float64Array, ListBuilder, RecordBatch, StringArray,
    StringBuilder,
};
use arrow::datatypes::{DataType, Date32Type, Field, Float64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use marquee_domain::artifact::Digest;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::{DatasetError, FilmRow};

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let label = Field::new("item", DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("labels", DataType::List(Arc::new(label)), false),
        Field::new("group", DataType::Utf8, true),
        Field::new("title", DataType::Utf8, true),
        Field::new("release_date", DataType::Date32, true),
        Field::new("popularity", DataType::Float64, true),
        Field::new("picture_digest", DataType::Utf8, false),
    ]))
});

/// A writer of the table into `file`.
pub(super) fn writer<W: Write + Send>(file: W) -> Result<ArrowWriter<W>, ParquetError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .build();
    ArrowWriter::try_new(file, SCHEMA.clone(), Some(properties))
}

/// The rows as a batch of the table.
pub(super) fn batch_of(rows: &[FilmRow]) -> Result<RecordBatch, ArrowError> {
    let label = Field::new("item", DataType::Utf8, false);
    let mut labels = ListBuilder::new(StringBuilder::new()).with_field(label);
    for row in rows {
        for label in &row.labels {
            labels.values().append_value(label);
        }
        labels.append(true);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(
            rows.iter().map(|row| &row.id),
        )),
        Arc::new(labels.finish()),
        Arc::new(StringArray::from_iter(
            rows.iter().map(|row| row.group.as_deref()),
        )),
        Arc::new(StringArray::from_iter(
            rows.iter().map(|row| row.title.as_deref()),
        )),
        Arc::new(Date32Array::from_iter(
            rows.iter()
                .map(|row| row.release_date.map(Date32Type::from_naive_date)),
        )),
        Arc::new(Float64Array::from_iter(
            rows.iter().map(|row| row.popularity),
        )),
        Arc::new(StringArray::from_iter_values(
            rows.iter().map(|row| row.picture_digest.as_str()),
        )),
    ];
    RecordBatch::try_new(SCHEMA.clone(), columns)
}

/// All rows of the table in `path`.
pub(super) fn read(path: &Path) -> Result<Vec<FilmRow>, DatasetError> {
    let file = File::open(path).map_err(|source| DatasetError::Io {
        file: path.to_owned(),
        source,
    })?;
    let damaged = |problem: String| DatasetError::Damaged {
        file: path.to_owned(),
        problem,
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .map_err(|error| damaged(error.to_string()))?;
    if !has_our_columns(reader.schema()) {
        return Err(damaged(format!(
            "its columns are {}",
            names(reader.schema())
        )));
    }
    let mut rows = Vec::new();
    for batch in reader.build().map_err(|error| damaged(error.to_string()))? {
        let batch = batch.map_err(|error| damaged(error.to_string()))?;
        append_rows(&batch, &mut rows).map_err(damaged)?;
    }
    Ok(rows)
}

fn has_our_columns(found: &Schema) -> bool {
    let types = |schema: &Schema| -> Vec<(String, DataType)> {
        schema
            .fields()
            .iter()
            .map(|f| (f.name().clone(), f.data_type().clone()))
            .collect()
    };
    types(found) == types(&SCHEMA)
}

fn names(schema: &Schema) -> String {
    schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

fn append_rows(batch: &RecordBatch, rows: &mut Vec<FilmRow>) -> Result<(), String> {
    let text = |column: usize| batch.column(column).as_string::<i32>();
    let optional = |column: usize, row: usize| {
        let column = text(column);
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    let labels = batch.column(1).as_list::<i32>();
    let dates = batch.column(4).as_primitive::<Date32Type>();
    let popularity = batch.column(5).as_primitive::<Float64Type>();
    for row in 0..batch.num_rows() {
        let id = text(0).value(row).to_owned();
        let digest = text(6).value(row);
        let digest = digest
            .parse::<Digest>()
            .map_err(|error| format!("film {id}: {error}"))?;
        let names = labels.value(row);
        rows.push(FilmRow {
            labels: names
                .as_string::<i32>()
                .iter()
                .flatten()
                .map(str::to_owned)
                .collect(),
            group: optional(2, row),
            title: optional(3, row),
            release_date: dates
                .is_valid(row)
                .then(|| Date32Type::to_naive_date_opt(dates.value(row)))
                .flatten(),
            popularity: popularity.is_valid(row).then(|| popularity.value(row)),
            picture_digest: digest,
            id,
        });
    }
    Ok(())
}
