//! The weights of a network: named, ordered, initialised from libtorch's seeded generator.
//!
//! Invariant: names and order are the same in every process that builds the same model, for ranks
//! exchange gradients by position and files hold weights by name. The layers here use the fallible
//! calls of tch alone: the plain ones panic when memory runs out.

use tch::{Device, Kind, TchError, Tensor, no_grad};

use crate::error::RunError;
use crate::ffi;
use crate::tensors::Tensors;

/// The weights of one network.
#[derive(Debug)]
pub(crate) struct Parameters {
    kind: Kind,
    device: Device,
    entries: Vec<(String, Tensor)>,
}

impl Parameters {
    pub(crate) fn new(kind: Kind, device: Device) -> Self {
        Self {
            kind,
            device,
            entries: Vec::new(),
        }
    }

    /// Adds a weight drawn evenly from -`bound` to `bound`. 4-D weights get the channels-last layout,
    /// in which convolutions run about a fifth faster.
    fn uniform(&mut self, name: String, shape: &[i64], bound: f64) -> Result<Tensor, RunError> {
        // Drawn in f32 on the CPU whatever the run uses, so that a seed means one set of weights.
        let drawn =
            Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?.f_uniform_(-bound, bound)?;
        self.add(name, &drawn)
    }

    fn zeros(&mut self, name: String, shape: &[i64]) -> Result<Tensor, RunError> {
        let zeros = Tensor::f_zeros(shape, (Kind::Float, Device::Cpu))?;
        self.add(name, &zeros)
    }

    fn add(&mut self, name: String, value: &Tensor) -> Result<Tensor, RunError> {
        let tensor = value.f_to_kind(self.kind)?.f_to_device(self.device)?;
        if tensor.dim() == 4 {
            ffi::to_channels_last(&tensor)?;
        }
        let tensor = tensor.f_set_requires_grad(true)?;
        self.entries.push((name, tensor.shallow_clone()));
        Ok(tensor)
    }

    /// A square convolution that keeps the size of the picture. Its weights are drawn so that, after
    /// a ReLU, values are as large on average behind the layer as before it (He et al. 2015), which
    /// lets several such layers learn without any normalisation between them.
    pub(crate) fn conv_before_relu(
        &mut self,
        name: &str,
        from: i64,
        to: i64,
        side: i64,
    ) -> Result<Conv, RunError> {
        let bound = (6.0 / (from * side * side) as f64).sqrt();
        Ok(Conv {
            weight: self.uniform(format!("{name}.weight"), &[to, from, side, side], bound)?,
            bias: self.zeros(format!("{name}.bias"), &[to])?,
            padding: side / 2,
        })
    }

    /// A fully connected layer, initialised as PyTorch does it.
    pub(crate) fn linear(&mut self, name: &str, from: i64, to: i64) -> Result<Linear, RunError> {
        let bound = 1.0 / (from as f64).sqrt();
        Ok(Linear {
            weight: self.uniform(format!("{name}.weight"), &[to, from], bound)?,
            bias: self.uniform(format!("{name}.bias"), &[to], bound)?,
        })
    }

    /// Names with their tensors, in order.
    pub(crate) fn entries(&self) -> &[(String, Tensor)] {
        &self.entries
    }

    /// Handles on all tensors, in order.
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        self.entries
            .iter()
            .map(|(_, tensor)| tensor.shallow_clone())
            .collect()
    }

    /// How many numbers there are to learn.
    pub(crate) fn count(&self) -> u64 {
        self.entries
            .iter()
            .map(|(_, tensor)| tensor.numel() as u64)
            .sum()
    }

    /// Overwrites the weights with those of a file. Every name must be there, in its shape, and no
    /// other: `whence` names the file in the error.
    pub(crate) fn load(&self, from: &Tensors, whence: &str) -> Result<(), RunError> {
        for (name, tensor) in &self.entries {
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
            no_grad(|| tensor.shallow_clone().f_copy_(given))?;
        }
        match from
            .keys()
            .find(|name| self.entries.iter().all(|(known, _)| known != *name))
        {
            Some(name) => Err(RunError::input(format!(
                "{whence} has a weight {name:?} that the model does not know"
            ))),
            None => Ok(()),
        }
    }
}

/// A convolution over pictures, `[N, C, H, W]`.
#[derive(Debug)]
pub(crate) struct Conv {
    weight: Tensor,
    bias: Tensor,
    padding: i64,
}

impl Conv {
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_conv2d(
            &self.weight,
            Some(&self.bias),
            [1, 1],
            [self.padding, self.padding],
            [1, 1],
            1,
        )
    }
}

/// A fully connected layer, `[N, from]` to `[N, to]`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_linear(&self.weight, Some(&self.bias))
    }
}
