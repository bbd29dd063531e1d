//! The preprocess job: a dataset into shards, tables and a quality report.
//!
//! Each picture is decoded once, in a helper process, into a spool on disk; then splits are dealt,
//! knowing what every picture looks like, and the shards are written from the spool.
//!
//! Invariant: equal datasets and settings give byte-equal output but for `preprocess.json`, which
//! holds seconds, whatever the number of threads; and every picture of the dataset is in the shards
//! or counted among the skipped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow::buffer::Buffer;
use chrono::NaiveDate;
use marquee_domain::artifact::Digest;
use marquee_domain::report::PreprocessSummary;
use marquee_domain::spec::{ImageEncoding, PreprocessSettings};
use serde::{Deserialize, Serialize};

use self::assign::{Assigned, Deal, SPLITS, assign};
use self::classes::Classes;
use self::helper::Helper;
use self::look::Look;
use self::picture::{Prepared, Preparer, Skip};
use crate::dataset::{Dataset, DatasetError, FilmRow, PROBLEMS_MAX, Problem};
use crate::durable::{AsideFile, write_json};
use crate::job::{Context, JobError, Step};
use crate::mapping::map;
use crate::ordered::in_order;
use crate::scale::Rgb;
use crate::shards::{ShardLayout, ShardWriter, key};
use crate::thumbnail::jpeg_of;

mod assign;
mod classes;
mod decode;
mod helper;
mod look;
mod page;
pub(crate) mod picture;
mod quality;
mod similar;
mod stratify;
mod tables;

pub use self::picture::Shrinker;

/// Version of what this code makes: it grows whenever equal input and settings give other output,
/// so that digest(version, settings, input) names a result.
pub const CODE_VERSION: u32 = 2;
/// Prepared pictures, while splits are not known yet. It is gone when the job ends.
const SPOOL_FILE: &str = ".spool";
const QUALITY_FILE: &str = "quality.json";
const PAGE_FILE: &str = "quality.html";
/// Pixels of the longer side of a picture in the report.
const THUMBNAIL_SIDE: u32 = 110;

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
    check_terms(&dataset, (context.clock)().date_naive())?;
    let (classes, dropped) = classes::choose(
        dataset.labels(),
        dataset.films(),
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

/// What became of a film.
#[derive(Debug, Clone)]
enum Place {
    /// Not dealt with yet.
    Open,
    Split(usize),
    Skipped(String),
}

/// A job under way.
struct Packing<'a> {
    settings: &'a PreprocessSettings,
    dataset: &'a Dataset,
    classes: &'a Classes,
    output: &'a Path,
    writer: ShardWriter,
    summary: PreprocessSummary,
    problems: Vec<Problem>,
    /// By film.
    looks: Vec<Option<Look>>,
    places: Vec<Place>,
    flags: Vec<Vec<&'static str>>,
    /// By film: where its prepared picture is in the spool.
    spooled: Vec<(u64, u32)>,
    spool: PathBuf,
    rows: Vec<Assigned>,
    clusters: Vec<Vec<usize>>,
}

