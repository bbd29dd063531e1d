//! `marquee-trainer check-model`: whether a model of the zoo computes what a file says that PyTorch
//! computed with the same weights.
//!
//! Invariant: every tensor of the weights is used and every tensor of the model is given; else it
//! is an error that names the tensor, and nothing is compared. Batch counters alone are ignored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use marquee_domain::child::ExitCode;
use marquee_domain::spec::Precision;
use marquee_domain::zoo;
use serde::Serialize;
use tch::{Device, Kind, Reduction, Tensor, no_grad};

use crate::device;
use crate::error::RunError;
use crate::ffi::{self, SgdStep};
use crate::models::{Chance, Network, Pass, Rates, head_name};
use crate::parameters::Start;
use crate::stdout::say;
use crate::tensors::{self, Tensors};

/// What to check.
#[derive(Debug, Args)]
pub struct ModelCheck {
    /// A name of the zoo
    model: String,
    /// Weights under timm's names (safetensors); their classifier says how many classes there are
    weights: PathBuf,
    /// x, and what PyTorch made of it: features, logits, logits_small of x_small, grad_x of target
    io: PathBuf,
    /// Exit 1 if an absolute difference is larger
    #[arg(long, default_value_t = 1e-5)]
    tolerance: f64,
    /// Also do one step of plain SGD, at the rate `lr` of IO, and compare with these weights
    #[arg(long)]
    stepped: Option<PathBuf>,
    /// Where to compute: the CPU, or the first GPU
    #[arg(long, default_value = "cpu", value_parser = ["cpu", "cuda"])]
    device: String,
}

/// How far the model is from PyTorch: largest absolute differences of what the file held.
#[derive(Debug, Serialize)]
struct ModelCheckReport {
    model: &'static str,
    classes: i64,
    tolerance: f64,
    /// Whether all absolute differences are within the tolerance.
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logits_small: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grad_x: Option<f64>,
    /// The largest magnitude in each of them, as the file has it: what a difference is to be seen beside.
    largest: BTreeMap<&'static str, f64>,
    /// Largest difference after one step, as a share of the largest number of its tensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    step_relative: Option<f64>,
    /// Tensors of the second file that mean nothing here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ignored: Vec<String>,
}

/// What is compared.
const RESULTS: [&str; 4] = ["features", "logits", "logits_small", "grad_x"];
/// Names that the second file may have.
const KNOWN: [&str; 8] = [
    "x",
    "x_small",
    "target",
    "lr",
    "features",
    "logits",
    "logits_small",
    "grad_x",
];

/// Prints the differences, and fails where one is larger than the tolerance.
pub(super) fn command(check: &ModelCheck) -> ExitCode {
    let printed = compare_with_files(check).and_then(|report| {
        let line = serde_json::to_string(&report)
            .map_err(|error| RunError::host(format!("the report has no form in JSON: {error}")))?;
        say(&line);
        Ok(report.ok)
    });
    match printed {
        Ok(true) => ExitCode::OK,
        Ok(false) => ExitCode::FAILED,
        Err(error) => {
            tracing::error!("{}", error.message);
            ExitCode::FAILED
        }
    }
}

