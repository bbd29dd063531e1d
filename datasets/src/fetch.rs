//! The fetch job: films with their pictures from a source into a dataset.
//!
//! Invariant: every id that the source lists ends in exactly one of fetched, gone, rejected and
//! failed, and the rows come in the source's order, whatever the order of the answers.

use std::path::Path;
use std::time::Instant;

use marquee_domain::report::FetchSummary;
use marquee_domain::spec::{FetchSettings, Source};

use crate::job::{Context, JobError};

mod books;
mod folder;
mod labels_csv;
mod tmdb;

/// Bytes of one picture's file, at most. The largest posters of public services are near 20 MB.
pub(crate) const PICTURE_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Runs a fetch job into the empty folder `output`. `seed` spreads the waits before retries.
pub async fn run(
    settings: &FetchSettings,
    output: &Path,
    seed: u64,
    context: &Context,
) -> Result<FetchSummary, JobError> {
    let started = Instant::now();
    match &settings.source {
        Source::Tmdb { .. } => {
            let settings = tmdb::Settings::from_source(&settings.source)?;
            tmdb::run(settings, output, seed, context, started).await
        }
        Source::Folder { path } => {
            // Reading files and packing them is one long stretch of blocking work.
            tokio::task::block_in_place(|| folder::run(Path::new(path), output, context, started))
        }
    }
}
