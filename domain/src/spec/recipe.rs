//! How a train job learns: schedules, number formats, what chance does to pictures.
//!
//! Invariant: specs of earlier versions still read; what they do not name has the value that they
//! were run with.

use serde::{Deserialize, Serialize};

/// A stretch of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Span {
    Steps(u64),
    Epochs(f64),
}

impl Span {
    /// Its length in steps, rounded to the nearest.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the pipeline's door keeps epochs small and above 0"
    )]
    pub fn steps(self, steps_per_epoch: u64) -> u64 {
        match self {
            Self::Steps(steps) => steps,
            // Rounded: 0.1 epochs of 30 steps are 3, although the product is a hair above or below.
            Self::Epochs(epochs) => (epochs * steps_per_epoch as f64).round() as u64,
        }
    }
}

/// How the learning rate moves over the run, after any warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrSchedule {
    Constant,
    /// From the optimizer's rate to 0 along half a cosine over all steps.
    Cosine,
    /// Times `factor` after each `every`.
    Step {
        every: Span,
        factor: f64,
    },
    /// Up to the optimizer's rate and down again, along two half cosines (Smith 2018, as PyTorch's
    /// `OneCycleLR` has it, without its change of the momentum).
    OneCycle {
        /// Share of the run in which the rate rises.
        rise: f64,
        /// The first rate is the optimizer's divided by this.
        start_divisor: f64,
        /// The last rate is the first divided by this.
        end_divisor: f64,
    },
}

/// Number format of a training run. Weights and optimizer state are f32 in all but `fp64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    Fp32,
    /// For tests of exactness.
    Fp64,
    /// fp32 in which GPUs round what products and convolutions take to 10 bits of mantissa. GPUs only.
    Tf32,
    /// Matrix products and convolutions in bfloat16 (autocast).
    Bf16,
    /// The same in float16, with a scaled loss. GPUs only.
    Fp16,
    /// What the device does fastest without loss of quality: measured at the start of the run.
    Auto,
}

impl Precision {
    /// The word used in pipeline files and on screen.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp64 => "fp64",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
            Self::Auto => "auto",
        }
    }
}

/// What carries tensors of GPUs between ranks. Those of CPUs always go by Gloo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// NCCL where it works on all ranks; else Gloo, with a warning.
    #[default]
    Auto,
    /// NCCL; where it does not work the job is refused.
    Nccl,
    /// Gloo, by way of the CPU.
    Gloo,
}

/// How gradients travel between ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GradientCompression {
    #[default]
    None,
    /// As bfloat16: half the bytes, 8 bits of each number.
    Bf16,
}

/// A part of each training picture, cut out at random and brought back to full size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Crop {
    /// Smallest share of the picture's area.
    pub min_area: f64,
    /// How far the part's shape may differ from the picture's: 1.33 is 3:4 to 4:3.
    pub max_stretch: f64,
}

/// Random changes of colour. Each strength s means a factor from 1 - s to 1 + s.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Colour {
    pub brightness: f64,
    pub contrast: f64,
    pub saturation: f64,
}
