//! The rows of a list, from CSV or Parquet, one by one: a list may be larger than memory.

use std::fs::File;
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::fetch::labels_csv;
use crate::job::JobError;

/// A row of the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListRow {
    pub(super) id: String,
    /// A URL, or a path below the list's folder.
    pub(super) location: String,
    pub(super) labels: Vec<String>,
    pub(super) group: Option<String>,
}

/// Gives every row of the list to `push`.
pub(super) fn read(
    list: &Path,
    push: &mut impl FnMut(ListRow) -> Result<(), JobError>,
) -> Result<(), JobError> {
    let is_parquet = list
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"));
    if is_parquet {
        read_parquet(list, push)
    } else {
        read_csv(list, push)
    }
}

fn read_csv(
    list: &Path,
    push: &mut impl FnMut(ListRow) -> Result<(), JobError>,
) -> Result<(), JobError> {
    let shown = list.display();
    let file = File::open(list)
        .map_err(|error| JobError::user(format!("{shown} cannot be opened: {error}")))?;
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file);
    let wrong =
        |line: u64, problem: &str| JobError::bad_input(format!("{shown} line {line}: {problem}"));
    let header = reader
        .headers()
        .map_err(|error| wrong(1, &error.to_string()))?
        .clone();
    // Spreadsheets like to put a byte order mark in front.
    let names: Vec<&str> = header
        .iter()
        .map(|name| name.trim_start_matches('\u{feff}').trim())
        .collect();
    let place = |name: &str| names.iter().position(|known| *known == name);
    let (Some(id), Some(url), Some(labels)) = (place("id"), place("url"), place("labels")) else {
        return Err(wrong(
            1,
            &format!(
                "its columns are {:?}; write id,url,labels or id,url,labels,group",
                names.join(",")
            ),
        ));
    };
    let group = place("group");
    for record in reader.records() {
        let record = record.map_err(|error| {
            let line = error.position().map_or(0, csv::Position::line);
            wrong(line, "it is not valid UTF-8; save the file as UTF-8")
        })?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |at: usize| record.get(at).map(str::trim).unwrap_or_default();
        if record.len() != names.len() {
            let problem = format!(
                "it has {} fields and the header has {}; put fields with commas in quotes",
                record.len(),
                names.len()
            );
            return Err(wrong(line, &problem));
        }
        if field(id).is_empty() {
            return Err(wrong(line, "column id is empty"));
        }
        push(ListRow {
            id: field(id).to_owned(),
            location: field(url).to_owned(),
            labels: labels_csv::split(field(labels)),
            group: group
                .map(|at| field(at).to_owned())
                .filter(|group| !group.is_empty()),
        })?;
    }
    Ok(())
}

fn read_parquet(
    list: &Path,
    push: &mut impl FnMut(ListRow) -> Result<(), JobError>,
) -> Result<(), JobError> {
    let shown = list.display();
    let wrong = |problem: String| JobError::bad_input(format!("{shown}: {problem}"));
    let file = File::open(list)
        .map_err(|error| JobError::user(format!("{shown} cannot be opened: {error}")))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.with_batch_size(1_024).build())
        .map_err(|error| wrong(error.to_string()))?;
    for batch in reader {
        let batch = batch.map_err(|error| wrong(error.to_string()))?;
        let column = |name: &str| {
            batch.column_by_name(name).ok_or_else(|| {
                wrong(format!(
                    "it has no column {name}; it needs id, url and labels"
                ))
            })
        };
        let (ids, places, labels) = (column("id")?, column("url")?, column("labels")?);
        let groups = batch.column_by_name("group");
        for row in 0..batch.num_rows() {
            let text = |column: &dyn Array, name: &str| {
                text_at(column, row)
                    .map_err(|kind| wrong(format!("column {name} is of type {kind}; make it text")))
            };
            let Some(id) = text(ids, "id")? else {
                return Err(wrong("an id is null".to_owned()));
            };
            push(ListRow {
                id,
                location: text(places, "url")?.unwrap_or_default(),
                labels: labels_at(labels, row).map_err(|kind| {
                    wrong(format!(
                        "column labels is of type {kind}; make it a list of texts, or texts joined by |"
                    ))
                })?,
                group: groups
                    .map(|groups| text(groups, "group"))
                    .transpose()?
                    .flatten(),
            })?;
        }
        drop::<RecordBatch>(batch);
    }
    Ok(())
}

/// A cell as text, None where it is null, or the name of a type that is no text or number.
fn text_at(column: &dyn Array, row: usize) -> Result<Option<String>, String> {
    if column.is_null(row) {
        return Ok(None);
    }
    // The types of another crate are many, and new ones are as unreadable as the old.
    let kind = column.data_type();
    let text = if kind == &DataType::Utf8 {
        column.as_string::<i32>().value(row).to_owned()
    } else if kind == &DataType::LargeUtf8 {
        column.as_string::<i64>().value(row).to_owned()
    } else if kind == &DataType::Utf8View {
        column.as_string_view().value(row).to_owned()
    } else if kind == &DataType::Int64 {
        column.as_primitive::<Int64Type>().value(row).to_string()
    } else if kind == &DataType::Int32 {
        column.as_primitive::<Int32Type>().value(row).to_string()
    } else {
        return Err(kind.to_string());
    };
    Ok(Some(text))
}

fn labels_at(column: &dyn Array, row: usize) -> Result<Vec<String>, String> {
    if column.is_null(row) {
        return Ok(Vec::new());
    }
    let values = if let Some(lists) = column.as_list_opt::<i32>() {
        lists.value(row)
    } else if let Some(lists) = column.as_list_opt::<i64>() {
        lists.value(row)
    } else {
        let text = text_at(column, row)?.unwrap_or_default();
        return Ok(labels_csv::split(&text));
    };
    let texts: Result<Vec<_>, _> = (0..values.len()).map(|at| text_at(&values, at)).collect();
    Ok(texts?
        .into_iter()
        .flatten()
        .filter(|label| !label.is_empty())
        .collect())
}
