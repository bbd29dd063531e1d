//! Where the rows of a split come from, read back from the table beside its shards: by what file a
//! picture is known, whatever size and encoding the shards have it in.

use std::fs::File;
use std::io;
use std::path::Path;

use arrow::array::{Array, AsArray};
use marquee_domain::artifact::Digest;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::dataset::DatasetError;

/// Of all columns, those that are read.
const COLUMNS: [&str; 4] = ["id", "picture_digest", "group", "source"];

/// Where one row of a split comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub id: String,
    /// Of the picture's file, as it was fetched.
    pub picture: Digest,
    pub group: Option<String>,
    /// Where the data set is from, such as a host; groups have their names within it.
    pub source: String,
}

/// The origins of split `split` of the shards in `dir`, in the order of its rows. None: the folder has no
/// such table of it, as shards have none that were made by hand.
pub fn origins(dir: &Path, split: &str) -> Result<Option<Vec<Origin>>, DatasetError> {
    let file = dir.join(format!("{split}.parquet"));
    let damaged = |problem: String| DatasetError::Damaged {
        file: file.clone(),
        problem,
    };
    let open = match File::open(&file) {
        Ok(open) => open,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(DatasetError::Io {
                file: file.clone(),
                source,
            });
        }
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(open)
        .map_err(|error| damaged(error.to_string()))?;
    let has = |name: &&str| builder.schema().column_with_name(name).is_some();
    // Somebody's own table beside shards that were made by hand says nothing of where they come from.
    if !COLUMNS.iter().all(has) {
        return Ok(None);
    }
    let columns = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
    let reader = builder
        .with_projection(columns)
        .build()
        .map_err(|error| damaged(error.to_string()))?;
    let mut origins = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| damaged(error.to_string()))?;
        let column = |name: &str| {
            batch
                .column_by_name(name)
                .and_then(|column| column.as_string_opt::<i32>().cloned())
                .ok_or_else(|| damaged(format!("it has no column {name} of text")))
        };
        let [ids, digests, groups, sources] = COLUMNS.map(column);
        let (ids, digests, groups, sources) = (ids?, digests?, groups?, sources?);
        for row in 0..batch.num_rows() {
            origins.push(Origin {
                id: ids.value(row).to_owned(),
                picture: digests
                    .value(row)
                    .parse()
                    .map_err(|error| damaged(format!("row {:?}: {error}", ids.value(row))))?,
                group: (!groups.is_null(row)).then(|| groups.value(row).to_owned()),
                source: sources.value(row).to_owned(),
            });
        }
    }
    Ok(Some(origins))
}

#[cfg(test)]
mod tests {
    use super::super::classes::tests::example;
    use super::super::tables::{self, TableRow};
    use super::*;
    use crate::dataset::{Example, table};
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    #[test]
    fn what_preprocess_writes_is_read_back_row_by_row_and_what_is_not_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let examples: Vec<Example> = (0..3)
            .map(|at| example(at, "a", (at == 1).then_some("alien")))
            .collect();
        let row = |example| TableRow {
            example,
            look: None,
            flags: &[],
            place: Ok("test"),
        };
        let rows: Vec<TableRow<'_>> = examples.iter().map(row).collect();
        tables::write(dir.path(), "test", &rows).unwrap();
        let found = origins(dir.path(), "test").unwrap().unwrap();
        assert_eq!(found.len(), 3);
        for (found, example) in found.iter().zip(&examples) {
            assert_eq!(
                (&found.id, &found.picture),
                (&example.id, &example.picture_digest)
            );
            assert_eq!(
                (&found.group, &found.source),
                (&example.group, &example.source)
            );
        }
        tables::write(dir.path(), "validation", &[]).unwrap();
        assert_eq!(origins(dir.path(), "validation").unwrap(), Some(Vec::new()));
        assert_eq!(origins(dir.path(), "train").unwrap(), None);

        let foreign = Schema::new(vec![Field::new("path", DataType::Utf8, false)]);
        let file = dir.path().join("train.parquet");
        let table = table::create(&file, &Arc::new(foreign)).unwrap();
        table::commit(&file, table).unwrap();
        assert_eq!(origins(dir.path(), "train").unwrap(), None);

        std::fs::write(&file, b"PAR1 and no more").unwrap();
        let problem = origins(dir.path(), "train").unwrap_err().to_string();
        assert!(problem.contains("train.parquet"), "{problem}");
    }
}
