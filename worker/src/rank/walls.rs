//! What a command job sees of its worker, and what of the host it may change.
//!
//! Hidden from it: the data folder, with the spool, the identity, the cache and all other jobs' folders, and the key of
//! the worker's certificate. It is given its own folders and its inputs. Everything else of the host is open for it to
//! read, as to its account: strangers' scripts need environments and data sets of which no document speaks.
//!
//! What it may change is for `sandbox` to say. `"auto"`: all that its account may, but for what is hidden; scripts write
//! their results to where their author always had them, and hours of work must not be lost to a wall that nobody asked
//! for. `"on"`: what is its own, that is its work folder, its output, its temporary folder, shared memory, the devices
//! that programs use, and, shared by all jobs, the caches of its home folder; and what the operator names besides
//! (`writable_paths`).
//!
//! How it is done has a price (`process::fence`): right in a folder above a hidden one nothing new can be made or read,
//! and no names can be listed. Names are what a home folder or `/tmp` is needed for, so where the data folder lies below
//! one of these `"auto"` leaves all names of the host to be listed, those in the data folder too, and says so.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{RankDir, temporary};
use crate::config::{Config, Sandbox};
use crate::files;
use crate::process::cage::Cage;
use crate::process::fence::Fence;
use crate::process::launcher::{stderr_path, stdout_path};

const HOME: &str = "HOME";
/// Here others replace files as a matter of course (`resolv.conf`, `passwd`): a rule by names would lose them.
const REPLACED: &str = "/etc";
/// The folder in a home where libraries keep what they have fetched or compiled.
const CACHE: &str = ".cache";
/// Caches that their programs put beside it: folder, the variable that moves it, and where to, within the cache.
const CACHES: [(&str, &str, &str); 3] = [
    (".nv", "CUDA_CACHE_PATH", "nv"),
    (".triton", "TRITON_CACHE_DIR", "triton"),
    (".keras", "KERAS_HOME", "keras"),
];
/// Marquee's own part of the cache: a build keeps its libtorch there, which trainers load outside of any walls.
const OWN_CACHE: &str = "marquee";
/// What programs open in /dev to write: the usual ones, terminals, shared memory, GPUs and fast networks. Not disks.
const DEVICES: [&str; 15] = [
    "full",
    "gdrdrv",
    "hugepages",
    "infiniband",
    "dri",
    "kfd",
    "mqueue",
    "null",
    "ptmx",
    "pts",
    "random",
    "shm",
    "tty",
    "urandom",
    "zero",
];
const DEVICES_OF: &str = "nvidia";

/// The walls around the command jobs of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Walls {
    Up(Around),
    /// None, and why.
    None(String),
}

/// What is closed to all of them alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Around {
    pub hidden: Vec<PathBuf>,
    /// What the operator lets them change. None: whatever their account may, but for what is hidden.
    pub writable: Option<Vec<PathBuf>>,
    /// What they may not change whatever lies around it.
    kept: Vec<PathBuf>,
    /// Why names of what is hidden can be listed. None: they cannot.
    pub lists_all: Option<String>,
}

impl Walls {
    /// Those of a worker whose jobs have this home folder.
    #[must_use]
    pub fn of(config: &Config, home: Option<&OsStr>) -> Self {
        if config.sandbox == Sandbox::Off {
            return Self::None("sandbox is \"off\"".to_owned());
        }
        // By their real names: what lies above a link is not what lies above the folder that it leads to.
        let mut hidden = vec![real(&config.data_dir)];
        hidden.extend(config.sandbox_hide.iter().map(|path| real(path)));
        let key = config.tls_key.as_deref().map(real);
        hidden.extend(key.filter(|key| !key.starts_with(REPLACED)));
        let home = home.map(|home| real(Path::new(home)));
        let costly = costly(&hidden, home.as_deref());
        let confines = config.sandbox == Sandbox::On;
        Self::Up(Around {
            hidden,
            writable: confines.then(|| config.writable_paths.clone()),
            kept: vec![config.bin_dir.clone()],
            lists_all: costly.filter(|_| !confines),
        })
    }

