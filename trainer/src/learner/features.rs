//! Features of frozen networks, computed once: later epochs skip the networks, and later jobs too
//! where a folder keeps them.
//!
//! Invariants: a row's features are those that the network would compute in that step, for nothing
//! in it changes and what happens to a picture is at most to be mirrored; all ranks compute them
//! together and then hold the same. A file is known by the digest of all that it depends on: the
//! networks' weights, sizes and normalisation, the shards, and the number format.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use marquee_domain::artifact::Digest;
use marquee_domain::report::FeaturesReport;
use marquee_domain::spec::TrainSettings;
use tch::{Device, Tensor};

use super::Learner;
use super::freeze::Rules;
use crate::data::{FeatureTable, Request, SplitReader, share};
use crate::error::RunError;
use crate::events::Events;
use crate::files;
use crate::models::Pass;
use crate::rendezvous::Peers;
use crate::stop::Stop;
use crate::tensors::{self, Tensors};

/// Bytes of all features that a rank may hold: beyond it the networks run in every epoch.
const TABLES_MAX_BYTES: u64 = 4 << 30;
/// Version of the file's layout.
const FORMAT: u32 = 1;
/// Name of the number in the file that says what one picture took.
const SECONDS: &str = "seconds_per_picture";

/// What is computed, and by whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    pub(crate) learner: &'a Learner,
    pub(crate) peers: &'a Peers,
    pub(crate) events: &'a Events,
    pub(crate) stop: &'a Stop,
}

/// Whether features can be computed once, and whether that saves anything.
fn pays(settings: &TrainSettings, learner: &Learner, rules: &Rules, rows: u64) -> bool {
    let learning = &settings.learning;
    let mixes_pictures = learning.mixup.is_some() || learning.cutmix.is_some();
    let changes_pictures = settings.crop.is_some() || settings.colour.is_some() || mixes_pictures;
    // Weights that begin to learn later, and pictures that chance changes, have other features each time.
    if !learner.has_frozen_features() || rules.change_with_time() || changes_pictures {
        return false;
    }
    let variants: u32 = if settings.flip { 2 } else { 1 };
    let bytes = rows * u64::from(variants) * learner.feature_width().unsigned_abs() * 4;
    if bytes > TABLES_MAX_BYTES {
        tracing::info!(
            bytes,
            "features would take too much memory; the networks run in every epoch"
        );
        return false;
    }
    // With mirrored pictures there are two passes: one or two epochs would run the networks no more
    // often without any of this.
    settings.epochs > variants || settings.transfer.feature_cache.is_some()
}

/// Gives both splits tables of features if that pays. None: asked to stop meanwhile.
pub(crate) fn prepare(
    work: Work<'_>,
    settings: &TrainSettings,
    rules: &Rules,
    train: &mut SplitReader,
    validation: Option<&mut SplitReader>,
) -> Result<Option<Option<FeaturesReport>>, RunError> {
    let mut splits: Vec<(&mut SplitReader, bool)> = vec![(train, settings.flip)];
    splits.extend(validation.map(|split| (split, false)));
    let rows = splits.iter().map(|(split, _)| split.rows()).sum();
    if !pays(settings, work.learner, rules, rows) {
        return Ok(Some(None));
    }
    let started = Instant::now();
    let file = match &settings.transfer.feature_cache {
        Some(folder) => Some(file_in(Path::new(folder), work.learner, &splits)?),
        None => None,
    };
    let mut report = FeaturesReport {
        pictures: rows,
        width: work.learner.feature_width().unsigned_abs(),
        ..FeaturesReport::default()
    };
    let kept = kept(file.as_deref(), work.peers)?;
    report.from_cache = kept.is_some();
    if !report.from_cache {
        report.passes = splits
            .iter()
            .map(|(split, is_mirrored)| split.rows() * passes_of_each(*is_mirrored))
            .sum();
    }
    let tables = match kept {
        Some(kept) => kept,
        None => match compute_all(work, &splits, settings.batch_size)? {
            Some(computed) => computed,
            None => return Ok(None),
        },
    };
    report.seconds_per_picture = tables
        .get(SECONDS)
        .map_or(Ok(0.0), |seconds| seconds.f_double_value(&[]))?;
    for (split, _) in &mut splits {
        let name = split.name().to_owned();
        let features = tables.get(&name).ok_or_else(|| {
            RunError::input(format!(
                "the kept features have no split {name:?}; delete the file"
            ))
        })?;
        let rows = split.rows();
        split.set_features(Arc::new(FeatureTable::new(features.shallow_clone(), rows)));
    }
    // All hold the same, and the folder may be one for all.
    if let Some(file) = file.filter(|_| !report.from_cache && work.peers.is_first()) {
        let named = tables.iter().map(|(name, tensor)| (name.as_str(), tensor));
        files::write(&file, tensors::encode(named)?.as_ref())?;
    }
    report.seconds = started.elapsed().as_secs_f64();
    tracing::info!(
        pictures = rows,
        passes = report.passes,
        seconds = report.seconds,
        width = report.width,
        from_cache = report.from_cache,
        seconds_per_picture = report.seconds_per_picture,
        "features of the frozen networks are there; no epoch runs them again"
    );
    Ok(Some(Some(report)))
}

