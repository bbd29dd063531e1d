//! The table of examples as Parquet: one row a picture, typed columns, nulls where nothing is known.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Float64Array, Int64Builder, ListBuilder, RecordBatch,
    StringArray, StringBuilder, UInt64Array,
};
use arrow::datatypes::{
    DataType, Date32Type, Field, Float64Type, Int64Type, Schema, SchemaRef, UInt64Type,
};
use marquee_domain::artifact::Digest;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::table;
use super::{DatasetError, Example};

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, false)))
}

/// The columns of an example, which the tables of splits have too.
pub(crate) fn fields() -> Vec<Field> {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    vec![
        text("id", false),
        Field::new("labels", list_of(DataType::Utf8), false),
        Field::new("label_ids", list_of(DataType::Int64), false),
        text("group", true),
        text("title", true),
        Field::new("release_date", DataType::Date32, true),
        Field::new("popularity", DataType::Float64, true),
        text("language", true),
        Field::new("picture_bytes", DataType::UInt64, false),
        text("picture_digest", false),
        text("picture_etag", true),
        text("picture_modified", true),
        text("details_etag", true),
        text("licence", true),
        text("source", false),
    ]
}

pub(super) static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| Arc::new(Schema::new(fields())));

/// The rows, column by column, in the order of [`fields`].
pub(crate) fn columns<'a>(rows: impl Iterator<Item = &'a Example> + Clone) -> Vec<ArrayRef> {
    let mut labels = ListBuilder::new(StringBuilder::new()).with_field(Field::new(
        "item",
        DataType::Utf8,
        false,
    ));
    let mut ids = ListBuilder::new(Int64Builder::new()).with_field(Field::new(
        "item",
        DataType::Int64,
        false,
    ));
    for row in rows.clone() {
        for label in &row.labels {
            labels.values().append_value(label);
        }
        labels.append(true);
        ids.values().append_slice(&row.label_ids);
        ids.append(true);
    }
    let text = |pick: fn(&Example) -> Option<&str>| -> ArrayRef {
        Arc::new(StringArray::from_iter(rows.clone().map(pick)))
    };
    vec![
        text(|row| Some(&row.id)),
        Arc::new(labels.finish()),
        Arc::new(ids.finish()),
        text(|row| row.group.as_deref()),
        text(|row| row.title.as_deref()),
        Arc::new(Date32Array::from_iter(
            rows.clone()
                .map(|row| row.release_date.map(Date32Type::from_naive_date)),
        )),
        Arc::new(Float64Array::from_iter(
            rows.clone().map(|row| row.popularity),
        )),
        text(|row| row.language.as_deref()),
        Arc::new(UInt64Array::from_iter_values(
            rows.clone().map(|row| row.picture_bytes),
        )),
        text(|row| Some(row.picture_digest.as_str())),
        text(|row| row.picture_etag.as_deref()),
        text(|row| row.picture_modified.as_deref()),
        text(|row| row.details_etag.as_deref()),
        text(|row| row.licence.as_deref()),
        text(|row| Some(&row.source)),
    ]
}

/// Writes a table of `rows` into `dir`, for benchmarks.
pub fn write(dir: &Path, rows: impl Iterator<Item = Example>) -> Result<(), DatasetError> {
    const ROWS_AT_ONCE: usize = 8_192;
    let file = dir.join(super::EXAMPLES_FILE);
    let mut out = table::create(&file, &SCHEMA)?;
    // The columns go through the rows several times, so they have to be there.
    let rows: Vec<Example> = rows.collect();
    for part in rows.chunks(ROWS_AT_ONCE) {
        table::write(&file, &mut out, SCHEMA.clone(), columns(part.iter()))?;
    }
    table::commit(&file, out)
}

/// All rows of the table in `path`.
pub fn read(path: &Path) -> Result<Vec<Example>, DatasetError> {
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
    // In order and by type, for cells are read by their column's place.
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

fn append_rows(batch: &RecordBatch, rows: &mut Vec<Example>) -> Result<(), String> {
    let text = |column: usize| batch.column(column).as_string::<i32>();
    let optional = |column: usize, row: usize| {
        let column = text(column);
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    let labels = batch.column(1).as_list::<i32>();
    let label_ids = batch.column(2).as_list::<i32>();
    let dates = batch.column(5).as_primitive::<Date32Type>();
    let popularity = batch.column(6).as_primitive::<Float64Type>();
    let bytes = batch.column(8).as_primitive::<UInt64Type>();
    for row in 0..batch.num_rows() {
        let id = text(0).value(row).to_owned();
        let digest = text(9).value(row);
        let digest = digest
            .parse::<Digest>()
            .map_err(|error| format!("picture {id}: {error}"))?;
        rows.push(Example {
            labels: labels
                .value(row)
                .as_string::<i32>()
                .iter()
                .flatten()
                .map(str::to_owned)
                .collect(),
            label_ids: label_ids
                .value(row)
                .as_primitive::<Int64Type>()
                .values()
                .to_vec(),
            group: optional(3, row),
            title: optional(4, row),
            release_date: dates
                .is_valid(row)
                .then(|| Date32Type::to_naive_date_opt(dates.value(row)))
                .flatten(),
            popularity: popularity.is_valid(row).then(|| popularity.value(row)),
            language: optional(7, row),
            picture_bytes: bytes.value(row),
            picture_digest: digest,
            picture_etag: optional(10, row),
            picture_modified: optional(11, row),
            details_etag: optional(12, row),
            licence: optional(13, row),
            source: text(14).value(row).to_owned(),
            id,
        });
    }
    Ok(())
}