    /// What a job should know whose program was refused a file. None: the walls had no part in it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Up(Around {
                writable: Some(_), ..
            }) => Some(
                "on this worker a job may write to its own folders alone (the work folder, MARQUEE_OUTPUT, TMPDIR, ~/.cache): write there, or let the worker's operator add the path to writable_paths in its settings",
            ),
            Self::Up(Around {
                lists_all: Some(_), ..
            }) => Some(
                "on this worker no new file can be made right in a folder above its data folder, such as the home folder: write to a folder below it that is there, to MARQUEE_OUTPUT or to the work folder, or let the worker's operator set sandbox = \"off\"",
            ),
            Self::Up(_) | Self::None(_) => None,
        }
    }

    /// The fence for one job, with its home folder moved out of what is hidden, if it is not `home`, its own already.
    /// None: it gets none.
    pub fn fence(
        &self,
        data_dir: &Path,
        dir: &RankDir,
        inputs: &BTreeMap<String, PathBuf>,
        caged: Option<&Cage>,
        own_home: Option<&Path>,
        env: &mut BTreeMap<OsString, OsString>,
    ) -> io::Result<Option<Fence>> {
        let Self::Up(around) = self else {
            return Ok(None);
        };
        let mut own = vec![
            dir.work(),
            dir.output(),
            dir.checkpoints(),
            temporary::folder(dir),
            // A script that writes to /dev/stderr opens the file behind it.
            stdout_path(dir.path()),
            stderr_path(dir.path()),
        ];
        own.extend(
            caged
                .into_iter()
                .flat_map(|cage| cage.owned.iter().cloned()),
        );
        let mut kept = around.kept.clone();
        let home = env.get(OsStr::new(HOME)).map(PathBuf::from);
        if let (Some(home), Some(own_home)) = (&home, own_home)
            && home == own_home
        {
            own.push(own_home.to_owned());
        } else if let Some(home) = home {
            let is_hidden = |hidden: &PathBuf| real(&home).starts_with(hidden);
            if around.hidden.iter().any(is_hidden) {
                // The account of a service has its home where its data are. What jobs keep there, such as models that
                // they have fetched, all of them share.
                let shared = data_dir.join("home");
                files::make_folder(&shared)?;
                env.insert(HOME.into(), shared.clone().into());
                own.push(shared);
            } else {
                own.extend(caches(&home, env));
                kept.push(home.join(CACHE).join(OWN_CACHE));
            }
        }
        match &around.writable {
            Some(writable) => {
                own.extend(devices());
                own.extend(writable.iter().cloned());
            }
            None => {
                own.push("/".into());
                // Under "auto" a job may change whatever its account may, the programs of `bin_dir`
                // and the build's libtorch included.
                kept.clear();
            }
        }
        let mut readable = vec![dir.path().to_owned()];
        // Our own programs, also where they lie in a folder above what is hidden that the job's account cannot list.
        readable.extend(around.kept.iter().cloned());
        readable.extend(inputs.values().cloned());
        Ok(Some(Fence {
            hidden: around.hidden.clone(),
            readable,
            own,
            kept,
            lists_all: around.lists_all.is_some(),
        }))
    }
}

/// The path without links where something is there.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The caches of a home folder. What a program would make beside them is moved into the first, unless the job or the
/// worker says where it is.
fn caches(home: &Path, env: &mut BTreeMap<OsString, OsString>) -> Vec<PathBuf> {
    let cache = home.join(CACHE);
    // Without one, what needs it says so.
    let _there_or_not = files::make_folder(&cache);
    let mut found = Vec::new();
    for (folder, variable, moved) in CACHES {
        let folder = home.join(folder);
        if folder.is_dir() {
            found.push(folder);
        } else if !env.contains_key(OsStr::new(variable)) {
            env.insert(variable.into(), cache.join(moved).into());
        }
    }
    found.push(cache);
    found
}

fn devices() -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    let is_used = |name: &OsString| {
        let name = name.to_str().unwrap_or_default();
        DEVICES.contains(&name) || name.starts_with(DEVICES_OF)
    };
    names
        .filter(is_used)
        .map(|name| Path::new("/dev").join(name))
        .collect()
}

/// Why hiding these takes something from jobs that they are used to.
fn costly(hidden: &[PathBuf], home: Option<&Path>) -> Option<String> {
    let above = hidden
        .iter()
        .flat_map(|path| path.ancestors().skip(1).map(move |above| (path, above)));
    above
        .filter(|(_, above)| *above != Path::new("/"))
        .find_map(|(path, above)| {
            let what = if home == Some(above) {
                "the home folder of jobs"
            } else if is_for_all(above) {
                "which everybody may write to"
            } else {
                return None;
            };
            Some(format!(
                "{} lies below {}, {what}; put data_dir elsewhere, such as /var/lib/marquee, or set sandbox = \"on\": then jobs cannot list the folders above it, and write to their own alone",
                path.display(),
                above.display()
            ))
        })
}

fn is_for_all(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|found| found.permissions().mode() & 0o002 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_home_or_the_folder_of_all_is_costly_and_no_other() {
        let costly = |path: &str, home: Option<&str>| costly(&[path.into()], home.map(Path::new));
        assert_eq!(costly("/var/lib/marquee/worker", Some("/root")), None);
        // The account's home is the folder itself: jobs get one of their own.
        let own = "/var/lib/marquee/worker";
        assert_eq!(costly(own, Some(own)), None);
        let of_user = "/home/a/.local/share/marquee/workers/w";
        assert!(
            costly(of_user, Some("/home/a"))
                .unwrap()
                .contains("/home/a, the home")
        );
        assert_eq!(costly(of_user, Some("/home/b")), None);
        assert!(costly("/tmp/x/data", None).unwrap().contains("everybody"));
    }

    #[test]
    fn caches_that_are_not_there_are_moved_and_what_the_job_says_stands() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".nv")).unwrap();
        let mut env = BTreeMap::from([("KERAS_HOME".into(), "/mine".into())]);
        let mut found = caches(home.path(), &mut env);
        found.sort();
        let at = |name: &str| home.path().join(name);
        assert_eq!(found, [at(".cache"), at(".nv")]);
        assert!(at(".cache").is_dir());
        let triton: OsString = at(".cache/triton").into();
        let wanted: BTreeMap<OsString, OsString> = BTreeMap::from([
            ("KERAS_HOME".into(), "/mine".into()),
            ("TRITON_CACHE_DIR".into(), triton),
        ]);
        assert_eq!(env, wanted);
    }

    #[test]
    fn the_devices_of_every_program_are_among_those_that_jobs_open_and_no_disk_is() {
        let found = devices();
        assert!(found.contains(&"/dev/null".into()) && found.contains(&"/dev/urandom".into()));
        let names = found.iter().filter_map(|path| path.file_name()?.to_str());
        let mut disks = names.filter(|name| name.starts_with("sd") || name.starts_with("vd"));
        assert_eq!(disks.next(), None);
    }
}