impl<'a> Packing<'a> {
    fn new(
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
        let films = dataset.films().len();
        let summary = PreprocessSummary {
            pictures: films as u64,
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
            looks: vec![None; films],
            places: vec![Place::Open; films],
            flags: vec![Vec::new(); films],
            spooled: vec![(0, 0); films],
            spool: output.join(SPOOL_FILE),
            rows: Vec::new(),
            clusters: Vec::new(),
        })
    }

    /// The films that are wanted: those with a class, released when the settings say.
    fn filter(&mut self) -> Result<Vec<usize>, JobError> {
        let day = |text: &Option<String>| text.as_deref().and_then(|text| text.parse().ok());
        let (from, to): (Option<NaiveDate>, Option<NaiveDate>) = (
            day(&self.settings.released_from),
            day(&self.settings.released_to),
        );
        let mut usable = Vec::new();
        for (at, film) in self.dataset.films().iter().enumerate() {
            let date = film.release_date;
            if !self.classes.bytes_of(film).contains(&1) {
                let detail = format!("none of its labels is a class: {}", film.labels.join(", "));
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
        Ok(usable)
    }

    /// Prepares the pictures on all threads into the spool.
    fn prepare(
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
                let film = &dataset.films()[usable[at]];
                let file = dataset.picture(&film.id).unwrap_or_default();
                (file.len() as u64, worker.prepare(film, file))
            },
            |at, (bytes, prepared)| {
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

    /// Flags the films and gives each that is left its split.
    fn deal(&mut self, usable: &[usize]) -> Result<(), JobError> {
        let films = self.dataset.films();
        self.clusters = similar::clusters(&self.looks);
        self.flags = quality::flags(films, &self.looks, &self.clusters);
        let is_clean: Vec<bool> = self
            .flags
            .iter()
            .map(|flags| flags.iter().all(|flag| quality::HARMLESS.contains(flag)))
            .collect();
        let usable: Vec<usize> = usable
            .iter()
            .copied()
            .filter(|film| self.looks[*film].is_some())
            .collect();
        let together = if self.settings.group_near_duplicates {
            self.clusters.as_slice()
        } else {
            &[]
        };
        let deal = Deal {
            films,
            classes: self.classes,
            together,
            shares: self.settings.splits,
            seed: self.settings.seed,
            test_rows: self.settings.test_rows,
            is_clean: &is_clean,
            max_per_class: self.settings.max_per_class,
        };
        let dealt = assign(&deal, &usable).map_err(JobError::user)?;
        for film in dealt.left_out {
            let detail = "its classes have enough training pictures without it";
            self.skip(film, Skip::new("over_class_cap", detail));
        }
        self.rows = dealt.rows;
        Ok(())
    }

    /// Writes the shards from the spool.
    fn pack(&mut self, context: &Context) -> Result<(), JobError> {
        let pictures = self.map_spool()?;
        for row in std::mem::take(&mut self.rows) {
            if context.stop.is_told() {
                return Err(JobError::Stopped);
            }
            let film = &self.dataset.films()[row.film];
            let (start, length) = self.spooled[row.film];
            let image = pictures
                .get(start as usize..start as usize + length as usize)
                .unwrap_or_default();
            let split = SPLITS[row.split];
            self.writer
                .push(split, &film.id, &self.classes.bytes_of(film), image)?;
            self.places[row.film] = Place::Split(row.split);
            *self.summary.splits.entry(split.to_owned()).or_default() += 1;
            self.summary.bytes += u64::from(length);
            self.rows.push(row);
        }
        Ok(())
    }

    fn map_spool(&self) -> Result<Buffer, JobError> {
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
                id: self.dataset.films()[at].id.clone(),
                class: skip.class.clone(),
                detail: skip.detail,
            });
        }
        self.places[at] = Place::Skipped(skip.class);
    }

    /// Completes shards, tables and report, unless the shards would be useless.
    fn finish(mut self, started: Instant) -> Result<PreprocessBooks, JobError> {
        self.check_splits()?;
        self.write_tables()?;
        self.write_report()?;
        fs::remove_file(&self.spool)
            .map_err(|error| JobError::crash(format!("{}: {error}", self.spool.display())))?;
        for flag in self.flags.iter().flatten() {
            *self.summary.flags.entry((*flag).to_owned()).or_default() += 1;
        }
        self.writer.finish()?;
        self.summary.seconds = started.elapsed().as_secs_f64();
        Ok(PreprocessBooks {
            summary: self.summary,
            problems: self.problems,
        })
    }

    fn check_splits(&self) -> Result<(), JobError> {
        for (split, share) in SPLITS.iter().zip(shares_of(self.settings)) {
            if share > 0.0 && self.summary.splits.get(*split) == Some(&0) {
                return Err(JobError::bad_input(format!(
                    "split {split} is empty: {} pictures came in, skipped {:?}; bring more pictures or \
                     change splits",
                    self.summary.pictures, self.summary.skipped
                )));
            }
        }
        let mut trained = vec![0_u64; self.classes.names().len()];
        for row in self.rows.iter().filter(|row| row.split == 0) {
            for class in self.classes.of(&self.dataset.films()[row.film]) {
                trained[class] += 1;
            }
        }
        match trained.iter().position(|count| *count == 0) {
            None => Ok(()),
            Some(empty) => Err(JobError::bad_input(format!(
                "class {:?} has no usable picture in the train split; raise min_label_count or name \
                 the classes in labels without it",
                self.classes.names()[empty]
            ))),
        }
    }

    fn place_of(&self, film: usize) -> Result<&'static str, &str> {
        match &self.places[film] {
            Place::Split(split) => Ok(SPLITS[*split]),
            Place::Skipped(why) => Err(why),
            Place::Open => Err("open"),
        }
    }

    fn table_row(&self, film: usize) -> tables::Row<'_> {
        tables::Row {
            film: &self.dataset.films()[film],
            look: self.looks[film].as_ref(),
            flags: &self.flags[film],
            place: self.place_of(film),
        }
    }

    fn write_tables(&self) -> Result<(), DatasetError> {
        let all: Vec<_> = (0..self.places.len())
            .map(|film| self.table_row(film))
            .collect();
        tables::write(self.output, "films", &all)?;
        for (number, split) in SPLITS.iter().enumerate() {
            let rows: Vec<_> = self
                .rows
                .iter()
                .filter(|row| row.split == number)
                .map(|row| self.table_row(row.film))
                .collect();
            tables::write(self.output, split, &rows)?;
        }
        Ok(())
    }

    fn write_report(&self) -> Result<(), JobError> {
        let films = self.dataset.films();
        let seen: Vec<_> = (0..films.len())
            .map(|film| quality::Seen {
                film: &films[film],
                flags: &self.flags[film],
                place: self.place_of(film),
                classes: self
                    .classes
                    .of(&films[film])
                    .map(|class| self.classes.names()[class].as_str())
                    .collect(),
            })
            .collect();
        let report = quality::report(&seen, &self.clusters, films);
        let write = || -> io::Result<()> {
            write_json(&self.output.join(QUALITY_FILE), &report)?;
            let thumbnails = self.thumbnails(&page::shown(&report))?;
            let page = page::render(&report, &self.summary.source, &thumbnails);
            let mut file = AsideFile::create(&self.output.join(PAGE_FILE))?;
            file.write_all(page.as_bytes())?;
            file.commit().map(|_| ())
        };
        write().map_err(|error| {
            JobError::crash(format!("the quality report cannot be written: {error}"))
        })
    }

    /// Small pictures of these films, from what was prepared of them, in the proportions that the
    /// files had.
    fn thumbnails(&self, ids: &[String]) -> io::Result<page::Thumbnails> {
        let pictures = self
            .map_spool()
            .map_err(|_| io::Error::other("the spool is gone"))?;
        let places: BTreeMap<&str, usize> = self
            .dataset
            .films()
            .iter()
            .enumerate()
            .map(|(at, film)| (film.id.as_str(), at))
            .collect();
        let mut thumbnails = page::Thumbnails::new();
        for id in ids {
            let Some((look, film)) = places
                .get(id.as_str())
                .and_then(|at| Some((self.looks[*at].as_ref()?, *at)))
            else {
                continue;
            };
            let (start, length) = self.spooled[film];
            let stored = pictures
                .get(start as usize..start as usize + length as usize)
                .unwrap_or_default();
            if let Some(url) = thumbnail_of(stored, look, self.settings) {
                thumbnails.insert(id.clone(), url);
            }
        }
        Ok(thumbnails)
    }
}

