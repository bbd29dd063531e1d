//! A user's own pictures: a folder or a `.zip` of one, with `labels.csv`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use marquee_domain::artifact::Digest;
use marquee_domain::report::{FetchSummary, SourceNote};
use zip::ZipArchive;
use zip::result::ZipError;

use super::PICTURE_MAX_BYTES;
use super::books::{Books, Miss};
use super::labels_csv::{self, Row};
use crate::dataset::{DatasetWriter, FilmRow};
use crate::job::{Context, JobError, Step};
use crate::sniff::format_of;

const LABELS_NAME: &str = "labels.csv";
/// Bytes of `labels.csv`, at most: room for several million pictures.
const LABELS_MAX_BYTES: usize = 512 * 1024 * 1024;

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
    path: &Path,
    output: &Path,
    context: &Context,
    started: Instant,
) -> Result<FetchSummary, JobError> {
    let mut files = Files::open(path)?;
    let name = path.join(LABELS_NAME).display().to_string();
    let text = match files.read(LABELS_NAME, LABELS_MAX_BYTES) {
        Ok(text) => text,
        Err(miss) => return Err(JobError::bad_input(unreadable_labels(&name, miss))),
    };
    let rows = labels_csv::parse(&name, &text).map_err(JobError::bad_input)?;
    let total = rows.len() as u64;
    let mut books = Books::open(total);
    let mut writer = DatasetWriter::create(output)?;
    let mut labels: Vec<String> = Vec::new();
    for (done, row) in rows.into_iter().enumerate() {
        if context.stop.is_told() {
            return Err(JobError::Stopped);
        }
        match picture_of(&mut files, &row) {
            Ok(picture) => {
                for label in &row.labels {
                    if !labels.contains(label) {
                        labels.push(label.clone());
                    }
                }
                books.fetched(picture.len());
                writer.push(film_of(row, &picture), picture)?;
            }
            Err(miss) => books.missed(&row.path, miss),
        }
        context.reporter.step(Step {
            phase: "pictures",
            unit: "pictures",
            done: done as u64 + 1,
            total,
            bytes: books.bytes(),
        });
    }
    let books = books.close(started.elapsed().as_secs_f64(), SourceNote::default())?;
    writer.finish(&labels, &books)?;
    Ok(books.summary)
}

fn unreadable_labels(name: &str, miss: Miss) -> String {
    match miss {
        Miss::Gone { .. } => format!(
            "there is no {name}; a folder of pictures needs one, with the header path,labels"
        ),
        Miss::Rejected { detail, .. } | Miss::Failed { detail, .. } => {
            format!("{name} cannot be read: {detail}")
        }
    }
}

fn picture_of(files: &mut Files, row: &Row) -> Result<Vec<u8>, Miss> {
    if row.labels.is_empty() {
        return Err(Miss::Rejected {
            class: "no_labels",
            detail: "its labels are empty".into(),
        });
    }
    let bytes = files.read(&row.path, PICTURE_MAX_BYTES)?;
    if format_of(&bytes).is_none() {
        let detail = "it is no JPEG, PNG or WebP".to_owned();
        return Err(Miss::Rejected {
            class: "unknown_format",
            detail,
        });
    }
    Ok(bytes)
}

fn film_of(row: Row, picture: &[u8]) -> FilmRow {
    FilmRow {
        id: row.path,
        labels: row.labels,
        group: row.group,
        title: None,
        release_date: None,
        popularity: None,
        picture_digest: Digest::of(picture),
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
        let inside = folder_of_labels(&archive).ok_or_else(|| {
            JobError::bad_input(format!(
                "{shown} has no {LABELS_NAME}, neither at its top nor in its one folder; add one with the header path,labels"
            ))
        })?;
        Ok(Self::Zip {
            archive: Box::new(archive),
            inside,
        })
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

/// The folder of an archive that holds `labels.csv`: its top, or a folder there, as archives of a
/// folder have it.
fn folder_of_labels(archive: &ZipArchive<File>) -> Option<String> {
    let places: Vec<String> = archive
        .file_names()
        .filter_map(Result::ok)
        .filter_map(|name| name.strip_suffix(LABELS_NAME).map(str::to_owned))
        .filter(|inside| inside.is_empty() || inside.find('/') == Some(inside.len() - 1))
        .filter(|inside| inside != "__MACOSX/")
        .collect();
    match places.as_slice() {
        [only] => Some(only.clone()),
        several => several.iter().find(|inside| inside.is_empty()).cloned(),
    }
}

/// Reads at most `limit` bytes, whatever size the file claims to have.
fn read_up_to(file: impl Read, limit: usize) -> Result<Vec<u8>, Miss> {
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| miss_of_io(&error))?;
    if bytes.len() > limit {
        let detail = format!("it has more than {limit} bytes");
        return Err(Miss::Rejected {
            class: "too_large",
            detail,
        });
    }
    Ok(bytes)
}

fn miss_of_io(error: &io::Error) -> Miss {
    if error.kind() == io::ErrorKind::NotFound {
        return Miss::Gone {
            detail: "there is no such file".to_owned(),
        };
    }
    Miss::Failed {
        class: "unreadable".to_owned(),
        detail: error.to_string(),
    }
}

fn miss_of_zip(error: &ZipError) -> Miss {
    if let ZipError::Io(error) = error {
        return miss_of_io(error);
    }
    if matches!(error, ZipError::FileNotFound) {
        return Miss::Gone {
            detail: "the archive has no such file".to_owned(),
        };
    }
    Miss::Failed {
        class: "unreadable".to_owned(),
        detail: error.to_string(),
    }
}
