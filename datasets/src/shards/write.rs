//! Writing shards. Rows come one by one, in their final order within each split.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, FixedSizeBinaryArray, RecordBatch, StringArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::FileWriter;
use marquee_domain::report::SourceNote;
use marquee_domain::spec::ImageEncoding;

use super::{BATCH_ROWS, FORMAT, INDEX_FILE, ShardError, ShardFile, ShardIndex, key};
use crate::durable::{AsideFile, write_json};

/// What all files of a shards folder have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardLayout {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    pub encoding: ImageEncoding,
    pub classes: Vec<String>,
    pub source: SourceNote,
    /// Seed of the splits.
    pub seed: u64,
    /// Bytes of pictures after which a new file is begun.
    pub shard_bytes: u64,
    /// More to say in the schema's metadata, by key.
    pub notes: BTreeMap<String, String>,
}

/// Writes a shards folder. Until [`ShardWriter::finish`] there is no `shards.json`, and without
/// one the folder is no shards folder.
#[derive(Debug)]
pub struct ShardWriter {
    dir: PathBuf,
    layout: ShardLayout,
    splits: BTreeMap<String, SplitWriter>,
}

#[derive(Debug)]
struct SplitWriter {
    schema: SchemaRef,
    open: Option<OpenShard>,
    pending: Pending,
    done: Vec<ShardFile>,
}

/// Rows of the batch that is being filled.
#[derive(Debug, Default)]
struct Pending {
    ids: Vec<String>,
    labels: Vec<u8>,
    images: Vec<u8>,
    image_lengths: Vec<usize>,
}

struct OpenShard {
    writer: FileWriter<AsideFile>,
    name: String,
    rows: u64,
    picture_bytes: u64,
}

impl std::fmt::Debug for OpenShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenShard")
            .field("name", &self.name)
            .field("rows", &self.rows)
            .finish()
    }
}

impl ShardWriter {
    /// Begins a shards folder in `dir`, which must exist.
    pub fn create(dir: &Path, layout: ShardLayout) -> Result<Self, ShardError> {
        let index = dir.join(INDEX_FILE);
        // An index from before would vouch for files that are about to be replaced.
        match fs::remove_file(&index) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ShardError::Io {
                file: index,
                source,
            }),
            Ok(()) | Err(_) => Ok(Self {
                dir: dir.to_owned(),
                layout,
                splits: BTreeMap::new(),
            }),
        }
    }

    /// Appends one row to `split`. `image` is raw pixels or a file, as the layout says.
    pub fn push(
        &mut self,
        split: &str,
        id: &str,
        labels: &[u8],
        image: &[u8],
    ) -> Result<(), ShardError> {
        self.check_row(id, labels, image)?;
        if !self.splits.contains_key(split) {
            let schema = Arc::new(schema_of(&self.layout, split)?);
            let writer = SplitWriter {
                schema,
                open: None,
                pending: Pending::default(),
                done: Vec::new(),
            };
            self.splits.insert(split.to_owned(), writer);
        }
        let writer = self.splits.get_mut(split).expect("it was inserted above");
        writer.pending.push(id, labels, image);
        // A fixed number of rows, not of bytes: with it memory has a bound, and equal rows give equal
        // files whatever came in between for other splits.
        if writer.pending.ids.len() == BATCH_ROWS {
            writer.write_batch(&self.dir, split, &self.layout)?;
        }
        Ok(())
    }

    /// Completes every file and writes the index.
    pub fn finish(mut self) -> Result<ShardIndex, ShardError> {
        let mut splits = BTreeMap::new();
        for (name, writer) in &mut self.splits {
            if !writer.pending.ids.is_empty() {
                writer.write_batch(&self.dir, name, &self.layout)?;
            }
            writer.close_shard()?;
            splits.insert(name.clone(), std::mem::take(&mut writer.done));
        }
        let index = ShardIndex {
            format: FORMAT,
            width: self.layout.width,
            height: self.layout.height,
            encoding: self.layout.encoding,
            classes: self.layout.classes,
            source: self.layout.source,
            splits,
        };
        // Last: only now is every file whole and under its own name.
        let file = self.dir.join(INDEX_FILE);
        write_json(&file, &index).map_err(|source| ShardError::Io { file, source })?;
        Ok(index)
    }

    fn check_row(&self, id: &str, labels: &[u8], image: &[u8]) -> Result<(), ShardError> {
        let refuse = |problem: String| ShardError::BadRow {
            id: id.to_owned(),
            problem,
        };
        let classes = self.layout.classes.len();
        if labels.len() != classes || labels.iter().any(|byte| *byte > 1) {
            return Err(refuse(format!("labels must be {classes} bytes of 0 or 1")));
        }
        let pixels = self.layout.width as usize * self.layout.height as usize * 3;
        match self.layout.encoding {
            ImageEncoding::Raw if image.len() != pixels => Err(refuse(format!(
                "a raw picture is {pixels} bytes, not {}",
                image.len()
            ))),
            ImageEncoding::Jpeg | ImageEncoding::Original if image.is_empty() => {
                Err(refuse("its file is empty".to_owned()))
            }
            ImageEncoding::Raw | ImageEncoding::Jpeg | ImageEncoding::Original => Ok(()),
        }
    }
}

impl Pending {
    fn push(&mut self, id: &str, labels: &[u8], image: &[u8]) {
        self.ids.push(id.to_owned());
        self.labels.extend_from_slice(labels);
        self.images.extend_from_slice(image);
        self.image_lengths.push(image.len());
    }

