//! The tables beside the shards, as Parquet: `examples.parquet` with every example of the dataset and what
//! became of it, and `train.parquet`, `validation.parquet` and `test.parquet` with the rows of each
//! split, in the order of its shards.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, ListBuilder, StringArray, StringBuilder, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::look::Look;
use crate::dataset::table;
use crate::dataset::{DatasetError, Example, examples, examples_file_in};

/// Rows that are written at once.
const ROWS_AT_ONCE: usize = 8_192;

/// What a row of a table is about.
#[derive(Debug, Clone)]
pub(super) struct TableRow<'a> {
    pub(super) example: &'a Example,
    pub(super) look: Option<&'a Look>,
    pub(super) flags: &'a [&'static str],
    /// The split, or why the example is in none.
    pub(super) place: Result<&'static str, &'a str>,
}

fn schema() -> SchemaRef {
    let mut fields = examples::fields();
    let flag = Arc::new(Field::new("item", DataType::Utf8, false));
    fields.extend([
        Field::new("width", DataType::UInt32, true),
        Field::new("height", DataType::UInt32, true),
        Field::new("format", DataType::Utf8, true),
        Field::new("phash", DataType::Utf8, true),
        Field::new("quality_flags", DataType::List(flag), false),
        Field::new("split", DataType::Utf8, true),
        Field::new("skipped", DataType::Utf8, true),
    ]);
    Arc::new(Schema::new(fields))
}

/// Writes the table `name` of `rows`.
pub(super) fn write(dir: &Path, name: &str, rows: &[TableRow<'_>]) -> Result<(), DatasetError> {
    let file = dir.join(format!("{name}.parquet"));
    let schema = schema();
    let mut out = table::create(&file, &schema)?;
    for part in rows.chunks(ROWS_AT_ONCE) {
        table::write(&file, &mut out, schema.clone(), columns(part))?;
    }
    table::commit(&file, out)
}

fn columns(rows: &[TableRow<'_>]) -> Vec<ArrayRef> {
    let number = |pick: fn(&Look) -> u32| -> ArrayRef {
        Arc::new(UInt32Array::from_iter(
            rows.iter().map(|row| row.look.map(pick)),
        ))
    };
    let mut flags = ListBuilder::new(StringBuilder::new()).with_field(Field::new(
        "item",
        DataType::Utf8,
        false,
    ));
    for row in rows {
        for flag in row.flags {
            flags.values().append_value(flag);
        }
        flags.append(true);
    }
    let mut columns = examples::columns(rows.iter().map(|row| row.example));
    columns.extend([
        number(|look| look.width),
        number(|look| look.height),
        Arc::new(StringArray::from_iter(
            rows.iter()
                .map(|row| row.look.map(|look| look.format.as_str())),
        )) as ArrayRef,
        Arc::new(StringArray::from_iter(
            rows.iter()
                .map(|row| row.look.map(|look| format!("{:016x}", look.phash))),
        )),
        Arc::new(flags.finish()),
        Arc::new(StringArray::from_iter(
            rows.iter().map(|row| row.place.ok()),
        )),
        Arc::new(StringArray::from_iter(
            rows.iter().map(|row| row.place.err()),
        )),
    ]);
    columns
}

/// Id and quality flags of every example in the table beside the shards in `dir`.
pub(super) fn flags_of(dir: &Path) -> Result<Vec<(String, Vec<String>)>, DatasetError> {
    let file = examples_file_in(dir);
    let damaged = |problem: String| DatasetError::Damaged {
        file: file.clone(),
        problem,
    };
    let open = File::open(&file).map_err(|source| DatasetError::Io {
        file: file.clone(),
        source,
    })?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(open)
        .and_then(|builder| builder.build())
        .map_err(|error| damaged(error.to_string()))?;
    let mut examples = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| damaged(error.to_string()))?;
        // Checked first: below, columns are taken as lists and texts by methods that panic on other
        // types.
        if batch.schema().fields() != schema().fields() {
            return Err(damaged("its columns are others".to_owned()));
        }
        let column = |name: &str| {
            let column = batch.column_by_name(name).cloned();
            column.ok_or_else(|| damaged(format!("it has no column {name}")))
        };
        let (ids, flags) = (column("id")?, column("quality_flags")?);
        for row in 0..batch.num_rows() {
            let of_row = flags.as_list::<i32>().value(row);
            let texts = of_row.as_string::<i32>().iter().flatten();
            examples.push((
                ids.as_string::<i32>().value(row).to_owned(),
                texts.map(str::to_owned).collect(),
            ));
        }
    }
    Ok(examples)
}
