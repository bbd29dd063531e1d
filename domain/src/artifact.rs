//! Artifacts: immutable folders of files, named by what they hold.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

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
    /// Path within the artifact, `/`-separated, never absolute, without `.` or `..`.
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
    #[error("file path {0:?} stands in the manifest twice")]
    Duplicate(String),
    #[error("{0:?} is said to be executable, and is no file of the artifact")]
    NoSuchExecutable(String),
    #[error("folder {0:?} is said to be empty, and holds files, or stands in the manifest twice")]
    NotEmpty(String),
    #[error("an artifact may hold {max} files and empty folders, this one has {count}; pack them into shards", max = crate::limits::ARTIFACT_MAX_FILES)]
    TooMany { count: usize },
    #[error("the paths of an artifact may have {max} bytes together, these have {bytes}; use shorter names, or pack the files into shards", max = crate::limits::ARTIFACT_MAX_PATH_BYTES)]
    PathsTooLong { bytes: usize },
}

impl Manifest {
    /// A manifest of `files` in canonical order, if every path is safe to create under a folder.
    pub fn new(mut files: Vec<FileEntry>) -> Result<Self, InvalidManifest> {
        if files.len() > crate::limits::ARTIFACT_MAX_FILES {
            return Err(InvalidManifest::TooMany { count: files.len() });
        }
        let bytes = files.iter().map(|file| file.path.len()).sum();
        if bytes > crate::limits::ARTIFACT_MAX_PATH_BYTES {
            return Err(InvalidManifest::PathsTooLong { bytes });
        }
        files.sort();
        for file in &files {
            if !is_plain_relative_path(&file.path) {
                return Err(InvalidManifest::Path(file.path.clone()));
            }
        }
        if let Some(pair) = files.windows(2).find(|pair| pair[0].path == pair[1].path) {
            return Err(InvalidManifest::Duplicate(pair[0].path.clone()));
        }
        Ok(Self {
            files,
            executables: Vec::new(),
            empty_folders: Vec::new(),
        })
    }

    /// The same with those of the files that may be executed, and the folders in which there is nothing.
    pub fn with_modes(
        files: Vec<FileEntry>,
        mut executables: Vec<String>,
        mut empty_folders: Vec<String>,
    ) -> Result<Self, InvalidManifest> {
        let count = files.len() + empty_folders.len();
        if count > crate::limits::ARTIFACT_MAX_FILES {
            return Err(InvalidManifest::TooMany { count });
        }
        let manifest = Self::new(files)?;
        let paths = manifest.files.iter().map(|file| &file.path);
        let bytes = paths.chain(&empty_folders).map(String::len).sum();
        if bytes > crate::limits::ARTIFACT_MAX_PATH_BYTES {
            return Err(InvalidManifest::PathsTooLong { bytes });
        }
        executables.sort_unstable();
        executables.dedup();
        if let Some(path) = executables.iter().find(|path| !manifest.has_file(path)) {
            return Err(InvalidManifest::NoSuchExecutable(path.clone()));
        }
        empty_folders.sort_unstable();
        for folder in &empty_folders {
            if !is_plain_relative_path(folder) {
                return Err(InvalidManifest::Path(folder.clone()));
            }
            let below = format!("{folder}/");
            let next = |paths: &[FileEntry]| paths.partition_point(|file| file.path < below);
            let holds_file = manifest
                .files
                .get(next(&manifest.files))
                .is_some_and(|file| file.path.starts_with(&below));
            if holds_file || manifest.has_file(folder) {
                return Err(InvalidManifest::NotEmpty(folder.clone()));
            }
            // Neither a file nor an empty folder can have something below it.
            let mut parents = folder.match_indices('/').map(|(at, _)| &folder[..at]);
            let is_below = |parent: &str| {
                manifest.has_file(parent)
                    || empty_folders
                        .binary_search_by(|known| known.as_str().cmp(parent))
                        .is_ok()
            };
            if let Some(parent) = parents.find(|parent| is_below(parent)) {
                return Err(InvalidManifest::NotEmpty(parent.to_owned()));
            }
        }
        if let Some(pair) = empty_folders.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(InvalidManifest::NotEmpty(pair[0].clone()));
        }
        Ok(Self {
            executables,
            empty_folders,
            ..manifest
        })
    }

    /// The artifact of several, the files of each below a folder of its own.
    pub fn union(parts: Vec<(String, Self)>) -> Result<Self, InvalidManifest> {
        let (mut files, mut executables, mut empty_folders) = (Vec::new(), Vec::new(), Vec::new());
        for (folder, part) in parts {
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

    fn has_file(&self, path: &str) -> bool {
        let found = self
            .files
            .binary_search_by(|file| file.path.as_str().cmp(path));
        found.is_ok()
    }

    /// The artifact's digest: SHA-256 over the line `<file digest>  <path>\n` of each file in path
    /// order, so that `sha256sum` on the files reproduces it. A manifest of [`version`](Self::version) 2 goes
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
        self.files.iter().map(|file| file.size_bytes).sum()
    }
}

