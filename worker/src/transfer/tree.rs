//! What an output folder holds, as an artifact's manifest.
//!
//! A link to a file or folder of the same output is that file or folder. All that cannot be stored is found
//! before the first byte is read, and named together.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use marquee_domain::artifact::{Digest, FileEntry, InvalidManifest, Manifest};
use marquee_domain::limits::{ARTIFACT_MAX_FILES, CHUNK_BYTES};
use sha2::{Digest as _, Sha256};

use super::{TransferError, disk};

/// Problems that are named one by one; more have a common cause.
const PROBLEMS_NAMED_MAX: usize = 10;
/// Any bit that lets somebody execute a file.
const EXECUTE_BITS: u32 = 0o111;

/// What in a folder cannot be stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    named: Vec<String>,
    more: usize,
}

impl Problems {
    fn add(&mut self, problem: String) {
        if self.named.len() < PROBLEMS_NAMED_MAX {
            self.named.push(problem);
        } else {
            self.more += 1;
        }
    }
}

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.named.join("; "))?;
        match self.more {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// A file by what it is on its disk, whatever its names are.
type Inode = (u64, u64);

fn inode(metadata: &Metadata) -> Inode {
    (metadata.dev(), metadata.ino())
}

/// A folder that is being looked at, with those that led to it.
struct Way {
    inode: Inode,
    above: Option<Rc<Way>>,
}

impl Way {
    fn leads_through(&self, inode: Inode) -> bool {
        let mut at = Some(self);
        while let Some(way) = at {
            if way.inode == inode {
                return true;
            }
            at = way.above.as_deref();
        }
        false
    }
}

/// One name of the artifact, and what it stands for.
struct Found {
    path: String,
    source: PathBuf,
    metadata: Metadata,
}

struct Walk {
    /// Without links on the way.
    root: PathBuf,
    files: Vec<Found>,
    empty_folders: Vec<String>,
    problems: Problems,
    waiting: Vec<(PathBuf, String, Rc<Way>)>,
}

/// What a folder holds.
pub fn digest_tree(folder: &Path) -> Result<Manifest, TransferError> {
    let root = fs::canonicalize(folder).map_err(disk(folder))?;
    let metadata = fs::metadata(&root).map_err(disk(folder))?;
    let way = Way {
        inode: inode(&metadata),
        above: None,
    };
    // A list, not a function that calls itself: a job may nest its folders deeper than a thread's stack goes.
    let mut walk = Walk {
        waiting: vec![(root.clone(), String::new(), Rc::new(way))],
        root,
        files: Vec::new(),
        empty_folders: Vec::new(),
        problems: Problems::default(),
    };
    while let Some((folder, prefix, way)) = walk.waiting.pop() {
        walk.folder(&folder, &prefix, &way)?;
        // Links to folders multiply what is there: no more is looked at than could be stored.
        let count = walk.files.len() + walk.empty_folders.len() + walk.waiting.len();
        if count > ARTIFACT_MAX_FILES {
            return Err(InvalidManifest::TooMany { count }.into());
        }
    }
    if walk.problems != Problems::default() {
        return Err(TransferError::Unstorable(walk.problems));
    }
    digest(walk.files, walk.empty_folders)
}

impl Walk {
    fn folder(&mut self, folder: &Path, prefix: &str, way: &Rc<Way>) -> Result<(), TransferError> {
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.map_err(disk(folder))?;
        if entries.is_empty() && !prefix.is_empty() {
            self.empty_folders
                .push(prefix.trim_end_matches('/').to_owned());
        }
        // The same problems are named each time, whatever the file system says.
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let source = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                let shown = format!("{prefix}{}", entry.file_name().display());
                self.problems
                    .add(format!("{shown:?} has a name that is no UTF-8; rename it"));
                continue;
            };
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().map_err(disk(&source))?;
            let source = if kind.is_symlink() {
                match self.target(&source, &path) {
                    Some(target) => target,
                    None => continue,
                }
            } else {
                source
            };
            let metadata = fs::symlink_metadata(&source).map_err(disk(&source))?;
            if metadata.is_dir() {
                let inode = inode(&metadata);
                // Only by a link does a way come back to a folder above.
                if kind.is_symlink() && way.leads_through(inode) {
                    self.problems.add(format!(
                        "{path:?} is a link to a folder that it lies in; remove it"
                    ));
                    continue;
                }
                let above = Some(Rc::clone(way));
                let way = Rc::new(Way { inode, above });
                self.waiting.push((source, format!("{path}/"), way));
            } else if metadata.is_file() {
                self.files.push(Found {
                    path,
                    source,
                    metadata,
                });
            } else {
                self.problems.add(format!(
                    "{path:?} is a device, pipe or socket; an artifact holds files and folders, remove it"
                ));
            }
        }
        Ok(())
    }

    /// What a link of the output stands for; None where that is no part of it.
    fn target(&mut self, link: &Path, path: &str) -> Option<PathBuf> {
        let named = fs::read_link(link).unwrap_or_default();
        let mut problem = |why: &str| {
            let mut text = format!("{path:?} is a link to {named:?}");
            let _never_fails = write!(text, "{why}");
            self.problems.add(text);
            None
        };
        match fs::canonicalize(link) {
            Ok(target) if target.starts_with(&self.root) => Some(target),
            Ok(_) => problem(", which lies outside the output; put a copy of it there"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                problem(", which is not there; remove the link, or put the file there")
            }
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => {
                problem(", which leads back to itself; remove it")
            }
            Err(error) => problem(&format!(", which cannot be followed: {error}")),
        }
    }
}

