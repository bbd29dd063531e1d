//! A TorchScript module that a user brings, in the place of a network of the zoo.
//!
//! Invariant: what cannot be trained right is refused before the first step, with the way out. A
//! module's own dropout draws from libtorch's generator, which each pass seeds from the run's seed,
//! the step and the picture's place: so a run that goes on drops what an undisturbed one would.

use std::path::Path;

use tch::{Device, Kind, TchError, Tensor};

use super::Backbone;
use super::pass::Pass;
use crate::error::RunError;
use crate::ffi::{self, Script};
use crate::parameters::{Parameters, Start};

/// Name under which a job asks for a module of its own.
pub(crate) const TORCHSCRIPT: &str = "torchscript";
/// Pictures of the trial at the start: batch-norm needs more than one.
const TRIAL_PICTURES: i64 = 2;

/// The module, and where it came from.
#[derive(Debug)]
pub(crate) struct ScriptModel {
    script: Script,
    file: String,
    classes: i64,
    options: (Kind, Device),
}

impl ScriptModel {
    /// Reads the module at `path`, and lists its weights.
    pub(crate) fn load(
        path: &Path,
        classes: i64,
        options: (Kind, Device),
    ) -> Result<(Self, Parameters), RunError> {
        let (kind, device) = options;
        let file = path.display().to_string();
        if !path.is_file() {
            return Err(RunError::user(format!(
                "there is no module {file}; module.file is a path on the worker, or within the input \"module\""
            )));
        }
        let script = Script::load(path, device, kind == Kind::Double).map_err(|error| {
            let why = RunError::from(error).message;
            RunError::input(format!(
                "{file} is no TorchScript module: {why}; write one with torch.jit.script(model).save(...)"
            ))
        })?;
        let fixed = script.fixed();
        if !fixed.is_empty() {
            return Err(RunError::input(format!(
                "{file} was traced, which fixed its {fixed}: it cannot switch between training and \
                 scoring; export it with torch.jit.script(model)"
            )));
        }
        let weights = script.parameters()?;
        if weights.is_empty() {
            return Err(RunError::input(format!(
                "{file} has no parameters to train; if it was frozen (torch.jit.freeze), export it without"
            )));
        }
        if let Some((name, tensor)) = weights.iter().find(|(_, tensor)| tensor.kind() != kind) {
            return Err(RunError::input(format!(
                "{file}: parameter {name:?} is {:?}, but must be {kind:?}; export it from model.float()",
                tensor.kind()
            )));
        }
        let mut parameters = Parameters::new(Start::Zeros, kind, device);
        let mut seen = Vec::new();
        for (name, tensor) in weights {
            // One that is used in two places has two names, but learns once.
            let place = tensor.data_ptr() as usize;
            if !seen.contains(&place) {
                seen.push(place);
                parameters.adopt_weight(&name, tensor)?;
            }
        }
        for (name, tensor) in script.buffers()? {
            // Counters and other whole numbers stay as they are, on each rank.
            if tensor.is_floating_point() {
                parameters.adopt_buffer(&name, tensor);
            }
        }
        let model = Self {
            script,
            file,
            classes,
            options,
        };
        Ok((model, parameters))
    }

    fn logits(&self, pictures: &Tensor, training: bool) -> Result<Tensor, RunError> {
        let size = pictures.size();
        let refused = |error: crate::error::TorchError| {
            let why = RunError::from(error).message;
            RunError::input(format!(
                "{}: it cannot take pictures {size:?} (picture, channel, row, column): {why}",
                self.file
            ))
        };
        let logits = self.script.forward(pictures, training).map_err(refused)?;
        let wanted = [TRIAL_PICTURES, self.classes];
        if logits.size() != wanted {
            return Err(RunError::input(format!(
                "{}: for {TRIAL_PICTURES} pictures it gives the shape {:?}, but the shards have {} classes: \
                 it must be {wanted:?}; give its last layer {} outputs",
                self.file,
                logits.size(),
                self.classes,
                self.classes
            )));
        }
        Ok(logits)
    }
}

impl Backbone for ScriptModel {
    /// The module's logits: it has a classifier of its own.
    fn features(&self, pictures: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        if let Some(seed) = pass.seed() {
            tch::manual_seed(seed);
        }
        self.script
            .forward(pictures, pass.norms_learn())
            .map_err(|error| TchError::Torch(error.to_string()))
    }

    fn width(&self) -> i64 {
        self.classes
    }

    /// Runs the module once each way. What it remembers of batches is as it was afterwards.
    fn try_out(&self, width: u32, height: u32) -> Result<(), RunError> {
        let shape = [TRIAL_PICTURES, 3, i64::from(height), i64::from(width)];
        let pictures = Tensor::f_ones(shape, self.options)?;
        let _ = tch::no_grad(|| self.logits(&pictures, false))?;
        let buffers = self.script.buffers()?;
        let before: Vec<Tensor> = buffers.iter().map(|(_, tensor)| tensor.copy()).collect();
        let loss = self.logits(&pictures, true)?.f_sum(self.options.0)?;
        if !loss.requires_grad() {
            return Err(RunError::input(format!(
                "{}: its output does not depend on its parameters; leave out torch.no_grad() and detach()",
                self.file
            )));
        }
        loss.f_backward()?;
        for ((_, tensor), before) in buffers.iter().zip(&before) {
            tch::no_grad(|| tensor.shallow_clone().f_copy_(before))?;
        }
        let weights = self.script.parameters()?;
        let unused = weights
            .iter()
            .find(|(_, tensor)| tensor.requires_grad() && !tensor.grad().defined());
        if let Some((name, _)) = unused {
            return Err(RunError::input(format!(
                "{}: parameter {name:?} takes no part in forward, so ranks would wait for its gradient \
                 for ever; leave it out of the module",
                self.file
            )));
        }
        let tensors: Vec<Tensor> = weights.into_iter().map(|(_, tensor)| tensor).collect();
        Ok(ffi::forget_gradients(&tensors)?)
    }

    fn save_script(&self, path: &Path) -> Result<bool, RunError> {
        self.script.save(path).map_err(|error| {
            RunError::from(error).during(&format!("writing {}", path.display()))
        })?;
        Ok(true)
    }
}
