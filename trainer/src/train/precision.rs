//! Which number format a run computes in: what the job says, or what a short trial shows.
//!
//! Invariant: all ranks compute alike. Rank 0 tries and chooses, and a run that goes on keeps what was
//! chosen at its start, on whatever host.

use std::time::{Duration, Instant};

use marquee_domain::spec::Precision;
use tch::{Device, Kind, Tensor};

use crate::error::RunError;
use crate::ffi::{self, Autocast};
use crate::learner::Learner;
use crate::models::Pass;
use crate::rendezvous::Peers;

/// Pictures of the trial, at most: enough to tell formats apart, few enough to cost little.
const TRIAL_PICTURES: i64 = 16;
/// Passes of each format in the trial, the first of which only warms up.
const TRIAL_PASSES: u32 = 3;
/// How many times faster bf16 must be than fp32 to be chosen: below it, fp32's exactness is worth more.
const WORTH: f64 = 1.05;
/// How forward passes compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// All in the kind of the weights.
    Plain,
    /// The same, with products that GPUs round.
    Tf32,
    Bf16,
    Fp16,
}

impl Numbers {
    /// What a resolved setting means on `device`.
    pub(crate) fn of(precision: Precision, device: Device) -> Result<Self, RunError> {
        match precision {
            Precision::Fp32 | Precision::Fp64 | Precision::Auto => Ok(Self::Plain),
            Precision::Bf16 => Ok(Self::Bf16),
            Precision::Tf32 if is_cuda(device) => Ok(Self::Tf32),
            Precision::Fp16 if is_cuda(device) => Ok(Self::Fp16),
            Precision::Tf32 | Precision::Fp16 => Err(RunError::user(format!(
                "precision = \"{}\" is for GPUs; on CPUs use \"bf16\", or \"auto\"",
                precision.as_str()
            ))),
        }
    }

    /// Makes what follows compute in this format, until the guard is dropped.
    pub(crate) fn autocast(self, device: Device) -> Result<Option<Autocast>, RunError> {
        let enter = |bfloat16| Ok(Some(Autocast::enter(is_cuda(device), bfloat16)?));
        match self {
            Self::Plain | Self::Tf32 => Ok(None),
            Self::Bf16 => enter(true),
            Self::Fp16 => enter(false),
        }
    }
}

fn is_cuda(device: Device) -> bool {
    ffi::gpu_index(device).is_some()
}

/// The kind of weights and optimizer state.
pub(crate) fn kind_of(precision: Precision) -> Kind {
    match precision {
        Precision::Fp64 => Kind::Double,
        Precision::Fp32 | Precision::Tf32 | Precision::Bf16 | Precision::Fp16 | Precision::Auto => {
            Kind::Float
        }
    }
}

/// What a trial is made with.
#[derive(Debug)]
pub(super) struct Trial<'a> {
    pub(super) learner: &'a Learner,
    pub(super) device: Device,
    /// Width and height of the pictures.
    pub(super) size: (u32, u32),
    /// Pictures of a rank in a step.
    pub(super) pictures: u64,
}

/// What `asked` comes to: never `auto`. `chosen` is what the run chose when it started.
pub(super) fn resolve(
    asked: Precision,
    chosen: Option<Precision>,
    peers: &Peers,
    trial: &Trial<'_>,
) -> Result<Precision, RunError> {
    if asked != Precision::Auto {
        return Ok(asked);
    }
    if let Some(chosen) = chosen {
        tracing::info!(
            precision = chosen.as_str(),
            "precision, as chosen when the run started"
        );
        return Ok(chosen);
    }
    // One rank tries and the others adopt its choice: trials on several hosts could differ. Its choice
    // reaches them as a sum over ranks to which they add 0.
    let mine = if peers.is_first() {
        let (precision, why) = choose(trial)?;
        tracing::info!(precision = precision.as_str(), why, "precision chosen");
        code(precision)
    } else {
        0.0
    };
    let [sum] = peers.sum([mine])?;
    [Precision::Fp32, Precision::Bf16, Precision::Fp16]
        .into_iter()
        // Exact, since all but one of the numbers that were summed are 0.
        .find(|precision| code(*precision).to_bits() == sum.to_bits())
        .ok_or_else(|| RunError::host("ranks disagree on the precision"))
}