/// Reads all files, each once, whatever number of names it has.
fn digest(found: Vec<Found>, empty_folders: Vec<String>) -> Result<Manifest, TransferError> {
    let mut read: HashMap<Inode, (u64, Digest)> = HashMap::new();
    let mut files = Vec::with_capacity(found.len());
    let mut executables = Vec::new();
    for Found {
        path,
        source,
        metadata,
    } in found
    {
        let known = read.get(&inode(&metadata)).cloned();
        let (size_bytes, digest) = match known {
            Some(known) => known,
            None => {
                let new = digest_file(&source).map_err(disk(&source))?;
                read.insert(inode(&metadata), new.clone());
                new
            }
        };
        if metadata.mode() & EXECUTE_BITS != 0 {
            executables.push(path.clone());
        }
        files.push(FileEntry {
            path,
            size_bytes,
            digest,
        });
    }
    Ok(Manifest::with_modes(files, executables, empty_folders)?)
}

fn digest_file(path: &Path) -> io::Result<(u64, Digest)> {
    // A pipe that took the file's place since it was looked at must not hold us up.
    let mut options = File::options();
    options.read(true).custom_flags(nix::libc::O_NONBLOCK);
    let mut file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it was a file a moment ago"));
    }
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let n = io::Read::read(&mut file, &mut buffer)?;
        if n == 0 {
            return Ok((size, Digest::from_hash(&hash.finalize())));
        }
        hash.update(&buffer[..n]);
        size += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn output() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ckpt_3.pt"), "abc").unwrap();
        dir
    }

    fn paths(manifest: &Manifest) -> Vec<&str> {
        manifest.files.iter().map(|f| f.path.as_str()).collect()
    }

    fn problem(dir: &tempfile::TempDir) -> String {
        digest_tree(dir.path()).unwrap_err().to_string()
    }

    #[test]
    fn a_folder_is_digested_with_its_subfolders() {
        let dir = output();
        fs::create_dir_all(dir.path().join("b/empty/inner")).unwrap();
        fs::write(dir.path().join("b/c"), "").unwrap();
        let tool = dir.path().join("b/run.sh");
        fs::write(&tool, "#!/bin/sh").unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        let manifest = digest_tree(dir.path()).unwrap();
        assert_eq!(paths(&manifest), ["b/c", "b/run.sh", "ckpt_3.pt"]);
        assert_eq!(manifest.files[2].digest, Digest::of(b"abc"));
        assert_eq!(manifest.executables, ["b/run.sh"]);
        assert_eq!(manifest.empty_folders, ["b/empty/inner"]);
    }

    #[test]
    fn a_link_to_a_file_or_folder_of_the_output_is_that() {
        let dir = output();
        symlink("ckpt_3.pt", dir.path().join("latest.pt")).unwrap();
        symlink("latest.pt", dir.path().join("best.pt")).unwrap();
        // By its whole path, as a script that knows MARQUEE_OUTPUT makes it.
        symlink(dir.path().join("ckpt_3.pt"), dir.path().join("whole.pt")).unwrap();
        fs::create_dir(dir.path().join("epoch_3")).unwrap();
        symlink("../ckpt_3.pt", dir.path().join("epoch_3/model.pt")).unwrap();
        symlink("epoch_3", dir.path().join("last")).unwrap();
        let manifest = digest_tree(dir.path()).unwrap();
        assert_eq!(
            paths(&manifest),
            [
                "best.pt",
                "ckpt_3.pt",
                "epoch_3/model.pt",
                "last/model.pt",
                "latest.pt",
                "whole.pt"
            ]
        );
        assert!(
            manifest
                .files
                .iter()
                .all(|f| f.digest == Digest::of(b"abc"))
        );
    }

    #[test]
    fn all_that_cannot_be_stored_is_named_at_once() {
        let dir = output();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("secret"), "").unwrap();
        symlink(elsewhere.path().join("secret"), dir.path().join("a")).unwrap();
        symlink("gone.pt", dir.path().join("b")).unwrap();
        symlink("d", dir.path().join("c")).unwrap();
        symlink("c", dir.path().join("d")).unwrap();
        symlink(".", dir.path().join("e")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("f"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let said = problem(&dir);
        for expected in [
            r#""a" is a link to "#,
            "which lies outside the output; put a copy of it there",
            r#""b" is a link to "gone.pt", which is not there"#,
            r#""c" is a link to "d", which leads back to itself"#,
            r#""e" is a link to a folder that it lies in"#,
            r#""f" is a device, pipe or socket"#,
        ] {
            assert!(said.contains(expected), "{expected} in {said}");
        }
    }

    #[test]
    fn a_link_that_leaves_through_a_folder_of_the_output_is_found_out() {
        let dir = output();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("secret"), "").unwrap();
        let named = elsewhere.path().file_name().unwrap().to_owned();
        symlink(Path::new("..").join(named), dir.path().join("up")).unwrap();
        assert!(problem(&dir).contains("lies outside the output"));
        // A folder whose name begins like the output's is another folder.
        let sibling = dir.path().with_extension("sibling");
        fs::create_dir(&sibling).unwrap();
        fs::remove_file(dir.path().join("up")).unwrap();
        symlink(&sibling, dir.path().join("beside")).unwrap();
        let said = problem(&dir);
        fs::remove_dir(&sibling).unwrap();
        assert!(said.contains("lies outside the output"), "{said}");
    }

    #[test]
    fn links_that_multiply_folders_end_at_the_limit() {
        let dir = output();
        for depth in 0..40 {
            let folder = dir.path().join(format!("{depth}"));
            fs::create_dir(&folder).unwrap();
            for name in ["x", "y"] {
                symlink(format!("../{}", depth + 1), folder.join(name)).unwrap();
            }
        }
        fs::create_dir(dir.path().join("40")).unwrap();
        assert!(
            problem(&dir).contains("may hold 20000 files"),
            "{}",
            problem(&dir)
        );
    }
}
