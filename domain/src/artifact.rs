//! Artifacts: immutable folders of files, named by what they hold.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::limits::{ARTIFACT_MAX_BYTES, ARTIFACT_NAME_MAX_BYTES, ARTIFACT_PATH_MAX_BYTES};

/// A SHA-256 digest in lowercase hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 lowercase hexadecimal digits (SHA-256)")]
pub struct InvalidDigest;

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(&Sha256::digest(bytes))
    }

    /// The digest from the 32 bytes of a finished hash.
    #[must_use]
    pub fn from_hash(hash: &[u8]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(64);
        for byte in hash {
            // Lowercase, as the check on the way in wants it: both sides compare digests as text.
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        }
        Self(text)
    }

    /// The digest as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        // Lowercase alone: digests are compared as text, in Postgres and in file names, where two spellings would
        // be two files.
        let is_hex = text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if text.len() == 64 && is_hex {
            Ok(Self(text))
        } else {
            Err(InvalidDigest)
        }
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        Self::try_from(text.to_owned())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path within the artifact, `/`-separated, never absolute, without `.` or `..`, without control characters.
    pub path: String,
    pub size_bytes: u64,
    pub digest: Digest,
}

/// What an artifact holds: its files, sorted by path, and what is to be known of them beside their bytes.
///
/// What has neither executable files nor empty folders is written and digested as it was before there were
/// such fields.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Manifest {
    pub files: Vec<FileEntry>,
    /// Paths of the files that may be executed, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub executables: Vec<String>,
    /// Folders in which there is nothing, sorted. The others follow from the files' paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub empty_folders: Vec<String>,
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    #[error(
        "file path {0:?} is not a plain relative path; use names joined by \"/\" without \".\" or \"..\""
    )]
    Path(String),
    #[error(
        "file path {0:?} holds a control character, with which one list of files could pass for another; give the file a plain name"
    )]
    Control(String),
    #[error(
        "file path {start:?}... has {bytes} bytes; at most {max} fit, and {name} for each name in it",
        max = ARTIFACT_PATH_MAX_BYTES, name = ARTIFACT_NAME_MAX_BYTES
    )]
    PathTooLong { start: String, bytes: usize },
    #[error(
        "its paths do not stand in their order, or stand in it twice; it was changed since it was made"
    )]
    Disordered,
    #[error("file path {0:?} stands in the manifest twice")]
    Duplicate(String),
    #[error("{file:?} is a file, and {beside:?} would lie in it; give one of them another name")]
    FileAndFolder { file: String, beside: String },
    #[error("{0:?} is said to have {1} bytes and, under the same digest, {2}")]
    TwoSizes(String, u64, u64),
    #[error("{0:?} is said to be executable, and is no file of the artifact")]
    NoSuchExecutable(String),
    #[error("folder {0:?} is said to be empty, and holds files, or stands in the manifest twice")]
    NotEmpty(String),
    #[error("an artifact may hold {max} files and empty folders, this one has {count}; pack them into shards", max = crate::limits::ARTIFACT_MAX_FILES)]
    TooMany { count: usize },
    #[error("the paths of an artifact may have {max} bytes together, these have {bytes}; use shorter names, or pack the files into shards", max = crate::limits::ARTIFACT_MAX_PATH_BYTES)]
    PathsTooLong { bytes: usize },
    #[error("the files of an artifact may have {max} bytes together, and {path:?} goes beyond", max = ARTIFACT_MAX_BYTES)]
    TooLarge { path: String },
}

impl Manifest {
    /// A manifest of `files` in canonical order, if every path is safe to create under a folder.
    pub fn new(files: Vec<FileEntry>) -> Result<Self, InvalidManifest> {
        Self::with_modes(files, Vec::new(), Vec::new())
    }

