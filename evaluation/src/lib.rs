//! Multi-label evaluation: exact scores, thresholds, trivial baselines, and the report.
//!
//! Invariants:
//! - Every figure follows scikit-learn's definition (pinned by its own values in `tests/`), in f64.
//! - A label is predicted when **score >= threshold**, here and everywhere else.
//! - Thresholds are tuned on validation alone; the test split is only ever scored.
//! - Figures on pictures that the model has learned from are refused, or stand for nothing.
//! - The same input gives the same files, byte for byte: randomness comes from the seed, and there
//!   is no clock.
//!
//! Deliberately not here: models, tensors, pictures (the caller hands thumbnails over as bytes).
//!
//! [`write_report`] is the whole of it for an eval job; [`counts`] and [`f1_micro`] are what a
//! training loop needs at the end of an epoch.

mod baselines;
mod bootstrap;
mod choice;
mod confusion;
mod decisions;
mod error;
mod files;
mod gallery;
mod history;
mod input;
mod page;
mod predictions;
mod ranking;
mod report;
mod rules;
#[cfg(test)]
mod sklearn_parity;
mod trained_on;
mod tuning;
mod warnings;

use std::path::Path;

pub use confusion::{Confusion, counts, f1_micro};
pub use error::EvalError;
pub use history::EpochRow;
pub use input::{EvalInput, SplitScores, Timing, check_overlap};
use marquee_domain::report::EvalReport;
pub use trained_on::{Evaluated, Key, KnownBy, RECORD_FILE, SplitKeys, TrainingRecord};

/// Thresholds that a model goes out with.
#[derive(Debug, Clone, PartialEq)]
pub struct ChosenThresholds {
    /// The rule's name in reports, such as "global".
    pub rule: &'static str,
    /// One for each class.
    pub thresholds: Vec<f64>,
}

/// The thresholds of the rule that validation chooses, as the headline of a report on the same scores
/// has them. The ids of `validation` are not looked at.
#[must_use]
pub fn choose_thresholds(validation: &SplitScores, classes: usize) -> ChosenThresholds {
    // The same function as in the report, so that a model goes out with the thresholds that its
    // report is of.
    let choice = choice::choose(validation, classes);
    ChosenThresholds {
        rule: choice.rule.name(),
        thresholds: choice.thresholds().to_vec(),
    }
}

/// Score `input` and write the report's four files into the existing folder `dir`:
/// `predictions.parquet`, `classes.json`, `report.json` and `report.html`.
///
/// Each file is written aside, synced and renamed, so that a reader sees all of it or none.
///
/// # Errors
/// [`EvalError`] when the input's shapes disagree, a score is no probability, a fixed threshold
/// names an unknown label, the test split is empty, or a file cannot be written.
pub fn write_report(dir: &Path, input: &EvalInput<'_>) -> Result<EvalReport, EvalError> {
    input.check()?;
    let evaluation = report::evaluate(input);
    files::write(dir, "predictions.parquet", &predictions::encode(input)?)?;
    files::write(dir, "classes.json", &json("classes.json", &input.classes)?)?;
    files::write(
        dir,
        "report.json",
        &json("report.json", &evaluation.report)?,
    )?;
    files::write(
        dir,
        "report.html",
        page::render(input, &evaluation).as_bytes(),
    )?;
    Ok(evaluation.report)
}

fn json<T: serde::Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, EvalError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| EvalError::Encode {
        what,
        source: source.into(),
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}
