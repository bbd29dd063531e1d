//! Checkpoints: all that a run needs to go on as if nothing had happened.
//!
//! A checkpoint is a folder with `weights.safetensors`, `optimizer.safetensors` and `position.json`.
//! Invariant: it is complete or absent, and it says of which run it is: going on with other data,
//! another model or another batch size is refused, for the result would be of neither run.

use std::path::{Path, PathBuf};

use marquee_domain::spec::{Learning, Precision, TrainSettings, Transfer};
use marquee_evaluation::EpochRow;
use serde::{Deserialize, Serialize};

use crate::error::RunError;
use crate::files;
use crate::optimizer::Optimizer;
use crate::parameters::Parameters;
use crate::tensors;

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const POSITION: &str = "position.json";
/// Version of the layout.
const FORMAT: u32 = 1;

/// Where a run stands, and which run it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    format: u32,
    pub(crate) run: RunIdentity,
    /// Steps done over the whole run. With the run's identity it gives epoch and data order.
    pub(crate) step: u64,
    /// Ranks that wrote it. Another number of ranks may go on, but sums in another order.
    pub(crate) world_size: u32,
    /// What the current epoch has added up so far.
    pub(crate) epoch: EpochSums,
    /// Epochs that are over.
    pub(crate) history: Vec<EpochRow>,
}

/// What must not change between the attempts of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunIdentity {
    pub(crate) model: String,
    pub(crate) classes: Vec<String>,
    pub(crate) train_rows: u64,
    pub(crate) batch_size: u32,
    pub(crate) seed: u64,
    pub(crate) precision: Precision,
    #[serde(default)]
    pub(crate) learning: Learning,
    #[serde(default)]
    pub(crate) transfer: Transfer,
}

/// Sums over the steps of an epoch, of all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct EpochSums {
    /// Of the loss of each picture, averaged over classes.
    pub(crate) loss: f64,
    pub(crate) pictures: u64,
    pub(crate) seconds: f64,
}

impl RunIdentity {
    pub(crate) fn new(settings: &TrainSettings, classes: &[String], train_rows: u64) -> Self {
        Self {
            model: settings.model.clone(),
            classes: classes.to_vec(),
            train_rows,
            batch_size: settings.batch_size,
            seed: settings.seed,
            precision: settings.precision,
            learning: settings.learning.clone(),
            transfer: settings.transfer.clone(),
        }
    }

    /// The first thing in which `self`, the run to do, differs from `saved`.
    fn difference(&self, saved: &Self) -> Option<String> {
        let differs = |what: &str, saved: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug| {
            let (saved, wanted) = (format!("{saved:?}"), format!("{wanted:?}"));
            (saved != wanted).then(|| format!("{what} was {saved} and is now {wanted}"))
        };
        differs("model", &saved.model, &self.model)
            .or_else(|| differs("the list of classes", &saved.classes, &self.classes))
            .or_else(|| {
                differs(
                    "the number of training pictures",
                    &saved.train_rows,
                    &self.train_rows,
                )
            })
            .or_else(|| differs("batch_size", &saved.batch_size, &self.batch_size))
            .or_else(|| differs("seed", &saved.seed, &self.seed))
            .or_else(|| differs("precision", &saved.precision, &self.precision))
            .or_else(|| differs("the recipe", &saved.learning, &self.learning))
            .or_else(|| differs("what is transferred", &saved.transfer, &self.transfer))
    }
}

impl Position {
    /// The start of a run.
    pub(crate) fn start(run: RunIdentity, world_size: u32) -> Self {
        Self {
            format: FORMAT,
            run,
            step: 0,
            world_size,
            epoch: EpochSums::default(),
            history: Vec::new(),
        }
    }
}

/// Writes a checkpoint into `parent` and returns its folder.
pub(crate) fn write(
    parent: &Path,
    position: &Position,
    parameters: &Parameters,
    optimizer: &Optimizer,
) -> Result<PathBuf, RunError> {
    let state = optimizer.save();
    let state = state.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let content = [
        (WEIGHTS, tensors::encode(parameters.state())?),
        (OPTIMIZER, tensors::encode(state)?),
        (POSITION, files::json(position)?),
    ];
    files::write_folder(parent, &format!("step-{:08}", position.step), &content)
}

/// Reads the checkpoint in `dir` into `parameters` and `optimizer`, and returns where it stands.
pub(crate) fn restore(
    dir: &Path,
    run: &RunIdentity,
    parameters: &Parameters,
    optimizer: &mut Optimizer,
) -> Result<Position, RunError> {
    let position: Position = files::read_json(&dir.join(POSITION))?;
    if position.format != FORMAT {
        let format = position.format;
        return Err(RunError::input(format!(
            "{} has format {format}, this program reads {FORMAT}",
            dir.display()
        )));
    }
    if let Some(difference) = run.difference(&position.run) {
        return Err(RunError::input(format!(
            "checkpoint {} is of another run: {difference}; start anew without it",
            dir.display()
        )));
    }
    let weights = dir.join(WEIGHTS);
    parameters.load(&tensors::read(&weights)?, &weights.display().to_string())?;
    let state = dir.join(OPTIMIZER);
    optimizer.restore(&tensors::read(&state)?, &state.display().to_string())?;
    Ok(position)
}
