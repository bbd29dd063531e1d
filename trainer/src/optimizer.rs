//! SGD and AdamW as PyTorch defines them, with state that can be saved and restored.
//!
//! The arithmetic is libtorch's fused kernels; the state is plain tensors of ours. Invariant: a
//! restored optimizer takes the same steps, bit for bit, as the one that was saved.

use marquee_domain::spec::Optimizer as Settings;
use tch::{Device, Kind, Tensor};

use crate::error::RunError;
use crate::ffi::{self, AdamWState, AdamWStep, SgdStep};
use crate::learner::freeze::Rule;
use crate::parameters::Parameters;
use crate::tensors::Tensors;

/// Names of the step counters in the saved state.
const STEP: &str = "step";
const SKIPPED: &str = "skipped";

/// An optimizer over the weights of one network that learn.
#[derive(Debug)]
pub(crate) struct Optimizer {
    settings: Settings,
    groups: Vec<Group>,
    /// Of all groups, in order.
    parameters: Vec<Tensor>,
    /// Taken, the skipped ones included.
    steps: i64,
    /// Those whose gradients overflowed.
    skipped: i64,
}

/// Weights that learn at one rate, from one step on.
#[derive(Debug)]
struct Group {
    names: Vec<String>,
    parameters: Vec<Tensor>,
    lr_scale: f64,
    from_step: i64,
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
    /// `rules` says of each parameter whether it learns, from which epoch on and how fast.
    pub(crate) fn new(
        settings: Settings,
        parameters: &Parameters,
        rules: &[Rule],
        steps_per_epoch: u64,
    ) -> Result<Self, RunError> {
        let mut groups: Vec<(Rule, Vec<String>, Vec<Tensor>)> = Vec::new();
        for ((name, tensor), rule) in parameters.entries().iter().zip(rules) {
            if rule.from_epoch.is_none() {
                continue;
            }
            let at = groups.iter().position(|(known, ..)| known == rule);
            let at = at.unwrap_or_else(|| {
                groups.push((*rule, Vec::new(), Vec::new()));
                groups.len() - 1
            });
            groups[at].1.push(name.clone());
            groups[at].2.push(tensor.shallow_clone());
        }
        let groups = groups
            .into_iter()
            .map(|(rule, names, parameters)| {
                let from_step = u64::from(rule.from_epoch.unwrap_or(0)) * steps_per_epoch;
                Ok(Group {
                    names,
                    state: State::new(settings, &parameters)?,
                    parameters,
                    lr_scale: rule.lr_scale,
                    from_step: i64::try_from(from_step).unwrap_or(i64::MAX),
                })
            })
            .collect::<Result<Vec<_>, RunError>>()?;
        let parameters = groups.iter().flat_map(|group| &group.parameters);
        Ok(Self {
            settings,
            parameters: parameters.map(Tensor::shallow_clone).collect(),
            groups,
            steps: 0,
            skipped: 0,
        })
    }

    /// Steps along the gradients at the learning rate `lr`; if `found` holds 1, the step is skipped,
    /// which only the device knows until [`Self::note_skipped`].
    pub(crate) fn step(&mut self, lr: f64, found: Option<&Tensor>) -> Result<(), RunError> {
        for group in &self.groups {
            // Weights that learn later are not touched: no momentum, no decay.
            if self.steps >= group.from_step {
                group.step(
                    self.settings,
                    lr * group.lr_scale,
                    self.steps - group.from_step,
                    found,
                )?;
            }
        }
        self.steps += 1;
        Ok(())
    }

    /// Takes note of steps that were skipped.
    pub(crate) fn note_skipped(&mut self, steps: usize) {
        self.skipped += i64::try_from(steps).unwrap_or(0);
    }

    /// What the next step moves: those that learn later have no gradient yet.
    pub(crate) fn moved(&self) -> Vec<Tensor> {
        let groups = self.groups.iter();
        groups
            .filter(|group| self.steps >= group.from_step)
            .flat_map(|group| group.parameters.iter().map(Tensor::shallow_clone))
            .collect()
    }

