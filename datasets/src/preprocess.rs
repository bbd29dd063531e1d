//! The preprocess job: a dataset into shards.
//!
//! Invariant: equal datasets and settings give byte-equal shards, whatever the number of threads;
//! and every picture of the dataset is in the shards or counted among the skipped.

use std::path::Path;
use std::time::Instant;

use marquee_domain::report::PreprocessSummary;
use marquee_domain::spec::{ImageEncoding, PreprocessSettings};
use serde::{Deserialize, Serialize};

use self::assign::{Assigned, SPLITS, assign};
use self::classes::Classes;
use self::ordered::in_order;
use self::picture::{Prepared, Preparer, Skip};
use crate::dataset::{Dataset, FilmRow, PROBLEMS_MAX, Problem};
use crate::durable::write_json;
use crate::job::{Context, JobError, Step};
use crate::scale::Rgb;
use crate::shards::{JPEG_QUALITY, ShardLayout, ShardWriter};
use crate::thumbnail::jpeg_of;

mod assign;
mod classes;
mod decode;
mod ordered;
mod picture;
mod stratify;

/// Name of the books in a shards folder.
const BOOKS_FILE: &str = "preprocess.json";

/// `preprocess.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreprocessBooks {
    #[serde(flatten)]
    pub summary: PreprocessSummary,
    /// Pictures that were skipped and labels that were dropped. At most [`PROBLEMS_MAX`]; the
    /// counts of the summary hold all.
    pub problems: Vec<Problem>,
}

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
    let (classes, dropped) = classes::choose(
        dataset.labels(),
        dataset.films(),
        settings.labels.as_deref(),
        settings.min_label_count,
    )?;
    let mut packing = Packing::new(settings, &dataset, &classes, output)?;
    packing.problems.extend(dropped);
    let rows = packing.assign()?;
    packing.pack(&rows, threads, context)?;
    let books = packing.finish(started)?;
    write_json(&output.join(BOOKS_FILE), &books)
        .map_err(|error| JobError::crash(format!("{BOOKS_FILE} cannot be written: {error}")))?;
    Ok(books.summary)
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

/// A job under way.
struct Packing<'a> {
    settings: &'a PreprocessSettings,
    dataset: &'a Dataset,
    classes: &'a Classes,
    writer: ShardWriter,
    summary: PreprocessSummary,
    problems: Vec<Problem>,
    /// Pictures of each class that are in the train split.
    trained: Vec<u64>,
}

impl<'a> Packing<'a> {
    fn new(
        settings: &'a PreprocessSettings,
        dataset: &'a Dataset,
        classes: &'a Classes,
        output: &Path,
    ) -> Result<Self, JobError> {
        let source = dataset.books().summary.source.clone();
        let layout = ShardLayout {
            width: settings.width,
            height: settings.height,
            encoding: settings.encoding,
            classes: classes.names().to_vec(),
            source: source.clone(),
            seed: settings.seed,
            shard_bytes: settings.shard_bytes,
        };
        let summary = PreprocessSummary {
            pictures: dataset.films().len() as u64,
            splits: SPLITS
                .iter()
                .map(|split| ((*split).to_owned(), 0))
                .collect(),
            classes: classes.names().to_vec(),
            source,
            ..PreprocessSummary::default()
        };
        let writer = ShardWriter::create(output, layout)?;
        let trained = vec![0; classes.names().len()];
        Ok(Self {
            settings,
            dataset,
            classes,
            writer,
            summary,
            problems: Vec::new(),
            trained,
        })
    }

    /// Gives every film that has a class its split; the others are skipped.
    fn assign(&mut self) -> Result<Vec<Assigned>, JobError> {
        let mut usable = Vec::new();
        for (at, film) in self.dataset.films().iter().enumerate() {
            if self.classes.bytes_of(film).contains(&1) {
                usable.push(at);
            } else {
                let detail = format!("none of its labels is a class: {}", film.labels.join(", "));
                self.skip(film, Skip::new("no_class", detail));
            }
        }
        if usable.is_empty() {
            return Err(JobError::bad_input(
                "no picture of the dataset has any of the classes",
            ));
        }
        let films = self.dataset.films();
        Ok(assign(
            films,
            &usable,
            self.classes,
            self.settings.splits,
            self.settings.seed,
        ))
    }

