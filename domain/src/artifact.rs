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
    /// Path within the artifact, `/`-separated, never absolute, without `.` or `..`, without control characters.
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
    #[error(
        "file path {0:?} holds a control character, with which one list of files could pass for another; give the file a plain name"
    )]
    Control(String),
    #[error(
        "file path {start:?}... has {bytes} bytes; at most {max} fit, and {name} for each name in it",
        max = ARTIFACT_PATH_MAX_BYTES, name = ARTIFACT_NAME_MAX_BYTES
    )]
    PathTooLong { start: String, bytes: usize },
    #[error("file path {0:?} stands in the manifest twice")]
    Duplicate(String),
    #[error("{file:?} is a file, and {beside:?} would lie in it; give one of them another name")]
    FileAndFolder { file: String, beside: String },
    #[error("{0:?} is said to have {1} bytes and, under the same digest, {2}")]
    TwoSizes(String, u64, u64),
    #[error("an artifact may hold {max} files, this one has {count}; pack them into shards", max = crate::limits::ARTIFACT_MAX_FILES)]
    TooMany { count: usize },
    #[error("the paths of an artifact may have {max} bytes together, these have {bytes}; use shorter names, or pack the files into shards", max = crate::limits::ARTIFACT_MAX_PATH_BYTES)]
    PathsTooLong { bytes: usize },
    #[error("the files of an artifact may have {max} bytes together, and {path:?} goes beyond", max = ARTIFACT_MAX_BYTES)]
    TooLarge { path: String },
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
        let manifest = Self { files };
        manifest.check()?;
        Ok(manifest)
    }

    /// Whether its files can be stored and created as they stand: what [`new`](Self::new) makes sure of, and a
    /// manifest that was stored by an earlier version, or changed by hand, may lack.
    pub fn check(&self) -> Result<(), InvalidManifest> {
        let mut total: u64 = 0;
        let mut sizes: HashMap<&Digest, u64> = HashMap::new();
        for file in &self.files {
            check_path(&file.path)?;
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
        let mut paths: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        paths.sort_unstable();
        if let Some(pair) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(InvalidManifest::Duplicate(pair[0].to_owned()));
        }
        for file in &paths {
            // What would lie in it, sorted, begins here.
            let folder = format!("{file}/");
            let first = paths.partition_point(|path| *path < folder.as_str());
            if let Some(beside) = paths.get(first).filter(|path| path.starts_with(&folder)) {
                return Err(InvalidManifest::FileAndFolder {
                    file: (*file).to_owned(),
                    beside: (*beside).to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The artifact's digest: SHA-256 over the line `<file digest>  <path>\n` of each file in path
    /// order, so that `sha256sum` on the files reproduces it. No path holds a line feed, so that a line is one
    /// file and two different lists never read alike.
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
        // Of a stored manifest nobody may have checked the sum.
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
        !path.contains('\\') && names().all(|name| !name.is_empty() && name != "." && name != "..");
    if is_plain {
        Ok(())
    } else {
        Err(InvalidManifest::Path(path.to_owned()))
    }
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
        let long = |index: usize| format!("{index:0255}/{}", "x".repeat(255));
        let fits = ARTIFACT_MAX_PATH_BYTES / 511;
        let paths = |count| (0..count).map(|index| file(&long(index))).collect();
        assert!(Manifest::new(paths(fits)).is_ok());
        assert_eq!(
            Manifest::new(paths(fits + 1)),
            Err(InvalidManifest::PathsTooLong {
                bytes: (fits + 1) * 511
            })
        );
    }

    #[test]
    fn what_no_folder_can_hold_is_refused() {
        let refused = |paths: &[&str]| {
            let files = paths.iter().map(|path| file(path)).collect();
            Manifest::new(files).unwrap_err()
        };
        let clash = |file: &str, beside: &str| InvalidManifest::FileAndFolder {
            file: file.into(),
            beside: beside.into(),
        };
        assert_eq!(refused(&["a", "a/b"]), clash("a", "a/b"));
        assert_eq!(refused(&["a-", "a/b/c", "a", "a0"]), clash("a", "a/b/c"));
        assert_eq!(refused(&["x/y/z", "x/y"]), clash("x/y", "x/y/z"));
        let fine = ["a", "a-b", "a.b", "ab/a", "b/a"].map(file);
        assert!(Manifest::new(fine.into()).is_ok());
        for long in ["x".repeat(256), "x/".repeat(1_600) + "x"] {
            let error = refused(&[&long]);
            assert!(
                matches!(error, InvalidManifest::PathTooLong { .. }),
                "{error}"
            );
            assert!(error.to_string().len() < 200);
        }
    }

    /// Such a name made the digest of one folder from the files of another.
    #[test]
    fn no_name_of_a_file_forges_the_digest_of_another_folder() {
        let honest = Manifest::new(vec![file("a"), file("b")]).unwrap();
        let forged = Manifest {
            files: vec![file(&format!("a\n{}  b", Digest::of(b"abc")))],
        };
        assert_eq!(forged.digest(), honest.digest());
        let path = forged.files[0].path.clone();
        assert_eq!(forged.check(), Err(InvalidManifest::Control(path)));
        for control in ["a\nb", "a\0b", "\u{1b}[2J", "\u{7f}", "\u{9b}x", "a\r"] {
            assert_eq!(
                Manifest::new(vec![file(control)]),
                Err(InvalidManifest::Control(control.into()))
            );
        }
    }

    #[test]
    fn sizes_that_no_disk_has_are_refused() {
        let sized = |path: &str, size_bytes| FileEntry {
            path: path.into(),
            size_bytes,
            digest: Digest::of(path.as_bytes()),
        };
        let too_large = |path: &str| InvalidManifest::TooLarge { path: path.into() };
        for (sizes, wanted) in [
            ([u64::MAX, 0], "a"),
            ([1 << 63, 1 << 63], "a"),
            ([1, u64::MAX], "b"),
            ([ARTIFACT_MAX_BYTES, 1], "b"),
        ] {
            let files = vec![sized("a", sizes[0]), sized("b", sizes[1])];
            assert_eq!(Manifest::new(files.clone()), Err(too_large(wanted)));
            // As it may be stored: nothing that reads it overflows.
            assert!(Manifest { files }.size_bytes() >= 1);
        }
        let fits = vec![sized("a", ARTIFACT_MAX_BYTES - 1), sized("b", 1)];
        assert_eq!(
            Manifest::new(fits).unwrap().size_bytes(),
            ARTIFACT_MAX_BYTES
        );
        let same = |path: &str, size_bytes| FileEntry {
            size_bytes,
            ..file(path)
        };
        assert_eq!(
            Manifest::new(vec![same("a", 3), same("b", 4)]),
            Err(InvalidManifest::TwoSizes("b".into(), 3, 4))
        );
    }

    #[test]
    fn a_path_stands_once() {
        let twice = Manifest::new(vec![file("a"), file("a")]);
        assert_eq!(twice, Err(InvalidManifest::Duplicate("a".into())));
    }
}
