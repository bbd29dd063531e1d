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

/// What an artifact holds: its files, sorted by path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Manifest {
    pub files: Vec<FileEntry>,
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
    #[error("an artifact may hold {max} files, this one has {count}; pack them into shards", max = crate::limits::ARTIFACT_MAX_FILES)]
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
        Ok(Self { files })
    }

    /// The artifact's digest: SHA-256 over the line `<file digest>  <path>\n` of each file in path
    /// order, so that `sha256sum` on the files reproduces it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        for file in &self.files {
            hash.update(file.digest.as_str());
            hash.update("  ");
            hash.update(&file.path);
            hash.update("\n");
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
    fn a_path_stands_once() {
        let twice = Manifest::new(vec![file("a"), file("a")]);
        assert_eq!(twice, Err(InvalidManifest::Duplicate("a".into())));
    }
}
