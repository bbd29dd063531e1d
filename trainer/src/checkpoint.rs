//! Checkpoints: all that a run needs to go on as if nothing had happened.
//!
//! A checkpoint is a folder with `weights.safetensors`, `optimizer.safetensors`, `position.json` and,
//! where a running mean of the weights is kept, `ema.safetensors`.
//! Invariant: it is complete or absent, and it names the settings and data of its run. To go on from it
//! with other data, another model or another batch size is refused: the result would be that of no run.

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use marquee_domain::spec::{Learning, Precision, TrainSettings, Transfer};
use marquee_evaluation::EpochRow;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::ema::Ema;
use crate::error::RunError;
use crate::files;
use crate::optimizer::Optimizer;
use crate::parameters::Parameters;
use crate::scaler::Scaler;
use crate::tensors::{self, Encoded, Tensors};

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const EMA: &str = "ema.safetensors";
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
    /// What `precision = "auto"` chose at the start.
    #[serde(default)]
    pub(crate) chosen: Option<Precision>,
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
            // As text, which is what the message shows: two values that read alike are one to whoever has to find the
            // difference.
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
            chosen: None,
        }
    }
}

/// All that a checkpoint holds, copied out of the run: training may go on while it is written.
#[derive(Debug)]
pub(crate) struct Snapshot {
    position: Position,
    weights: Encoded,
    optimizer: Encoded,
    ema: Option<Encoded>,
}

impl Snapshot {
    /// Copies the state, into the memory of `spare` where it fits.
    pub(crate) fn take<'a>(
        spare: Option<Self>,
        position: &Position,
        weights: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
        optimizer: &Tensors,
        ema: Option<&Ema>,
    ) -> Result<Self, RunError> {
        let (in_weights, in_optimizer, in_ema) = spare.map_or((None, None, None), |spare| {
            (Some(spare.weights), Some(spare.optimizer), spare.ema)
        });
        let encode = |spare, tensors: &Tensors| {
            let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
            tensors::encode_into(spare, named)
        };
        Ok(Self {
            position: position.clone(),
            weights: tensors::encode_into(in_weights, weights)?,
            optimizer: encode(in_optimizer, optimizer)?,
            ema: ema.map(|ema| encode(in_ema, &ema.save())).transpose()?,
        })
    }

    /// Writes the checkpoint into `parent`.
    fn write(&self, parent: &Path) -> Result<Written, RunError> {
        let position = files::json(&self.position)?;
        let mut content = vec![
            (WEIGHTS, self.weights.as_ref()),
            (OPTIMIZER, self.optimizer.as_ref()),
            (POSITION, position.as_slice()),
        ];
        if let Some(ema) = &self.ema {
            content.push((EMA, ema.as_ref()));
        }
        let step = self.position.step;
        let path = files::write_folder(parent, &format!("step-{step:08}"), &content)?;
        Ok(Written { step, path })
    }
}

/// What a checkpoint is read into.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) parameters: &'a Parameters,
    pub(crate) optimizer: &'a mut Optimizer,
    pub(crate) ema: Option<&'a mut Ema>,
}

/// Reads the checkpoint in `dir` into `parts`, and returns where it stands.
pub(crate) fn restore(
    dir: &Path,
    run: &RunIdentity,
    parts: Parts<'_>,
) -> Result<Position, RunError> {
    let position: Position = files::read_json(&dir.join(POSITION))?;
    if position.format != FORMAT {
        let format = position.format;
        return Err(RunError::input(format!(
            "{} has format {format}, this program reads {FORMAT}",
            dir.display()
        )));
    }
    // Before any tensor is read: half of the state of another run must not get into this one.
    if let Some(difference) = run.difference(&position.run) {
        return Err(RunError::input(format!(
            "checkpoint {} is of another run: {difference}; start anew without it",
            dir.display()
        )));
    }
    let weights = dir.join(WEIGHTS);
    parts
        // Weights first, then the optimizer, then the mean: each checks its own names and shapes,
        // and an error ends the run before its first step.
        .parameters
        .load(&tensors::read(&weights)?, &weights.display().to_string())?;
    let state = dir.join(OPTIMIZER);
    parts
        .optimizer
        .restore(&tensors::read(&state)?, &state.display().to_string())?;
    if let Some(ema) = parts.ema {
        let mean = dir.join(EMA);
        ema.restore(&tensors::read(&mean)?, &mean.display().to_string())?;
    }
    Ok(position)
}

/// Reads the loss scale of the checkpoint in `dir`.
pub(crate) fn restore_scaler(dir: &Path, scaler: &mut Scaler) -> Result<(), RunError> {
    scaler.restore(&tensors::read(&dir.join(OPTIMIZER))?)
}

/// Writes checkpoints in a thread, one at a time.
///
/// Invariant: a checkpoint is reported only when it is whole and on disk. A failure to write one is an
/// error of the run, at the latest when the next one is due: a run must not go on for days without.
#[derive(Debug)]
pub(crate) struct Writer {
    parent: PathBuf,
    running: Option<JoinHandle<(Snapshot, Result<Written, RunError>)>>,
    /// The snapshot that was written last. The next one is as large and reuses its memory: to have new
    /// memory zeroed by the kernel takes longer than the copy.
    spare: Option<Snapshot>,
}

/// A checkpoint on disk.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) step: u64,
    pub(crate) path: PathBuf,
}

impl Writer {
    /// Writes into the folder `parent`.
    pub(crate) fn new(parent: &Path) -> Self {
        Self {
            parent: parent.to_owned(),
            running: None,
            spare: None,
        }
    }

    /// A snapshot whose memory may be used again.
    pub(crate) fn spare(&mut self) -> Option<Snapshot> {
        self.spare.take()
    }

    /// Starts to write. The one before must have been collected.
    pub(crate) fn start(&mut self, snapshot: Snapshot) -> Result<(), RunError> {
        let parent = self.parent.clone();
        // Beside the training, which owns neither the file nor the disk's pace: a slow disk costs steps only when the
        // next checkpoint is due before this one is written.
        let running = thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || {
                let written = snapshot.write(&parent);
                (snapshot, written)
            })
            .map_err(|error| {
                RunError::host(format!("cannot start the checkpoint thread: {error}"))
            })?;
        self.running = Some(running);
        Ok(())
    }

    /// What has been written since the last call, without waiting.
    pub(crate) fn poll(&mut self) -> Result<Option<Written>, RunError> {
        match &self.running {
            // Only once it has ended: the training must never wait for the disk here.
            Some(running) if running.is_finished() => self.wait(),
            Some(_) | None => Ok(None),
        }
    }

    /// Waits for what is being written.
    pub(crate) fn wait(&mut self) -> Result<Option<Written>, RunError> {
        let Some(running) = self.running.take() else {
            return Ok(None);
        };
        // It comes back also where the write failed: its memory is worth keeping either way.
        let (snapshot, written) = running
            .join()
            .map_err(|_| RunError::host("the checkpoint thread panicked"))?;
        self.spare = Some(snapshot);
        written.map(Some)
    }
}
