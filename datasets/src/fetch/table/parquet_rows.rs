//! The rows of a Parquet table.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, LogicalType};
use parquet::file::metadata::ParquetMetaData;
use serde_json::Value;

use super::parquet_cell::{cell_at, uuid_at};
use super::{Cell, Fault, Row};
use crate::fetch::files::open_plain;

/// Rows that are read at once.
const BATCH_ROWS: usize = 1_024;
/// Under this key the library `datasets` says which numbers stand for which classes.
const DATASETS_KEY: &str = "huggingface";

/// A Parquet file whose columns are known.
pub(super) struct ParquetTable {
    path: PathBuf,
    schema: SchemaRef,
    /// By column: the names of classes that its numbers stand for.
    classes: HashMap<String, Vec<String>>,
}

impl ParquetTable {
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let builder = builder_of(path)?;
        Ok(Self {
            path: path.to_owned(),
            schema: builder.schema().clone(),
            classes: classes_of(builder.metadata()),
        })
    }

    pub(super) fn names(&self) -> Vec<String> {
        let fields = self.schema.fields().iter();
        fields.map(|field| field.name().clone()).collect()
    }

    /// The rows, with the cells of these columns.
    pub(super) fn rows(&self, columns: &[usize]) -> Result<ParquetRows, String> {
        let builder = builder_of(&self.path)?;
        // What cannot be a cell is not read: it may be the pictures themselves.
        let mut read: Vec<usize> = columns
            .iter()
            .copied()
            .filter(|at| can_be_cell(self.schema.field(*at).data_type()))
            .collect();
        // The reader gives columns in the order of the file, whatever the order of asking.
        read.sort_unstable();
        read.dedup();
        check_columns(&builder, &read, bytes_of(&self.path))?;
        let uuids = uuids_of(&builder);
        let picks = columns
            .iter()
            .map(|at| {
                let field = self.schema.field(*at);
                let classes = self.classes.get(field.name()).cloned();
                match read.binary_search(at) {
                    Ok(place) if uuids.contains(at) => Pick::Uuid(place),
                    Ok(place) => Pick::Column(place, classes.unwrap_or_default()),
                    Err(_) => Pick::Odd(field.data_type().to_string()),
                }
            })
            .collect();
        // By roots: a column of lists is one of our columns and several of the file's.
        let mask = ProjectionMask::roots(builder.parquet_schema(), read);
        let builder = builder.with_projection(mask).with_batch_size(BATCH_ROWS);
        let reader = guarded(|| builder.build().map_err(|error| error.to_string()))?;
        Ok(ParquetRows {
            reader,
            picks,
            batch: None,
            at: 0,
            number: 0,
            is_over: false,
        })
    }
}

fn builder_of(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<std::fs::File>, String> {
    let file = open_plain(path).map_err(|error| format!("it cannot be opened: {error}"))?;
    guarded(|| {
        ParquetRecordBatchReaderBuilder::try_new(file)
            .map_err(|error| format!("it is no Parquet file that can be read: {error}"))
    })
}

/// Runs a reader that panics on some files that are torn or made to harm: such a file is bad input, and no
/// fault of this program that would be tried again.
fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err("it is damaged".to_owned()))
}

fn can_be_cell(kind: &DataType) -> bool {
    !(kind.is_temporal()
        || matches!(
            kind,
            DataType::Struct(_) | DataType::Map(..) | DataType::Union(..)
        ))
}

/// Columns whose 16 bytes are numbers that are written in a form of their own, as DuckDB's are.
fn uuids_of(builder: &ParquetRecordBatchReaderBuilder<std::fs::File>) -> Vec<usize> {
    let schema = builder.parquet_schema();
    let leaves = schema.columns().iter().enumerate();
    leaves
        .filter(|(_, leaf)| leaf.logical_type_ref() == Some(&LogicalType::Uuid))
        .map(|(at, _)| schema.get_column_root_idx(at))
        .collect()
}

