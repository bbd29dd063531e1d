//! What `bench-step` is asked for, and the batch that it trains on.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use marquee_domain::child::ChildSpec;
use marquee_domain::spec::{Precision, TrainSettings};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::data::Batch;
use crate::device;
use crate::error::RunError;
use crate::tensors::{self, Tensors};

/// Seed of weights and of dropout's dice.
pub(super) const SEED: u64 = 1;
/// Names in the data file.
pub(super) const PIXELS: &str = "pixels";
pub(super) const LABELS: &str = "labels";

/// What to time.
#[derive(Debug, Clone, Args)]
pub(super) struct StepBenchOptions {
    /// A name of the zoo
    pub(super) model: String,
    /// Start from these weights (safetensors, timm's names), all of them; else they are drawn
    #[arg(long, value_name = "FILE")]
    pub(super) weights: Option<PathBuf>,
    /// Train on this batch (safetensors): uint8 "pixels" [N, height, width, 3] and "labels" [N, classes];
    /// else one is made, of the four sizes that follow
    #[arg(long, value_name = "FILE", conflicts_with_all = ["batch", "width", "height", "classes"])]
    pub(super) data: Option<PathBuf>,
    /// Pictures of a step
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) batch: u32,
    /// Pixels
    #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(super) width: u32,
    /// Pixels
    #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(super) height: u32,
    /// Labels of a picture
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) classes: u32,
    /// fp32, bf16, fp16 (GPUs) or fp64
    #[arg(long, default_value = "fp32", value_parser = precision)]
    pub(super) precision: Precision,
    /// Whether pictures and weights lie in memory pixel by pixel
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    pub(super) channels_last: bool,
    /// The CPU, or the first GPU
    #[arg(long, default_value = "cpu", value_parser = ["cpu", "cuda"])]
    pub(super) device: String,
    /// Threads to compute with
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(super) threads: u32,
    /// sgd has momentum 0.9, adamw a decay of 0.01
    #[arg(long, default_value = "sgd", value_parser = ["sgd", "adamw"])]
    pub(super) optimizer: String,
    /// Learning rate
    #[arg(long, default_value_t = 0.01)]
    pub(super) lr: f64,
}

fn precision(word: &str) -> Result<Precision, String> {
    serde_json::from_value(word.into()).map_err(|_| "use fp32, bf16, fp16 or fp64".to_owned())
}

impl StepBenchOptions {
    /// The batch of the file, or one that is made.
    pub(super) fn batch(&self) -> Result<Batch, RunError> {
        match &self.data {
            Some(path) => batch_of(&tensors::read(path)?, &path.display().to_string()),
            None => self.made_up(),
        }
    }

    /// The device to train on; sets the number of threads.
    pub(super) fn device(&self) -> Result<Device, RunError> {
        tch::set_num_threads(i32::try_from(self.threads.max(1)).unwrap_or(1));
        if self.device != "cuda" {
            return Ok(Device::Cpu);
        }
        device::first_gpu().map_err(|error| {
            RunError::new(
                error.class,
                format!("{}, or use --device cpu", error.message),
            )
        })
    }

    /// A train job's settings with nothing in them that is not asked for.
    pub(super) fn settings(&self) -> Result<TrainSettings, RunError> {
        let optimizer = match self.optimizer.as_str() {
            "sgd" => json!({
                "name": "sgd", "lr": self.lr, "momentum": 0.9, "nesterov": false, "weight_decay": 0.0
            }),
            "adamw" => json!({
                "name": "adamw", "lr": self.lr, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8,
                "weight_decay": 0.01
            }),
            other => {
                return Err(RunError::user(format!(
                    "there is no optimizer {other:?}; use sgd or adamw"
                )));
            }
        };
        if self.precision == Precision::Auto {
            return Err(RunError::user(
                "a step is timed in one precision: give fp32, bf16, fp16 or fp64",
            ));
        }
        // By way of JSON, so that every setting that a later version adds has its default here too.
        let settings = json!({
            "model": self.model,
            "epochs": 1,
            "batch_size": self.batch.max(1),
            "optimizer": optimizer,
            "lr_schedule": "constant",
            "precision": self.precision,
            "channels_last": self.channels_last,
            "seed": SEED,
            "flip": false,
            "checkpoint_every_steps": 0,
            "max_steps": null,
            "tensorboard": false,
            "collective_timeout_s": 60,
        });
        serde_json::from_value(settings)
            .map_err(|error| RunError::host(format!("the settings of a step do not fit: {error}")))
    }

    /// What ranks tell each other who they are by.
    pub(super) fn attempt(&self) -> Result<ChildSpec, RunError> {
        let spec = json!({
            "job": 1, "job_name": "bench-step", "attempt": 1,
            "work": { "kind": "train", "settings": self.settings()? },
            "inputs": {}, "output": "", "checkpoints": "", "resume": null, "devices": [],
            "threads": self.threads,
        });
        serde_json::from_value(spec)
            .map_err(|error| RunError::host(format!("the spec of a step does not fit: {error}")))
    }

    /// Noise, and labels of which about three in ten hold.
    fn made_up(&self) -> Result<Batch, RunError> {
        tch::manual_seed(SEED.cast_signed());
        let [batch, width, height, classes] =
            [self.batch, self.width, self.height, self.classes].map(|side| i64::from(side.max(1)));
        let bytes = (Kind::Uint8, Device::Cpu);
        let pixels = Tensor::f_randint(256, [batch, height, width, 3], bytes)?;
        let labels = Tensor::f_rand([batch, classes], (Kind::Float, Device::Cpu))?
            .f_lt(0.3)?
            .f_to_kind(Kind::Uint8)?;
        let data = Tensors::from([(PIXELS.to_owned(), pixels), (LABELS.to_owned(), labels)]);
        batch_of(&data, "the batch made here")
    }
}

fn batch_of(data: &Tensors, whence: &str) -> Result<Batch, RunError> {
    let tensor = |name: &str, sides: usize| {
        data.get(name)
            .filter(|tensor| tensor.kind() == Kind::Uint8 && tensor.dim() == sides)
            .map(Tensor::shallow_clone)
            .ok_or_else(|| {
                RunError::input(format!(
                    "{whence} has no tensor {name:?} of uint8 with {sides} sides; give {PIXELS} \
                     [N, height, width, 3] and {LABELS} [N, classes]"
                ))
            })
    };
    let (pixels, labels) = (tensor(PIXELS, 4)?, tensor(LABELS, 2)?);
    let rows = pixels.size()[0];
    if rows == 0 || pixels.size()[3] != 3 || labels.size()[0] != rows {
        return Err(RunError::input(format!(
            "{whence}: {PIXELS} {:?} and {LABELS} {:?} do not go together",
            pixels.size(),
            labels.size()
        )));
    }
    let rows = rows.unsigned_abs();
    Ok(Batch {
        pixels,
        labels,
        counted: rows,
        global: rows,
        first: 0,
    })
}

/// Width and height of the pictures, and the number of classes.
pub(super) fn sizes(batch: &Batch) -> Result<((u32, u32), usize), RunError> {
    let (pixels, labels) = (batch.pixels.size(), batch.labels.size());
    let side = |side: i64| u32::try_from(side).map_err(|_| RunError::input("a side is too long"));
    Ok((
        (side(pixels[2])?, side(pixels[1])?),
        side(labels[1])? as usize,
    ))
}