/// A `data:` URL of the picture in the file's own proportions.
fn thumbnail_of(stored: &[u8], look: &Look, settings: &PreprocessSettings) -> Option<String> {
    use base64::Engine as _;
    let picture = match settings.encoding {
        ImageEncoding::Raw => Rgb {
            width: settings.width,
            height: settings.height,
            bytes: stored.to_vec(),
        },
        ImageEncoding::Jpeg | ImageEncoding::Original => decode::decode(stored).ok()?.0,
    };
    let longest = look.width.max(look.height).max(1);
    let side = |pixels: u32| (pixels * THUMBNAIL_SIDE / longest).max(1);
    let (width, height) = (side(look.width), side(look.height));
    let mut resizer = fast_image_resize::Resizer::new();
    let small = crate::scale::scale(&mut resizer, &picture, width, height).ok()?;
    let jpeg = jpeg_of(&small.bytes, width, height, 80);
    let text = base64::engine::general_purpose::STANDARD.encode(jpeg);
    Some(format!("data:image/jpeg;base64,{text}"))
}

/// What shards say about where they come from.
fn notes(settings: &PreprocessSettings, dataset: &Dataset) -> BTreeMap<String, String> {
    let films: Vec<_> = dataset
        .films()
        .iter()
        .map(|film| (&film.id, &film.labels, &film.group, &film.picture_digest))
        .collect();
    let input = Digest::of(&serde_json::to_vec(&films).unwrap_or_default());
    let settings = serde_json::to_string(settings).unwrap_or_default();
    BTreeMap::from([
        (key::DATASET.to_owned(), input.as_str().to_owned()),
        (key::SETTINGS.to_owned(), settings),
        (key::CODE.to_owned(), CODE_VERSION.to_string()),
    ])
}

/// Prepares pictures, in a helper process where there is a program for one.
enum Worker {
    Here(Box<Preparer>),
    Helper(Helper),
}

impl Worker {
    fn new(settings: &PreprocessSettings, program: Option<&Path>) -> Self {
        let (width, height, encoding) = (settings.width, settings.height, settings.encoding);
        match program {
            Some(program) => Self::Helper(Helper::new(program, width, height, encoding)),
            None => Self::Here(Box::new(Preparer::new(width, height, encoding))),
        }
    }

    fn prepare(&mut self, film: &FilmRow, file: &[u8]) -> Result<Prepared, JobError> {
        if Digest::of(file) != film.picture_digest {
            return Err(JobError::bad_input(format!(
                "the picture of film {} is not the one that was fetched: its digest differs from \
                 {}; run the fetch job again",
                film.id, film.picture_digest
            )));
        }
        match self {
            Self::Here(preparer) => Ok(preparer.prepare(file)),
            Self::Helper(helper) => helper
                .prepare(file)
                .map_err(|error| JobError::crash(format!("no helper can be started: {error}"))),
        }
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

/// Id and quality flags of every film in the table `films.parquet` of the shards in `dir`.
pub fn flags_of(dir: &Path) -> Result<Vec<(String, Vec<String>)>, DatasetError> {
    tables::flags_of(dir)
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
