//! A preprocess job under way, step by step: which pictures are wanted, what each looks like, which split
//! it goes to, and the shards.
//!
//! All pictures are prepared before any is written, since near-duplicates are only known when the last
//! one was looked at, and pictures that look the same must not be in two splits. In between they lie in
//! a spool on disk: prepared pictures of a large set do not fit in memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::buffer::Buffer;
use chrono::NaiveDate;
use marquee_domain::artifact::Digest;
use marquee_domain::report::PreprocessSummary;
use marquee_domain::spec::PreprocessSettings;

use super::assign::{Assigned, Deal, SPLITS, assign};
use super::classes::{self, Classes};
use super::look::Look;
use super::prepare::Prepared;
use super::worker::Worker;
use super::{quality, similar};
use crate::code::CODE_VERSION;
use crate::dataset::{Dataset, Example, PROBLEMS_MAX, Problem};
use crate::job::{Context, JobError, Step};
use crate::mapping::map;
use crate::ordered::in_order;
use crate::picture::Skip;
use crate::shards::{ShardLayout, ShardWriter, key};

/// Prepared pictures, while splits are not known yet. It is gone when the job ends.
const SPOOL_FILE: &str = ".spool";

/// What became of an example.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    /// Not dealt with yet.
    Open,
    Split(usize),
    Skipped(String),
}

/// A job under way.
pub(super) struct Packing<'a> {
    pub(super) settings: &'a PreprocessSettings,
    pub(super) dataset: &'a Dataset,
    pub(super) classes: &'a Classes,
    pub(super) output: &'a Path,
    pub(super) writer: ShardWriter,
    pub(super) summary: PreprocessSummary,
    pub(super) problems: Vec<Problem>,
    /// By example.
    pub(super) looks: Vec<Option<Look>>,
    /// By example.
    pub(super) fates: Vec<Fate>,
    pub(super) flags: Vec<Vec<&'static str>>,
    /// By example: where its prepared picture is in the spool.
    pub(super) spooled: Vec<(u64, u32)>,
    pub(super) spool: PathBuf,
    pub(super) rows: Vec<Assigned>,
    pub(super) clusters: similar::Clusters,
    /// Flags that were to leave pictures out, and would have left out most of them.
    pub(super) flags_of_most: Vec<&'static str>,
}

