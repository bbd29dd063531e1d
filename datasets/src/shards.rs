//! Shards: the files that training reads.
//!
//! A shards folder holds `shards.json` ([`ShardIndex`]) and, for each split, Arrow IPC files with
//! the columns `id` (utf8), `labels` (fixed-size binary, one byte 0 or 1 a class) and `image`
//! (fixed-size binary for `raw`, binary for `jpeg` and `original`). Their schema metadata says what they are, so
//! that each file can be understood alone, by any Arrow reader.
//!
//! Invariant: a [`ShardSet`] that opened is whole. A torn or altered file is an error that names
//! it, at the latest when its row is read.
//! Not here: shuffling and batching, which belong to the trainer.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use marquee_domain::artifact::Digest;
use marquee_domain::report::SourceNote;
use marquee_domain::spec::ImageEncoding;
use serde::{Deserialize, Serialize};

mod read;
mod write;

pub use read::{Check, Row, ShardSet, Split};
pub use write::{ShardLayout, ShardWriter};

/// Version of the layout that this code writes and reads.
pub const FORMAT: u32 = 1;
/// Name of the index in a shards folder.
pub const INDEX_FILE: &str = "shards.json";
/// Rows of one record batch: about 2.6 MB of raw pixels at 48x72, 69 MB at 299x299.
pub const BATCH_ROWS: usize = 256;
/// JPEG quality of the `jpeg` encoding.
pub const JPEG_QUALITY: u8 = 90;

/// Keys of the schema metadata.
pub(crate) mod key {
    pub(crate) const FORMAT: &str = "marquee.format";
    pub(crate) const WIDTH: &str = "marquee.width";
    pub(crate) const HEIGHT: &str = "marquee.height";
    pub(crate) const ENCODING: &str = "marquee.encoding";
    pub(crate) const CLASSES: &str = "marquee.classes";
    pub(crate) const SPLIT: &str = "marquee.split";
    pub(crate) const SEED: &str = "marquee.seed";
    /// Digest of what went in: the dataset's ids, labels and pictures.
    pub(crate) const DATASET: &str = "marquee.dataset";
    /// The settings, as JSON.
    pub(crate) const SETTINGS: &str = "marquee.settings";
    /// Version of the code that made it.
    pub(crate) const CODE: &str = "marquee.code";
    /// Where the pictures are from and what may be done with them, as JSON.
    pub(crate) const SOURCE: &str = "marquee.source";
}

/// `shards.json`: what a shards folder holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardIndex {
    /// Version of the layout, see [`FORMAT`].
    pub format: u32,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    pub encoding: ImageEncoding,
    /// The classes, in the order of the label bytes.
    pub classes: Vec<String>,
    pub source: SourceNote,
    /// The files of each split, in row order.
    pub splits: BTreeMap<String, Vec<ShardFile>>,
}

impl ShardIndex {
    /// Bytes of one decoded picture: height x width x 3.
    #[must_use]
    pub fn picture_bytes(&self) -> usize {
        self.width as usize * self.height as usize * 3
    }
}

/// What the preprocess job noted of its work in every shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeFrom {
    /// Of the ids, labels, groups and pictures that went in.
    pub dataset: Digest,
    /// By which they were dealt into splits.
    pub seed: u64,
}

/// One file of a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardFile {
    /// Name within the folder.
    pub file: String,
    pub rows: u64,
    pub digest: Digest,
}

/// Why shards cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("shard index {} is damaged: {problem}; run the preprocess job again", file.display())]
    Index { file: PathBuf, problem: String },
    #[error("shard {} is torn or altered: {problem}; run the preprocess job again", file.display())]
    Damaged { file: PathBuf, problem: String },
    #[error("split {split:?} has {rows} rows, so there is no row {row}")]
    NoSuchRow {
        split: String,
        row: usize,
        rows: usize,
    },
    #[error("a picture takes {needed} bytes, but the buffer has {given}")]
    WrongBuffer { needed: usize, given: usize },
    #[error("row {id:?} cannot be written: {problem}")]
    BadRow { id: String, problem: String },
}

const ENCODINGS: [ImageEncoding; 3] = [
    ImageEncoding::Raw,
    ImageEncoding::Jpeg,
    ImageEncoding::Original,
];

/// Reads whatever bytes as a shard of each encoding, and says how far that went.
#[must_use]
pub fn read_any_shard(bytes: &[u8]) -> String {
    ENCODINGS
        .map(|encoding| read::read_any(bytes, &sample_layout(encoding)))
        .join(" / ")
}

fn sample_layout(encoding: ImageEncoding) -> ShardLayout {
    ShardLayout {
        width: 4,
        height: 6,
        encoding,
        classes: vec!["Action".to_owned(), "Drama".to_owned()],
        source: SourceNote::default(),
        seed: 1,
        shard_bytes: 1 << 20,
        notes: BTreeMap::new(),
    }
}

/// A small whole shard of every encoding.
#[must_use]
pub fn shard_samples() -> Vec<Vec<u8>> {
    let mut corpus = Vec::new();
    for encoding in ENCODINGS {
        let folder = std::env::temp_dir().join(format!("marquee-shards-{}", std::process::id()));
        let made = std::fs::create_dir_all(&folder).map_err(|source| ShardError::Io {
            file: folder.clone(),
            source,
        });
        let written = made.and_then(|()| {
            let mut writer = ShardWriter::create(&folder, sample_layout(encoding))?;
            for row in 0..9_u8 {
                let pixels = vec![row * 20; 4 * 6 * 3];
                let image = match encoding {
                    ImageEncoding::Raw => pixels,
                    ImageEncoding::Jpeg | ImageEncoding::Original => {
                        crate::thumbnail::jpeg_of(&pixels, 4, 6, 80)
                    }
                };
                writer.push("train", &row.to_string(), &[1, row % 2], &image)?;
            }
            writer.finish()
        });
        let file = std::fs::read(folder.join("train-00000.arrow"));
        corpus.extend(written.ok().and(file.ok()));
        let _ = std::fs::remove_dir_all(&folder);
    }
    corpus
}
