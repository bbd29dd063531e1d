//! A user's own pictures: a folder or a `.zip` of one, with `labels.csv`, in Kaggle's layout, or with
//! one folder a label.
//!
//! Not here: a journal. The files are on this machine, and reading them again is cheap.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use marquee_domain::artifact::Digest;
use marquee_domain::report::{FetchSummary, SourceNote};
use marquee_domain::spec::FetchSettings;
use zip::ZipArchive;
use zip::result::ZipError;

use super::PICTURE_MAX_BYTES;
use super::books::Books;
use super::files::{miss_of_io, name_of, no_such_file, read_up_to};
use super::labels::Labels;
use super::labels_csv::{self, LabelsRow};
use super::miss::{Miss, MissClass};
use super::place::{Workplace, on_disk};
use super::{layouts, terms};
use crate::dataset::{DatasetWriter, Example};
use crate::job::{Context, FETCHED, JobError, Step};
use crate::sniff::format_of;

const LABELS_NAME: &str = "labels.csv";
/// Bytes of `labels.csv`, at most: room for several million pictures.
const LABELS_MAX_BYTES: usize = 512 * 1024 * 1024;
/// Folders within folders that are looked into.
const DEPTH_MAX: usize = 8;

/// Where the files are.
#[derive(Debug)]
enum Files {
    Folder(PathBuf),
    /// An archive, and the folder within it that holds `labels.csv` (empty, or with a final `/`).
    Zip {
        archive: Box<ZipArchive<File>>,
        inside: String,
    },
}

pub(super) fn run(
    fetch: &FetchSettings,
    path: &Path,
    place: &Workplace<'_>,
    context: &Context,
) -> Result<FetchSummary, JobError> {
    let mut files = Files::open(path)?;
    let rows = rows_of(&mut files, path)?;
    if rows.is_empty() {
        return Err(JobError::bad_input(format!(
            "{} names no picture; write one line a picture below the header path,labels",
            path.display()
        )));
    }
    let total = rows.len() as u64;
    let mut books = Books::open(total, 0);
    let mut writer = DatasetWriter::create(place.output)?;
    let mut labels = Labels::new(&[]);
    let name = name_of(path);
    for (done, row) in rows.into_iter().enumerate() {
        if context.stop.is_told() {
            return Err(JobError::Stopped);
        }
        match picture_of(&mut files, &row) {
            Ok(picture) => {
                for label in &row.labels {
                    labels.name_of(&(None, label.clone()));
                }
                books.fetched(picture.len(), false);
                writer.settled(&row.path, FETCHED, None)?;
                writer.push(example_of(row, &picture, fetch, &name), picture)?;
            }
            Err(miss) => {
                let class = miss.class();
                writer.settled(&row.path, miss.outcome(), Some((&class, miss.detail())))?;
                books.missed(&row.path, &miss);
            }
        }
        context.reporter.step(Step {
            phase: "pictures",
            unit: "pictures",
            done: done as u64 + 1,
            total,
            bytes: books.bytes(),
            counts: books.misses(),
        });
    }
    let today = (context.clock)().date_naive();
    let note = SourceNote {
        name,
        licence: fetch.licence.clone(),
        use_until: terms::use_until(fetch, false, today),
        ..SourceNote::default()
    };
    let seconds = place.started.elapsed().as_secs_f64();
    let books = books.close(seconds, note, &today.to_string())?;
    writer.finish(&labels.names, &books)?;
    Ok(books.summary)
}

/// What the folder says about its pictures, in whichever layout it has.
fn rows_of(files: &mut Files, path: &Path) -> Result<Vec<LabelsRow>, JobError> {
    let name = path.join(LABELS_NAME).display().to_string();
    match files.read(LABELS_NAME, LABELS_MAX_BYTES) {
        Ok(text) => return labels_csv::parse(&name, &text).map_err(JobError::bad_input),
        // Then the other layouts are tried.
        Err(Miss::Gone { .. }) => {}
        Err(miss) => {
            return Err(JobError::bad_input(format!(
                "{name} cannot be read: {}",
                miss.detail()
            )));
        }
    }
    let names = files.names()?;
    // One that lies deeper is meant for its own folder, not to be passed over.
    if let Some(folder) = names
        .iter()
        .find_map(|file| file.strip_suffix(LABELS_NAME)?.strip_suffix('/'))
    {
        return Err(JobError::bad_input(format!(
            "there is no {name}, but one in its folder {folder}; move it to the top, or give that folder \
             as path"
        )));
    }
    if let Some(table) = layouts::table_of(&names) {
        let shown = path.join(table).display().to_string();
        let text = files.read(table, LABELS_MAX_BYTES).map_err(|miss| {
            JobError::bad_input(format!("{shown} cannot be read: {}", miss.detail()))
        })?;
        return layouts::rows_of_table(&shown, &text, &names).map_err(JobError::bad_input);
    }
    let rows = layouts::rows_of_folders(&names);
    if rows.is_empty() {
        return Err(JobError::bad_input(format!(
            "there is no {name}; a folder of pictures needs one, with the header path,labels (or a table \
             as Kaggle's sets have it, or one folder a label)"
        )));
    }
    Ok(rows)
}

