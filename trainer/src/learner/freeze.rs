//! Which weights learn, from when on, and how fast.
//!
//! Invariant: all of it follows from the settings and the step, so that a run that goes on from a
//! checkpoint trains what an undisturbed one would.

use std::collections::BTreeMap;

use marquee_domain::spec::{Transfer, matches};

use super::Learner;
use crate::error::RunError;

/// Stands for all weights before the classifier.
const BACKBONE: &str = "@backbone";

/// What is said of one weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rule {
    /// The epoch, from 0, from which on it learns; None: never.
    pub(crate) from_epoch: Option<u32>,
    pub(crate) lr_scale: f64,
}

/// The rules of all weights, in the order of the parameters.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rules(Vec<Rule>);

impl Rules {
    /// What `transfer` says of the weights of `learner`.
    pub(crate) fn new(transfer: &Transfer, learner: &Learner) -> Result<Self, RunError> {
        let fits = |pattern: &str, name: &str| {
            if pattern == BACKBONE {
                !learner.is_head(name)
            } else {
                matches(pattern, name)
            }
        };
        let names: Vec<&str> = learner
            .parameters
            .entries()
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        let freeze = transfer.freeze.iter().map(|pattern| ("freeze", pattern));
        let unfreeze = transfer
            .unfreeze
            .keys()
            .map(|pattern| ("unfreeze", pattern));
        let scales = transfer
            .lr_scale
            .keys()
            .map(|pattern| ("lr_scale", pattern));
        for (key, pattern) in freeze.chain(unfreeze).chain(scales) {
            // A pattern that fits nothing is a slip: the run would train what its owner believed
            // frozen.
            if !names.iter().any(|name| fits(pattern, name)) {
                let example = names.first().copied().unwrap_or_default();
                return Err(RunError::user(format!(
                    "{key}: no weight is called {pattern:?}; names are like {example:?}, * is any \
                     text and {BACKBONE:?} all before the classifier"
                )));
            }
        }
        let rule = |name: &&str| {
            let is_frozen = transfer.freeze.iter().any(|pattern| fits(pattern, name));
            let later = longest(&transfer.unfreeze, |pattern| fits(pattern, name));
            Rule {
                from_epoch: match (is_frozen, later) {
                    (false, _) => Some(0),
                    (true, Some(epoch)) => Some(epoch.saturating_sub(1)),
                    (true, None) => None,
                },
                lr_scale: longest(&transfer.lr_scale, |pattern| fits(pattern, name)).unwrap_or(1.0),
            }
        };
        let rules = Self(names.iter().map(rule).collect());
        if rules.0.iter().all(|rule| rule.from_epoch != Some(0)) {
            return Err(RunError::user(
                "freeze leaves nothing to learn in the first epoch; leave out the classifier's names",
            ));
        }
        Ok(rules)
    }

    /// Lets those weights of `learner` learn that do in `epoch`, from 0. True if any were let loose
    /// or held that were not before.
    pub(crate) fn apply(&self, learner: &mut Learner, epoch: u32) -> Result<bool, RunError> {
        let mut changed = false;
        for (rule, (_, tensor)) in self.0.iter().zip(learner.parameters.entries()) {
            let learns = rule.from_epoch.is_some_and(|from| epoch >= from);
            if learns != tensor.requires_grad() {
                let _ = tensor.f_set_requires_grad(learns)?;
                changed = true;
            }
        }
        learner.notice_frozen();
        Ok(changed)
    }

    /// Whether some weights learn later than from the start.
    pub(crate) fn change_with_time(&self) -> bool {
        let later = |rule: &Rule| rule.from_epoch.is_some_and(|from| from > 0);
        self.0.iter().any(later)
    }

    /// The rules, in the order of the parameters.
    pub(crate) fn of_weights(&self) -> &[Rule] {
        &self.0
    }
}

/// The value of the longest pattern that fits: the most particular one.
fn longest<T: Copy>(patterns: &BTreeMap<String, T>, fits: impl Fn(&str) -> bool) -> Option<T> {
    let fitting = patterns.iter().filter(|(pattern, _)| fits(pattern));
    fitting
        .max_by_key(|(pattern, _)| pattern.len())
        .map(|(_, value)| *value)
}