/// An error when a file cannot be read, a tensor is missing, unused or of a wrong shape, or when
/// there is nothing to compare.
fn compare_with_files(check: &ModelCheck) -> Result<ModelCheckReport, RunError> {
    let (weights, io) = (&check.weights, &check.io);
    let weights_name = weights.display().to_string();
    let device = if check.device == "cuda" {
        device::first_gpu()?
    } else {
        Device::Cpu
    };
    device::choose_kernels(device, false, Precision::Fp32)?;
    let given = Given {
        tensors: on(device, tensors::read(io)?)?,
        name: io.display().to_string(),
    };
    let weights = tensors::read(weights)?;
    let kind = if given.required("x")?.f_kind()? == Kind::Double {
        Kind::Double
    } else {
        Kind::Float
    };
    let classes = classes_of(&check.model, &weights, &weights_name)?;
    // Zeros, since every number comes from the file: weights drawn at random would only take their
    // time.
    let network = Network::build(
        &check.model,
        usize::try_from(classes).unwrap_or(0),
        Start::Zeros,
        Rates::default(),
        kind,
        device,
    )?;
    network.parameters.load(&weights, &weights_name)?;

    let mut report = ModelCheckReport {
        model: network.info.name,
        classes,
        tolerance: check.tolerance,
        ok: false,
        features: None,
        logits: None,
        logits_small: None,
        grad_x: None,
        largest: BTreeMap::new(),
        step_relative: None,
        ignored: given
            .tensors
            .keys()
            .filter(|name| !KNOWN.contains(&name.as_str()))
            .cloned()
            .collect(),
    };
    compare(&network, &given, kind, &mut report)?;
    for name in RESULTS {
        if let Some(expected) = given.tensors.get(name) {
            report.largest.insert(name, largest(expected)?);
        }
    }
    let found = [
        report.features,
        report.logits,
        report.logits_small,
        report.grad_x,
    ];
    if found.iter().all(Option::is_none) && check.stepped.is_none() {
        return Err(RunError::input(format!(
            "{} holds nothing to compare with: give features, logits, logits_small or grad_x",
            given.name
        )));
    }
    // Not "no difference is larger": a difference that is not a number must not pass.
    report.ok = found.iter().flatten().all(|d| *d <= check.tolerance);
    if let Some(stepped) = &check.stepped {
        let expected = on(device, tensors::read(stepped)?)?;
        let apart = step(&network, &given, kind, &expected, stepped)?;
        report.step_relative = Some(apart);
    }
    Ok(report)
}

/// The same tensors on `device`.
fn on(device: Device, tensors: Tensors) -> Result<Tensors, RunError> {
    tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.f_to_device(device)?)))
        .collect()
}

/// The second file.
struct Given {
    tensors: Tensors,
    name: String,
}

impl Given {
    fn required(&self, name: &str) -> Result<&Tensor, RunError> {
        self.tensors
            .get(name)
            .ok_or_else(|| RunError::input(format!("{} has no tensor {name:?}", self.name)))
    }

    /// A picture batch in the kind of the check.
    fn pictures(&self, name: &str, kind: Kind, network: &Network) -> Result<Tensor, RunError> {
        let x = self.required(name)?;
        match x.size().as_slice() {
            [_, 3, height, width] => {
                let side = |side: &i64| u32::try_from(*side).unwrap_or(0);
                if let Some(problem) = network.info.size_problem(side(width), side(height)) {
                    return Err(RunError::input(format!("{}: {name}: {problem}", self.name)));
                }
                Ok(x.f_to_kind(kind)?)
            }
            other => Err(RunError::input(format!(
                "{}: {name} has the shape {other:?}; give [pictures, 3, height, width]",
                self.name
            ))),
        }
    }

    /// The largest difference from `found` of what the file holds under `name`, if it does.
    fn difference(&self, name: &str, found: &Tensor) -> Result<Option<f64>, RunError> {
        let Some(expected) = self.tensors.get(name) else {
            return Ok(None);
        };
        if expected.size() != found.size() {
            return Err(RunError::input(format!(
                "{}: {name} has the shape {:?}, but the model gives {:?}",
                self.name,
                expected.size(),
                found.size()
            )));
        }
        Ok(Some(largest(&found.f_sub(expected)?)?))
    }
}

/// The largest absolute value; NaN if there is any.
fn largest(tensor: &Tensor) -> Result<f64, RunError> {
    let double = tensor.f_detach()?.f_to_kind(Kind::Double)?;
    Ok(double.f_abs()?.f_max()?.f_double_value(&[])?)
}

