//! The table of outcomes as Parquet: one row for every id that was asked for, in the plan's order.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::table;
use super::{DatasetError, OUTCOMES_FILE};
use crate::durable::AsideFile;

/// Rows that are gathered before they are written.
const ROWS_PENDING_MAX: usize = 8_192;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("outcome", DataType::Utf8, false),
        Field::new("class", DataType::Utf8, true),
        Field::new("detail", DataType::Utf8, true),
    ]))
});

struct OutcomeRow {
    id: String,
    outcome: &'static str,
    problem: Option<(String, String)>,
}

/// Writes `outcomes.parquet`.
pub(super) struct OutcomesWriter {
    file: PathBuf,
    table: ArrowWriter<AsideFile>,
    rows: Vec<OutcomeRow>,
}

impl OutcomesWriter {
    pub(super) fn create(dir: &Path) -> Result<Self, DatasetError> {
        let file = dir.join(OUTCOMES_FILE);
        let table = table::create(&file, &SCHEMA)?;
        Ok(Self {
            file,
            table,
            rows: Vec::new(),
        })
    }

    pub(super) fn push(
        &mut self,
        id: &str,
        outcome: &'static str,
        problem: Option<(&str, &str)>,
    ) -> Result<(), DatasetError> {
        self.rows.push(OutcomeRow {
            id: id.to_owned(),
            outcome,
            problem: problem.map(|(class, detail)| (class.to_owned(), detail.to_owned())),
        });
        if self.rows.len() >= ROWS_PENDING_MAX {
            self.write_rows()
        } else {
            Ok(())
        }
    }

    pub(super) fn finish(mut self) -> Result<(), DatasetError> {
        self.write_rows()?;
        table::commit(&self.file, self.table)
    }

    fn write_rows(&mut self) -> Result<(), DatasetError> {
        let rows = std::mem::take(&mut self.rows);
        let problem = |pick: fn(&(String, String)) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter(
                rows.iter().map(|row| row.problem.as_ref().map(pick)),
            ))
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(
                rows.iter().map(|row| &row.id),
            )),
            Arc::new(StringArray::from_iter_values(
                rows.iter().map(|row| row.outcome),
            )),
            problem(|(class, _)| class),
            problem(|(_, detail)| detail),
        ];
        table::write(&self.file, &mut self.table, SCHEMA.clone(), columns)
    }
}

/// Id, outcome and class of every id that the dataset in `dir` was asked for.
pub fn outcomes(dir: &Path) -> Result<Vec<(String, String, String)>, DatasetError> {
    let file = dir.join(OUTCOMES_FILE);
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
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| damaged(error.to_string()))?;
        // Cells are read by the place of their column.
        if batch.schema().fields() != SCHEMA.fields() {
            return Err(damaged("its columns are others".to_owned()));
        }
        let text = |column: usize| batch.column(column).as_string::<i32>();
        for row in 0..batch.num_rows() {
            let class = text(2).is_valid(row).then(|| text(2).value(row).to_owned());
            let (id, outcome) = (text(0).value(row), text(1).value(row));
            rows.push((id.to_owned(), outcome.to_owned(), class.unwrap_or_default()));
        }
    }
    Ok(rows)
}