impl<'a> Packing<'a> {
    pub(super) fn new(
        settings: &'a PreprocessSettings,
        dataset: &'a Dataset,
        classes: &'a Classes,
        output: &'a Path,
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
            notes: notes(settings, dataset),
        };
        let examples = dataset.examples().len();
        let summary = PreprocessSummary {
            pictures: examples as u64,
            splits: SPLITS
                .iter()
                .map(|split| ((*split).to_owned(), 0))
                .collect(),
            classes: classes.names().to_vec(),
            source,
            code: crate::code::code(),
            ..PreprocessSummary::default()
        };
        Ok(Self {
            settings,
            dataset,
            classes,
            output,
            writer: ShardWriter::create(output, layout)?,
            summary,
            problems: Vec::new(),
            looks: vec![None; examples],
            fates: vec![Fate::Open; examples],
            flags: vec![Vec::new(); examples],
            spooled: vec![(0, 0); examples],
            spool: output.join(SPOOL_FILE),
            rows: Vec::new(),
            clusters: similar::Clusters::default(),
            flags_of_most: Vec::new(),
        })
    }

    /// The examples that are wanted: those with a class, or of which the source says that they have none;
    /// released when the settings say.
    pub(super) fn filter(&mut self) -> Result<Vec<usize>, JobError> {
        let day = |text: &Option<String>| text.as_deref().and_then(|text| text.parse().ok());
        let (from, to): (Option<NaiveDate>, Option<NaiveDate>) = (
            day(&self.settings.released_from),
            day(&self.settings.released_to),
        );
        // A picture that has none of the classes is an example of none where its source says what it does not
        // have. Elsewhere it may have classes that nobody noted.
        let zeros_stated = self.dataset.books().summary.remarks.zeros_stated;
        let says_none = |example: &Example| zeros_stated || example.labels.is_empty();
        // Before any picture is decoded: what is not wanted should cost nothing.
        let mut usable = Vec::new();
        for (at, example) in self.dataset.examples().iter().enumerate() {
            let date = example.release_date;
            if !says_none(example) && !self.classes.bytes_of(example).contains(&1) {
                let detail = format!(
                    "none of its labels is a class: {}",
                    example.labels.join(", ")
                );
                self.skip(at, Skip::new("no_class", detail));
            } else if (from.is_some() || to.is_some()) && date.is_none() && !self.settings.undated {
                self.skip(at, Skip::new("no_date", "it has no release date"));
            } else if date.is_some_and(|date| {
                from.is_some_and(|from| date < from) || to.is_some_and(|to| date > to)
            }) {
                let shown = date.map(|date| date.to_string()).unwrap_or_default();
                let detail = format!("it was released on {shown}");
                self.skip(at, Skip::new("out_of_dates", detail));
            } else {
                usable.push(at);
            }
        }
        if usable.is_empty() {
            return Err(JobError::bad_input(
                "no picture of the dataset has any of the classes",
            ));
        }
        let examples = self.dataset.examples();
        classes::check_learnable(self.classes, usable.iter().map(|at| &examples[*at]))?;
        Ok(usable)
    }

    /// Prepares the pictures on all threads into the spool.
    pub(super) fn prepare(
        &mut self,
        usable: &[usize],
        threads: u32,
        context: &Context,
    ) -> Result<(), JobError> {
        let fault =
            |path: &Path, error: io::Error| JobError::crash(format!("{}: {error}", path.display()));
        let spool = self.spool.clone();
        let file = File::create(&spool).map_err(|error| fault(&spool, error))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let (dataset, settings) = (self.dataset, self.settings);
        let total = usable.len() as u64;
        let (mut bytes_read, mut written) = (0, 0_u64);
        in_order(
            threads.max(1) as usize,
            usable.len(),
            || Worker::new(settings, context.helper.as_deref()),
            |worker, at| {
                let example = &dataset.examples()[usable[at]];
                // A picture that is not there reads as no bytes, whose digest is another one: the
                // worker then refuses the dataset and names the picture.
                let file = dataset.picture(&example.id).unwrap_or_default();
                (file.len() as u64, worker.prepare(example, file))
            },
            |at, (bytes, prepared)| {
                // There is no checkpoint: a preprocess that is stopped begins anew.
                if context.stop.is_told() {
                    return Err(JobError::Stopped);
                }
                bytes_read += bytes;
                match prepared? {
                    Prepared::Image(image, look) => {
                        out.write_all(&image)
                            .map_err(|error| fault(&spool, error))?;
                        self.spooled[usable[at]] = (written, image.len() as u32);
                        self.looks[usable[at]] = Some(*look);
                        written += image.len() as u64;
                    }
                    Prepared::Skipped(skip) => self.skip(usable[at], skip),
                }
                context.reporter.step(Step {
                    phase: "images",
                    unit: "images",
                    done: at as u64 + 1,
                    total,
                    bytes: bytes_read,
                    counts: &self.summary.skipped,
                });
                Ok(())
            },
        )?;
        out.flush().map_err(|error| fault(&spool, error))
    }

    /// Flags the examples and gives each that is left its split.
    pub(super) fn deal(&mut self, usable: &[usize]) -> Result<(), JobError> {
        let examples = self.dataset.examples();
        self.clusters = similar::clusters(&self.looks);
        self.flags = quality::flags(examples, &self.looks, &self.clusters);
        let is_clean: Vec<bool> = self
            .flags
            .iter()
            .map(|flags| flags.iter().all(|flag| quality::HARMLESS.contains(flag)))
            .collect();
        let usable: Vec<usize> = usable
            .iter()
            .copied()
            .filter(|example| self.looks[*example].is_some())
            .collect();
        let usable = self.leave_out(usable);
        // Flags come first: a test set of exact size takes pictures without a flag alone.
        let together = if self.settings.group_near_duplicates {
            self.clusters.all.as_slice()
        } else {
            &[]
        };
        let deal = Deal {
            examples,
            classes: self.classes,
            together,
            shares: self.settings.splits,
            seed: self.settings.seed,
            test_rows: self.settings.test_rows,
            is_clean: &is_clean,
            max_per_class: self.settings.max_per_class,
        };
        let dealt = assign(&deal, &usable).map_err(JobError::user)?;
        for example in dealt.left_out {
            let detail = "its classes have enough training pictures without it";
            self.skip(example, Skip::new("over_class_cap", detail));
        }
        self.rows = dealt.rows;
        Ok(())
    }

    /// Those of the usable examples that have no flag by which pictures are left out.
    fn leave_out(&mut self, usable: Vec<usize>) -> Vec<usize> {
        let asked = &self.settings.leave_out;
        let (flags, of_most) = quality::flags_that_leave_out(asked, &self.flags, &usable);
        for flag in &of_most {
            tracing::warn!(
                flag,
                "more than half of the pictures have it, so it leaves out none"
            );
        }
        self.flags_of_most = of_most;
        let (mut kept, mut left_out) = (Vec::new(), Vec::new());
        for example in usable {
            match flags.iter().find(|flag| self.flags[example].contains(flag)) {
                Some(flag) => left_out.push((example, *flag)),
                None => kept.push(example),
            }
        }
        for (example, flag) in left_out {
            let detail =
                format!("it has the quality flag {flag}; leave_out names the flags that count");
            self.skip(example, Skip::new(format!("flag_{flag}"), detail));
        }
        kept
    }

    /// Writes the shards from the spool.
    pub(super) fn pack(&mut self, context: &Context) -> Result<(), JobError> {
        let pictures = self.map_spool()?;
        for row in std::mem::take(&mut self.rows) {
            if context.stop.is_told() {
                return Err(JobError::Stopped);
            }
            let example = &self.dataset.examples()[row.example];
            let (start, length) = self.spooled[row.example];
            let image = pictures
                .get(start as usize..start as usize + length as usize)
                .unwrap_or_default();
            let split = SPLITS[row.split];
            self.writer
                .push(split, &example.id, &self.classes.bytes_of(example), image)?;
            self.fates[row.example] = Fate::Split(row.split);
            *self.summary.splits.entry(split.to_owned()).or_default() += 1;
            self.summary.bytes += u64::from(length);
            // Put back as it is written: the tables take their order from it (`finish`).
            self.rows.push(row);
        }
        Ok(())
    }

    pub(super) fn map_spool(&self) -> Result<Buffer, JobError> {
        // An empty file cannot be mapped.
        let length = fs::metadata(&self.spool).map(|found| found.len());
        if length.is_ok_and(|length| length == 0) {
            return Ok(Buffer::from(Vec::<u8>::new()));
        }
        map(&self.spool)
            .map_err(|error| JobError::crash(format!("{}: {error}", self.spool.display())))
    }

    fn skip(&mut self, at: usize, skip: Skip) {
        *self.summary.skipped.entry(skip.class.clone()).or_default() += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem {
                id: self.dataset.examples()[at].id.clone(),
                class: skip.class.clone(),
                detail: skip.detail,
            });
        }
        self.fates[at] = Fate::Skipped(skip.class);
    }
}

/// What shards say about where they come from.
fn notes(settings: &PreprocessSettings, dataset: &Dataset) -> BTreeMap<String, String> {
    let examples: Vec<_> = dataset
        .examples()
        .iter()
        .map(|example| {
            (
                &example.id,
                &example.labels,
                &example.group,
                &example.picture_digest,
            )
        })
        .collect();
    // Which pictures and labels, not when and how they were fetched: the same data has one digest.
    let input = Digest::of(&serde_json::to_vec(&examples).unwrap_or_default());
    let settings = serde_json::to_string(settings).unwrap_or_default();
    BTreeMap::from([
        (key::DATASET.to_owned(), input.as_str().to_owned()),
        (key::SETTINGS.to_owned(), settings),
        (key::CODE.to_owned(), CODE_VERSION.to_string()),
    ])
}
