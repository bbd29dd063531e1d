//! The parts of a train job's whole time, of which steps are but one.

use super::mean;
use crate::report::TrainSummary;

/// Where the wall time of a job's ranks went, in seconds, as means over its ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JobParts {
    /// Features of frozen networks, computed once or read.
    pub features_s: f64,
    pub steps_s: f64,
    pub validation_s: f64,
    /// Reading weights and shards, meeting the other ranks, writing the model.
    pub rest_s: f64,
}

/// Parts below this share are not worth a word.
const WORTH_A_WORD: f64 = 0.005;

impl JobParts {
    /// Of the ranks of one job; None without any.
    #[must_use]
    pub fn of(ranks: &[TrainSummary]) -> Option<Self> {
        if ranks.is_empty() {
            return None;
        }
        // Means: ranks wait for each other at each step, so that their whole times hardly differ.
        let part = |read: fn(&TrainSummary) -> f64| mean(ranks.iter().map(read));
        let (features_s, steps_s, validation_s) = (
            part(|rank| rank.phases.features_s),
            part(|rank| rank.phases.step_s),
            part(|rank| rank.phases.validation_s),
        );
        let known = features_s + steps_s + validation_s;
        Some(Self {
            features_s,
            steps_s,
            validation_s,
            // Clocks of parts may run a hair over that of the whole; an older summary may have none.
            rest_s: (part(|rank| rank.seconds) - known).max(0.0),
        })
    }

    /// All of it.
    #[must_use]
    pub fn whole_s(&self) -> f64 {
        self.features_s + self.steps_s + self.validation_s + self.rest_s
    }

    /// Such as "48.0 s in all: 94 % features of frozen networks, 2 % steps, 4 % start and end".
    #[must_use]
    pub fn words(&self) -> String {
        let whole = self.whole_s();
        let parts: Vec<String> = [
            (self.features_s, "features of frozen networks"),
            (self.steps_s, "steps"),
            (self.validation_s, "validation"),
            (self.rest_s, "start and end"),
        ]
        .into_iter()
        .filter(|(seconds, _)| *seconds > WORTH_A_WORD * whole)
        .map(|(seconds, name)| format!("{:.0} % {name}", 100.0 * seconds / whole))
        .collect();
        format!("{whole:.1} s in all: {}", parts.join(", "))
    }
}