fn bytes_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

/// Refuses columns that lie outside of the file, or are packed in a way that is not unpacked here, before
/// half of them was read.
fn check_columns(
    builder: &ParquetRecordBatchReaderBuilder<std::fs::File>,
    roots: &[usize],
    file_bytes: u64,
) -> Result<(), String> {
    let schema = builder.parquet_schema();
    for group in builder.metadata().row_groups() {
        for (at, column) in group.columns().iter().enumerate() {
            let is_read = roots.contains(&schema.get_column_root_idx(at));
            let start = column
                .dictionary_page_offset()
                .unwrap_or(column.data_page_offset());
            let end = start.checked_add(column.compressed_size());
            let is_within = start >= 0
                && column.compressed_size() >= 0
                && end.is_some_and(|end| u64::try_from(end).is_ok_and(|end| end <= file_bytes));
            if is_read && !is_within {
                return Err(format!(
                    "it is damaged: its column {} lies outside of it",
                    column.column_path()
                ));
            }
            if is_read && matches!(column.compression(), Compression::LZO) {
                return Err(format!(
                    "its column {} is packed with LZO, which is not read; write it with snappy, zstd, gzip, \
                     lz4 or brotli, such as df.to_parquet(..., compression=\"zstd\")",
                    column.column_path()
                ));
            }
        }
    }
    Ok(())
}

/// The classes that `datasets` gives columns of numbers, by column. What it says otherwise is nobody's
/// promise, so that what is not understood is left aside.
fn classes_of(metadata: &ParquetMetaData) -> HashMap<String, Vec<String>> {
    let notes = metadata.file_metadata().key_value_metadata();
    let note = notes
        .into_iter()
        .flatten()
        .find(|note| note.key == DATASETS_KEY);
    let note: Option<Value> = note
        .and_then(|note| note.value.as_deref())
        .and_then(|text| serde_json::from_str(text).ok());
    let Some(features) = note
        .as_ref()
        .and_then(|note| note.pointer("/info/features")?.as_object())
    else {
        return HashMap::new();
    };
    let named = features.iter().filter_map(|(column, feature)| {
        // A list of classes is written as its item, or with it under "feature".
        let item = match feature.as_array() {
            Some(items) => items.first()?,
            None => feature.get("feature").unwrap_or(feature),
        };
        let names = item.get("names")?.as_array()?.iter();
        let names = names.map(|name| name.as_str().map(str::to_owned));
        Some((column.clone(), names.collect::<Option<Vec<_>>>()?))
    });
    named.collect()
}

/// How a cell is had.
enum Pick {
    /// From this column of a batch, with the names of its classes.
    Column(usize, Vec<String>),
    /// The same, a UUID.
    Uuid(usize),
    /// Not at all: it is of this type.
    Odd(String),
}

pub(super) struct ParquetRows {
    reader: ParquetRecordBatchReader,
    picks: Vec<Pick>,
    batch: Option<RecordBatch>,
    at: usize,
    number: u64,
    is_over: bool,
}

