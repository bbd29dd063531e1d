//! `marquee-trainer write-vectors`: weights of a seed and what this build computes with them, in the
//! two files that `check-model` of another build reads. So builds with different releases of
//! libtorch are compared with each other.

use std::fs;
use std::path::Path;

use tch::{Device, Kind, Tensor, no_grad};

use super::check_model::loss_of;
use crate::error::RunError;
use crate::models::{Network, Pass, Rates};
use crate::parameters::Start;
use crate::tensors;

/// Pictures of `x`, and classes.
const PICTURES: i64 = 2;
const CLASSES: usize = 5;

/// Writes `weights.safetensors` and `io.safetensors` for `model` into `folder`, which must exist.
pub(super) fn write_vectors(model: &str, seed: u64, folder: &Path) -> Result<(), RunError> {
    let network = Network::build(
        model,
        CLASSES,
        Start::Seed(seed),
        Rates::default(),
        Kind::Float,
        Device::Cpu,
    )?;
    write(folder, "weights.safetensors", network.parameters.state())?;

    // Two sizes, the second of which is none that the network was made for.
    let side = i64::from(network.info.smallest_side.max(64));
    let step = i64::from(network.info.side_step);
    let x = pictures(PICTURES, side, side + step)?;
    let x_small = pictures(1, side + step, side)?;
    let target = Tensor::f_rand([PICTURES, CLASSES as i64], (Kind::Float, Device::Cpu))?;
    let eval = Pass::eval();
    let (features, logits, logits_small) = no_grad(|| -> Result<_, RunError> {
        let features = network.features(&x, &eval)?;
        let logits = network.classify(&features, &eval)?;
        Ok((features, logits, network.logits(&x_small, &eval)?))
    })?;
    let leaf = x.f_detach()?.f_set_requires_grad(true)?;
    let loss = loss_of(&network.logits(&leaf, &eval)?, &target)?;
    let mut gradients = Tensor::f_run_backward(&[loss], &[&leaf], false, false)?;
    let grad_x = gradients
        .pop()
        .ok_or_else(|| RunError::host("libtorch gave no gradient of the pictures"))?;
    let io = [
        ("x", &x),
        ("x_small", &x_small),
        ("target", &target),
        ("features", &features),
        ("logits", &logits),
        ("logits_small", &logits_small),
        ("grad_x", &grad_x),
    ];
    write(folder, "io.safetensors", io)
}

/// Noise in the range of normalised pictures.
fn pictures(count: i64, height: i64, width: i64) -> Result<Tensor, RunError> {
    Ok(Tensor::f_randn(
        [count, 3, height, width],
        (Kind::Float, Device::Cpu),
    )?)
}

fn write<'a>(
    folder: &Path,
    name: &str,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<(), RunError> {
    let path = folder.join(name);
    fs::write(&path, tensors::encode(tensors)?)
        .map_err(|error| RunError::host(format!("cannot write {}: {error}", path.display())))
}
