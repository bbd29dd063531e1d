//! The weights of a network, and its buffers: what batch-norm remembers of earlier batches.
//!
//! Invariants: names and order are the same in every process that builds the same model, for ranks
//! exchange gradients by position and files hold tensors by name. Weights are learnt; buffers never
//! have a gradient, and belong into every file that weights belong into.

use tch::{Device, Kind, TchError, Tensor, no_grad};

use crate::error::RunError;
use crate::ffi;
use crate::tensors::Tensors;

/// How the name of a counter ends that PyTorch's batch-norm keeps in files and nothing here needs. So a
/// file may have it or not.
const BATCH_COUNTER: &str = "num_batches_tracked";

/// Where the weights of a network come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Drawn from this seed.
    Seed(u64),
    /// All zero: they are about to be overwritten. Drawing those of VGG-16 takes seconds.
    Zeros,
}

/// How a weight starts that is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Init {
    /// Evenly from -bound to bound.
    Uniform {
        bound: f64,
    },
    /// A bell around 0 of this spread.
    Normal {
        std: f64,
    },
    Constant(f64),
}

/// The weights and buffers of one network.
#[derive(Debug)]
pub(crate) struct Parameters {
    start: Start,
    kind: Kind,
    device: Device,
    entries: Vec<(String, Tensor)>,
    buffers: Vec<(String, Tensor)>,
}

impl Parameters {
    pub(crate) fn new(start: Start, kind: Kind, device: Device) -> Self {
        if let Start::Seed(seed) = start {
            // All weights are drawn one after the other from here, so the order in which a network
            // registers them is part of what a seed means.
            tch::manual_seed(seed.cast_signed());
        }
        Self {
            start,
            kind,
            device,
            entries: Vec::new(),
            buffers: Vec::new(),
        }
    }

    /// Takes up a weight of a network that was built elsewhere.
    pub(crate) fn adopt_weight(&mut self, name: &str, tensor: Tensor) -> Result<(), RunError> {
        if tensor.dim() == 4 {
            ffi::to_channels_last(&tensor)?;
        }
        let tensor = tensor.f_set_requires_grad(true)?;
        self.entries.push((name.to_owned(), tensor));
        Ok(())
    }

    /// Takes up a buffer of a network that was built elsewhere.
    pub(crate) fn adopt_buffer(&mut self, name: &str, tensor: Tensor) {
        self.buffers.push((name.to_owned(), tensor));
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Where a network registers its tensors.
    pub(crate) fn root(&mut self) -> Scope<'_> {
        Scope {
            parameters: self,
            prefix: String::new(),
        }
    }

    /// Drawn in f32 on the CPU whatever the run uses, so that a seed means one set of weights.
    /// 4-D weights get the channels-last layout, in which convolutions run about a fifth faster.
    fn draw(&self, shape: &[i64], init: Init) -> Result<Tensor, TchError> {
        if self.start == Start::Zeros {
            return Tensor::f_zeros(shape, (self.kind, self.device));
        }
        let mut tensor = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
        let drawn = match init {
            Init::Uniform { bound } => tensor.f_uniform_(-bound, bound)?,
            Init::Normal { std } => tensor.f_normal_(0.0, std)?,
            Init::Constant(value) => tensor.f_fill_(value)?,
        };
        drawn.f_to_kind(self.kind)?.f_to_device(self.device)
    }

    /// Weights by name, in order.
    pub(crate) fn entries(&self) -> &[(String, Tensor)] {
        &self.entries
    }

    /// All that a file holds of the network, by name: weights, then buffers.
    pub(crate) fn state(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.entries
            .iter()
            .chain(&self.buffers)
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Handles on all weights, in order.
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        handles(&self.entries)
    }

    /// Handles on all buffers, in order.
    pub(crate) fn buffer_tensors(&self) -> Vec<Tensor> {
        handles(&self.buffers)
    }

    /// How many numbers there are to learn.
    pub(crate) fn count(&self) -> u64 {
        self.entries
            .iter()
            .map(|(_, tensor)| tensor.numel() as u64)
            .sum()
    }

    /// Overwrites weights and buffers with those of a file. Every name must be there, in its shape,
    /// and no other but batch counters: `whence` names the file in the error.
    pub(crate) fn load(&self, from: &Tensors, whence: &str) -> Result<(), RunError> {
        for (name, tensor) in self.state() {
            let given = from.get(name).ok_or_else(|| {
                RunError::input(format!(
                    "{whence} has no weight {name:?}; it is of another model"
                ))
            })?;
            if given.size() != tensor.size() {
                return Err(RunError::input(format!(
                    "{whence}: weight {name:?} has the shape {:?}, but the model needs {:?}",
                    given.size(),
                    tensor.size()
                )));
            }
            // Copied into the tensor that is there: the layers hold handles on it, not names.
            no_grad(|| tensor.shallow_clone().f_copy_(given))?;
        }
        // Also what is too much: a file with more weights is of another network, whatever fits by accident.
        match from.keys().find(|name| !self.knows(name)) {
            Some(name) => Err(RunError::input(format!(
                "{whence} has a weight {name:?} that the model does not know"
            ))),
            None => Ok(()),
        }
    }

    /// Whether a file may hold a tensor of this name.
    fn knows(&self, name: &str) -> bool {
        name.rsplit('.').next() == Some(BATCH_COUNTER)
            || self.state().any(|(known, _)| known == name)
    }
}

fn handles(named: &[(String, Tensor)]) -> Vec<Tensor> {
    named
        .iter()
        .map(|(_, tensor)| tensor.shallow_clone())
        .collect()
}

/// A place in the tree of names: `layer1.0.` and what is to be registered below it.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    parameters: &'a mut Parameters,
    prefix: String,
}

impl Scope<'_> {
    /// The place `name` below this one.
    pub(crate) fn at(&mut self, name: impl std::fmt::Display) -> Scope<'_> {
        let prefix = format!("{}{name}.", self.prefix);
        Scope {
            parameters: &mut *self.parameters,
            prefix,
        }
    }

    /// Registers a weight.
    pub(crate) fn weight(
        &mut self,
        name: &str,
        shape: &[i64],
        init: Init,
    ) -> Result<Tensor, RunError> {
        let tensor = self.parameters.draw(shape, init)?;
        if tensor.dim() == 4 {
            ffi::to_channels_last(&tensor)?;
        }
        let tensor = tensor.f_set_requires_grad(true)?;
        let name = format!("{}{name}", self.prefix);
        self.parameters.entries.push((name, tensor.shallow_clone()));
        Ok(tensor)
    }

    /// Registers a buffer whose numbers all start as `value`.
    pub(crate) fn buffer(
        &mut self,
        name: &str,
        shape: &[i64],
        value: f64,
    ) -> Result<Tensor, RunError> {
        let tensor = self.parameters.draw(shape, Init::Constant(value))?;
        let name = format!("{}{name}", self.prefix);
        self.parameters.buffers.push((name, tensor.shallow_clone()));
        Ok(tensor)
    }
}
