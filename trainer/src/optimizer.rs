//! SGD and AdamW as PyTorch defines them, with state that can be saved and restored.
//!
//! The arithmetic is libtorch's fused kernels; the state is plain tensors of ours. Invariant: a
//! restored optimizer takes the same steps, bit for bit, as the one that was saved.

use marquee_domain::spec::Optimizer as Settings;
use tch::Tensor;

use crate::error::RunError;
use crate::ffi;
use crate::learner::freeze::Rule;
use crate::parameters::Parameters;
use crate::tensors::Tensors;

mod group;

use group::{Group, State};

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
    /// Steps taken, including those that were skipped.
    steps: i64,
    /// Steps that were skipped because their gradients overflowed.
    skipped: i64,
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
            // What never learns has no state either: of a frozen network that is most of the memory.
            if rule.from_epoch.is_none() {
                continue;
            }
            // A search and no map: a rule holds an `f64`, which is no key. There are only as many
            // rules as parts of the model.
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

    /// Steps along the gradients at the learning rate `lr`. If `found` holds 1, gradients overflowed and
    /// the device skips the step by itself; the host learns of it later and calls
    /// [`Self::note_skipped`].
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
                // Adam's correction counts the updates that were made: a step that overflowed was none.
                .count((self.steps - self.skipped - group.from_step).max(0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
