//! The end of a preprocess job: what must hold for shards to be of use, the tables beside them, and the
//! quality report.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::time::Instant;

use marquee_domain::spec::{ImageEncoding, PreprocessSettings};

use super::assign::SPLITS;
use super::books::PreprocessBooks;
use super::look::Look;
use super::packing::{Fate, Packing};
use super::{classes, page, quality, tables};
use crate::dataset::DatasetError;
use crate::durable::{AsideFile, write_json};
use crate::job::JobError;
use crate::picture::decode;
use crate::scale::{Rgb, scale};
use crate::thumbnail::jpeg_of;

const QUALITY_FILE: &str = "quality.json";
const PAGE_FILE: &str = "quality.html";
/// Pixels of the longer side of a picture in the report.
const THUMBNAIL_SIDE: u32 = 110;

impl Packing<'_> {
    /// Completes shards, tables and report, unless the shards would be useless.
    pub(super) fn finish(mut self, started: Instant) -> Result<PreprocessBooks, JobError> {
        // First what can refuse the whole: useless shards must not get an index.
        self.check_splits()?;
        self.check_classes()?;
        self.write_tables()?;
        self.write_report()?;
        // Only after the report, whose small pictures are drawn from it.
        fs::remove_file(&self.spool)
            .map_err(|error| JobError::crash(format!("{}: {error}", self.spool.display())))?;
        for flag in self.flags.iter().flatten() {
            *self.summary.flags.entry((*flag).to_owned()).or_default() += 1;
        }
        // The index of the shards is written last of all: with it the folder is complete.
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
        // A class that training never sees cannot be learned, and its score would be a puzzle later.
        let mut trained = vec![0_u64; self.classes.names().len()];
        for row in self.rows.iter().filter(|row| row.split == 0) {
            for class in self.classes.of(&self.dataset.examples()[row.example]) {
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

    /// Looks at the classes once more, now that pictures were left out: in training and test a class must be
    /// there and not there.
    fn check_classes(&mut self) -> Result<(), JobError> {
        let examples = self.dataset.examples();
        for (number, split) in SPLITS.iter().enumerate() {
            let rows = self.rows.iter().filter(|row| row.split == number);
            let always = classes::always(self.classes, rows.map(|row| &examples[row.example]));
            if number == 0 && always.len() == self.classes.names().len() {
                return Err(classes::nothing_to_learn(&always));
            }
            if let Some(warning) = classes::warning(&always, split) {
                tracing::warn!("{warning}");
                self.summary.warnings.push(warning);
            }
        }
        Ok(())
    }

    fn place_of(&self, example: usize) -> Result<&'static str, &str> {
        match &self.fates[example] {
            Fate::Split(split) => Ok(SPLITS[*split]),
            Fate::Skipped(why) => Err(why),
            Fate::Open => Err("open"),
        }
    }

    fn table_row(&self, example: usize) -> tables::TableRow<'_> {
        tables::TableRow {
            example: &self.dataset.examples()[example],
            look: self.looks[example].as_ref(),
            flags: &self.flags[example],
            place: self.place_of(example),
        }
    }

    fn write_tables(&self) -> Result<(), DatasetError> {
        let all: Vec<_> = (0..self.fates.len())
            .map(|example| self.table_row(example))
            .collect();
        tables::write(self.output, "examples", &all)?;
        for (number, split) in SPLITS.iter().enumerate() {
            let rows: Vec<_> = self
                .rows
                .iter()
                .filter(|row| row.split == number)
                .map(|row| self.table_row(row.example))
                .collect();
            tables::write(self.output, split, &rows)?;
        }
        Ok(())
    }

    fn write_report(&self) -> Result<(), JobError> {
        let examples = self.dataset.examples();
        let seen: Vec<_> = (0..examples.len())
            .map(|example| quality::Seen {
                example: &examples[example],
                flags: &self.flags[example],
                place: self.place_of(example),
                classes: self
                    .classes
                    .of(&examples[example])
                    .map(|class| self.classes.names()[class].as_str())
                    .collect(),
            })
            .collect();
        let report = quality::report(&seen, &self.clusters, examples, &self.flags_of_most);
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

    /// Small pictures of these examples, from what was prepared of them, in the proportions that the
    /// files had.
    fn thumbnails(&self, ids: &[String]) -> io::Result<page::Thumbnails> {
        let pictures = self
            .map_spool()
            .map_err(|_| io::Error::other("the spool is gone"))?;
        let places: BTreeMap<&str, usize> = self
            .dataset
            .examples()
            .iter()
            .enumerate()
            .map(|(at, example)| (example.id.as_str(), at))
            .collect();
        let mut thumbnails = page::Thumbnails::new();
        for id in ids {
            let Some((look, example)) = places
                .get(id.as_str())
                .and_then(|at| Some((self.looks[*at].as_ref()?, *at)))
            else {
                continue;
            };
            let (start, length) = self.spooled[example];
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
    let small = scale(&mut resizer, &picture, width, height).ok()?;
    let jpeg = jpeg_of(&small.bytes, width, height, 80);
    let text = base64::engine::general_purpose::STANDARD.encode(jpeg);
    Some(format!("data:image/jpeg;base64,{text}"))
}

/// The shares in the order of [`SPLITS`].
fn shares_of(settings: &PreprocessSettings) -> [f64; 3] {
    [
        settings.splits.train,
        settings.splits.validation,
        settings.splits.test,
    ]
}
