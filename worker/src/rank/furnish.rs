//! What a rank under another account is given: folders of its own, its inputs within its folder, a home.
//!
//! A program of ours (`marquee-prep`, `marquee-trainer`) is read while it runs: what it makes is open to whoever gets to
//! its folders, which are the worker and the account itself. Inputs are links to the files of the cache, which stays closed: whoever has the rank's folder has them, whoever else
//! knows their names has not. They belong to the worker, so that no job changes what others read.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use marquee_domain::RankKey;
use marquee_domain::artifact::Manifest;
use marquee_domain::project::ProjectName;
use marquee_domain::spec::JobKind;

use super::{Assignment, RankDir};
use crate::cages::Cages;
use crate::fault::at;
use crate::files;
use crate::process::cage::{Cage, job_user, open_to_change};
use crate::process::launcher::{events_path, stderr_path, stdout_path};

/// For everybody who gets there.
const FOLDER: u32 = 0o755;
const FILE: u32 = 0o444;

/// For a job that was refused a file.
pub(super) const HINT: &str = "on this worker jobs run under accounts of their own (marquee-job-N, one for each project), to which what is open to marquee-worker alone is closed: open the path to that account or to everybody, or let the worker's operator set cage = \"off\"";

/// A rank's cage, as it is told to its child.
#[derive(Debug)]
pub(super) struct Furnished {
    pub(super) cage: Cage,
    pub(super) home: PathBuf,
}

/// The cage of a rank of this project. Its output files are made with its child.
pub(super) fn furnish(
    cages: &Cages,
    project: &ProjectName,
    dir: &RankDir,
    kind: JobKind,
    key: RankKey,
) -> io::Result<Furnished> {
    let user = cages.user_of(project)?;
    let home = cages.home(user)?;
    let mut left = vec![dir.work(), dir.output(), dir.tmp()];
    match kind {
        JobKind::Command => {}
        JobKind::Fetch | JobKind::Preprocess => left.extend([dir.checkpoints(), dir.rate()]),
        JobKind::Train | JobKind::Eval => {
            left.extend([dir.checkpoints(), dir.rate(), dir.pulse()]);
        }
    }
    // A daemon of before may have prepared the rank, for its own account.
    for folder in left.iter().filter(|folder| !folder.is_dir()) {
        files::make_new_folder(folder)?;
    }
    let mut owned = left.clone();
    if kind == JobKind::Fetch {
        owned.push(scratch(dir, key)?);
    }
    // A script that writes to /dev/stderr opens the file behind it.
    owned.extend([
        home.clone(),
        stdout_path(dir.path()),
        stderr_path(dir.path()),
    ]);
    if kind != JobKind::Command {
        // Its channel, which it opens once more by its number.
        owned.push(events_path(dir.path()));
    }
    let cage = Cage {
        socket: cages.socket().to_owned(),
        user,
        entered: vec![dir.path().to_owned()],
        owned,
        left,
        is_open: kind != JobKind::Command,
    };
    Ok(Furnished { cage, home })
}

/// Of what a job's rendezvous store needs, which is less.
pub(super) fn furnish_store(
    cages: &Cages,
    project: &ProjectName,
    dir: &RankDir,
) -> io::Result<Furnished> {
    let user = cages.user_of(project)?;
    let store = dir.store();
    let cage = Cage {
        socket: cages.socket().to_owned(),
        user,
        entered: vec![dir.path().to_owned(), store.clone()],
        owned: vec![stdout_path(&store), stderr_path(&store)],
        left: Vec::new(),
        is_open: false,
    };
    let home = cages.home(user)?;
    Ok(Furnished { cage, home })
}

/// What attempts at a fetch share. One that was made under the worker's account is opened: nobody else gets there.
fn scratch(dir: &RankDir, key: RankKey) -> io::Result<PathBuf> {
    let scratch = dir.scratch(key);
    files::make_folder(&scratch)?;
    if !is_given(&scratch) {
        open_to_change(&scratch)?;
    }
    Ok(scratch)
}

/// Whether a folder was given to a job's account once.
pub(super) fn is_given(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|found| found.permissions().mode() & 0o070 != 0)
}

impl Furnished {
    /// Who the child is, where neither the job nor anybody else but the worker's own account said so.
    pub(super) fn name(
        &self,
        own: &BTreeMap<OsString, OsString>,
        env: &mut BTreeMap<OsString, OsString>,
    ) {
        let name = OsString::from(job_user(self.cage.user));
        let home = self.home.clone().into_os_string();
        for (variable, value) in [("HOME", home), ("USER", name.clone()), ("LOGNAME", name)] {
            let variable = OsStr::new(variable);
            if env.get(variable) == own.get(variable) {
                env.insert(variable.to_owned(), value);
            }
        }
        let runtime = OsStr::new("XDG_RUNTIME_DIR");
        if env.get(runtime) == own.get(runtime) {
            env.remove(runtime);
        }
    }
}

/// Where the inputs of a caged rank are, by their names.
pub(super) fn places(
    dir: &RankDir,
    folders: &BTreeMap<String, PathBuf>,
) -> BTreeMap<String, PathBuf> {
    let place = |(index, name): (usize, &String)| {
        let folder = dir.inputs().join(index.to_string());
        (name.clone(), folder)
    };
    folders.keys().enumerate().map(place).collect()
}

