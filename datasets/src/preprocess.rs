//! The preprocess job: a dataset into shards, tables and a quality report.
//!
//! Each picture is decoded once, in a helper process, into a spool on disk; then splits are dealt,
//! knowing what every picture looks like, and the shards are written from the spool.
//!
//! Invariant: equal datasets and settings give byte-equal output but for `preprocess.json`, which
//! holds seconds, whatever the number of threads; and every picture of the dataset is in the shards
//! or counted among the skipped.

use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use chrono::NaiveDate;
use marquee_domain::report::PreprocessSummary;
use marquee_domain::spec::{ImageEncoding, PreprocessSettings};

use self::books::BOOKS_FILE;
use self::packing::Packing;
use self::prepare::{Prepared, Preparer};
use crate::dataset::{Dataset, DatasetError};
use crate::durable::write_json;
use crate::job::{Context, JobError};

mod alike;
mod assign;
mod books;
mod classes;
mod finish;
mod helper;
mod look;
mod near;
mod origins;
mod packing;
mod page;
mod prepare;
mod quality;
mod similar;
mod sketch;
mod spectrum;
mod stratify;
mod tables;
mod worker;

pub use self::books::{PreprocessBooks, warnings};
pub use self::origins::{Origin, origins};
pub use crate::code::CODE_VERSION;

/// Runs a preprocess job on the dataset in `input` into the empty folder `output`.
pub fn run(
    settings: &PreprocessSettings,
    input: &Path,
    output: &Path,
    threads: u32,
    context: &Context,
) -> Result<PreprocessSummary, JobError> {
    let started = Instant::now();
    check_size(settings)?;
    let dataset = Dataset::open(input)?;
    check_terms(&dataset, (context.clock)().date_naive())?;
    let (classes, dropped) = classes::choose(
        dataset.labels(),
        dataset.examples(),
        settings.labels.as_deref(),
        settings.min_label_count,
    )?;
    let mut packing = Packing::new(settings, &dataset, &classes, output)?;
    packing.problems.extend(dropped);
    let usable = packing.filter()?;
    packing.prepare(&usable, threads, context)?;
    packing.deal(&usable)?;
    packing.pack(context)?;
    let books = packing.finish(started)?;
    write_json(&output.join(BOOKS_FILE), &books)
        .map_err(|error| JobError::crash(format!("{BOOKS_FILE} cannot be written: {error}")))?;
    Ok(books.summary)
}

/// Prepares pictures that come by `input` until no more come: the program of the helpers.
pub fn serve_helper(
    width: u32,
    height: u32,
    encoding: ImageEncoding,
    input: &mut impl io::Read,
    out: &mut impl Write,
) -> io::Result<()> {
    helper::serve(width, height, encoding, input, out)
}

/// Data whose term is over is not used any more.
fn check_terms(dataset: &Dataset, today: NaiveDate) -> Result<(), JobError> {
    let source = &dataset.books().summary.source;
    let until = source.use_until.as_deref();
    match until.and_then(|day| day.parse::<NaiveDate>().ok()) {
        Some(day) if day < today => Err(JobError::user(format!(
            "the dataset of {} may be used until {day} alone, by its source's terms or retention_days; \
             fetch it again",
            source.name
        ))),
        Some(_) | None => Ok(()),
    }
}

fn check_size(settings: &PreprocessSettings) -> Result<(), JobError> {
    let sides = 1..=u32::from(u16::MAX);
    if sides.contains(&settings.width) && sides.contains(&settings.height) {
        return Ok(());
    }
    Err(JobError::user(format!(
        "pictures of {}x{} pixels cannot be made; width and height must be 1 to {}",
        settings.width,
        settings.height,
        u16::MAX
    )))
}

/// Id and quality flags of every example in the table `examples.parquet` of the shards in `dir`.
pub fn flags_of(dir: &Path) -> Result<Vec<(String, Vec<String>)>, DatasetError> {
    tables::flags_of(dir)
}

/// What preprocess finds in picture files that are a set.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Places of those that look the same, two or more each.
    pub sets: Vec<Vec<usize>>,
    /// The same by the strict rule alone: one picture, at whatever size and quality it was stored.
    pub strict_sets: Vec<Vec<usize>>,
    /// Places of those with few grey values, of which some are flagged `low_information`, and of these.
    pub few_greys: Vec<usize>,
    pub low_information: Vec<usize>,
    /// Seconds of the search for those that look the same.
    pub search_s: f64,
}

/// What the quality report would say of these files. For benchmarks.
pub fn examine(files: &[Vec<u8>]) -> Found {
    // The size is that of the shards' pixels alone: looks are taken of the whole picture.
    let mut preparer = Preparer::new(16, 16, ImageEncoding::Raw);
    let looks: Vec<_> = files
        .iter()
        .map(|file| match preparer.prepare(file) {
            Prepared::Image(_, look) => Some(*look),
            Prepared::Skipped(_) => None,
        })
        .collect();
    let began = Instant::now();
    let clusters = similar::clusters(&looks);
    let search_s = began.elapsed().as_secs_f64();
    let places = |is_so: fn(&look::Look) -> bool| {
        let found = looks.iter().enumerate();
        let found = found.filter(|(_, look)| look.as_ref().is_some_and(is_so));
        found.map(|(at, _)| at).collect()
    };
    Found {
        sets: clusters.all,
        strict_sets: clusters.strict,
        few_greys: places(|look| look.information < look::limit::LOW_INFORMATION),
        low_information: places(look::Look::is_of_low_information),
        search_s,
    }
}

/// Prepares whatever bytes as a picture, and says what became of it.
#[must_use]
pub fn read_any_picture(bytes: &[u8]) -> String {
    let mut preparer = Preparer::new(16, 24, ImageEncoding::Raw);
    match preparer.prepare(bytes) {
        Prepared::Image(_, look) => format!("a picture, {}", look.format.as_str()),
        Prepared::Skipped(skip) => {
            // The words of an error without its numbers: a new kind of error is a new verdict.
            let words = skip.detail.split(|c: char| !c.is_ascii_alphabetic());
            let words: Vec<_> = words.filter(|word| word.len() > 3).take(6).collect();
            format!("{}: {}", skip.class, words.join(" "))
        }
    }
}
