//! The pictures' files as they came, packed: a hundred thousand small files would cost more to
//! move and to open than the pictures in them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::writer::FileWriter;

use super::DatasetError;
use crate::durable::AsideFile;
use crate::ipc;
use crate::mapping::map;

/// Bytes of pictures in one record batch.
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of pictures in one file: large enough to move fast, small enough to spread over hosts.
const FILE_BYTES: usize = 512 * 1024 * 1024;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("bytes", DataType::Binary, false),
    ]))
});

/// Writes `pictures-NNNNN.arrow`.
pub(super) struct PicturesWriter {
    dir: PathBuf,
    open: Option<(FileWriter<AsideFile>, usize)>,
    files: usize,
    ids: Vec<String>,
    pictures: Vec<Vec<u8>>,
    pending_bytes: usize,
}

impl std::fmt::Debug for PicturesWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PicturesWriter")
            .field("dir", &self.dir)
            .field("files", &self.files)
            .finish()
    }
}

impl PicturesWriter {
    pub(super) fn new(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self {
            dir,
            open: None,
            files: 0,
            ids: Vec::new(),
            pictures: Vec::new(),
            pending_bytes: 0,
        }
    }

    pub(super) fn push(&mut self, id: &str, picture: Vec<u8>) -> Result<(), DatasetError> {
        self.pending_bytes += picture.len();
        self.ids.push(id.to_owned());
        self.pictures.push(picture);
        // By bytes, since pictures differ by a factor of a thousand.
        if self.pending_bytes >= BATCH_BYTES {
            self.write_batch()
        } else {
            Ok(())
        }
    }

    pub(super) fn finish(mut self) -> Result<(), DatasetError> {
        self.write_batch()?;
        self.close_file()
    }

    fn file_name(&self) -> PathBuf {
        self.dir.join(format!("pictures-{:05}.arrow", self.files))
    }

    fn write_batch(&mut self) -> Result<(), DatasetError> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let file = self.file_name();
        let fault = |source: io::Error| DatasetError::Io {
            file: file.clone(),
            source,
        };
        if self.open.is_none() {
            let aside = AsideFile::create(&file).map_err(fault)?;
            let writer = FileWriter::try_new(aside, &SCHEMA).map_err(io::Error::other);
            self.open = Some((writer.map_err(fault)?, 0));
        }
        let ids = std::mem::take(&mut self.ids);
        let pictures = std::mem::take(&mut self.pictures);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(ids)),
            Arc::new(BinaryArray::from_iter_values(pictures)),
        ];
        let (writer, bytes) = self.open.as_mut().expect("it was opened above");
        let batch = RecordBatch::try_new(SCHEMA.clone(), columns);
        let written = batch.and_then(|batch| writer.write(&batch));
        written.map_err(|error| fault(io::Error::other(error)))?;
        *bytes += std::mem::take(&mut self.pending_bytes);
        if *bytes >= FILE_BYTES {
            self.close_file()
        } else {
            Ok(())
        }
    }

    fn close_file(&mut self) -> Result<(), DatasetError> {
        let Some((mut writer, _)) = self.open.take() else {
            return Ok(());
        };
        let closed = writer
            .finish()
            .and_then(|()| writer.into_inner())
            .map_err(io::Error::other)
            .and_then(AsideFile::commit);
        let file = self.file_name();
        self.files += 1;
        closed
            .map(|_| ())
            .map_err(|source| DatasetError::Io { file, source })
    }
}

/// The pictures of a dataset, mapped.
#[derive(Debug)]
pub(super) struct Pictures {
    batches: Vec<BinaryArray>,
    /// Batch and row by id.
    places: HashMap<String, (usize, usize)>,
}

impl Pictures {
    pub(super) fn open(dir: &Path) -> Result<Self, DatasetError> {
        let mut pictures = Self {
            batches: Vec::new(),
            places: HashMap::new(),
        };
        for file in files_in(dir)? {
            let bytes = map(&file).map_err(|source| DatasetError::Io {
                file: file.clone(),
                source,
            })?;
            let batches =
                ipc::decode(&bytes, check_schema).map_err(|problem| DatasetError::Damaged {
                    file: file.clone(),
                    problem,
                })?;
            for batch in batches {
                pictures.add_batch(&batch);
            }
        }
        Ok(pictures)
    }

    /// Takes the pictures of another dataset in.
    pub(super) fn extend(&mut self, other: Self) {
        // The other's batches come behind ours, so their numbers are moved by as many.
        let before = self.batches.len();
        let places = other.places.into_iter();
        self.places
            .extend(places.map(|(id, (batch, row))| (id, (before + batch, row))));
        self.batches.extend(other.batches);
    }

    /// The file of the picture `id`.
    pub(super) fn get(&self, id: &str) -> Option<&[u8]> {
        let (batch, row) = self.places.get(id)?;
        Some(self.batches[*batch].value(*row))
    }

    fn add_batch(&mut self, batch: &RecordBatch) {
        let ids = batch.column(0).as_string::<i32>();
        for row in 0..ids.len() {
            self.places
                .insert(ids.value(row).to_owned(), (self.batches.len(), row));
        }
        self.batches
            .push(batch.column(1).as_binary::<i32>().clone());
    }
}

fn check_schema(found: &Schema) -> Result<(), String> {
    let is_ours = found.fields().len() == SCHEMA.fields().len()
        && found
            .fields()
            .iter()
            .zip(SCHEMA.fields())
            // Nothing else of a column counts: what else a writer notes of it is no reason to
            // refuse its pictures.
            .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
    if is_ours {
        Ok(())
    } else {
        Err("its columns are not id and bytes".to_owned())
    }
}

fn files_in(dir: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let fault = |source| DatasetError::Io {
        file: dir.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("pictures-") && name.ends_with(".arrow") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
