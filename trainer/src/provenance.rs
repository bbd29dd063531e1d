//! Which run a report is of: its job, and where its model and its pictures are from.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use marquee_datasets::shards::ShardSet;
use marquee_domain::artifact::Digest;
use marquee_domain::child::ChildSpec;
use marquee_domain::report::{NamedJob, Provenance, iso_utc};

use crate::data::SHARDS;
use crate::model_folder::ModelCard;

/// The input by which an eval job is given its model.
pub(crate) const MODEL: &str = "model";

/// The job of `spec`, as people name it.
pub(crate) fn job_of(spec: &ChildSpec) -> NamedJob {
    NamedJob {
        job: spec.job,
        name: spec.job_name.clone(),
        pipeline: spec.pipeline,
    }
}

/// What tells this eval job's report from others of the same model.
pub(crate) fn of(spec: &ChildSpec, seed: u64, card: &ModelCard, shards: &ShardSet) -> Provenance {
    let index = shards.index();
    let made_from = shards.made_from();
    let input = |name: &str| artifact(spec.inputs.get(name)?);
    Provenance {
        job: Some(job_of(spec)),
        at: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .map(|since| iso_utc(since.as_secs())),
        seed,
        model: input(MODEL),
        trained_by: card.trained_by.clone(),
        shards: input(SHARDS),
        dataset: made_from.map(|made_from| made_from.dataset.clone()),
        split_seed: made_from.map(|made_from| made_from.seed),
        layout: format!(
            "{}, {} x {} pixels",
            index.encoding.as_str(),
            index.width,
            index.height
        ),
    }
}

/// A worker keeps an artifact in a folder that is named by its digest.
fn artifact(folder: &Path) -> Option<Digest> {
    folder.file_name()?.to_str()?.parse().ok()
}
