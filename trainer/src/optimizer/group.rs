//! Weights that learn alike: how they step, and what of it is saved.

use marquee_domain::spec::Optimizer as Settings;
use tch::{Device, Kind, Tensor};

use crate::error::RunError;
use crate::ffi::{self, AdamWState, AdamWStep, SgdStep};

/// Weights that learn at one rate, from one step on.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) names: Vec<String>,
    pub(super) parameters: Vec<Tensor>,
    pub(super) lr_scale: f64,
    pub(super) from_step: i64,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// Empty when there is no momentum.
    Sgd {
        momenta: Vec<Tensor>,
    },
    AdamW(AdamWState),
}

impl Group {
    /// Takes the step after `steps` earlier ones.
    pub(super) fn step(
        &self,
        settings: Settings,
        lr: f64,
        steps: i64,
        found: Option<&Tensor>,
    ) -> Result<(), RunError> {
        match (settings, &self.state) {
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
                    // With loss scaling the host does not know whether an earlier step was skipped, so
                    // not either whether this is the first. It need not: momenta start at 0, and the rule
                    // for later steps then gives the same result.
                    first: steps == 0 && found.is_none(),
                };
                ffi::sgd_step(&self.parameters, momenta, step, found)?;
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
                    // With loss scaling the device alone knows how many updates counted. So it
                    // counts on, and below takes one back if this step was skipped.
                    let mut counter = counter.shallow_clone();
                    let _ = match found {
                        Some(_) => counter.f_add_scalar_(1)?,
                        None => counter.f_fill_(steps + 1)?,
                    };
                }
                let step = AdamWStep {
                    lr,
                    beta1,
                    beta2,
                    eps,
                    weight_decay,
                };
                ffi::adamw_step(&self.parameters, state, step, found)?;
                if let (Some(counter), Some(found)) = (state.steps.first(), found) {
                    let _ = counter.shallow_clone().f_sub_(&found.f_view([0_i64; 0])?)?;
                }
            }
            (Settings::Sgd { .. }, State::AdamW(_))
            | (Settings::AdamW { .. }, State::Sgd { .. }) => {
                unreachable!("the state is made from the settings and never replaced")
            }
        }
        Ok(())
    }
}

impl State {
    /// Sets the number of steps that count.
    pub(super) fn count(&self, steps: i64) -> Result<(), RunError> {
        match self {
            Self::AdamW(state) => {
                if let Some(counter) = state.steps.first() {
                    let _ = counter.shallow_clone().f_fill_(steps)?;
                }
            }
            Self::Sgd { .. } => {}
        }
        Ok(())
    }

    pub(super) fn new(settings: Settings, parameters: &[Tensor]) -> Result<Self, RunError> {
        // In the layout of each parameter: the fused kernels go through memory in order and would combine
        // the wrong numbers otherwise.
        let zeros = || -> Result<Vec<Tensor>, RunError> {
            Ok(parameters
                .iter()
                .map(|tensor| tensor.f_detach()?.f_zeros_like())
                .collect::<Result<_, _>>()?)
        };
        Ok(match settings {
            Settings::Sgd { momentum, .. } => Self::Sgd {
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
                Self::AdamW(AdamWState {
                    averages: zeros()?,
                    squares: zeros()?,
                    steps,
                })
            }
        })
    }

    /// The saved lists, each with one tensor for each parameter, and PyTorch's name for what they hold.
    pub(super) fn lists(&self) -> Vec<(&[Tensor], &'static str)> {
        match self {
            Self::Sgd { momenta } => vec![(momenta, "momentum_buffer")],
            Self::AdamW(state) => {
                vec![(&state.averages, "exp_avg"), (&state.squares, "exp_avg_sq")]
            }
        }
    }
}
