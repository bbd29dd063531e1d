//! A `.zip` of pictures, read in place.
//!
//! Invariant: what is read of it is bounded by its size. Entries that share bytes are refused, since a few
//! bytes could otherwise be read as any number of files; and what is unpacked in all has a limit, since
//! pictures hardly shrink.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use super::litter::{Kind, PassedOver, kind_of_name};
use crate::fetch::files::{no_such_file, open_plain, read_or};
use crate::fetch::miss::{Miss, MissClass};
use crate::job::JobError;

/// How often larger than an archive its files may be together.
const RATIO_MAX: u64 = 100;
/// Bytes that any archive may unpack to: a small one may hold a long table.
const UNPACKED_FREE_BYTES: u64 = 1024 * 1024 * 1024;
/// Bytes of an entry's header, at least.
const HEADER_BYTES: u64 = 30;

/// An archive whose files are known.
pub(super) struct Archive {
    zip: ZipArchive<File>,
    shown: String,
    /// Paths joined by `/`, in order.
    pub(super) names: Vec<String>,
    /// By path: the entry's number.
    entries: HashMap<String, usize>,
    pub(super) passed: PassedOver,
    pub(super) warnings: Vec<String>,
    unpacked: u64,
    unpacked_max: u64,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive")
            .field("shown", &self.shown)
            .field("files", &self.names.len())
            .finish_non_exhaustive()
    }
}

impl Archive {
    pub(super) fn open(path: &Path) -> Result<Self, JobError> {
        let shown = path.display().to_string();
        let cannot = |error: std::io::Error| {
            JobError::user(format!("{shown} cannot be opened on this worker: {error}"))
        };
        let mut file = open_plain(path).map_err(cannot)?;
        let bytes = file.metadata().map_err(cannot)?.len();
        let mut start = Vec::new();
        (&mut file)
            // The mark of a .tar stands 257 bytes behind its beginning.
            .take(300)
            .read_to_end(&mut start)
            .map_err(cannot)?;
        if let Some(kind) = other_archive(&start) {
            return Err(JobError::bad_input(format!(
                "{shown} is {kind}, which is not read; unpack it and give the folder, or pack it as .zip"
            )));
        }
        let zip = ZipArchive::new(file).map_err(|error| {
            JobError::bad_input(format!(
                "{shown} is neither a folder nor a .zip archive: {error}"
            ))
        })?;
        let mut archive = Self {
            zip,
            shown,
            names: Vec::new(),
            entries: HashMap::new(),
            passed: PassedOver::default(),
            warnings: Vec::new(),
            unpacked: 0,
            unpacked_max: UNPACKED_FREE_BYTES.max(bytes.saturating_mul(RATIO_MAX)),
        };
        archive.list()?;
        Ok(archive)
    }

    /// Takes note of all entries, and refuses an archive whose entries share bytes.
    fn list(&mut self) -> Result<(), JobError> {
        if self.zip.has_duplicate_names() {
            self.warnings.push(
                "the archive holds several files of one name; the last of each counts".to_owned(),
            );
        }
        let mut places: Vec<(u64, u64, usize)> = Vec::with_capacity(self.zip.len());
        for number in 0..self.zip.len() {
            // An entry that cannot be read is passed over here; a row that names it will say that
            // there is no such file.
            let Ok(entry) = self.zip.by_index_data(number) else {
                continue;
            };
            let start = entry.header_start();
            let end = start
                // The least that a header takes: names and extra fields may make it longer, and
                // then its neighbours lie further apart.
                .saturating_add(HEADER_BYTES)
                .saturating_add(entry.compressed_size());
            places.push((start, end, number));
            let name = match entry.name() {
                Ok(name) => name.into_owned(),
                // No message could name it, no table does.
                Err(_) => String::from_utf8_lossy(entry.name_raw()).into_owned(),
            };
            let (is_dir, is_link) = (entry.is_dir(), entry.is_symlink());
            drop(entry);
            self.take(number, &name, is_dir, is_link)?;
        }
        // In order of their beginnings: those that share bytes are then neighbours.
        places.sort_unstable();
        let shared = places.windows(2).find(|pair| pair[0].1 > pair[1].0);
        if let Some([(.., first), (.., second)]) = shared {
            let name = |number: usize| match self.zip.name_for_index(number) {
                Some(Ok(name)) => name.into_owned(),
                Some(Err(_)) | None => format!("entry {number}"),
            };
            return Err(JobError::bad_input(format!(
                "the entries {:?} and {:?} of {} share bytes: it is damaged, or made to unpack to far more than \
                 it holds; pack it again",
                name(*first),
                name(*second),
                self.shown
            )));
        }
        self.names.sort();
        Ok(())
    }

