//! What of this host a child may open, and what of it it may change. Landlock, which the kernel holds against the child
//! and all that it starts, whatever account they run as.
//!
//! Reading: everything, but for some folders, of which it is given parts. Changing: what it is given, and nothing else.
//! Landlock knows permissions alone, and a permission counts for all below its folder. So what stands beside the hidden
//! folders is allowed name by name, from the root down: names that come later in a folder above a hidden one are not
//! among them.
//!
//! Here are no decisions: what is hidden from whom, and who may change what, is said by who starts the child.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, Scope,
};
use serde::{Deserialize, Serialize};

/// The newest of the kernel's versions of Landlock that is used: with it children signal no process outside.
const NEWEST: ABI = ABI::V6;
/// The versions, newest first, with their numbers.
const VERSIONS: [(ABI, u32); 6] = [
    (ABI::V6, 6),
    (ABI::V5, 5),
    (ABI::V4, 4),
    (ABI::V3, 3),
    (ABI::V2, 2),
    (ABI::V1, 1),
];

/// What is closed to a child, and what of it is not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Folders and files that it neither reads nor changes ...
    pub hidden: Vec<PathBuf>,
    /// ... but these, to read,
    pub readable: Vec<PathBuf>,
    /// and these, to change: nothing else on the host. `/`: everything but what is hidden.
    pub own: Vec<PathBuf>,
    /// What of `own` it may read and not change.
    pub kept: Vec<PathBuf>,
    /// It may list the names in every folder, hidden ones too: where they lie below a folder that it has to list, since
    /// the kernel knows no permission for that one alone.
    pub lists_all: bool,
}

impl Fence {
    /// Closes them to this thread and all that it starts from now on, for good. False where the kernel has no Landlock.
    pub fn raise(&self) -> io::Result<bool> {
        let real = |paths: &[PathBuf]| -> Vec<PathBuf> {
            paths.iter().filter_map(|path| real(path)).collect()
        };
        let hidden = real(&self.hidden);
        let reading = AccessFs::from_read(NEWEST);
        let mut rules = begin(NEWEST, CompatLevel::BestEffort).map_err(wrong)?;
        let own = real(&self.own);
        // Who may change everything else may read it.
        if !own.iter().any(|folder| folder == Path::new("/")) {
            rules = but(Path::new("/"), true, &hidden, reading, rules)?;
        }
        if self.lists_all {
            rules = allow(Path::new("/"), true, AccessFs::ReadDir.into(), rules)?;
        }
        for path in real(&self.readable) {
            rules = allow(&path, path.is_dir(), reading, rules)?;
        }
        let closed = [hidden, real(&self.kept)].concat();
        for path in own {
            rules = but(&path, path.is_dir(), &closed, judged(NEWEST), rules)?;
        }
        let status = rules.restrict_self().map_err(wrong)?;
        Ok(status.ruleset != RulesetStatus::NotEnforced)
    }
}

/// The version of Landlock that this kernel has; None: none.
#[must_use]
pub fn version() -> Option<u32> {
    let has = |abi| begin(abi, CompatLevel::HardRequirement).is_ok();
    let found = VERSIONS.iter().find(|(abi, _)| has(*abi));
    found.map(|(_, number)| *number)
}

/// What the kernel is to judge by. Not what is asked of open devices (`ioctl`): who may open a GPU may use it.
fn judged(abi: ABI) -> BitFlags<AccessFs> {
    AccessFs::from_all(abi) & !BitFlags::from(AccessFs::IoctlDev)
}

fn begin(abi: ABI, level: CompatLevel) -> Result<RulesetCreated, RulesetError> {
    let rules = Ruleset::default()
        .set_compatibility(level)
        .handle_access(judged(abi))?;
    let scopes = Scope::from_all(abi) & Scope::Signal;
    let rules = if scopes.is_empty() {
        rules
    } else {
        rules.scope(scopes)?
    };
    rules.create()
}

/// Allows what is in `folder`, but not what is closed below it: then, all that stands beside that, by name.
fn but(
    folder: &Path,
    is_folder: bool,
    closed: &[PathBuf],
    access: BitFlags<AccessFs>,
    mut rules: RulesetCreated,
) -> io::Result<RulesetCreated> {
    let is_above = |path: &Path| {
        closed
            .iter()
            .any(|closed| closed != path && closed.starts_with(path))
    };
    if closed.iter().any(|closed| closed == folder) {
        return Ok(rules);
    }
    if !is_above(folder) {
        return allow(folder, is_folder, access, rules);
    }
    // One that may not be listed shows none of its entries by name; what is known of it leads to what is closed.
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(rules);
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // What a link leads to is allowed, or not, where it stands; a rule for a link would be one for that.
        // Its kind comes with its name: to ask for it once more would be another hundred calls for each child.
        if let Ok(kind) = entry.file_type()
            && !kind.is_symlink()
        {
            rules = but(&path, kind.is_dir(), closed, access, rules)?;
        }
    }
    Ok(rules)
}

