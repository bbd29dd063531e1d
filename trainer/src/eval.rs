//! Eval jobs: scores a model on the validation and test splits, and hands the scores to the report.
//!
//! Not here: thresholds, figures, files; they are [`marquee_evaluation`]'s.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use marquee_datasets::preprocess;
use marquee_datasets::shards::ShardSet;
use marquee_datasets::thumbnail::jpeg_of;
use marquee_domain::child::ChildSpec;
use marquee_domain::pulse::Phase;
use marquee_domain::spec::EvalSettings;
use marquee_evaluation::{EvalInput, SplitScores, Timing, check_overlap, write_report};
use tch::Device;

use crate::data::{self, Prefetch, SplitReader, scoring_requests};
use crate::device;
use crate::error::RunError;
use crate::events::Events;
use crate::ffi;
use crate::model_folder::{self, Trained};
use crate::models::Pass;
use crate::outcome::Outcome;
use crate::provenance;
use crate::rendezvous::Place;
use crate::stop::Stop;
use crate::tensors::flat;
use crate::training_record;

/// JPEG quality of the gallery's pictures: small, and good enough to recognise.
const THUMBNAIL_QUALITY: u8 = 80;

/// Does an eval job's work. It has one rank.
pub(crate) fn run(
    spec: &ChildSpec,
    settings: &EvalSettings,
    place: &Place,
    events: &Events,
    stop: &Stop,
) -> Result<Outcome, RunError> {
    if place.world_size > 1 {
        return Err(RunError::user(format!(
            "an eval job has one rank, not {}; set ranks = 1",
            place.world_size
        )));
    }
    let device = device::choose(spec)?;
    let shards = data::open(spec)?;
    let trained = model_folder::read(model_dir(spec)?, device)?;
    check_classes(&trained, &shards)?;
    let overlap = training_record::overlap(model_dir(spec)?, spec, &shards)?;
    // Before any scoring: whoever must not see the figures need not wait for them.
    check_overlap(&overlap, settings.allow_overlap)?;

    let started = Instant::now();
    let mut scored = Vec::new();
    for name in [data::VALIDATION, data::TEST] {
        let split = SplitReader::of(&shards, name).map(|split| split.pinned_for(device));
        match score(
            split.as_ref(),
            &trained,
            name,
            (settings.batch_size, spec.threads),
            events,
            stop,
        )? {
            Some(scores) => scored.push(scores),
            None => return Ok(Outcome::Stopped),
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let [validation, test] = <[SplitScores; 2]>::try_from(scored)
        .map_err(|_| RunError::host("two splits were scored"))?;
    let pictures = (validation.ids.len() + test.ids.len()) as f64;
    let timing = Timing {
        images_per_second: pictures / seconds.max(f64::MIN_POSITIVE),
        seconds,
    };
    ffi::stand(Phase::Writing);
    let report = write_report(
        &spec.output,
        &EvalInput {
            provenance: provenance::of(spec, settings.seed, &trained.card, &shards),
            picture_size: (shards.index().width, shards.index().height),
            model: trained.card.model,
            classes: trained.card.classes,
            validation,
            test,
            thresholds: settings.thresholds.clone(),
            bootstrap_resamples: settings.bootstrap_resamples,
            gallery: settings.gallery,
            seed: settings.seed,
            source: shards.index().source.clone(),
            data_warnings: spec
                .inputs
                .get(data::SHARDS)
                .map(|dir| preprocess::warnings(dir))
                .unwrap_or_default(),
            overlap,
            allow_overlap: settings.allow_overlap,
            history: trained.history,
            timing,
            thumbnail: &|split, row| thumbnail(&shards, split, row),
        },
    )?;
    Ok(Outcome::finished(&report))
}

fn model_dir(spec: &ChildSpec) -> Result<&PathBuf, RunError> {
    spec.inputs
        .get(provenance::MODEL)
        .ok_or_else(|| RunError::user("the job has no input \"model\"; name a train job's output"))
}

/// Scores of another class order would look like scores.
fn check_classes(trained: &Trained, shards: &ShardSet) -> Result<(), RunError> {
    let (model, shards) = (&trained.card.classes, &shards.index().classes);
    if model == shards {
        return Ok(());
    }
    Err(RunError::input(format!(
        "the model knows the classes {}, but the shards have {}; evaluate on shards of the same preprocess job",
        model.join(", "),
        shards.join(", ")
    )))
}

/// Probabilities for all rows of a split, in order; None if asked to stop.
fn score(
    split: Option<&SplitReader>,
    trained: &Trained,
    name: &str,
    (batch_size, threads): (u32, u32),
    events: &Events,
    stop: &Stop,
) -> Result<Option<SplitScores>, RunError> {
    let mut scores = SplitScores::default();
    // A data set without validation is one, and then nothing is tuned.
    let Some(split) = split else {
        return Ok(Some(scores));
    };
    let batches = Prefetch::start(
        split,
        split.threads(0, threads),
        scoring_requests(split.rows(), batch_size, 0, 1),
    )?;
    let phase = format!("scoring {name}");
    let mut done = 0;
    ffi::stand(Phase::Scoring);
    events.progress(&phase, done, split.rows(), "images");
    while let Some(batch) = batches.next() {
        if stop.is_requested() {
            return Ok(None);
        }
        let batch = batch?;
        // Without gradients, whose graph would hold the activations of every batch until it is
        // dropped.
        let probabilities = tch::no_grad(|| {
            trained
                .learner
                .logits(&batch.pixels, Pass::eval())?
                .f_sigmoid()?
                .f_to_device(Device::Cpu)
        })?;
        // All scores are kept, and no figures added up on the way: exact curves need each of them,
        // and 270,000 pictures of 19 classes take 20 MB.
        scores.scores.extend(flat::<f32>(&probabilities)?);
        scores.truth.extend(flat::<u8>(&batch.labels)?);
        done += batch.counted;
        ffi::beat();
        events.progress(&phase, done, split.rows(), "images");
    }
    let rows = split.split();
    for row in 0..rows.len() {
        scores.ids.push(rows.row(row)?.id.to_owned());
    }
    Ok(Some(scores))
}

/// The picture of a row as a JPEG; None, with a word in the log, if it cannot be read.
fn thumbnail(shards: &Arc<ShardSet>, split: &str, row: usize) -> Option<Vec<u8>> {
    let index = shards.index();
    let mut pixels = vec![0; index.picture_bytes()];
    match shards.split(split)?.pixels_into(row, &mut pixels) {
        Ok(()) => Some(jpeg_of(
            &pixels,
            index.width,
            index.height,
            THUMBNAIL_QUALITY,
        )),
        Err(error) => {
            tracing::warn!(split, row, %error, "no thumbnail");
            None
        }
    }
}
