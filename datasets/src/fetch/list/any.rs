//! Lists in Parquet of whatever bytes, for the fuzzer.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, ListBuilder, RecordBatch, StringArray, StringBuilder,
};
use arrow::datatypes::{Field, Int32Type, Schema};
use marquee_domain::spec::LabelRules;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::rows::List;
use crate::fetch::any::in_memory;
use crate::fetch::table::Table;
use crate::job::JobError;

/// Reads whatever bytes as a list in Parquet, and says what became of it.
#[must_use]
pub fn read_any_list(bytes: &[u8]) -> String {
    in_memory(bytes, |path| {
        let table = Table::open_parquet(path).map_err(JobError::bad_input)?;
        let list = List::of(table, &LabelRules::default()).map_err(JobError::bad_input)?;
        let mut rows = 0;
        list.read(&mut |_| {
            rows += 1;
            Ok(())
        })?;
        Ok(format!("{rows} rows"))
    })
}

/// Lists that are right.
#[must_use]
pub fn list_samples() -> Vec<Vec<u8>> {
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::default()),
    ];
    codecs.into_iter().filter_map(sample).collect()
}

fn sample(codec: Compression) -> Option<Vec<u8>> {
    let texts: DictionaryArray<Int32Type> = ["a", "b", "c"].into_iter().collect();
    let urls = StringArray::from(vec!["a.jpg", "http://h/b.jpg", "c.jpg"]);
    let mut labels = ListBuilder::new(StringBuilder::new());
    labels.append_value([Some("cat"), Some("dog")]);
    labels.append_null();
    labels.append_value([Some("dog")]);
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(texts)),
        ("url", Arc::new(urls)),
        ("labels", Arc::new(labels.finish())),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let columns = columns.map(|(_, column)| column).to_vec();
    let batch = RecordBatch::try_new(schema.clone(), columns).ok()?;
    let properties = WriterProperties::builder().set_compression(codec).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).ok()?;
    writer.write(&batch).ok()?;
    writer.into_inner().ok()
}
