//! `predictions.parquet`: every score, for whoever wants figures of their own.
//!
//! Columns: `id` utf8, `split` utf8, `truth` list of utf8 (label names), `scores` list of float32 in
//! the order of `classes.json`. Validation rows first, then test, each in the order scored.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Builder, ListBuilder, RecordBatch, StringBuilder};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::error::EvalError;
use crate::input::{EvalInput, SplitScores};

/// Rows converted at once: a few megabytes even with hundreds of classes.
const ROWS_A_BATCH: usize = 4096;

/// The file's bytes.
pub(crate) fn encode(input: &EvalInput<'_>) -> Result<Vec<u8>, EvalError> {
    try_encode(input).map_err(|source| EvalError::Encode {
        what: "predictions.parquet",
        source,
    })
}

fn try_encode(input: &EvalInput<'_>) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    // For its schema: a file without rows has its columns, too.
    let empty = batch("test", &input.classes, &[], &[], &[])?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), empty.schema(), Some(properties))?;
    for (split, rows) in [("validation", &input.validation), ("test", &input.test)] {
        for batch in batches(split, &input.classes, rows) {
            writer.write(&batch?)?;
        }
    }
    Ok(writer.into_inner()?)
}

fn batches<'a>(
    split: &'a str,
    classes: &'a [String],
    rows: &'a SplitScores,
) -> impl Iterator<Item = Result<RecordBatch, arrow::error::ArrowError>> + 'a {
    // Not 0, for which `chunks` panics: a model without classes was refused before.
    let cells = ROWS_A_BATCH * classes.len();
    rows.ids
        .chunks(ROWS_A_BATCH)
        .zip(rows.truth.chunks(cells))
        .zip(rows.scores.chunks(cells))
        .map(move |((ids, truth), scores)| batch(split, classes, ids, truth, scores))
}

fn batch(
    split: &str,
    classes: &[String],
    ids: &[String],
    truth: &[u8],
    scores: &[f32],
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let mut id_column = StringBuilder::new();
    let mut split_column = StringBuilder::new();
    let mut truth_column = ListBuilder::new(StringBuilder::new());
    let mut score_column = ListBuilder::new(Float32Builder::new());
    let rows = truth
        .chunks_exact(classes.len())
        .zip(scores.chunks_exact(classes.len()));
    for (id, (truth, scores)) in ids.iter().zip(rows) {
        id_column.append_value(id);
        split_column.append_value(split);
        for (class, _) in classes
            .iter()
            .zip(truth)
            .filter(|(_, is_true)| **is_true != 0)
        {
            truth_column.values().append_value(class);
        }
        truth_column.append(true);
        score_column.values().append_slice(scores);
        score_column.append(true);
    }
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new(id_column.finish())),
        ("split", Arc::new(split_column.finish())),
        ("truth", Arc::new(truth_column.finish())),
        ("scores", Arc::new(score_column.finish())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, false)))
}
