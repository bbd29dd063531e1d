//! Reading shards: mapped, checked once, then zero-copy.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, BinaryArray, FixedSizeBinaryArray, RecordBatch, StringArray};
use arrow::buffer::MutableBuffer;
use arrow::datatypes::{DataType, Schema};
use marquee_domain::artifact::Digest;
use marquee_domain::spec::ImageEncoding;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::{FORMAT, INDEX_FILE, MadeFrom, ShardError, ShardFile, ShardIndex, key};
use crate::ipc;
use crate::mapping::{self, Mapping};
use crate::picture::Shrinker;

/// How far a set is checked when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Every byte against the digests of the index.
    Digests,
    /// The layout alone. For large sets whose bytes were just verified by the artifact cache.
    Layout,
}

/// A shards folder, open for reading.
#[derive(Debug)]
pub struct ShardSet {
    index: ShardIndex,
    splits: BTreeMap<String, Split>,
}

impl ShardSet {
    /// Opens the shards in `dir` and checks every byte.
    pub fn open(dir: &Path) -> Result<Self, ShardError> {
        Self::open_with(dir, Check::Digests)
    }

    /// Opens the shards in `dir`, checked as far as `check` says.
    pub fn open_with(dir: &Path, check: Check) -> Result<Self, ShardError> {
        let index = read_index(&dir.join(INDEX_FILE))?;
        let mut splits = BTreeMap::new();
        for (name, files) in &index.splits {
            let mut split = Split::empty(name, &index);
            for file in files {
                split.add_file(dir, file, &index, check)?;
            }
            splits.insert(name.clone(), split);
        }
        Ok(Self { index, splits })
    }

    /// What the folder holds.
    #[must_use]
    pub fn index(&self) -> &ShardIndex {
        &self.index
    }

    /// What the shards were made from. None: they do not say, as those do not that were made by hand.
    #[must_use]
    pub fn made_from(&self) -> Option<&MadeFrom> {
        self.splits
            .values()
            .find_map(|split| split.made_from.as_ref())
    }

    /// The split `name`, if the folder has it.
    #[must_use]
    pub fn split(&self, name: &str) -> Option<&Split> {
        self.splits.get(name)
    }
}

fn read_index(file: &Path) -> Result<ShardIndex, ShardError> {
    let text = fs::read(file).map_err(|source| ShardError::Io {
        file: file.to_owned(),
        source,
    })?;
    let damaged = |problem: String| ShardError::Index {
        file: file.to_owned(),
        problem,
    };
    let index: ShardIndex =
        serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if index.format != FORMAT {
        return Err(damaged(format!(
            "it has format {}, this program reads {FORMAT}",
            index.format
        )));
    }
    for shard in index.splits.values().flatten() {
        // An index may come from anywhere; a name in it must not lead out of the folder.
        if shard.file.is_empty() || shard.file.contains(['/', '\\']) || shard.file == ".." {
            return Err(damaged(format!("{:?} is no plain file name", shard.file)));
        }
    }
    Ok(index)
}

/// One row; it borrows from the mapped file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    pub id: &'a str,
    /// One byte a class, 0 or 1.
    pub labels: &'a [u8],
    /// Raw pixels (height x width x 3, RGB), a JPEG of that size or a file of any, as the index says.
    pub image: &'a [u8],
}

/// The rows of one split, over all its files.
#[derive(Debug)]
pub struct Split {
    name: String,
    width: u32,
    height: u32,
    encoding: ImageEncoding,
    batches: Vec<Batch>,
    rows: usize,
    made_from: Option<MadeFrom>,
}

#[derive(Debug)]
struct Batch {
    /// Rows of the split before this batch.
    first_row: usize,
    ids: StringArray,
    labels: FixedSizeBinaryArray,
    images: Images,
    file: PathBuf,
    /// None: not of a file.
    mapping: Option<Mapping>,
}

#[derive(Debug)]
enum Images {
    Raw(FixedSizeBinaryArray),
    Files(BinaryArray),
}

impl Images {
    /// The bytes of `count` pictures from `first` on, which lie side by side.
    fn bytes(&self, first: usize, count: usize) -> &[u8] {
        match self {
            Self::Raw(images) => {
                let width = images.value_length() as usize;
                &images.value_data()[first * width..(first + count) * width]
            }
            Self::Files(images) => {
                let offset = |at: usize| images.value_offsets()[at] as usize;
                &images.value_data()[offset(first)..offset(first + count)]
            }
        }
    }
}