    /// Forgets the gradients of the last step.
    pub(crate) fn forget_gradients(&self) -> Result<(), RunError> {
        Ok(ffi::forget_gradients(&self.parameters)?)
    }

    /// The state to save, by name.
    pub(crate) fn save(&self) -> Tensors {
        let mut saved = Tensors::from([(STEP.to_owned(), Tensor::from(self.steps))]);
        if self.skipped > 0 {
            saved.insert(SKIPPED.to_owned(), Tensor::from(self.skipped));
        }
        for group in &self.groups {
            for (list, suffix) in group.state.lists() {
                for (name, tensor) in group.names.iter().zip(list) {
                    saved.insert(format!("{name}.{suffix}"), tensor.shallow_clone());
                }
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
        for group in &self.groups {
            for (list, suffix) in group.state.lists() {
                for (name, tensor) in group.names.iter().zip(list) {
                    let key = format!("{name}.{suffix}");
                    let given = saved.get(&key).ok_or_else(|| missing(&key))?;
                    if given.size() != tensor.size() {
                        return Err(missing(&key));
                    }
                    tensor.shallow_clone().f_copy_(given)?;
                }
            }
        }
        self.steps = saved
            .get(STEP)
            .ok_or_else(|| missing(STEP))?
            .f_int64_value(&[])?;
        self.skipped = match saved.get(SKIPPED) {
            Some(skipped) => skipped.f_int64_value(&[])?,
            None => 0,
        };
        for group in &self.groups {
            group
                .state
                .count((self.steps - self.skipped - group.from_step).max(0))?;
        }
        Ok(())
    }
}

impl Group {
    /// Takes the step after `steps` earlier ones.
    fn step(
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
                    // Of a step that may be skipped nobody knows whether it was the first. Momenta
                    // start at 0, from which the usual rule comes to the same.
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
    fn count(&self, steps: i64) -> Result<(), RunError> {
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

    fn new(settings: Settings, parameters: &[Tensor]) -> Result<Self, RunError> {
        // In the layout of each parameter: the fused kernels walk through memory, not by index.
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

    /// Lists of one tensor a parameter, by what their names end in: PyTorch's own words.
    fn lists(&self) -> Vec<(&[Tensor], &'static str)> {
        match self {
            Self::Sgd { momenta } => vec![(momenta, "momentum_buffer")],
            Self::AdamW(state) => {
                vec![(&state.averages, "exp_avg"), (&state.squares, "exp_avg_sq")]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::{Init, Start};

    /// Learning rates of five steps.
    const RATES: [f64; 5] = [0.1, 0.1, 0.08, 0.05, 0.02];
    /// Places in the two parameters, 24 and 2 numbers long, laid end to end.
    const PLACES: [usize; 7] = [0, 1, 7, 12, 23, 24, 25];

    fn sgd(momentum: f64, nesterov: bool, weight_decay: f64) -> Settings {
        Settings::Sgd {
            lr: 0.0,
            momentum,
            nesterov,
            weight_decay,
        }
    }

    fn adamw() -> Settings {
        Settings::AdamW {
            lr: 0.0,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.05,
        }
    }

    /// A convolution's weight, in its channels-last layout, and its bias, set to cosines.
    fn parameters(kind: Kind) -> Parameters {
        let mut parameters = Parameters::new(Start::Zeros, kind, Device::Cpu);
        let zero = Init::Constant(0.0);
        let mut root = parameters.root();
        let _ = root.weight("conv.weight", &[2, 3, 2, 2], zero).unwrap();
        let _ = root.weight("conv.bias", &[2], zero).unwrap();
        let values = [("conv.weight", vec![2, 3, 2, 2]), ("conv.bias", vec![2])]
            .into_iter()
            .enumerate()
            .map(|(which, (name, shape))| {
                (
                    name.to_owned(),
                    wave(which, &shape, |i, k| (0.7 * i + k).cos()),
                )
            })
            .collect();
        parameters.load(&values, "the test").unwrap();
        parameters
    }

    fn optimizer(settings: Settings, parameters: &Parameters) -> Result<Optimizer, RunError> {
        Optimizer::new(settings, parameters, &[rule(0, 1.0); 2], 1)
    }

    fn rule(from_epoch: u32, lr_scale: f64) -> Rule {
        Rule {
            from_epoch: Some(from_epoch),
            lr_scale,
        }
    }

    fn wave(which: usize, shape: &[i64], value: impl Fn(f64, f64) -> f64) -> Tensor {
        let count = shape.iter().product::<i64>();
        let values: Vec<f64> = (0..count).map(|i| value(i as f64, which as f64)).collect();
        Tensor::from_slice(&values).view(shape)
    }

    /// Gives each parameter the gradient of step `t`, through a backward pass, and steps.
    fn step(optimizer: &mut Optimizer, t: usize) {
        optimizer.forget_gradients().unwrap();
        for (which, parameter) in optimizer.parameters.iter().enumerate() {
            let gradient = wave(which, &parameter.size(), |i, k| {
                (1.3 * t as f64 + 0.9 * i + k).sin()
            });
            (parameter * gradient.to_kind(parameter.kind()))
                .sum(parameter.kind())
                .backward();
        }
        optimizer.step(RATES[t - 1], None).unwrap();
    }

    fn values(parameters: &Parameters) -> Vec<f64> {
        let flat = |tensor: &Tensor| {
            Vec::<f64>::try_from(tensor.to_kind(Kind::Double).contiguous().view(-1)).unwrap()
        };
        parameters.tensors().iter().flat_map(flat).collect()
    }

    /// The values below are those of `torch.optim` 2.11.0 (Python, default implementation) in f64.
    #[test]
    fn steps_are_those_of_pytorch() {
        let cases: [(Settings, [f64; 7], f64); 4] = [
            (
                sgd(0.0, false, 0.0),
                [
                    0.9469856700351036,
                    0.7898980016757309,
                    0.13475070381351179,
                    -0.5816305886951901,
                    -0.8383208211348603,
                    0.5739745085952795,
                    -0.041626324001215825,
                ],
                0.10840519587975025,
            ),
            (
                sgd(0.9, false, 0.01),
                [
                    0.735740987558776,
                    0.7280774050119463,
                    -0.06877150012782098,
                    -0.626495295312748,
                    -0.6884894908425738,
                    0.5356565043202842,
                    0.11045326571548841,
                ],
                0.1118351364069915,
            ),
            (
                sgd(0.9, true, 0.01),
                [
                    0.7067457601390331,
                    0.7545878788300998,
                    -0.09458323332471208,
                    -0.6762329451595426,
                    -0.6235984993365992,
                    0.5682491966839163,
                    0.17356845320454492,
                ],
                0.2765266716752791,
            ),
            (
                adamw(),
                [
                    0.7762570512001329,
                    0.6616804338428577,
                    -0.021529382997911024,
                    -0.5034826473872531,
                    -0.6607411887035431,
                    0.45856110423186125,
                    0.1239771356248222,
                ],
                -0.2362623817079637,
            ),
        ];
        for (settings, expected, sum) in cases {
            for (kind, allowed) in [(Kind::Double, 1e-12), (Kind::Float, 2e-6)] {
                let parameters = parameters(kind);
                let mut optimizer = optimizer(settings, &parameters).unwrap();
                (1..=5).for_each(|t| step(&mut optimizer, t));
                let found = values(&parameters);
                for (place, expected) in PLACES.into_iter().zip(expected) {
                    let apart = (found[place] - expected).abs();
                    assert!(
                        apart <= allowed,
                        "{settings:?} {kind:?} [{place}]: {} for {expected}",
                        found[place]
                    );
                }
                assert!(
                    (found.iter().sum::<f64>() - sum).abs() <= 10.0 * allowed,
                    "{settings:?} {kind:?}"
                );
            }
        }
    }

    #[test]
    fn a_restored_optimizer_takes_the_same_steps_bit_for_bit() {
        for settings in [sgd(0.0, false, 0.0), sgd(0.9, true, 0.01), adamw()] {
            let (kept, other) = (parameters(Kind::Float), parameters(Kind::Float));
            let mut undisturbed = optimizer(settings, &kept).unwrap();
            (1..=2).for_each(|t| step(&mut undisturbed, t));

            let mut restored = optimizer(settings, &other).unwrap();
            restored.restore(&undisturbed.save(), "the test").unwrap();
            let weights = kept
                .entries()
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.copy()))
                .collect();
            other.load(&weights, "the test").unwrap();

            (3..=5).for_each(|t| step(&mut undisturbed, t));
            (3..=5).for_each(|t| step(&mut restored, t));
            let bits = |parameters| {
                values(parameters)
                    .into_iter()
                    .map(f64::to_bits)
                    .collect::<Vec<_>>()
            };
            assert_eq!(bits(&kept), bits(&other), "{settings:?}");
        }
    }

    #[test]
    fn a_step_whose_gradients_overflowed_changes_nothing_and_does_not_count() {
        for settings in [sgd(0.9, true, 0.01), adamw()] {
            let run = |overflows: &[bool]| {
                let weights = parameters(Kind::Float);
                let mut optimizer = optimizer(settings, &weights).unwrap();
                let mut t = 0;
                for overflow in overflows {
                    t += usize::from(!overflow);
                    optimizer.forget_gradients().unwrap();
                    for (which, parameter) in optimizer.parameters.iter().enumerate() {
                        let size = parameter.size();
                        let gradient =
                            wave(which, &size, |i, k| (1.3 * t as f64 + 0.9 * i + k).sin());
                        (parameter * gradient.to_kind(parameter.kind()))
                            .sum(parameter.kind())
                            .backward();
                    }
                    let found = Tensor::from_slice(&[f32::from(u8::from(*overflow))]);
                    optimizer.step(0.1, Some(&found)).unwrap();
                    optimizer.note_skipped(usize::from(*overflow));
                }
                values(&weights)
            };
            let without = run(&[false, false, false]);
            assert_eq!(
                run(&[true, false, true, false, false]),
                without,
                "{settings:?}"
            );
        }
    }

    #[test]
    fn each_weight_has_its_own_rate_and_those_that_learn_later_are_not_touched_before() {
        for settings in [sgd(0.9, false, 0.01), adamw()] {
            let weights = || parameters(Kind::Double);
            let (usual, scaled, late, frozen) = (weights(), weights(), weights(), weights());
            let start = values(&usual);
            let run = |weights: &Parameters, rules: [Rule; 2], steps| {
                let mut optimizer = Optimizer::new(settings, weights, &rules, 2).unwrap();
                (1..=steps).for_each(|t| step(&mut optimizer, t));
                values(weights)
            };
            let after_one = run(&usual, [rule(0, 1.0); 2], 1);
            let other = run(&scaled, [rule(0, 1.0), rule(0, 0.25)], 1);
            assert_eq!(after_one[..24], other[..24]);
            let moved = |values: &[f64]| values[24] - start[24];
            assert!((moved(&other) - 0.25 * moved(&after_one)).abs() < 1e-12);
            // From the second epoch of two steps on: untouched by the first two.
            let two = run(&late, [rule(0, 1.0), rule(1, 1.0)], 2);
            assert_eq!(two[24..], start[24..]);
            let never = Rule {
                from_epoch: None,
                lr_scale: 1.0,
            };
            let five = run(&frozen, [rule(0, 1.0), never], 5);
            assert_eq!(five[24..], start[24..]);
            assert_ne!(five[..24], start[..24]);
        }
    }

    #[test]
    fn a_state_of_another_optimizer_is_refused() {
        let parameters = parameters(Kind::Float);
        let saved = optimizer(sgd(0.9, false, 0.0), &parameters).unwrap().save();
        let error = optimizer(adamw(), &parameters)
            .unwrap()
            .restore(&saved, "file x")
            .unwrap_err();
        assert!(
            error
                .message
                .contains("file x has no \"conv.weight.exp_avg\""),
            "{}",
            error.message
        );
    }
}