fn is_plain_relative_path(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\0', '\\'])
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> FileEntry {
        FileEntry {
            path: path.into(),
            size_bytes: 3,
            digest: Digest::of(b"abc"),
        }
    }

    #[test]
    fn digest_is_that_of_sha256sum_output() {
        // printf abc > b; printf abc > a; sha256sum a b | sha256sum
        let manifest = Manifest::new(vec![file("b"), file("a")]).unwrap();
        assert_eq!(manifest.files[0].path, "a");
        assert_eq!(
            manifest.digest().as_str(),
            "6e0534855d1d183250459e82c311fb77578cf75019787625a10154399462260d",
        );
    }

    #[test]
    fn a_path_that_could_leave_the_folder_is_refused() {
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\\b"] {
            assert_eq!(
                Manifest::new(vec![file(bad)]),
                Err(InvalidManifest::Path(bad.into()))
            );
        }
        assert!(Manifest::new(vec![file("tensorboard/events")]).is_ok());
    }

    #[test]
    fn more_than_one_message_could_carry_is_refused() {
        use crate::limits::{ARTIFACT_MAX_FILES, ARTIFACT_MAX_PATH_BYTES};
        let many = (0..=ARTIFACT_MAX_FILES).map(|i| file(&format!("{i}")));
        assert_eq!(
            Manifest::new(many.collect()),
            Err(InvalidManifest::TooMany {
                count: ARTIFACT_MAX_FILES + 1
            })
        );
        let long = "x".repeat(ARTIFACT_MAX_PATH_BYTES);
        assert!(Manifest::new(vec![file(&long)]).is_ok());
        assert_eq!(
            Manifest::new(vec![file(&long), file("y")]),
            Err(InvalidManifest::PathsTooLong {
                bytes: ARTIFACT_MAX_PATH_BYTES + 1
            })
        );
    }

    #[test]
    fn what_may_be_executed_and_empty_folders_change_the_digest_and_nothing_else_does() {
        let files = || vec![file("run.sh"), file("weights")];
        let plain = Manifest::new(files()).unwrap();
        let with = |executables: &[&str], folders: &[&str]| {
            let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
            Manifest::with_modes(files(), owned(executables), owned(folders))
        };
        let same = with(&[], &[]).unwrap();
        assert_eq!((same.version(), same.digest()), (1, plain.digest()));
        assert_eq!(
            serde_json::to_string(&same).unwrap(),
            serde_json::to_string(&plain).unwrap()
        );
        let mut digests = vec![
            plain.digest(),
            with(&["run.sh"], &[]).unwrap().digest(),
            with(&["weights"], &[]).unwrap().digest(),
            with(&[], &["logs"]).unwrap().digest(),
            with(&["run.sh"], &["logs"]).unwrap().digest(),
        ];
        let both = with(&["run.sh", "run.sh"], &["logs/b", "logs/a"]).unwrap();
        assert!(both.is_executable("run.sh") && !both.is_executable("weights"));
        let read: Manifest = serde_json::from_str(&serde_json::to_string(&both).unwrap()).unwrap();
        assert_eq!((read.version(), read.digest()), (2, both.digest()));
        digests.push(both.digest());
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), 6);
        assert_eq!(
            with(&["gone"], &[]),
            Err(InvalidManifest::NoSuchExecutable("gone".into()))
        );
        for (bad, named) in [
            (vec!["run.sh"], "run.sh"),
            (vec!["run.sh/x"], "run.sh"),
            (vec!["a", "a-b", "a/b"], "a"),
            (vec!["a", "a"], "a"),
        ] {
            assert_eq!(
                with(&[], &bad),
                Err(InvalidManifest::NotEmpty(named.into()))
            );
        }
        assert_eq!(
            with(&[], &["../a"]),
            Err(InvalidManifest::Path("../a".into()))
        );
    }

    #[test]
    fn a_manifest_that_an_older_version_stored_is_read() {
        let stored = format!(
            r#"{{"files":[{{"path":"a","size_bytes":3,"digest":"{}"}}]}}"#,
            Digest::of(b"abc")
        );
        let manifest: Manifest = serde_json::from_str(&stored).unwrap();
        assert_eq!(manifest, Manifest::new(vec![file("a")]).unwrap());
    }

    #[test]
    fn a_path_stands_once() {
        let twice = Manifest::new(vec![file("a"), file("a")]);
        assert_eq!(twice, Err(InvalidManifest::Duplicate("a".into())));
    }
}
