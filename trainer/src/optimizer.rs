//! SGD and AdamW as PyTorch defines them, with state that can be saved and restored.
//!
//! The arithmetic is libtorch's fused kernels; the state is plain tensors of ours. Invariant: a
//! restored optimizer takes the same steps, bit for bit, as the one that was saved.

use std::f64::consts::PI;

use marquee_domain::spec::{LrSchedule, Optimizer as Settings};
use tch::{Device, Kind, Tensor};

use crate::error::RunError;
use crate::ffi::{self, AdamWState, AdamWStep, SgdStep};
use crate::parameters::Parameters;
use crate::tensors::Tensors;

/// Name of the step counter in the saved state.
const STEP: &str = "step";

/// An optimizer over the parameters of one network.
#[derive(Debug)]
pub(crate) struct Optimizer {
    settings: Settings,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    steps: i64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Empty when there is no momentum.
    Sgd {
        momenta: Vec<Tensor>,
    },
    AdamW(AdamWState),
}

impl Optimizer {
    pub(crate) fn new(settings: Settings, parameters: &Parameters) -> Result<Self, RunError> {
        let names = parameters
            .entries()
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        let parameters = parameters.tensors();
        // In the layout of each parameter: the fused kernels walk through memory, not by index.
        let zeros = || -> Result<Vec<Tensor>, RunError> {
            Ok(parameters
                .iter()
                .map(|tensor| tensor.f_detach()?.f_zeros_like())
                .collect::<Result<_, _>>()?)
        };
        let state = match settings {
            Settings::Sgd { momentum, .. } => State::Sgd {
                momenta: if momentum == 0.0 {
                    Vec::new()
                } else {
                    zeros()?
                },
            },
            Settings::AdamW { .. } => {
                let counter = Tensor::f_zeros([1; 0], (Kind::Float, Device::Cpu))?;
                let device = parameters.first().map_or(Device::Cpu, Tensor::device);
                let counter = counter.f_to_device(device)?;
                // One counter serves all: the kernels only read it.
                let steps = parameters.iter().map(|_| counter.shallow_clone()).collect();
                State::AdamW(AdamWState {
                    averages: zeros()?,
                    squares: zeros()?,
                    steps,
                })
            }
        };
        Ok(Self {
            settings,
            names,
            parameters,
            steps: 0,
            state,
        })
    }

    /// Steps along the gradients at the learning rate `lr`.
    pub(crate) fn step(&mut self, lr: f64) -> Result<(), RunError> {
        match (self.settings, &self.state) {
            (
                Settings::Sgd {
                    momentum,
                    nesterov,
                    weight_decay,
                    lr: _,
                },
                State::Sgd { momenta },
            ) => {
                let step = SgdStep {
                    lr,
                    momentum,
                    weight_decay,
                    nesterov,
                    first: self.steps == 0,
                };
                ffi::sgd_step(&self.parameters, momenta, step)?;
            }
            (
                Settings::AdamW {
                    beta1,
                    beta2,
                    eps,
                    weight_decay,
                    lr: _,
                },
                State::AdamW(state),
            ) => {
                if let Some(counter) = state.steps.first() {
                    let _ = counter.shallow_clone().f_fill_(self.steps + 1)?;
                }
                ffi::adamw_step(
                    &self.parameters,
                    state,
                    AdamWStep {
                        lr,
                        beta1,
                        beta2,
                        eps,
                        weight_decay,
                    },
                )?;
            }
            (Settings::Sgd { .. }, State::AdamW(_))
            | (Settings::AdamW { .. }, State::Sgd { .. }) => {
                unreachable!("the state is made from the settings and never replaced")
            }
        }
        self.steps += 1;
        Ok(())
    }

    /// Forgets the gradients of the last step.
    pub(crate) fn forget_gradients(&self) -> Result<(), RunError> {
        Ok(ffi::forget_gradients(&self.parameters)?)
    }

    /// The state to save, by name.
    pub(crate) fn save(&self) -> Tensors {
        let mut saved = Tensors::from([(STEP.to_owned(), Tensor::from(self.steps))]);
        for (list, suffix) in self.lists() {
            for (name, tensor) in self.names.iter().zip(list) {
                saved.insert(format!("{name}.{suffix}"), tensor.shallow_clone());
            }
        }
        saved
    }

    /// Goes on from a saved state; `whence` names its file in the error.
    pub(crate) fn restore(&mut self, saved: &Tensors, whence: &str) -> Result<(), RunError> {
        let missing = |name: &str| {
            RunError::input(format!(
                "{whence} has no {name:?}; it is of another optimizer or model"
            ))
        };
        for (list, suffix) in self.lists() {
            for (name, tensor) in self.names.iter().zip(list) {
                let key = format!("{name}.{suffix}");
                let given = saved.get(&key).ok_or_else(|| missing(&key))?;
                if given.size() != tensor.size() {
                    return Err(missing(&key));
                }
                tensor.shallow_clone().f_copy_(given)?;
            }
        }
        self.steps = saved
            .get(STEP)
            .ok_or_else(|| missing(STEP))?
            .f_int64_value(&[])?;
        Ok(())
    }

    /// Lists of one tensor a parameter, by what their names end in: PyTorch's own words.
    fn lists(&self) -> Vec<(&[Tensor], &'static str)> {
        match &self.state {
            State::Sgd { momenta } => vec![(momenta, "momentum_buffer")],
            State::AdamW(state) => {
                vec![(&state.averages, "exp_avg"), (&state.squares, "exp_avg_sq")]
            }
        }
    }
}

/// The learning rate of `step`, from 0, in a run of `total` steps.
pub(crate) fn learning_rate(
    settings: Settings,
    schedule: LrSchedule,
    step: u64,
    total: u64,
) -> f64 {
    let (Settings::Sgd { lr, .. } | Settings::AdamW { lr, .. }) = settings;
    match schedule {
        LrSchedule::Constant => lr,
        LrSchedule::Cosine => lr * 0.5 * (1.0 + (PI * step as f64 / total.max(1) as f64).cos()),
    }
}
