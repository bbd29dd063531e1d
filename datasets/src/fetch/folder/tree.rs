//! A folder of pictures on disk: the names of its files, links followed.
//!
//! A link is followed wherever it leads, to plain files and folders, since class folders are often links to
//! where the pictures are; what leads out of the folder is counted and said. A folder that is
//! already on the way to itself is a circle.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::litter::{Kind, PassedOver, kind_of_name};
use crate::fetch::files::{miss_of_io, note_of_links, open_plain, read_up_to};
use crate::fetch::miss::Miss;
use crate::job::JobError;

/// Folders within folders that are looked into.
const DEPTH_MAX: usize = 32;
/// Files of a folder, at most.
const FILES_MAX: usize = 20_000_000;
/// Folders that are looked into, at most: links from a few folders to each other make any number of ways.
const FOLDERS_MAX: u64 = 1_000_000;

/// A folder whose files are known.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    /// Paths below the root, joined by `/`, in order.
    pub(super) names: Vec<String>,
    /// Where files lie whose names are no UTF-8, by the name that they got.
    odd: HashMap<String, PathBuf>,
    pub(super) passed: PassedOver,
    /// Links that lead out of the folder: how many, and the first with where it leads.
    out: (u64, Option<(String, PathBuf)>),
}

impl Tree {
    pub(super) fn open(root: &Path) -> Result<Self, JobError> {
        Self::open_within(root, FOLDERS_MAX)
    }

    fn open_within(root: &Path, folders_max: u64) -> Result<Self, JobError> {
        let mut tree = Self {
            root: root.to_owned(),
            names: Vec::new(),
            odd: HashMap::new(),
            passed: PassedOver::default(),
            out: (0, None),
        };
        let real = fs::canonicalize(root).map_err(|error| unreadable(root, &error))?;
        let found = fs::metadata(root).map_err(|error| unreadable(root, &error))?;
        let mut walk = Walk {
            real,
            way: vec![identity(&found)],
            folders_left: folders_max,
            tree: &mut tree,
        };
        walk.below(root, "", false)?;
        Ok(tree)
    }

    /// What to say of links that lead out of the folder.
    pub(super) fn note_of_links(&self) -> Option<String> {
        let (count, first) = &self.out;
        let (link, target) = first.as_ref()?;
        Some(note_of_links(*count, link, target, "the folder"))
    }

    pub(super) fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, Miss> {
        let place = match self.odd.get(path) {
            Some(place) => place.clone(),
            None => self.root.join(path),
        };
        let file = open_plain(&place).map_err(|error| miss_of_io(&error))?;
        read_up_to(file, limit)
    }
}

fn unreadable(path: &Path, error: &io::Error) -> JobError {
    JobError::user(format!(
        "{} cannot be read on this worker: {error}",
        path.display()
    ))
}

/// What a folder is, by whichever name it was come to.
fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

struct Walk<'a> {
    /// The root without links.
    real: PathBuf,
    /// The folders from the root to the one that is looked into.
    way: Vec<(u64, u64)>,
    /// How many more may be looked into.
    folders_left: u64,
    tree: &'a mut Tree,
}