/// Where the checkpoint is from which such a rank goes on.
pub(super) fn checkpoint(dir: &RankDir) -> PathBuf {
    dir.inputs().join("checkpoint")
}

/// Links the inputs and the checkpoint there.
pub(super) fn link(
    dir: &RankDir,
    assignment: &Assignment,
    cached: &BTreeMap<String, PathBuf>,
    resume: Option<&Path>,
) -> io::Result<()> {
    let places = places(dir, cached);
    let input = |(name, from): (&String, &PathBuf)| {
        let to = places.get(name)?.clone();
        Some((to, from.clone(), assignment.inputs.get(name)?))
    };
    let mut all: Vec<(PathBuf, PathBuf, &Manifest)> = cached.iter().filter_map(input).collect();
    if let (Some(from), Some(resume)) = (resume, &assignment.resume) {
        all.push((checkpoint(dir), from.to_owned(), &resume.manifest));
    }
    // Anew: a daemon that was killed half way has left some of the links, and `hard_link` takes no
    // name that is there.
    files::make_new_folder(&dir.inputs())?;
    set_mode(&dir.inputs(), FOLDER)?;
    for (to, from, manifest) in all {
        make(&to)?;
        for file in &manifest.files {
            let (from, to) = (from.join(&file.path), to.join(&file.path));
            make_above(&to, &dir.inputs())?;
            // A link shares its file's mode, so that the cache's own file is opened as well; nobody
            // gets to that one but through the cache's folder, which stays closed.
            set_mode(&from, FILE | executable_bits(&from)?)?;
            fs::hard_link(&from, &to).map_err(|e| at(&to, e))?;
        }
        for folder in &manifest.empty_folders {
            let folder = to.join(folder);
            make_above(&folder, &dir.inputs())?;
            make(&folder)?;
        }
    }
    Ok(())
}

/// Whether the cache has the file as one that may be executed: then everybody may.
fn executable_bits(file: &Path) -> io::Result<u32> {
    let found = fs::symlink_metadata(file).map_err(|e| at(file, e))?;
    Ok(match found.permissions().mode() & 0o100 {
        0 => 0,
        _ => 0o111,
    })
}

/// The folders above a file, from the inputs' on down.
fn make_above(file: &Path, top: &Path) -> io::Result<()> {
    let above = file.ancestors().skip(1);
    let above: Vec<&Path> = above.take_while(|folder| *folder != top).collect();
    above.into_iter().rev().try_for_each(make)
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => set_mode(folder, FOLDER),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(at(folder, error)),
    }
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|e| at(path, e))
}

#[cfg(test)]
mod tests {
    use marquee_domain::artifact::FileEntry;
    use marquee_proto::v1;

    use super::super::Resume;
    use super::*;

    #[test]
    fn inputs_are_links_that_nobody_but_the_worker_changes() {
        let place = tempfile::tempdir().unwrap();
        let dir = RankDir::new(&place.path().join("attempts"), RankKey::new(1, 1, 0));
        fs::create_dir_all(dir.path()).unwrap();
        let cached = place.path().join("cached");
        fs::create_dir_all(cached.join("a/b")).unwrap();
        fs::write(cached.join("a/b/c"), "data").unwrap();
        fs::write(cached.join("d"), "more").unwrap();
        let file = |path: &str| FileEntry {
            path: path.to_owned(),
            size_bytes: 4,
            digest: "0".repeat(64).parse().unwrap(),
        };
        let manifest = Manifest {
            files: vec![file("a/b/c"), file("d")],
            executables: vec!["d".to_owned()],
            empty_folders: vec!["e/f".to_owned()],
        };
        fs::set_permissions(cached.join("d"), Permissions::from_mode(0o700)).unwrap();
        let newest = place.path().join("newest");
        fs::create_dir_all(&newest).unwrap();
        fs::write(newest.join("state"), "step").unwrap();
        let cached = BTreeMap::from([("odd/name".to_owned(), cached)]);
        let mut assignment = Assignment::from_wire(v1::Assign::default());
        assignment.inputs.insert("odd/name".to_owned(), manifest);
        let manifest = Manifest {
            files: vec![file("state")],
            executables: Vec::new(),
            empty_folders: Vec::new(),
        };
        assignment.resume = Some(Resume { step: 3, manifest });
        // Twice, as after a daemon that was killed half-way.
        link(&dir, &assignment, &cached, Some(&newest)).unwrap();
        link(&dir, &assignment, &cached, Some(&newest)).unwrap();
        assert_eq!(fs::read(checkpoint(&dir).join("state")).unwrap(), b"step");
        let there = &places(&dir, &cached)["odd/name"];
        assert_eq!(fs::read(there.join("a/b/c")).unwrap(), b"data");
        let mode =
            |name: &str| fs::metadata(there.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(["", "a", "a/b", "e/f"].map(mode), [0o755; 4]);
        assert_eq!(["a/b/c", "d"].map(mode), [0o444, 0o555]);
    }
}
