//! One line of JSON for each figure: what `cargo xtask bench` needs to judge and to show it.

use serde_json::{Value, json};

/// What is asked of a figure, in its own unit.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// One measured thing.
#[derive(Debug)]
pub(crate) struct Figure<'a> {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'a str,
    pub(crate) is_less_better: bool,
    /// What it is compared with, and that one's value in the same unit.
    pub(crate) reference: Option<(&'a str, f64)>,
    pub(crate) goal: Option<Goal>,
    /// What ran, for a reader who wants to judge or repeat it.
    pub(crate) ran: String,
}

impl Figure<'_> {
    pub(crate) fn print(&self) {
        let reference = self
            .reference
            .map(|(name, value)| json!({ "name": name, "value": value }));
        let goal = self.goal.map(|goal| match goal {
            Goal::AtMost(most) => json!({ "at_most": most }),
            Goal::AtLeast(least) => json!({ "at_least": least }),
        });
        line(&json!({
            "name": self.name, "value": self.value, "unit": self.unit,
            "is_less_better": self.is_less_better, "reference": reference, "goal": goal, "ran": self.ran,
        }));
    }
}

/// Says that something could not be measured, and why.
pub(crate) fn skip(name: &str, why: &str) {
    line(&json!({ "name": name, "skipped": why }));
}

#[allow(clippy::print_stdout, reason = "the figures are data")]
fn line(value: &Value) {
    println!("{value}");
}

/// The value below which the share `part` of the values lies.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a short list"
    )]
    let at = ((sorted.len() as f64 - 1.0) * part).round().max(0.0) as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