impl Iterator for ParquetRows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        while self
            .batch
            .as_ref()
            .is_none_or(|batch| self.at >= batch.num_rows())
        {
            let reader = &mut self.reader;
            let next = guarded(|| Ok(reader.next()))
                .map(|next| next.map(|batch| batch.map_err(|error| error.to_string())));
            match next.transpose()?.and_then(|batch| batch) {
                Ok(batch) => {
                    self.batch = Some(batch);
                    self.at = 0;
                }
                Err(error) => {
                    self.is_over = true;
                    let problem = format!("what follows cannot be read: {error}");
                    return Some(Err(Fault::of_row(self.number + 1, problem)));
                }
            }
        }
        let batch = self.batch.as_ref()?;
        let cells = self.picks.iter().map(|pick| match pick {
            Pick::Column(place, classes) => cell_at(batch.column(*place), self.at, classes),
            Pick::Uuid(place) => uuid_at(batch.column(*place), self.at),
            Pick::Odd(kind) => Cell::Odd(kind.clone()),
        });
        let cells = match guarded(|| Ok(cells.collect())) {
            Ok(cells) => cells,
            Err(problem) => {
                self.is_over = true;
                return Some(Err(Fault::of_row(self.number + 1, problem)));
            }
        };
        self.at += 1;
        self.number += 1;
        Some(Ok(Row {
            number: self.number,
            cells,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Decimal128Array, DictionaryArray,
        FixedSizeListArray, Float64Array, Int8Array, Int16Array, Int64Array, LargeListArray,
        LargeStringArray, ListArray, NullArray, StringArray, StringViewArray, TimestampSecondArray,
        UInt32Array,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Field, Schema, UInt8Type};
    use parquet::arrow::ArrowWriter;
    use parquet::basic::{BrotliLevel, GzipLevel, ZstdLevel};
    use parquet::data_type::FixedLenByteArrayType;
    use parquet::file::metadata::KeyValue;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;

    use super::*;

    struct Written(tempfile::TempDir);

    impl Written {
        fn path(&self) -> PathBuf {
            self.0.path().join("t.parquet")
        }
    }

    fn write(
        columns: &[(&str, ArrayRef)],
        compression: Compression,
        datasets: Option<&str>,
    ) -> Written {
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let columns = columns.iter().map(|(_, column)| column.clone()).collect();
        let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let note = datasets.map(|text| KeyValue::new(DATASETS_KEY.to_owned(), text.to_owned()));
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_key_value_metadata(note.map(|note| vec![note]))
            .build();
        let folder = Written(tempfile::tempdir().unwrap());
        let file = File::create(folder.path()).unwrap();
        let mut writer = ArrowWriter::try_new(file, schema, Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        folder
    }

    /// The cells of a column with this name, one text each.
    fn cells(name: &str, column: ArrayRef, datasets: Option<&str>) -> Vec<String> {
        let written = write(&[(name, column)], Compression::SNAPPY, datasets);
        let table = ParquetTable::open(&written.path()).unwrap();
        let rows = table.rows(&[0]).unwrap();
        rows.map(|row| match &row.unwrap().cells[0] {
            Cell::Empty => "-".to_owned(),
            Cell::Text(text) => text.clone(),
            Cell::List(texts) => format!("[{}]", texts.join(",")),
            Cell::Odd(kind) => format!("<{kind}>"),
        })
        .collect()
    }

    #[test]
    fn texts_and_numbers_of_every_layout_are_the_same_cells() {
        let texts = [Some("cat"), None, Some("dog")];
        let bytes = texts.map(|text| text.map(str::as_bytes));
        let dictionary: DictionaryArray<UInt8Type> = texts.into_iter().collect();
        for column in [
            Arc::new(StringArray::from(texts.to_vec())) as ArrayRef,
            Arc::new(LargeStringArray::from(texts.to_vec())),
            Arc::new(StringViewArray::from(texts.to_vec())),
            Arc::new(BinaryArray::from(bytes.to_vec())),
            Arc::new(BinaryViewArray::from(bytes.to_vec())),
            Arc::new(dictionary),
        ] {
            let kind = column.data_type().to_string();
            assert_eq!(cells("x", column, None), ["cat", "-", "dog"], "{kind}");
        }
        for column in [
            Arc::new(Int8Array::from(vec![Some(1), None, Some(-1)])) as ArrayRef,
            Arc::new(Int16Array::from(vec![Some(1), None, Some(-1)])),
            Arc::new(Int64Array::from(vec![Some(1), None, Some(-1)])),
            // What pandas makes of whole numbers of which some are missing.
            Arc::new(Float64Array::from(vec![
                Some(1.0),
                Some(f64::NAN),
                Some(-1.0),
            ])),
        ] {
            let kind = column.data_type().to_string();
            assert_eq!(cells("x", column, None), ["1", "-", "-1"], "{kind}");
        }
        let flags = BooleanArray::from(vec![Some(true), None, Some(false)]);
        assert_eq!(cells("x", Arc::new(flags), None), ["true", "-", "false"]);
        assert_eq!(cells("x", Arc::new(NullArray::new(2)), None), ["-", "-"]);
        let large = UInt32Array::from(vec![u32::MAX]);
        assert_eq!(cells("x", Arc::new(large), None), ["4294967295"]);
    }

    #[test]
    fn decimals_and_uuids_are_the_texts_that_they_are_written_as() {
        let decimals = |scale| {
            let numbers = Decimal128Array::from(vec![Some(1234), None, Some(-5)]);
            Arc::new(numbers.with_precision_and_scale(20, scale).unwrap())
        };
        assert_eq!(cells("x", decimals(0), None), ["1234", "-", "-5"]);
        assert_eq!(cells("x", decimals(2), None), ["12.34", "-", "-0.05"]);
        let schema = "message m { required fixed_len_byte_array(16) x (UUID); }";
        let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
        let folder = Written(tempfile::tempdir().unwrap());
        let file = File::create(folder.path()).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Default::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        // The second would pass for a text.
        let values = [[0xf0; 16], *b"0123456789abcdef"];
        let values = values.map(|value| value.to_vec().into());
        let typed = column.typed::<FixedLenByteArrayType>();
        typed.write_batch(&values, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        let table = ParquetTable::open(&folder.path()).unwrap();
        let texts: Vec<String> = table
            .rows(&[0])
            .unwrap()
            .map(|row| row.unwrap().cells[0].text())
            .collect();
        assert_eq!(
            texts,
            [
                "f0f0f0f0-f0f0-f0f0-f0f0-f0f0f0f0f0f0",
                "30313233-3435-3637-3839-616263646566"
            ]
        );
    }

    #[test]
    fn lists_of_every_layout_are_the_same_cells() {
        let dictionary: DictionaryArray<UInt8Type> =
            ["cat", "dog", "dog", "cat"].into_iter().collect();
        let items: [ArrayRef; 3] = [
            Arc::new(StringArray::from(vec!["cat", "dog", "dog", "cat"])),
            Arc::new(StringViewArray::from(vec!["cat", "dog", "dog", "cat"])),
            Arc::new(dictionary),
        ];
        let nulls = || Some(vec![true, true, false, true].into());
        for items in items {
            let item = Arc::new(Field::new("item", items.data_type().clone(), true));
            let lengths = [2, 0, 0, 2];
            let list = ListArray::new(
                item.clone(),
                OffsetBuffer::from_lengths(lengths),
                items.clone(),
                nulls(),
            );
            let large = LargeListArray::new(
                item.clone(),
                OffsetBuffer::from_lengths(lengths),
                items.clone(),
                nulls(),
            );
            for column in [Arc::new(list) as ArrayRef, Arc::new(large)] {
                let kind = column.data_type().to_string();
                let read = cells("x", column, None);
                assert_eq!(read, ["[cat,dog]", "[]", "-", "[dog,cat]"], "{kind}");
            }
            let fixed = FixedSizeListArray::new(item, 2, items, None);
            let read = cells("x", Arc::new(fixed), None);
            assert_eq!(read, ["[cat,dog]", "[dog,cat]"]);
        }
    }

    #[test]
    fn class_numbers_become_names_and_what_is_no_cell_is_named_by_its_type() {
        let note =
            r#"{"info":{"features":{"label":{"names":["cat","dog"],"_type":"ClassLabel"}}}}"#;
        let numbers = Int64Array::from(vec![1, 0, -1, 7]);
        assert_eq!(
            cells("label", Arc::new(numbers.clone()), Some(note)),
            ["dog", "cat", "-", "<class number 7 of 2 classes>"]
        );
        let list = ListArray::new(
            Arc::new(Field::new("item", DataType::Int64, true)),
            OffsetBuffer::from_lengths([2, 0]),
            Arc::new(Int64Array::from(vec![0, 1])),
            None,
        );
        for note in [
            r#"{"info":{"features":{"label":{"feature":{"names":["cat","dog"]},"_type":"Sequence"}}}}"#,
            r#"{"info":{"features":{"label":[{"names":["cat","dog"]}]}}}"#,
        ] {
            let read = cells("label", Arc::new(list.clone()), Some(note));
            assert_eq!(read, ["[cat,dog]", "[]"], "{note}");
        }
        // What is not understood is left aside.
        for note in [
            "",
            "{",
            "[]",
            r#"{"info":3}"#,
            r#"{"info":{"features":{"label":{"names":[1]}}}}"#,
        ] {
            let read = cells("label", Arc::new(numbers.clone()), Some(note));
            assert_eq!(read[0], "1", "{note}");
        }
        let times = TimestampSecondArray::from(vec![1]);
        assert_eq!(cells("x", Arc::new(times), None), ["<Timestamp(s)>"]);
    }

    #[test]
    fn the_usual_codecs_are_read() {
        let texts: Vec<String> = (0..3_000).map(|row| format!("picture {row}")).collect();
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(GzipLevel::default()),
            Compression::ZSTD(ZstdLevel::default()),
            Compression::BROTLI(BrotliLevel::default()),
            Compression::LZ4,
            Compression::LZ4_RAW,
        ] {
            let column: ArrayRef = Arc::new(StringArray::from(texts.clone()));
            let written = write(&[("x", column)], compression, None);
            let table = ParquetTable::open(&written.path()).unwrap();
            let rows: Vec<Row> = table.rows(&[0]).unwrap().map(Result::unwrap).collect();
            assert_eq!(rows.len(), 3_000, "{compression}");
            assert_eq!(rows[2_999].cells[0].text(), texts[2_999], "{compression}");
            assert_eq!(rows[2_999].number, 3_000);
        }
    }

    #[test]
    fn a_column_that_lies_outside_of_its_file_is_refused_and_no_panic() {
        let column: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
        let written = write(&[("x", column)], Compression::SNAPPY, None);
        let whole = std::fs::read(written.path()).unwrap();
        // Whatever byte of the footer is another one: the file is read, refused, or has faults.
        let footer = whole.len() - 8 - usize::from(whole[whole.len() - 8]).min(whole.len() - 12);
        let mut refused = 0;
        for at in footer..whole.len() - 8 {
            for byte in [0_u8, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                std::fs::write(written.path(), &bytes).unwrap();
                let read = ParquetTable::open(&written.path())
                    .and_then(|table| Ok(table.rows(&[0])?.count()));
                refused += usize::from(read.is_err());
            }
        }
        assert!(refused > 0);
    }

    #[test]
    fn a_torn_file_is_a_fault_and_an_end() {
        let texts: Vec<String> = (0..3_000).map(|row| format!("{row}")).collect();
        let column: ArrayRef = Arc::new(StringArray::from(texts));
        let written = write(
            &[("x", column)],
            Compression::ZSTD(ZstdLevel::default()),
            None,
        );
        let mut bytes = std::fs::read(written.path()).unwrap();
        for byte in &mut bytes[100..400] {
            *byte ^= 0x5a;
        }
        std::fs::write(written.path(), &bytes).unwrap();
        let table = ParquetTable::open(&written.path()).unwrap();
        let faults = table.rows(&[0]).unwrap().filter(Result::is_err).count();
        assert_eq!(faults, 1);
        std::fs::write(written.path(), &bytes[..200]).unwrap();
        let problem = ParquetTable::open(&written.path()).err().unwrap();
        assert!(problem.contains("it is no Parquet file"), "{problem}");
    }
}