/// Allows what is at a path, and below it. What went meanwhile needs no permission.
fn allow(
    path: &Path,
    is_folder: bool,
    access: BitFlags<AccessFs>,
    rules: RulesetCreated,
) -> io::Result<RulesetCreated> {
    let Ok(opened) = PathFd::new(path) else {
        return Ok(rules);
    };
    let access = if is_folder {
        access
    } else {
        access & AccessFs::from_file(NEWEST)
    };
    rules
        .add_rule(PathBeneath::new(opened, access))
        .map_err(wrong)
}

/// The path without links; None where nothing is there.
fn real(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

fn wrong(error: RulesetError) -> io::Error {
    io::Error::other(format!(
        "the job cannot be kept from other jobs' files: {error}; sandbox = \"off\" in the worker's settings starts it without"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Does it behind the fence, in a thread of its own, since nothing takes a fence down.
    fn behind<T: Send>(fence: &Fence, work: impl FnOnce() -> T + Send) -> Option<T> {
        std::thread::scope(|scope| {
            let behind = || fence.raise().unwrap().then(work);
            scope.spawn(behind).join().unwrap()
        })
    }

    #[test]
    fn what_is_hidden_is_closed_and_its_parts_and_all_beside_it_are_not() {
        if version().is_none() {
            eprintln!("skipped: this kernel has no Landlock");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["data/own", "data/other", "data/input", "beside", "open"] {
            fs::create_dir_all(at(folder)).unwrap();
            fs::write(at(folder).join("file"), "x").unwrap();
        }
        fs::write(at("key"), "x").unwrap();
        fs::write(at("beside/program"), "x").unwrap();
        // A link beside it that leads above all is no way around.
        symlink("/", at("root")).unwrap();
        let fence = Fence {
            hidden: vec![at("data"), at("key"), at("not there")],
            readable: vec![at("data/input")],
            own: vec![at("data/own"), at("beside"), "/dev/null".into()],
            kept: vec![at("beside/program")],
            lists_all: false,
        };
        let opens = |name: &str| fs::read(at(name)).is_ok();
        let done = behind(&fence, || {
            let read = [
                "data/own/file",
                "data/input/file",
                "beside/file",
                "open/file",
                "beside/program",
            ]
            .map(opens);
            let around = at("root").join(at("data/other/file").strip_prefix("/").unwrap());
            let closed = [
                opens("data/other/file"),
                opens("key"),
                around.exists() && fs::read(around).is_ok(),
            ];
            let writes = |name: &str| fs::write(at(name), "y").is_ok();
            let written = [
                "data/own/new",
                "beside/file",
                "beside/program",
                "open/new",
                "open/file",
                "data/input/file",
                "data/other/new",
            ]
            .map(writes);
            let others = (
                fs::read_dir("/usr").is_ok(),
                fs::read("/proc/self/stat").is_ok(),
                fs::write("/dev/null", "x").is_ok(),
            );
            (read, closed, written, others)
        });
        let (read, closed, written, others) = done.unwrap();
        assert_eq!((read, closed), ([true; 5], [false; 3]));
        assert_eq!(written, [true, true, false, false, false, false, false]);
        assert_eq!(others, (true, true, true));
        // This thread is outside.
        assert!(opens("data/other/file"));
    }

    #[test]
    fn who_may_list_all_sees_names_of_what_is_hidden_and_nothing_else() {
        if version().is_none() {
            eprintln!("skipped: this kernel has no Landlock");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("data")).unwrap();
        fs::write(at("data/file"), "x").unwrap();
        let fence = |lists_all| Fence {
            hidden: vec![at("data")],
            lists_all,
            ..Fence::default()
        };
        let look = || {
            let lists = |path: &Path| fs::read_dir(path).is_ok();
            (
                lists(dir.path()),
                lists(&at("data")),
                fs::read(at("data/file")).is_ok(),
            )
        };
        assert_eq!(behind(&fence(false), look), Some((false, false, false)));
        assert_eq!(behind(&fence(true), look), Some((true, true, false)));
    }
}