impl Split {
    fn empty(name: &str, index: &ShardIndex) -> Self {
        Self {
            name: name.to_owned(),
            width: index.width,
            height: index.height,
            encoding: index.encoding,
            batches: Vec::new(),
            rows: 0,
            made_from: None,
        }
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Row `i`, counted over all files of the split.
    pub fn row(&self, i: usize) -> Result<Row<'_>, ShardError> {
        let (batch, at) = self.locate(i)?;
        let image = match &batch.images {
            Images::Raw(images) => images.value(at),
            Images::Files(images) => images.value(at),
        };
        Ok(Row {
            id: batch.ids.value(at),
            labels: batch.labels.value(at),
            image,
        })
    }

    /// Asks the kernel to read these rows, in growing order, before they are needed. Waits until the
    /// disk has taken the requests, rows that lie side by side as one; rows that are not there are
    /// left out.
    pub fn will_need(&self, rows: &[usize]) {
        let mut rest = rows;
        while let Some(first) = rest.first() {
            let Ok((batch, at)) = self.locate(*first) else {
                return;
            };
            let left_in_batch = batch.ids.len() - at;
            let side_by_side = rest
                .iter()
                .enumerate()
                .take(left_in_batch)
                .take_while(|(offset, row)| **row == first + offset)
                .count();
            if let Some(mapping) = &batch.mapping {
                mapping.will_need(batch.images.bytes(at, side_by_side));
            }
            rest = &rest[side_by_side.max(1)..];
        }
    }

    /// Writes the pixels of row `i` to `out`: height x width x 3 bytes, RGB, decoded if need be.
    pub fn pixels_into(&self, i: usize, out: &mut [u8]) -> Result<(), ShardError> {
        let needed = self.width as usize * self.height as usize * 3;
        if out.len() != needed {
            return Err(ShardError::WrongBuffer {
                needed,
                given: out.len(),
            });
        }
        let row = self.row(i)?;
        let decoded = match self.encoding {
            ImageEncoding::Raw => {
                out.copy_from_slice(row.image);
                Ok(())
            }
            ImageEncoding::Jpeg => self.decode_into(row.image, out),
            // By the very code that prepared the others: the pixels are those that the raw encoding
            // would have.
            ImageEncoding::Original => Shrinker::new(self.width, self.height)
                .pixels(row.image)
                .map(|pixels| {
                    out.copy_from_slice(pixels);
                }),
        };
        decoded.map_err(|problem| {
            let file = self
                .locate(i)
                .map(|(batch, _)| batch.file.clone())
                .unwrap_or_default();
            ShardError::Damaged {
                file,
                problem: format!("row {:?}: {problem}", row.id),
            }
        })
    }

    fn decode_into(&self, jpeg: &[u8], out: &mut [u8]) -> Result<(), String> {
        let options = DecoderOptions::default()
            .set_strict_mode(true)
            .set_max_width(self.width as usize)
            .set_max_height(self.height as usize)
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
        decoder
            .decode_headers()
            .map_err(|error| format!("{error:?}"))?;
        // A picture of another size would fill a part of the buffer, and leave the row before in the rest.
        if decoder.output_buffer_size() != Some(out.len()) {
            return Err(format!(
                "the picture is not {}x{} RGB",
                self.width, self.height
            ));
        }
        decoder
            .decode_into(out)
            .map_err(|error| format!("{error:?}"))
    }

    fn locate(&self, i: usize) -> Result<(&Batch, usize), ShardError> {
        if i >= self.rows {
            return Err(ShardError::NoSuchRow {
                split: self.name.clone(),
                row: i,
                rows: self.rows,
            });
        }
        // The first batch starts at row 0, so at least one batch starts at or before `i`.
        let at = self.batches.partition_point(|batch| batch.first_row <= i) - 1;
        let batch = &self.batches[at];
        Ok((batch, i - batch.first_row))
    }

    fn add_file(
        &mut self,
        dir: &Path,
        shard: &ShardFile,
        index: &ShardIndex,
        check: Check,
    ) -> Result<(), ShardError> {
        let path = dir.join(&shard.file);
        let mapping = mapping::open(&path).map_err(|source| ShardError::Io {
            file: path.clone(),
            source,
        })?;
        let bytes = mapping.bytes();
        let damaged = |problem: String| ShardError::Damaged {
            file: path.clone(),
            problem,
        };
        if check == Check::Digests && Digest::of(&bytes) != shard.digest {
            return Err(damaged(
                "its digest is not the one in shards.json".to_owned(),
            ));
        }
        let mut made_from = None;
        let batches = ipc::decode(&bytes, |schema| {
            made_from = made_from_of(schema);
            check_schema(schema, index, &self.name)
        })
        .map_err(damaged)?;
        self.made_from = made_from;
        let rows_before = self.rows;
        for batch in batches {
            let rows = batch.num_rows();
            self.batches.push(Batch {
                mapping: Some(mapping.clone()),
                ..self.check_batch(batch, &path).map_err(damaged)?
            });
            self.rows += rows;
        }
        let rows = self.rows - rows_before;
        // A file may be whole and yet another set's.
        if rows as u64 != shard.rows {
            return Err(damaged(format!(
                "it has {rows} rows, shards.json says {}",
                shard.rows
            )));
        }
        Ok(())
    }

