//! The fetch job: pictures and what is known of them, from a source into a dataset.
//!
//! Invariant: every id that the source lists ends in exactly one of fetched, gone, rejected and
//! failed, and the rows come in the source's order, whatever the order of the answers.

use std::path::Path;
use std::time::Instant;

use marquee_domain::child::ChildSpec;
use marquee_domain::report::FetchSummary;
use marquee_domain::spec::{FetchSettings, Source};

use self::place::Workplace;
use crate::dataset::Dataset;
use crate::job::{Context, JobError};

mod address;
mod answer;
mod any;
mod assemble;
mod books;
mod breaker;
mod client;
mod credential;
mod engine;
mod files;
mod find;
mod folder;
mod in_flight;
mod journal;
mod judge;
mod labels;
mod list;
mod manners;
mod miss;
mod outcome;
mod pace;
mod place;
mod plan;
mod redirect;
mod shares;
mod table;
mod terms;
mod tmdb;
mod tolerant;
mod transport;

pub use self::folder::{archive_samples, read_any_archive, read_any_table, table_samples};
pub use self::list::{list_samples, read_any_list};
pub use self::tmdb::{read_any_answer, read_any_export_line};

/// Bytes of one picture's file, at most. The largest posters of public services are near 20 MB.
pub(crate) const PICTURE_MAX_BYTES: usize = 32 * 1024 * 1024;

/// Runs a fetch job as `spec` describes it. `seed` spreads the waits before retries.
pub async fn run(
    settings: &FetchSettings,
    spec: &ChildSpec,
    seed: u64,
    context: &Context,
) -> Result<FetchSummary, JobError> {
    let previous = match spec.inputs.get("previous") {
        Some(folder) => Some(Dataset::open(folder)?),
        None => None,
    };
    let place = Workplace {
        output: &spec.output,
        checkpoints: &spec.checkpoints,
        resume: spec.resume.as_deref(),
        scratch: spec.scratch.as_deref(),
        previous,
        licence: settings.licence.clone(),
        element: spec.element,
        shares: spec.rate.as_deref(),
        started: Instant::now(),
    };
    match &settings.source {
        Source::Tmdb { .. } => tmdb::run(settings, &place, seed, context).await,
        Source::List { .. } => list::run(settings, &place, seed, context).await,
        Source::Folder { path, rules } => {
            // Reading files and packing them is one long stretch of blocking work.
            tokio::task::block_in_place(|| {
                folder::run(settings, Path::new(path), rules, &place, context)
            })
        }
    }
}
