//! The books of a preprocess job: what became of every picture that came in.

use marquee_domain::report::PreprocessSummary;
use serde::{Deserialize, Serialize};

use crate::dataset::Problem;

/// Name of the books in a shards folder.
pub(super) const BOOKS_FILE: &str = "preprocess.json";

/// `preprocess.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreprocessBooks {
    #[serde(flatten)]
    pub summary: PreprocessSummary,
    /// Pictures that were skipped and labels that were dropped. At most [`crate::dataset::PROBLEMS_MAX`]; the
    /// counts of the summary hold all.
    pub problems: Vec<Problem>,
}