    fn into_batch(self, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let labels = fixed_size(schema.field(1), self.labels)?;
        let is_raw = matches!(schema.field(2).data_type(), DataType::FixedSizeBinary(_));
        let images: ArrayRef = if is_raw {
            fixed_size(schema.field(2), self.images)?
        } else {
            let mut rest = self.images.as_slice();
            Arc::new(BinaryArray::from_iter_values(
                self.image_lengths.iter().map(|length| {
                    let (image, after) = rest.split_at(*length);
                    rest = after;
                    image
                }),
            ))
        };
        let ids = Arc::new(StringArray::from_iter_values(&self.ids));
        RecordBatch::try_new(schema.clone(), vec![ids, labels, images])
    }
}

fn fixed_size(field: &Field, bytes: Vec<u8>) -> Result<ArrayRef, ArrowError> {
    let DataType::FixedSizeBinary(width) = *field.data_type() else {
        return Err(ArrowError::SchemaError(format!(
            "{} is not of fixed size",
            field.name()
        )));
    };
    Ok(Arc::new(FixedSizeBinaryArray::try_new(
        width,
        Buffer::from_vec(bytes),
        None,
    )?))
}

impl SplitWriter {
    fn write_batch(
        &mut self,
        dir: &Path,
        split: &str,
        layout: &ShardLayout,
    ) -> Result<(), ShardError> {
        if self.open.is_none() {
            self.open = Some(OpenShard::begin(dir, split, self.done.len(), &self.schema)?);
        }
        let shard = self.open.as_mut().expect("it was opened above");
        let pending = std::mem::take(&mut self.pending);
        let (rows, bytes) = (pending.ids.len() as u64, pending.images.len() as u64);
        let batch = pending.into_batch(&self.schema);
        batch
            .and_then(|batch| shard.writer.write(&batch))
            .map_err(|error| shard.fault(error))?;
        shard.rows += rows;
        shard.picture_bytes += bytes;
        // Only between batches, so a file may be a batch larger than asked for.
        if shard.picture_bytes >= layout.shard_bytes {
            self.close_shard()?;
        }
        Ok(())
    }

    fn close_shard(&mut self) -> Result<(), ShardError> {
        if let Some(shard) = self.open.take() {
            self.done.push(shard.finish()?);
        }
        Ok(())
    }
}

impl OpenShard {
    fn begin(dir: &Path, split: &str, number: usize, schema: &Schema) -> Result<Self, ShardError> {
        let name = format!("{split}-{number:05}.arrow");
        let file = dir.join(&name);
        let aside = AsideFile::create(&file).map_err(|source| ShardError::Io {
            file: file.clone(),
            source,
        })?;
        let writer = FileWriter::try_new(aside, schema).map_err(|error| ShardError::Io {
            file,
            source: io::Error::other(error),
        })?;
        Ok(Self {
            writer,
            name,
            rows: 0,
            picture_bytes: 0,
        })
    }

    fn finish(mut self) -> Result<ShardFile, ShardError> {
        self.writer.finish().map_err(|error| self.fault(error))?;
        let file = self.writer.get_ref().target().to_owned();
        let committed = self
            .writer
            .into_inner()
            .map_err(io::Error::other)
            .and_then(AsideFile::commit)
            .map_err(|source| ShardError::Io { file, source })?;
        Ok(ShardFile {
            file: self.name,
            rows: self.rows,
            digest: committed.digest,
        })
    }

    fn fault(&self, error: ArrowError) -> ShardError {
        let file = self.writer.get_ref().target().to_owned();
        ShardError::Io {
            file,
            source: io::Error::other(error),
        }
    }
}

fn schema_of(layout: &ShardLayout, split: &str) -> Result<Schema, ShardError> {
    let refuse = |problem: &str| ShardError::BadRow {
        id: split.to_owned(),
        problem: problem.to_owned(),
    };
    let pixels = layout.width as usize * layout.height as usize * 3;
    let pixels = i32::try_from(pixels).map_err(|_| refuse("a picture is above 2 GB"))?;
    let classes =
        i32::try_from(layout.classes.len()).map_err(|_| refuse("there are too many classes"))?;
    let image = match layout.encoding {
        ImageEncoding::Raw => DataType::FixedSizeBinary(pixels),
        ImageEncoding::Jpeg | ImageEncoding::Original => DataType::Binary,
    };
    let names = serde_json::to_string(&layout.classes).expect("a list of strings is always JSON");
    let source = serde_json::to_string(&layout.source).expect("a note is always JSON");
    // Each file says all of this by itself, so that one that is found alone can still be read.
    let metadata = [
        (key::FORMAT, FORMAT.to_string()),
        (key::WIDTH, layout.width.to_string()),
        (key::HEIGHT, layout.height.to_string()),
        (key::ENCODING, layout.encoding.as_str().to_owned()),
        (key::CLASSES, names),
        (key::SPLIT, split.to_owned()),
        (key::SEED, layout.seed.to_string()),
        (key::SOURCE, source),
    ];
    let notes = layout
        .notes
        .iter()
        .map(|(name, note)| (name.clone(), note.clone()));
    let metadata = metadata
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .chain(notes);
    let fields = vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("labels", DataType::FixedSizeBinary(classes), false),
        Field::new("image", image, false),
    ];
    Ok(Schema::new_with_metadata(
        fields,
        metadata.collect::<HashMap<String, String>>(),
    ))
}
