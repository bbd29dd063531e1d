//! Pictures and labels on their way from shards to tensors.
//!
//! Invariant: which pictures a step sees, and how, follows from [`StepPlan`] alone, a pure function of
//! the settings, the step and the rank. Reading runs ahead in a thread of its own, so that training
//! does not wait for it.

use std::sync::Arc;

use marquee_datasets::shards::{Check, ShardSet};
use marquee_domain::child::ChildSpec;

use crate::error::RunError;

mod augment;
mod batch;
mod features;
mod mixing;
mod normaliser;
mod order;
mod permutation;
mod plan;
mod prefetch;
mod random;
mod reader;
mod request;
mod sampler;
mod share;
mod shuffle;

pub(crate) use augment::Augment;
pub(crate) use batch::Batch;
pub(crate) use features::FeatureTable;
pub(crate) use mixing::Mixing;
pub(crate) use normaliser::Normaliser;
pub(crate) use plan::StepPlan;
pub(crate) use prefetch::Prefetch;
pub(crate) use reader::SplitReader;
pub(crate) use request::{Request, scoring_requests};
pub(crate) use sampler::Sampler;
pub(crate) use share::share;

/// Input by which a job is given shards.
pub(crate) const SHARDS: &str = "shards";
/// Names of the splits, as the preprocess job writes them.
pub(crate) const TRAIN: &str = "train";
pub(crate) const VALIDATION: &str = "validation";
pub(crate) const TEST: &str = "test";

/// Opens the shards that a job was given.
pub(crate) fn open(spec: &ChildSpec) -> Result<Arc<ShardSet>, RunError> {
    let dir = spec.inputs.get(SHARDS).ok_or_else(|| {
        RunError::user("the job has no input \"shards\"; name a preprocess job's output")
    })?;
    // Checksums are not compared here: the worker's artifact cache did so just now. For a run by hand the
    // check of the layout finds a file that was cut off.
    Ok(Arc::new(ShardSet::open_with(dir, Check::Layout)?))
}
