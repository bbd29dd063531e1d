//! The record of what a model was trained and tuned on: drawn up by a train job, held against the shards
//! of an eval job.
//!
//! Invariant: what is on record depends on the job's inputs alone, so that an attempt that goes on from a
//! checkpoint, or with fewer ranks, leaves the same one. What it says and how it is stored is
//! [`marquee_evaluation`]'s.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use marquee_datasets::preprocess::origins;
use marquee_datasets::shards::{ShardSet, Split};
use marquee_domain::artifact::Digest;
use marquee_domain::child::ChildSpec;
use marquee_domain::report::Overlap;
use marquee_domain::spec::{ImageEncoding, TrainSettings, Transfer};
use marquee_evaluation::{Evaluated, Key, KnownBy, RECORD_FILE, SplitKeys, TrainingRecord};

use crate::data::{SHARDS, TEST, TRAIN, VALIDATION};
use crate::error::RunError;
use crate::files;
use crate::model_folder;

/// Inputs of a train job that bring weights.
const WEIGHTS_INPUTS: [&str; 2] = ["weights", "module"];

/// What is known of the record before the first step.
#[derive(Debug)]
pub(crate) struct Draft {
    record: TrainingRecord,
    /// Whether the job's own pictures are on it. Those of shards that were made by hand have to be read
    /// for that, which a run does at its end, on one rank.
    is_whole: bool,
}

impl Draft {
    /// Reads the tables beside the shards, and the records of the models whose weights the job starts
    /// from: what cannot be read must fail the job now, not after days of training.
    pub(crate) fn begin(
        spec: &ChildSpec,
        settings: &TrainSettings,
        shards: &ShardSet,
    ) -> Result<Self, RunError> {
        let mut draft = Self {
            record: TrainingRecord::default(),
            is_whole: false,
        };
        let dir = shards_dir(spec)?;
        if let (Some(train), Some(validation)) = (
            keys_by_file(shards, dir, TRAIN)?,
            keys_by_file(shards, dir, VALIDATION)?,
        ) {
            draft.record = TrainingRecord::new(&train, &validation);
            draft.is_whole = true;
        }
        for folder in WEIGHTS_INPUTS
            .iter()
            .filter_map(|name| spec.inputs.get(*name))
        {
            match read(folder)? {
                Some(earlier) => draft.record.add(&earlier),
                // A card without a record is a model of a version that kept none; without a card
                // these are weights from elsewhere.
                None if folder.join(model_folder::CARD).exists() => {
                    draft.record.add_unrecorded_model(&name_of(folder));
                }
                None => draft.record.add_unrecorded(&name_of(folder)),
            }
        }
        for file in loose_weights(&settings.transfer) {
            match beside(&file)? {
                Some(earlier) => draft.record.add(&earlier),
                None => draft.record.add_unrecorded(&name_of(&file)),
            }
        }
        Ok(draft)
    }

    /// Writes the record into the folder `dir` of the model.
    pub(crate) fn write(
        &self,
        spec: &ChildSpec,
        shards: &ShardSet,
        dir: &Path,
    ) -> Result<(), RunError> {
        let mut record = self.record.clone();
        if !self.is_whole {
            let from = shards_dir(spec)?;
            let (train, validation) = (keys(shards, from, TRAIN)?, keys(shards, from, VALIDATION)?);
            record.add(&TrainingRecord::new(&train, &validation));
        }
        let bytes = record
            .encode()
            .map_err(|error| RunError::host(format!("the training record: {error}")))?;
        files::write(&dir.join(RECORD_FILE), &bytes)
    }
}

/// What of `shards` the model in the folder `model` has learned from.
pub(crate) fn overlap(
    model: &Path,
    spec: &ChildSpec,
    shards: &ShardSet,
) -> Result<Overlap, RunError> {
    let rows = |name: &str| shards.split(name).map_or(0, |split| split.len() as u64);
    let Some(record) = read(model)? else {
        return Ok(Overlap {
            test_pictures: rows(TEST),
            validation_pictures: rows(VALIDATION),
            ..Overlap::default()
        });
    };
    let dir = shards_dir(spec)?;
    Ok(record.overlap(Evaluated {
        train: &keys_by_file(shards, dir, TRAIN)?.unwrap_or_default(),
        validation: &keys(shards, dir, VALIDATION)?,
        test: &keys(shards, dir, TEST)?,
    }))
}

