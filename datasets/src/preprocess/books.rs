//! The books of a preprocess job: what became of every picture that came in.

use std::fs;
use std::path::Path;

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

/// What the preprocess job warned of that made the shards in `dir`. Nothing where there are no books that
/// this version can read, as beside shards that were made by hand: they warn of nothing.
#[must_use]
pub fn warnings(dir: &Path) -> Vec<String> {
    fs::read(dir.join(BOOKS_FILE))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<PreprocessBooks>(&bytes).ok())
        .map(|books| books.summary.warnings)
        .unwrap_or_default()
}