    /// The same with those of the files that may be executed, and the folders in which there is nothing.
    pub fn with_modes(
        mut files: Vec<FileEntry>,
        mut executables: Vec<String>,
        mut empty_folders: Vec<String>,
    ) -> Result<Self, InvalidManifest> {
        let count = files.len() + empty_folders.len();
        // Before anything is sorted or compared: a list without end is to cost nothing.
        if count > crate::limits::ARTIFACT_MAX_FILES {
            return Err(InvalidManifest::TooMany { count });
        }
        let paths = files.iter().map(|file| &file.path);
        let bytes = paths.chain(&empty_folders).map(String::len).sum();
        if bytes > crate::limits::ARTIFACT_MAX_PATH_BYTES {
            return Err(InvalidManifest::PathsTooLong { bytes });
        }
        // One order for all: the digest is over the files as they stand, and must not depend on how a folder was
        // read.
        files.sort();
        executables.sort_unstable();
        // Said twice it is still one executable file; of files the same would be two contents under
        // one name.
        executables.dedup();
        empty_folders.sort_unstable();
        let manifest = Self {
            files,
            executables,
            empty_folders,
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// The artifact of several, the files of each below a folder of its own.
    pub fn union(parts: Vec<(String, Self)>) -> Result<Self, InvalidManifest> {
        let (mut files, mut executables, mut empty_folders) = (Vec::new(), Vec::new(), Vec::new());
        for (folder, part) in parts {
            // Each in a folder of its own: elements of an array write files of the same names.
            let below = |path: String| format!("{folder}/{path}");
            files.extend(part.files.into_iter().map(|file| FileEntry {
                path: below(file.path),
                ..file
            }));
            executables.extend(part.executables.into_iter().map(below));
            empty_folders.extend(part.empty_folders.into_iter().map(below));
        }
        Self::with_modes(files, executables, empty_folders)
    }

    /// Whether its files can be stored and created as they stand: what [`new`](Self::new) makes sure of, and a
    /// manifest that was stored by an earlier version, or changed by hand, may lack.
    pub fn check(&self) -> Result<(), InvalidManifest> {
        let mut total: u64 = 0;
        let mut sizes: HashMap<&Digest, u64> = HashMap::new();
        for file in &self.files {
            check_path(&file.path)?;
            // One digest is one content, so that two sizes under it are a lie or a mistake; the store would keep
            // the first and hand out the wrong one.
            let size = *sizes.entry(&file.digest).or_insert(file.size_bytes);
            if size != file.size_bytes {
                let path = file.path.clone();
                return Err(InvalidManifest::TwoSizes(path, size, file.size_bytes));
            }
            let sum = total.checked_add(file.size_bytes);
            total = sum
                .filter(|total| *total <= ARTIFACT_MAX_BYTES)
                .ok_or_else(|| InvalidManifest::TooLarge {
                    path: file.path.clone(),
                })?;
        }
        // In another order it has another digest, and who searches it finds nothing.
        let ascends = |paths: &[String]| paths.is_sorted_by(|one, next| one < next);
        if !self.files.is_sorted_by(|one, next| one.path <= next.path)
            || !ascends(&self.executables)
            || !self.empty_folders.is_sorted()
        {
            return Err(InvalidManifest::Disordered);
        }
        let paths: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        if let Some(pair) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(InvalidManifest::Duplicate(pair[0].to_owned()));
        }
        for file in &paths {
            // What would lie in it, sorted, begins here.
            // Not the next path: "a-b" sorts between "a" and "a/b", since "-" comes before "/".
            let folder = format!("{file}/");
            let first = paths.partition_point(|path| *path < folder.as_str());
            if let Some(beside) = paths.get(first).filter(|path| path.starts_with(&folder)) {
                return Err(InvalidManifest::FileAndFolder {
                    file: (*file).to_owned(),
                    beside: (*beside).to_owned(),
                });
            }
        }
        // The rest is about names alone, and relies on the order that was just checked: it searches
        // by halves.
        self.check_modes(&paths)
    }

    /// What is said of files and folders beside their bytes. `paths` are those of the files, sorted.
    fn check_modes(&self, paths: &[&str]) -> Result<(), InvalidManifest> {
        let is_file = |path: &str| paths.binary_search(&path).is_ok();
        if let Some(path) = self.executables.iter().find(|path| !is_file(path)) {
            return Err(InvalidManifest::NoSuchExecutable(path.clone()));
        }
        let mut folders: Vec<&str> = self.empty_folders.iter().map(String::as_str).collect();
        folders.sort_unstable();
        for folder in &folders {
            check_path(folder)?;
            // Paths are sorted, so that whatever lies in the folder begins right behind this.
            let below = format!("{folder}/");
            let next = paths.partition_point(|path| *path < below.as_str());
            let holds_file = paths.get(next).is_some_and(|path| path.starts_with(&below));
            // Neither a file nor an empty folder can have something below it.
            let mut parents = folder.match_indices('/').map(|(at, _)| &folder[..at]);
            let is_below = |parent: &str| is_file(parent) || folders.binary_search(&parent).is_ok();
            if holds_file || is_file(folder) {
                return Err(InvalidManifest::NotEmpty((*folder).to_owned()));
            }
            if let Some(parent) = parents.find(|parent| is_below(parent)) {
                return Err(InvalidManifest::NotEmpty(parent.to_owned()));
            }
        }
        match folders.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(InvalidManifest::NotEmpty(pair[0].to_owned())),
            None => Ok(()),
        }
    }

