//! What a rank under another account is given: folders of its own, its inputs within its folder, a home.
//!
//! Inputs are links to the files of the cache, which stays closed: whoever has the rank's folder has them, whoever else
//! knows their names has not. They belong to the worker, so that no job changes what others read.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use marquee_domain::artifact::Manifest;
use marquee_domain::project::ProjectName;

use super::RankDir;
use crate::cages::Cages;
use crate::fault::at;
use crate::files;
use crate::process::cage::{Cage, job_user};
use crate::process::launcher::{stderr_path, stdout_path};

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
) -> io::Result<Furnished> {
    let user = cages.user_of(project)?;
    let home = cages.home(user)?;
    let left = vec![dir.work(), dir.output(), dir.tmp()];
    let mut owned = left.clone();
    // A script that writes to /dev/stderr opens the file behind it.
    owned.extend([
        home.clone(),
        stdout_path(dir.path()),
        stderr_path(dir.path()),
    ]);
    let cage = Cage {
        socket: cages.socket().to_owned(),
        user,
        entered: vec![dir.path().to_owned()],
        owned,
        left,
    };
    Ok(Furnished { cage, home })
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

/// Links the inputs there.
pub(super) fn link(
    dir: &RankDir,
    manifests: &BTreeMap<String, Manifest>,
    cached: &BTreeMap<String, PathBuf>,
) -> io::Result<()> {
    let places = places(dir, cached);
    files::make_new_folder(&dir.inputs())?;
    set_mode(&dir.inputs(), FOLDER)?;
    for (name, from) in cached {
        let (Some(to), Some(manifest)) = (places.get(name), manifests.get(name)) else {
            continue;
        };
        make(to)?;
        for file in &manifest.files {
            let (from, to) = (from.join(&file.path), to.join(&file.path));
            make_above(&to, &dir.inputs())?;
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
    use marquee_domain::RankKey;
    use marquee_domain::artifact::FileEntry;

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
        let cached = BTreeMap::from([("odd/name".to_owned(), cached)]);
        let manifests = BTreeMap::from([("odd/name".to_owned(), manifest)]);
        // Twice, as after a daemon that was killed half-way.
        link(&dir, &manifests, &cached).unwrap();
        link(&dir, &manifests, &cached).unwrap();
        let there = &places(&dir, &cached)["odd/name"];
        assert_eq!(fs::read(there.join("a/b/c")).unwrap(), b"data");
        let mode =
            |name: &str| fs::metadata(there.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(["", "a", "a/b", "e/f"].map(mode), [0o755; 4]);
        assert_eq!(["a/b/c", "d"].map(mode), [0o444, 0o555]);
    }
}