impl Walk<'_> {
    /// `is_out`: a link out of the folder was followed to come here.
    fn below(&mut self, folder: &Path, prefix: &str, is_out: bool) -> Result<(), JobError> {
        let left = self.folders_left.checked_sub(1).ok_or_else(|| {
            JobError::user(format!(
                "{} leads to more than {FOLDERS_MAX} folders, by links to the same ones in many ways; remove \
                 links, or give a folder within it",
                self.tree.root.display()
            ))
        })?;
        self.folders_left = left;
        let entries: io::Result<Vec<fs::DirEntry>> =
            fs::read_dir(folder).and_then(Iterator::collect);
        let mut entries = entries.map_err(|error| unreadable(folder, &error))?;
        // The same order on every file system: rows, splits and shards follow from it.
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let file_name = entry.file_name();
            let name = format!("{prefix}{}", file_name.to_string_lossy());
            if let Some(kind) = kind_of_name(&file_name.to_string_lossy()) {
                self.tree.passed.add(kind, &name);
                continue;
            }
            let kind = entry
                .file_type()
                .map_err(|error| unreadable(&entry.path(), &error))?;
            // Most entries are plain files, and the listing of their folder says so already.
            if kind.is_file() {
                self.file(&entry.path(), &file_name, name)?;
            } else {
                self.other(&entry.path(), &file_name, name, is_out)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, file_name: &OsStr, name: String) -> Result<(), JobError> {
        if self.tree.names.len() == FILES_MAX {
            return Err(JobError::user(format!(
                "{} holds more than {FILES_MAX} files; give a folder within it",
                self.tree.root.display()
            )));
        }
        if file_name.to_str().is_none() {
            self.tree.odd.insert(name.clone(), path.to_owned());
        }
        self.tree.names.push(name);
        Ok(())
    }

    /// A folder, a link, or what is no file at all.
    fn other(
        &mut self,
        path: &Path,
        file_name: &OsStr,
        name: String,
        is_out: bool,
    ) -> Result<(), JobError> {
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) => return self.without_target(path, &name, &error),
        };
        // What lies behind a link that leads out is out as well, and is not counted once more.
        let leads_out = !is_out && self.leads_out(path, &name);
        if found.is_file() {
            return self.file(path, file_name, name);
        }
        if found.is_dir() {
            let folder = identity(&found);
            if self.way.contains(&folder) {
                self.tree.passed.add(Kind::LinkCircle, &name);
            // Each level is a call within a call, so depth needs a bound of its own.
            } else if self.way.len() > DEPTH_MAX {
                self.tree.passed.add(Kind::TooDeep, &name);
            } else {
                self.way.push(folder);
                self.below(path, &format!("{name}/"), is_out || leads_out)?;
                self.way.pop();
            }
        } else {
            self.tree.passed.add(Kind::SpecialFile, &name);
        }
        Ok(())
    }

    /// An entry that leads nowhere, or whose target may not be looked at.
    fn without_target(
        &mut self,
        path: &Path,
        name: &str,
        error: &io::Error,
    ) -> Result<(), JobError> {
        let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
        let is_circle = error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32);
        let is_gone = matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        );
        let kind = if is_circle {
            Kind::LinkCircle
        } else if is_link || is_gone {
            Kind::DanglingLink
        } else {
            return Err(unreadable(path, error));
        };
        self.tree.passed.add(kind, name);
        Ok(())
    }

    fn leads_out(&mut self, path: &Path, name: &str) -> bool {
        if !fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
            return false;
        }
        let Ok(target) = fs::canonicalize(path) else {
            return false;
        };
        if target.starts_with(&self.real) {
            return false;
        }
        let (count, first) = &mut self.tree.out;
        *count += 1;
        first.get_or_insert_with(|| (name.to_owned(), target));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn folders_that_all_link_to_each_other_are_refused_in_bounded_time() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: String| place.path().join(name);
        for from in 0..12 {
            fs::create_dir(path(format!("{from}"))).unwrap();
            for to in 0..12 {
                symlink(path(format!("{to}")), path(format!("{from}/{to}"))).unwrap();
            }
        }
        let Err(JobError::Failed(failure)) = Tree::open_within(place.path(), 2_000) else {
            panic!("twelve factorial ways were gone");
        };
        assert!(
            failure.message.contains("by links to the same ones"),
            "{failure:?}"
        );
    }

    #[test]
    fn links_are_followed_circles_are_not_and_all_else_is_counted() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        for folder in ["mine/cat/.ipynb_checkpoints", "mine/deep", "elsewhere/dogs"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        for file in [
            "mine/cat/1.jpg",
            "mine/cat/.ipynb_checkpoints/1-checkpoint.jpg",
            "mine/.DS_Store",
            "mine/Thumbs.db",
            "elsewhere/dogs/2.jpg",
            "elsewhere/3.jpg",
        ] {
            fs::write(path(file), file).unwrap();
        }
        symlink(path("elsewhere/dogs"), path("mine/dog")).unwrap();
        symlink(path("elsewhere/3.jpg"), path("mine/cat/3.jpg")).unwrap();
        symlink("1.jpg", path("mine/cat/4.jpg")).unwrap();
        symlink("..", path("mine/cat/up")).unwrap();
        symlink(path("mine"), path("elsewhere/dogs/back")).unwrap();
        symlink("self", path("mine/self")).unwrap();
        symlink("nothing", path("mine/nowhere.jpg")).unwrap();
        mkfifo(&path("mine/pipe.jpg"), Mode::S_IRWXU).unwrap();
        let odd = OsStr::from_bytes(b"caf\xe9.jpg");
        fs::write(path("mine").join(odd), "odd").unwrap();
        let mut chain = path("mine/deep");
        for _ in 0..40 {
            chain.push("d");
            fs::create_dir(&chain).unwrap();
        }
        let tree = Tree::open(&path("mine")).unwrap();
        assert_eq!(
            tree.names,
            [
                "caf\u{fffd}.jpg",
                "cat/1.jpg",
                "cat/3.jpg",
                "cat/4.jpg",
                "dog/2.jpg"
            ]
        );
        assert_eq!(tree.read("caf\u{fffd}.jpg", 10).unwrap(), b"odd");
        assert_eq!(
            tree.read("dog/2.jpg", 100).unwrap(),
            b"elsewhere/dogs/2.jpg"
        );
        let counts = tree.passed.counts();
        let counts: Vec<String> = counts
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        assert_eq!(
            counts.join(", "),
            "dangling_link 1, hidden 2, link_circle 3, litter 1, special_file 1, too_deep 1"
        );
        let note = tree.note_of_links().unwrap();
        assert!(
            note.starts_with(
                "2 links lead out of the folder and were followed, such as \"cat/3.jpg\" to "
            ),
            "{note}"
        );
    }
}
