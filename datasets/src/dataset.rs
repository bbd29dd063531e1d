//! Datasets: what a fetch job leaves for a preprocess job.
//!
//! An *example* is a picture with its labels and what else is known of it: one row.
//!
//! A dataset folder holds `examples.parquet` (one row an example), `pictures-NNNNN.arrow` (the files as
//! they came), `labels.json` (label names in the source's own order), `outcomes.parquet` (what became
//! of every id that was asked for), `fetch.json` (the books) and `run.json` (when and how it ran).
//!
//! Invariant: every row of the table has its picture, and `fetch.json` is written last, so that a
//! folder without it is no dataset.

use std::io;
use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use marquee_domain::artifact::Digest;
use marquee_domain::report::FetchSummary;
use serde::{Deserialize, Serialize};

pub(crate) mod examples;
mod outcomes;
mod pictures;
mod read;
pub(crate) mod table;
mod write;

pub use examples::{read as read_table, write as write_table};
pub use outcomes::outcomes;
pub use read::Dataset;
pub use write::DatasetWriter;

/// Names within a dataset folder.
pub const EXAMPLES_FILE: &str = "examples.parquet";
/// What the table was called by earlier versions, whose datasets are still read.
const EXAMPLES_FILE_BEFORE: &str = "films.parquet";
pub(crate) const OUTCOMES_FILE: &str = "outcomes.parquet";
pub(crate) const LABELS_FILE: &str = "labels.json";
pub(crate) const FETCH_FILE: &str = "fetch.json";
/// The fields of the books that tell how a fetch went rather than what it found: they stand in
/// [`marquee_domain::step::RUN_NOTE_FILE`].
const RUN_FIELDS: [&str; 4] = ["listed_on", "seconds", "unchanged", "resumed"];

/// One row of the table of examples. A user's own picture has little but labels; title, date and
/// popularity are known of a film's poster.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    pub id: String,
    pub labels: Vec<String>,
    /// Pictures of one group never cross splits.
    pub group: Option<String>,
    pub title: Option<String>,
    pub release_date: Option<NaiveDate>,
    pub popularity: Option<f64>,
    /// ISO 639-1 code of the original language.
    pub language: Option<String>,
    /// The source's ids of the labels, where it has some.
    pub label_ids: Vec<i64>,
    pub picture_bytes: u64,
    /// Of the picture's file.
    pub picture_digest: Digest,
    /// By what the picture's server knows whether it has changed.
    pub picture_etag: Option<String>,
    pub picture_modified: Option<String>,
    /// By what the API knows whether the film's details have changed.
    pub details_etag: Option<String>,
    /// As the user stated it.
    pub licence: Option<String>,
    /// Where the picture is from.
    pub source: String,
}

/// What became of an id or a picture that is not among the results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub id: String,
    pub class: String,
    pub detail: String,
}

/// What was found is in `fetch.json`; how the fetch went, in `run.json`: two fetches that found the
/// same make equal files but for that one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FetchBooks {
    #[serde(flatten)]
    pub summary: FetchSummary,
    /// ISO date of the day on which the source was listed.
    #[serde(default)]
    pub listed_on: Option<String>,
    /// At most [`PROBLEMS_MAX`]; the counts of the summary hold all.
    pub problems: Vec<Problem>,
}

/// Problems that are listed one by one: enough to look into, few enough to open in an editor.
pub const PROBLEMS_MAX: usize = 10_000;

/// The table of examples in a folder, by the name it has there: of datasets and of shards alike.
pub(crate) fn examples_file_in(dir: &Path) -> PathBuf {
    let file = dir.join(EXAMPLES_FILE);
    let before = dir.join(EXAMPLES_FILE_BEFORE);
    if !file.exists() && before.exists() {
        before
    } else {
        // Where there is neither, an error names the file that ought to be there.
        file
    }
}

/// Why a dataset cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("{} is torn or altered: {problem}; run the fetch job again", file.display())]
    Damaged { file: PathBuf, problem: String },
    #[error("{} is no complete dataset: it has no fetch.json; run the fetch job again", folder.display())]
    Incomplete { folder: PathBuf },
}