    fn check_batch(&self, batch: RecordBatch, file: &Path) -> Result<Batch, String> {
        // `check_schema` has seen the types; a null is the one thing a schema cannot rule out.
        if batch.columns().iter().any(|column| column.null_count() > 0) {
            return Err("a column holds nulls".to_owned());
        }
        let labels = batch.column(1).as_fixed_size_binary().clone();
        // Training multiplies by these bytes: a 2 would count twice without anybody noticing.
        if labels.value_data().iter().any(|byte| *byte > 1) {
            return Err("a label is neither 0 nor 1".to_owned());
        }
        let images = match self.encoding {
            ImageEncoding::Raw => Images::Raw(batch.column(2).as_fixed_size_binary().clone()),
            ImageEncoding::Jpeg | ImageEncoding::Original => {
                Images::Files(batch.column(2).as_binary().clone())
            }
        };
        Ok(Batch {
            first_row: self.rows,
            ids: batch.column(0).as_string().clone(),
            labels,
            images,
            file: file.to_owned(),
            mapping: None,
        })
    }
}

fn made_from_of(schema: &Schema) -> Option<MadeFrom> {
    let note = |key: &str| schema.metadata.get(key);
    Some(MadeFrom {
        dataset: note(key::DATASET)?.parse().ok()?,
        seed: note(key::SEED)?.parse().ok()?,
    })
}

fn check_schema(schema: &Schema, index: &ShardIndex, split: &str) -> Result<(), String> {
    let classes = i32::try_from(index.classes.len()).map_err(|_| "too many classes")?;
    let picture = i32::try_from(index.picture_bytes()).map_err(|_| "pictures are too large")?;
    let image = match index.encoding {
        ImageEncoding::Raw => DataType::FixedSizeBinary(picture),
        ImageEncoding::Jpeg | ImageEncoding::Original => DataType::Binary,
    };
    let wanted = [
        ("id", DataType::Utf8),
        ("labels", DataType::FixedSizeBinary(classes)),
        ("image", image),
    ];
    let found: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| (field.name().as_str(), field.data_type()))
        .collect();
    if !wanted
        .iter()
        .map(|(name, kind)| (*name, kind))
        .eq(found.iter().copied())
    {
        return Err(format!(
            "its columns are {found:?}, shards.json asks for {wanted:?}"
        ));
    }
    let classes = serde_json::to_string(&index.classes).map_err(|error| error.to_string())?;
    let wanted = [
        (key::FORMAT, FORMAT.to_string()),
        (key::WIDTH, index.width.to_string()),
        (key::HEIGHT, index.height.to_string()),
        (key::ENCODING, index.encoding.as_str().to_owned()),
        (key::CLASSES, classes),
        (key::SPLIT, split.to_owned()),
    ];
    // More notes may stand there, such as the seed: only what decides how a file is read has to
    // agree.
    for (name, value) in wanted {
        if schema.metadata.get(name) != Some(&value) {
            let found = schema.metadata.get(name);
            return Err(format!(
                "its {name} is {found:?}, shards.json asks for {value:?}"
            ));
        }
    }
    Ok(())
}

/// Reads bytes as a shard of this layout, every row of it, and says how that went.
pub(super) fn read_any(bytes: &[u8], layout: &super::ShardLayout) -> String {
    let index = ShardIndex {
        format: FORMAT,
        width: layout.width,
        height: layout.height,
        encoding: layout.encoding,
        classes: layout.classes.clone(),
        source: layout.source.clone(),
        splits: BTreeMap::new(),
    };
    let mut aligned = MutableBuffer::new(bytes.len());
    aligned.extend_from_slice(bytes);
    let mut split = Split::empty("train", &index);
    let batches = ipc::decode(&aligned.into(), |schema| {
        check_schema(schema, &index, "train")
    });
    let batches = match batches {
        Ok(batches) => batches,
        Err(problem) => return kind_of(&problem),
    };
    for batch in batches {
        let rows = batch.num_rows();
        match split.check_batch(batch, Path::new("any")) {
            Ok(batch) => split.batches.push(batch),
            Err(problem) => return kind_of(&problem),
        }
        split.rows += rows;
    }
    let mut pixels = vec![0; index.picture_bytes()];
    let good = (0..split.len())
        .filter(|row| split.pixels_into(*row, &mut pixels).is_ok())
        .count();
    format!("{good} of {} rows", split.len())
}

/// A problem without its numbers and names.
fn kind_of(problem: &str) -> String {
    problem
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| word.len() > 2)
        .take(6)
        .collect::<Vec<_>>()
        .join(" ")
}