/// The file that holds exactly these features.
fn file_in(
    folder: &Path,
    learner: &Learner,
    splits: &[(&mut SplitReader, bool)],
) -> Result<PathBuf, RunError> {
    fs::create_dir_all(folder).map_err(|error| {
        RunError::host(format!(
            "cannot create feature_cache {}: {error}",
            folder.display()
        ))
    })?;
    let backbone = learner
        .parameters
        .state()
        .filter(|(name, _)| !learner.is_head(name));
    // Of the weights themselves and not of where they came from: two files of one network are one,
    // and a file that changed is another.
    let weights = Digest::of(tensors::encode(backbone)?.as_ref());
    let mut text = format!("{FORMAT} {:?} {weights}\n", learner.parameters.kind());
    text.push_str(&String::from_utf8_lossy(&files::json(&learner.cards())?));
    for (split, is_mirrored) in splits {
        text.push_str(&format!("\n{} {is_mirrored} ", split.name()));
        text.push_str(&String::from_utf8_lossy(&files::json(split.index())?));
    }
    Ok(folder.join(format!("{}.safetensors", Digest::of(text.as_bytes()))))
}

/// Features that an earlier job kept, if every rank has them.
fn kept(file: Option<&Path>, peers: &Peers) -> Result<Option<Tensors>, RunError> {
    let Some(file) = file else { return Ok(None) };
    let found = if file.exists() {
        Some(tensors::read(file)?)
    } else {
        None
    };
    // The folder may be on some hosts only: ranks that have it would not come to the exchanges of those that
    // compute.
    let [have] = peers.sum([if found.is_some() { 1.0 } else { 0.0 }])?;
    Ok(found.filter(|_| have.to_bits() == f64::from(peers.world_size).to_bits()))
}

/// How often the networks run on each picture: once more for the mirrored one.
fn passes_of_each(is_mirrored: bool) -> u64 {
    if is_mirrored { 2 } else { 1 }
}

fn compute_all(
    work: Work<'_>,
    splits: &[(&mut SplitReader, bool)],
    batch_size: u32,
) -> Result<Option<Tensors>, RunError> {
    let started = Instant::now();
    let mut tables = Tensors::new();
    let mut passes = 0;
    for (split, is_mirrored) in splits {
        let Some(features) = compute(work, split, *is_mirrored, u64::from(batch_size))? else {
            return Ok(None);
        };
        passes += split.rows() * passes_of_each(*is_mirrored);
        tables.insert(split.name().to_owned(), features);
    }
    // Of all ranks together, as in training.
    let seconds = started.elapsed().as_secs_f64() / passes.max(1) as f64;
    tables.insert(SECONDS.to_owned(), Tensor::from(seconds));
    Ok(Some(tables))
}

/// Features of a split, batch by batch, each rank its share of every batch: so no rank waits long
/// for another, and all may stop at the same place.
fn compute(
    work: Work<'_>,
    split: &SplitReader,
    is_mirrored: bool,
    batch_size: u64,
) -> Result<Option<Tensor>, RunError> {
    let Work {
        learner,
        peers,
        events,
        stop,
    } = work;
    let rows = split.rows();
    let total = if is_mirrored { 2 * rows } else { rows };
    let width = learner.feature_width();
    let options = (learner.parameters.kind(), Device::Cpu);
    let all = Tensor::f_zeros([total.cast_signed(), width], options)?;
    let phase = format!("features of {}", split.name());
    let mut first = 0;
    while first < total {
        // All ranks stop at the same batch: whoever went on would wait for the others in the sum below.
        let [stops] = peers.sum([f64::from(u8::from(stop.is_requested()))])?;
        if stops > 0.0 {
            return Ok(None);
        }
        let count = batch_size.min(total - first);
        // Zeros where other ranks compute: the sum over ranks is then everybody's.
        let batch = Tensor::f_zeros([count.cast_signed(), width], options)?;
        let mine = share(count, peers.rank, peers.world_size);
        if !mine.is_empty() {
            let picture = |at| (at % rows, at >= rows);
            let pictures = (first + mine.start..first + mine.end).map(picture);
            let read = split.read(&Request::of_rows(pictures))?;
            let features = tch::no_grad(|| learner.features(&read.pixels, &Pass::eval()))?;
            let length = (mine.end - mine.start).cast_signed();
            let mut place = batch.f_narrow(0, mine.start.cast_signed(), length)?;
            place.f_copy_(&features)?;
        }
        if let Some(group) = peers.group() {
            group.all_reduce_sum(&batch)?;
        }
        all.f_narrow(0, first.cast_signed(), count.cast_signed())?
            .f_copy_(&batch)?;
        first += count;
        // Each picture twice where mirrored ones are learned from as well.
        events.progress(&phase, first, total, "passes");
    }
    Ok(Some(all))
}

/// How many times faster a picture is without the networks, at `step_s` seconds a picture.
pub(crate) fn speedup(report: &FeaturesReport, step_s: f64) -> f64 {
    // What a step would take with the networks in it, over what it takes now.
    (report.seconds_per_picture + step_s) / step_s.max(f64::MIN_POSITIVE)
}