/// Classes of the weights, by the shape of their classifier.
fn classes_of(model: &str, weights: &Tensors, whence: &str) -> Result<i64, RunError> {
    let name = zoo::find(model).map_or(model, |info| info.name);
    let head = format!("{}.weight", head_name(name));
    let size = weights.get(&head).map(Tensor::size);
    match size.as_deref() {
        Some([classes, _]) => Ok(*classes),
        Some(other) => Err(RunError::input(format!(
            "{whence}: the classifier {head:?} has the shape {other:?}; it should have two sides"
        ))),
        // An unknown model is told by Network::build.
        None if zoo::find(model).is_none() => Ok(1),
        None => Err(RunError::input(format!(
            "{whence} has no weight {head:?}, the classifier of {name}"
        ))),
    }
}

fn compare(
    network: &Network,
    given: &Given,
    kind: Kind,
    report: &mut ModelCheckReport,
) -> Result<(), RunError> {
    let eval = Pass::eval();
    let holds = |name: &str| given.tensors.contains_key(name);
    let x = given.pictures("x", kind, network)?;
    no_grad(|| -> Result<(), RunError> {
        let features = network.features(&x, &eval)?;
        report.features = given.difference("features", &features)?;
        let logits = network.classify(&features, &eval)?;
        report.logits = given.difference("logits", &logits)?;
        if holds("x_small") || holds("logits_small") {
            let x = given.pictures("x_small", kind, network)?;
            let logits = network.logits(&x, &eval)?;
            report.logits_small = given.difference("logits_small", &logits)?;
        }
        Ok(())
    })?;
    if holds("grad_x") {
        let x = x.f_detach()?.f_set_requires_grad(true)?;
        let loss = loss(network, &x, given, &eval)?;
        let gradient = Tensor::f_run_backward(&[loss], &[&x], false, false)?;
        if let Some(gradient) = gradient.first() {
            report.grad_x = given.difference("grad_x", gradient)?;
        }
    }
    Ok(())
}

/// The mean binary cross-entropy against `target`.
fn loss(network: &Network, x: &Tensor, given: &Given, pass: &Pass) -> Result<Tensor, RunError> {
    let logits = network.logits(x, pass)?;
    let target = given.required("target")?.f_to_kind(logits.f_kind()?)?;
    loss_of(&logits, &target)
}

pub(super) fn loss_of(logits: &Tensor, target: &Tensor) -> Result<Tensor, RunError> {
    Ok(logits.f_binary_cross_entropy_with_logits(
        target,
        None::<&Tensor>,
        None::<&Tensor>,
        Reduction::Mean,
    )?)
}

/// One step of plain SGD in train mode; the largest relative difference of any tensor from what the
/// file says.
fn step(
    network: &Network,
    given: &Given,
    kind: Kind,
    expected: &Tensors,
    whence: &Path,
) -> Result<f64, RunError> {
    let x = given.pictures("x", kind, network)?;
    let lr = given.required("lr")?.f_double_value(&[])?;
    let loss = loss(network, &x, given, &Pass::train(Chance::new(0, 0, 0)))?;
    ffi::backward(&loss)?;
    let plain = SgdStep {
        lr,
        momentum: 0.0,
        weight_decay: 0.0,
        nesterov: false,
        first: true,
    };
    ffi::sgd_step(&network.parameters.tensors(), &[], plain, None)?;
    let mut apart = 0.0;
    for (name, tensor) in network.parameters.state() {
        let wanted = expected.get(name).ok_or_else(|| {
            RunError::input(format!("{} has no tensor {name:?}", whence.display()))
        })?;
        let scale = largest(wanted)?.max(f64::MIN_POSITIVE);
        let relative = largest(&tensor.f_sub(wanted)?)? / scale;
        tracing::debug!(name, relative, "after one step");
        // NaN stays.
        if relative.is_nan() || relative > apart {
            apart = relative;
        }
    }
    Ok(apart)
}