/// The record of the model in `folder`; None for a model of an earlier version.
fn read(folder: &Path) -> Result<Option<TrainingRecord>, RunError> {
    let file = folder.join(RECORD_FILE);
    let damaged =
        |problem: String| RunError::input(format!("{} cannot be read: {problem}", file.display()));
    match fs::read(&file) {
        Ok(bytes) => TrainingRecord::decode(&bytes).map(Some).map_err(damaged),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(damaged(error.to_string())),
    }
}

/// Files of weights that the settings name by a path.
fn loose_weights(transfer: &Transfer) -> Vec<PathBuf> {
    let module = transfer.module.iter().map(|module| &module.file);
    let of_parts = transfer
        .backbones
        .values()
        .filter_map(|backbone| backbone.weights.as_ref());
    let all = transfer.weights.iter().chain(of_parts).chain(module);
    // A module's file may be named within the input "module", which was looked at already.
    all.map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .collect()
}

/// The record of a model whose folder lies on this host, by the path of its weights. Under another name a
/// file is not the model's, and what lies beside it says nothing of it.
fn beside(weights: &Path) -> Result<Option<TrainingRecord>, RunError> {
    let is_ours = weights
        .file_name()
        .is_some_and(|name| name == model_folder::WEIGHTS || name == model_folder::SCRIPT);
    match weights.parent().filter(|_| is_ours) {
        Some(folder) => read(folder),
        None => Ok(None),
    }
}

/// As people know it: an artifact by its digest, a file by its name.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.parse::<Digest>() {
        Ok(digest) => format!("artifact {}", digest.short()),
        Err(_) => name.into_owned(),
    }
}

fn shards_dir(spec: &ChildSpec) -> Result<&Path, RunError> {
    let dir = spec.inputs.get(SHARDS);
    dir.map(PathBuf::as_path)
        .ok_or_else(|| RunError::user("the job has no input \"shards\""))
}

fn keys(shards: &ShardSet, dir: &Path, name: &str) -> Result<SplitKeys, RunError> {
    match keys_by_file(shards, dir, name)? {
        Some(keys) => Ok(keys),
        None => keys_by_bytes(shards, name),
    }
}

/// Keys from the table beside the shards; None where there is none.
fn keys_by_file(shards: &ShardSet, dir: &Path, name: &str) -> Result<Option<SplitKeys>, RunError> {
    let read = origins(dir, name).map_err(|error| RunError::input(error.to_string()))?;
    let (Some(origins), Some(split)) = (read, shards.split(name)) else {
        // A split without rows has no shards.
        return Ok(shards.split(name).is_none().then(SplitKeys::default));
    };
    for (row, origin) in origins.iter().enumerate() {
        if split.row(row)?.id != origin.id {
            return Err(mismatch(dir, name));
        }
    }
    if origins.len() != split.len() {
        return Err(mismatch(dir, name));
    }
    let group = |group: &String, source: &str| Key::of_group(source, group);
    Ok(Some(SplitKeys {
        known_by: KnownBy::File,
        pictures: origins
            .iter()
            .map(|row| Key::of_file(&row.picture))
            .collect(),
        groups: origins
            .iter()
            .map(|row| row.group.as_ref().map(|name| group(name, &row.source)))
            .collect(),
    }))
}

fn mismatch(dir: &Path, name: &str) -> RunError {
    RunError::input(format!(
        "{}: {name}.parquet is the table of other shards; run the preprocess job again",
        dir.display()
    ))
}

/// Keys from what the shards hold of each picture.
fn keys_by_bytes(shards: &ShardSet, name: &str) -> Result<SplitKeys, RunError> {
    let Some(split) = shards.split(name) else {
        return Ok(SplitKeys::default());
    };
    let index = shards.index();
    let layout = format!(
        "{} {}x{}",
        index.encoding.as_str(),
        index.width,
        index.height
    );
    let key = |split: &Split, row: usize| -> Result<Key, RunError> {
        let image = split.row(row)?.image;
        Ok(match index.encoding {
            ImageEncoding::Original => Key::of_file(&Digest::of(image)),
            ImageEncoding::Raw | ImageEncoding::Jpeg => Key::of_stored(&layout, image),
        })
    };
    Ok(SplitKeys {
        known_by: match index.encoding {
            ImageEncoding::Original => KnownBy::File,
            ImageEncoding::Raw | ImageEncoding::Jpeg => KnownBy::Stored,
        },
        pictures: (0..split.len())
            .map(|row| key(split, row))
            .collect::<Result<_, _>>()?,
        groups: vec![None; split.len()],
    })
}