    /// Which form it is in: 1 has files alone; 2 says more of them, and an older reader would lose that.
    #[must_use]
    pub fn version(&self) -> u32 {
        if self.executables.is_empty() && self.empty_folders.is_empty() {
            1
        } else {
            2
        }
    }

    /// Whether a file may be executed.
    #[must_use]
    pub fn is_executable(&self, path: &str) -> bool {
        let found = self
            .executables
            .binary_search_by(|known| known.as_str().cmp(path));
        found.is_ok()
    }

    /// The artifact's digest: SHA-256 over the line `<file digest>  <path>\n` of each file in path
    /// order, so that `sha256sum` on the files reproduces it. No path holds a line feed, so that a line is one
    /// file and two different lists never read alike. A manifest of [`version`](Self::version) 2 goes
    /// on with a line that says so, and then `x  <path>\n` for each executable file and `d  <path>\n` for
    /// each empty folder: no such line is one of a file, whose first 64 characters are a digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        for file in &self.files {
            hash.update(file.digest.as_str());
            hash.update("  ");
            hash.update(&file.path);
            hash.update("\n");
        }
        if self.version() > 1 {
            // A line that no list of files can hold: an older manifest never gets the digest of a newer one.
            hash.update("marquee manifest 2\n");
        }
        for (kind, paths) in [("x", &self.executables), ("d", &self.empty_folders)] {
            for path in paths {
                hash.update(format!("{kind}  {path}\n"));
            }
        }
        Digest::from_hash(&hash.finalize())
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        // Nobody may have checked the sum of a manifest that was stored.
        let sizes = self.files.iter().map(|file| file.size_bytes);
        sizes.fold(0, u64::saturating_add)
    }
}

fn check_path(path: &str) -> Result<(), InvalidManifest> {
    let bytes = path.len();
    let names = || path.split('/');
    if bytes > ARTIFACT_PATH_MAX_BYTES || names().any(|name| name.len() > ARTIFACT_NAME_MAX_BYTES) {
        let start = path[..path.floor_char_boundary(60)].to_owned();
        return Err(InvalidManifest::PathTooLong { start, bytes });
    }
    if path.chars().any(char::is_control) {
        return Err(InvalidManifest::Control(path.to_owned()));
    }
    let is_plain =
        // A backslash separates folders on Windows, and in some tools everywhere: what is one name here would be
        // a path there.
        !path.contains('\\') && names().all(|name| !name.is_empty() && name != "." && name != "..");
    if is_plain {
        Ok(())
    } else {
        Err(InvalidManifest::Path(path.to_owned()))
    }
}

#[cfg(test)]
mod tests;
