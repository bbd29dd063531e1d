//! A running mean of the weights, which often generalises better than the weights themselves.
//!
//! It starts as the weights after the first step, and then keeps the share `decay` of itself in each
//! step, as PyTorch's `AveragedModel` with `get_ema_multi_avg_fn` does. Batch-norm's buffers are not
//! averaged: the network's own are used.
//! Invariant: a restored mean goes on bit for bit like the one that was saved.

use tch::{Tensor, no_grad};

use crate::error::RunError;
use crate::ffi;
use crate::parameters::Parameters;
use crate::tensors::Tensors;

/// Name of the counter in the saved state. It cannot be a weight's, since those contain a dot.
const UPDATES: &str = "updates";

/// The running mean of one network's weights.
#[derive(Debug)]
pub(crate) struct Ema {
    decay: f64,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    means: Vec<Tensor>,
    updates: i64,
}

impl Ema {
    pub(crate) fn new(decay: f64, parameters: &Parameters) -> Result<Self, RunError> {
        let names = parameters
            .entries()
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        let parameters = parameters.tensors();
        let means = parameters
            .iter()
            .map(|tensor| no_grad(|| Ok(tensor.f_detach()?.f_zeros_like()?.f_add(tensor)?)))
            .collect::<Result<_, RunError>>()?;
        Ok(Self {
            decay,
            names,
            parameters,
            means,
            updates: 0,
        })
    }

    /// Takes the weights of one more step in.
    pub(crate) fn update(&mut self) -> Result<(), RunError> {
        // The first step is taken whole: a mean that began at zero would need hundreds of steps to forget it.
        let weight = if self.updates == 0 {
            1.0
        } else {
            1.0 - self.decay
        };
        ffi::move_towards(&self.means, &self.parameters, weight)?;
        self.updates += 1;
        Ok(())
    }

    /// Puts the mean in the place of the weights and keeps those; a second call undoes the first.
    pub(crate) fn swap(&self) -> Result<(), RunError> {
        no_grad(|| {
            for (mean, weight) in self.means.iter().zip(&self.parameters) {
                // Copied into place and not exchanged: optimizer and reducer hold these very tensors.
                let kept = weight.f_detach()?.copy();
                weight.f_detach()?.f_copy_(mean)?;
                mean.shallow_clone().f_copy_(&kept)?;
            }
            Ok(())
        })
    }

    /// The mean, by the names of the weights.
    pub(crate) fn save(&self) -> Tensors {
        let mut saved: Tensors = self
            .names
            .iter()
            .cloned()
            .zip(self.means.iter().map(Tensor::shallow_clone))
            .collect();
        // With the counter: a restored mean that counted anew would be overwritten by the next
        // step's weights.
        saved.insert(UPDATES.to_owned(), Tensor::from(self.updates));
        saved
    }

    /// Goes on from a saved mean; `whence` names its file in the error.
    pub(crate) fn restore(&mut self, saved: &Tensors, whence: &str) -> Result<(), RunError> {
        let find = |name: &str| {
            saved.get(name).ok_or_else(|| {
                RunError::input(format!("{whence} has no {name:?}; it is of another model"))
            })
        };
        for (name, mean) in self.names.iter().zip(&self.means) {
            let given = find(name)?;
            if given.size() != mean.size() {
                return Err(RunError::input(format!(
                    "{whence}: {name:?} has the shape {:?}, but the model needs {:?}",
                    given.size(),
                    mean.size()
                )));
            }
            mean.shallow_clone().f_copy_(given)?;
        }
        self.updates = find(UPDATES)?.f_int64_value(&[])?;
        Ok(())
    }
}