    fn take(
        &mut self,
        number: usize,
        name: &str,
        is_dir: bool,
        is_link: bool,
    ) -> Result<(), JobError> {
        // Archivers of Windows write its own separator.
        let path = name.replace('\\', "/");
        if is_dir || path.ends_with('/') {
            return Ok(());
        }
        let parts: Vec<&str> = path
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect();
        let path = parts.join("/");
        let aside = if parts.contains(&"..") || path.is_empty() {
            Some((Kind::OddName, name.to_owned()))
        } else if is_link {
            Some((Kind::ArchiveLink, path.clone()))
        } else {
            (0..parts.len()).find_map(|at| Some((kind_of_name(parts[at])?, parts[..=at].join("/"))))
        };
        if let Some((kind, path)) = aside {
            self.passed.add(kind, &path);
            return Ok(());
        }
        if self.entries.insert(path.clone(), number).is_some() {
            return Err(JobError::bad_input(format!(
                "{} holds {path:?} twice, once with / and once with \\ in its name; pack it again",
                self.shown
            )));
        }
        self.names.push(path);
        Ok(())
    }

    /// The bytes of the file at `path`, if there are at most `limit`; or the end of the job.
    pub(super) fn read(
        &mut self,
        path: &str,
        limit: usize,
    ) -> Result<Result<Vec<u8>, Miss>, JobError> {
        let Some(number) = self.entries.get(path) else {
            return Ok(Err(no_such_file()));
        };
        let read = match self.zip.by_index(*number) {
            Ok(file) => read_or(file, limit, miss_of_reading),
            Err(error) => Err(miss_of_zip(&error)),
        };
        self.unpacked = self.unpacked.saturating_add(match &read {
            Ok(bytes) => bytes.len() as u64,
            Err(Miss::Rejected {
                class: MissClass::TooLarge,
                ..
            // So much was unpacked before it was given up.
            }) => limit as u64,
            Err(Miss::Rejected { .. } | Miss::Gone { .. } | Miss::Failed { .. }) => 0,
        });
        if self.unpacked > self.unpacked_max {
            return Err(JobError::bad_input(format!(
                "{} unpacks to more than {} bytes, {RATIO_MAX} times its size: no pictures shrink so much; if it is \
                 right, unpack it and give the folder",
                self.shown, self.unpacked_max
            )));
        }
        Ok(read)
    }
}

/// What a file that is no `.zip` is instead, where it is an archive.
fn other_archive(start: &[u8]) -> Option<&'static str> {
    match start {
        [0x1f, 0x8b, ..] => Some("packed with gzip, as a .tar.gz is"),
        [b'B', b'Z', b'h', ..] => Some("packed with bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("packed with xz"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("packed with zstd"),
        [b'7', b'z', 0xbc, 0xaf, ..] => Some("a .7z archive"),
        [b'R', b'a', b'r', b'!', ..] => Some("a .rar archive"),
        _ if start.get(257..262) == Some(b"ustar") => Some("a .tar archive"),
        _ => None,
    }
}

/// What an error of unpacking is: the archive's own, where it is one.
fn miss_of_reading(error: &io::Error) -> Miss {
    let own = error
        .get_ref()
        .and_then(|own| own.downcast_ref::<ZipError>());
    match own {
        Some(own) => miss_of_zip(own),
        None => Miss::failed(MissClass::Unreadable, error.to_string()),
    }
}

fn miss_of_zip(error: &ZipError) -> Miss {
    if let ZipError::Io(error) = error {
        return miss_of_reading(error);
    }
    if matches!(error, ZipError::FileNotFound) {
        return no_such_file();
    }
    let detail = if let ZipError::CompressionMethodNotSupported(method) = error {
        format!(
            "it is packed with method {method}{}, which is not read; pack the archive with Deflate (zip -r), or \
             unpack it and give the folder",
            method_of(*method)
        )
    } else if matches!(
        error,
        ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED)
    ) {
        "it needs a password; unpack the archive and give the folder".to_owned()
    } else {
        error.to_string()
    };
    Miss::failed(MissClass::Unreadable, detail)
}

/// The name of a method of packing, by the numbers of the format's specification (APPNOTE, 4.4.5).
fn method_of(number: u16) -> &'static str {
    match number {
        1 => " (Shrink)",
        6 => " (Implode)",
        12 => " (bzip2)",
        14 => " (LZMA)",
        93 => " (zstd)",
        94 => " (MP3)",
        95 => " (xz)",
        96 => " (JPEG)",
        98 => " (PPMd)",
        99 => " (encrypted with AES)",
        _ => "",
    }
}