fn code(precision: Precision) -> f64 {
    match precision {
        // Ranks that tried nothing add this to the sum, so no format may have the same number.
        Precision::Auto => 0.0,
        Precision::Fp32 => 1.0,
        Precision::Bf16 => 2.0,
        Precision::Fp16 => 3.0,
        Precision::Fp64 => 4.0,
        Precision::Tf32 => 5.0,
    }
}

/// The first format that a trial shows to be faster. Small models lose more by converting numbers than
/// they win by computing with them.
fn choose(trial: &Trial<'_>) -> Result<(Precision, String), RunError> {
    let candidates: &[(Numbers, Precision)] = match trial.device {
        // bf16 first: it needs no loss scale. GPUs older than it are slow at it or refuse.
        Device::Cuda(_) => &[
            (Numbers::Bf16, Precision::Bf16),
            (Numbers::Fp16, Precision::Fp16),
        ],
        Device::Cpu | Device::Mps | Device::Vulkan if has_bf16() => {
            &[(Numbers::Bf16, Precision::Bf16)]
        }
        Device::Cpu | Device::Mps | Device::Vulkan => &[],
    };
    let mut why = Vec::new();
    let plain = time_passes(trial, Numbers::Plain)?.as_secs_f64();
    for (numbers, precision) in candidates {
        let name = precision.as_str();
        let ratio = match time_passes(trial, *numbers) {
            Ok(time) => plain / time.as_secs_f64().max(f64::MIN_POSITIVE),
            // A format that the device refuses is no failure of the run.
            Err(error) => {
                why.push(format!("{name} does not work here ({})", error.message));
                continue;
            }
        };
        why.push(format!(
            "{name} is {ratio:.2}x as fast as fp32 on this model"
        ));
        if ratio >= WORTH {
            return Ok((*precision, why.join("; ")));
        }
    }
    if why.is_empty() {
        why.push("the processor has no instructions for products of bf16".to_owned());
    }
    Ok((Precision::Fp32, why.join("; ")))
}

/// The fastest of a few passes, forward and backward. Weights and batch-norm stay as they are.
fn time_passes(trial: &Trial<'_>, numbers: Numbers) -> Result<Duration, RunError> {
    let pictures = i64::try_from(trial.pictures)
        .unwrap_or(TRIAL_PICTURES)
        .clamp(1, TRIAL_PICTURES);
    let (width, height) = trial.size;
    let shape = [pictures, i64::from(height), i64::from(width), 3];
    let pixels = Tensor::f_full(shape, 100, (Kind::Uint8, Device::Cpu))?;
    let weights = trial.learner.parameters.tensors();
    let mut best = Duration::MAX;
    for pass in 0..TRIAL_PASSES {
        // What was queued before would count as part of this pass.
        if let Some(index) = ffi::gpu_index(trial.device) {
            ffi::synchronize_gpu(index)?;
        }
        let started = Instant::now();
        let loss = {
            let _autocast = numbers.autocast(trial.device)?;
            trial
                .learner
                .logits(&pixels, Pass::eval())?
                .f_sum(Kind::Float)?
        };
        ffi::backward(&loss)?;
        ffi::forget_gradients(&weights)?;
        if let Some(index) = ffi::gpu_index(trial.device) {
            ffi::synchronize_gpu(index)?;
        }
        if pass > 0 {
            best = best.min(started.elapsed());
        }
    }
    Ok(best)
}

/// Whether the processor multiplies bf16 (AMX, AVX-512, or Arm's own).
fn has_bf16() -> bool {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.split_ascii_whitespace()
        .any(|word| ["amx_bf16", "avx512_bf16", "bf16"].contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_gpus_are_refused_on_cpus_with_a_way_out() {
        for precision in [Precision::Fp16, Precision::Tf32] {
            let error = Numbers::of(precision, Device::Cpu).unwrap_err();
            assert!(error.message.contains("bf16"), "{}", error.message);
        }
    }
}