fn picture_of(files: &mut Files, row: &LabelsRow) -> Result<Vec<u8>, Miss> {
    if row.labels.is_empty() {
        return Err(Miss::rejected(MissClass::NoLabels, "its labels are empty"));
    }
    let bytes = files.read(&row.path, PICTURE_MAX_BYTES)?;
    if format_of(&bytes).is_none() {
        let detail = "it is no JPEG, PNG or WebP";
        return Err(Miss::rejected(MissClass::UnknownFormat, detail));
    }
    Ok(bytes)
}

fn example_of(row: LabelsRow, picture: &[u8], fetch: &FetchSettings, source: &str) -> Example {
    Example {
        id: row.path,
        labels: row.labels,
        label_ids: Vec::new(),
        group: row.group,
        title: None,
        release_date: None,
        popularity: None,
        language: None,
        picture_bytes: picture.len() as u64,
        picture_digest: Digest::of(picture),
        picture_etag: None,
        picture_modified: None,
        details_etag: None,
        licence: fetch.licence.clone(),
        source: source.to_owned(),
    }
}

impl Files {
    fn open(path: &Path) -> Result<Self, JobError> {
        let shown = path.display();
        let found = fs::metadata(path).map_err(|error| {
            JobError::user(format!("{shown} cannot be opened on this worker: {error}"))
        })?;
        if found.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let file = File::open(path)
            .map_err(|error| JobError::user(format!("{shown} cannot be opened: {error}")))?;
        let archive = ZipArchive::new(file).map_err(|error| {
            JobError::bad_input(format!(
                "{shown} is neither a folder nor a .zip archive: {error}"
            ))
        })?;
        let inside = inside_of(&archive);
        Ok(Self::Zip {
            archive: Box::new(archive),
            inside,
        })
    }

    /// The names of all files, in order.
    fn names(&self) -> Result<Vec<String>, JobError> {
        match self {
            Self::Folder(folder) => {
                let mut names = Vec::new();
                names_below(folder, "", 0, &mut names).map_err(|error| on_disk(folder, &error))?;
                Ok(names)
            }
            Self::Zip { archive, inside } => {
                let mut names: Vec<String> = names_in(archive)
                    .filter_map(|name| name.strip_prefix(inside.as_str()).map(str::to_owned))
                    .collect();
                names.sort();
                Ok(names)
            }
        }
    }

    /// The bytes of the file at `path`, if there are at most `limit`.
    fn read(&mut self, path: &str, limit: usize) -> Result<Vec<u8>, Miss> {
        match self {
            Self::Folder(folder) => {
                let file = File::open(folder.join(path)).map_err(|error| miss_of_io(&error))?;
                read_up_to(file, limit)
            }
            Self::Zip { archive, inside } => {
                let file = archive
                    .by_name(&format!("{inside}{path}"))
                    .map_err(|error| miss_of_zip(&error))?;
                read_up_to(file, limit)
            }
        }
    }
}

/// The folder of an archive in which everything is: its top, or the folder there that holds
/// `labels.csv`, or the only one, as archives of a folder have it.
fn inside_of(archive: &ZipArchive<File>) -> String {
    let names: Vec<String> = names_in(archive).collect();
    let labels: Vec<&str> = names
        .iter()
        .filter_map(|name| name.strip_suffix(LABELS_NAME))
        .filter(|inside| inside.is_empty() || inside.find('/') == Some(inside.len() - 1))
        .collect();
    match labels.as_slice() {
        [only] => return (*only).to_owned(),
        [] => {}
        several if several.contains(&"") => return String::new(),
        _ => {}
    }
    let mut tops: Vec<&str> = names
        .iter()
        .map(|name| name.split_once('/').map_or("", |(top, _)| top))
        .collect();
    tops.sort_unstable();
    tops.dedup();
    let has_table = names.iter().any(|name| name.ends_with(".csv"));
    match tops.as_slice() {
        // A single folder of pictures is a label, unless there is a table in it.
        [only] if !only.is_empty() && has_table => format!("{only}/"),
        _ => String::new(),
    }
}

/// The files of an archive, without what Apple's archiver adds.
fn names_in(archive: &ZipArchive<File>) -> impl Iterator<Item = String> {
    archive
        .file_names()
        .filter_map(Result::ok)
        .filter(|name| !name.ends_with('/') && !name.starts_with("__MACOSX/"))
        .map(|name| name.to_string())
}

/// The files below `folder`, as paths joined by `/`, down to [`DEPTH_MAX`] folders.
fn names_below(
    folder: &Path,
    prefix: &str,
    depth: usize,
    names: &mut Vec<String>,
) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        // A link may lead anywhere, also in a circle.
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < DEPTH_MAX {
            names_below(&entry.path(), &format!("{name}/"), depth + 1, names)?;
        } else if kind.is_file() {
            names.push(name);
        }
    }
    Ok(())
}

fn miss_of_zip(error: &ZipError) -> Miss {
    if let ZipError::Io(error) = error {
        return miss_of_io(error);
    }
    if matches!(error, ZipError::FileNotFound) {
        return no_such_file();
    }
    Miss::failed(MissClass::Unreadable, error.to_string())
}