    /// Prepares the pictures on all threads and writes them in their order.
    fn pack(&mut self, rows: &[Assigned], threads: u32, context: &Context) -> Result<(), JobError> {
        let dataset = self.dataset;
        let settings = self.settings;
        let total = rows.len() as u64;
        let mut bytes_read = 0;
        in_order(
            threads.max(1) as usize,
            rows.len(),
            || Preparer::new(settings.width, settings.height, settings.encoding),
            |preparer, at| {
                let film = &dataset.films()[rows[at].film];
                let file = dataset.picture(&film.id).unwrap_or_default();
                (
                    file.len() as u64,
                    preparer.prepare(file, &film.picture_digest),
                )
            },
            |at, (bytes, prepared)| {
                if context.stop.is_told() {
                    return Err(JobError::Stopped);
                }
                bytes_read += bytes;
                self.write(&rows[at], prepared)?;
                let done = at as u64 + 1;
                context.reporter.step(Step {
                    phase: "images",
                    unit: "images",
                    done,
                    total,
                    bytes: bytes_read,
                });
                Ok(())
            },
        )
    }

    fn write(&mut self, row: &Assigned, prepared: Prepared) -> Result<(), JobError> {
        let film = &self.dataset.films()[row.film];
        let image = match prepared {
            Prepared::Image(image) => image,
            Prepared::Skipped(skip) => {
                self.skip(film, skip);
                return Ok(());
            }
            Prepared::Altered => {
                return Err(JobError::bad_input(format!(
                    "the picture of film {} is not the one that was fetched: its digest differs from \
                     {}; run the fetch job again",
                    film.id, film.picture_digest
                )));
            }
        };
        let labels = self.classes.bytes_of(film);
        let split = SPLITS[row.split];
        self.writer.push(split, &film.id, &labels, &image)?;
        if row.split == 0 {
            for (count, byte) in self.trained.iter_mut().zip(&labels) {
                *count += u64::from(*byte);
            }
        }
        *self.summary.splits.entry(split.to_owned()).or_default() += 1;
        self.summary.bytes += image.len() as u64;
        Ok(())
    }

    fn skip(&mut self, film: &FilmRow, skip: Skip) {
        *self
            .summary
            .skipped
            .entry(skip.class.to_owned())
            .or_default() += 1;
        if self.problems.len() < PROBLEMS_MAX {
            let class = skip.class.to_owned();
            self.problems.push(Problem {
                id: film.id.clone(),
                class,
                detail: skip.detail,
            });
        }
    }

    /// Completes the shards, unless they would be useless.
    fn finish(mut self, started: Instant) -> Result<PreprocessBooks, JobError> {
        let shares = shares_of(self.settings);
        for (split, share) in SPLITS.iter().zip(shares) {
            if share > 0.0 && self.summary.splits.get(*split) == Some(&0) {
                return Err(JobError::bad_input(format!(
                    "split {split} is empty: {} pictures came in, skipped {:?}; bring more pictures or \
                     change splits",
                    self.summary.pictures, self.summary.skipped
                )));
            }
        }
        if let Some(empty) = self.trained.iter().position(|count| *count == 0) {
            return Err(JobError::bad_input(format!(
                "class {:?} has no usable picture in the train split; raise min_label_count or name \
                 the classes in labels without it",
                self.classes.names()[empty]
            )));
        }
        self.writer.finish()?;
        self.summary.seconds = started.elapsed().as_secs_f64();
        Ok(PreprocessBooks {
            summary: self.summary,
            problems: self.problems,
        })
    }
}

/// The shares in the order of [`SPLITS`].
fn shares_of(settings: &PreprocessSettings) -> [f64; 3] {
    [
        settings.splits.train,
        settings.splits.validation,
        settings.splits.test,
    ]
}

/// The bytes of a prepared picture in a shard.
fn stored(picture: Rgb, encoding: ImageEncoding) -> Vec<u8> {
    match encoding {
        ImageEncoding::Raw => picture.bytes,
        ImageEncoding::Jpeg => jpeg_of(&picture.bytes, picture.width, picture.height, JPEG_QUALITY),
    }
}
