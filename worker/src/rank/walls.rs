//! What a command job does not see of its worker: the data folder, with the spool, the identity, the cache and all other
//! jobs' folders, and the key of the worker's certificate. It is given its own folders and its inputs.
//!
//! Everything else of the host is open to a job as to its account: strangers' scripts need environments, data sets and
//! caches of which no document speaks. How it is done has one price (`process::fence`): in a folder above a hidden one
//! no new names can be made or opened. Where jobs do that as a matter of course (their home folder, folders that
//! everybody may write to) `sandbox = "auto"` leaves it, says so, and names the way out: a data folder elsewhere.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::RankDir;
use crate::config::{Config, Sandbox};
use crate::files;
use crate::process::fence::Fence;

const HOME: &str = "HOME";
/// Here others replace files as a matter of course (`resolv.conf`, `passwd`): a rule by names would lose them.
const REPLACED: &str = "/etc";

/// What is hidden from the command jobs of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Walls {
    Hide(Vec<PathBuf>),
    /// Nothing, and why.
    None(String),
}

impl Walls {
    /// Those of a worker whose jobs have this home folder.
    #[must_use]
    pub fn of(config: &Config, home: Option<&OsStr>) -> Self {
        if config.sandbox == Sandbox::Off {
            return Self::None("sandbox is \"off\"".to_owned());
        }
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut hidden = vec![real(&config.data_dir)];
        hidden.extend(config.sandbox_hide.iter().map(|path| real(path)));
        let key = config.tls_key.as_deref().map(real);
        hidden.extend(key.filter(|key| !key.starts_with(REPLACED)));
        let home = home.map(|home| real(Path::new(home)));
        match costly(&hidden, home.as_deref()) {
            Some(why) if config.sandbox == Sandbox::Auto => Self::None(why),
            Some(_) | None => Self::Hide(hidden),
        }
    }

    /// The fence for one job, with its home folder moved out of what is hidden. None: it gets none.
    pub fn fence(
        &self,
        data_dir: &Path,
        dir: &RankDir,
        inputs: &BTreeMap<String, PathBuf>,
        env: &mut BTreeMap<OsString, OsString>,
    ) -> io::Result<Option<Fence>> {
        let Self::Hide(hidden) = self else {
            return Ok(None);
        };
        let mut own = vec![dir.work(), dir.output(), dir.checkpoints()];
        let home = env.get(OsStr::new(HOME)).map(PathBuf::from);
        let home = home.map(|home| fs::canonicalize(&home).unwrap_or(home));
        if home.is_some_and(|home| hidden.iter().any(|hidden| home.starts_with(hidden))) {
            // The account of a service has its home where its data are. What jobs keep there, such as models that they
            // have fetched, all of them share.
            let shared = data_dir.join("home");
            files::make_folder(&shared)?;
            env.insert(HOME.into(), shared.clone().into());
            own.push(shared);
        }
        let mut readable = vec![dir.path().to_owned()];
        readable.extend(inputs.values().cloned());
        Ok(Some(Fence {
            hidden: hidden.clone(),
            readable,
            own,
        }))
    }
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
                "{} lies below {}, {what}; put data_dir elsewhere, such as /var/lib/marquee, or set sandbox = \"on\": then jobs cannot make new files right in the folders above it",
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
}
