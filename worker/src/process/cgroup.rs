//! Cgroups (version 2) of children: where the daemon owns a part of the tree, each child gets a cgroup of
//! its own, out of which nothing that it starts can slip. All of it is killed by one write, and the
//! number of its processes has a limit.
//!
//! A daemon owns its cgroup where it can make others in it (`Delegate=yes` of its unit). Limits need more:
//! that no process is in the cgroup that hands controllers down. Where systemd puts the daemon into a
//! cgroup of its own named [`DAEMON`] (`DelegateSubgroup=`), the one above serves for that; elsewhere
//! children are held together without a limit.
//!
//! Not here: version 1, which can neither kill nor be delegated.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::{debug, info, warn};

use crate::fault::at;
use crate::proc;

/// `DelegateSubgroup=` of the worker's unit.
const DAEMON: &str = "daemon";
/// Where the kernel is told how many processes and threads a cgroup may have.
const TASKS_FILE: &str = "pids.max";
const KILL_FILE: &str = "cgroup.kill";
/// Where version 2 is mounted: alone, or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The daemon's part of the tree.
#[derive(Debug)]
pub(super) struct Cgroups {
    folder: PathBuf,
}

impl Cgroups {
    /// Finds the part that this process owns. `name` tells daemons of one host apart.
    pub(super) fn find(name: &str) -> Option<Self> {
        let (_, own) = proc::own_cgroups()
            .into_iter()
            .find(|(controllers, _)| controllers.is_empty())?;
        let own = own.trim_start_matches('/');
        // The root is everybody's.
        // Nor is one above it ours to change.
        if own.is_empty() || own.split('/').any(|part| part == "..") {
            return None;
        }
        let mount = MOUNTS
            .iter()
            .map(Path::new)
            .find(|mount| mount.join("cgroup.procs").exists())?;
        let own = mount.join(own);
        let root = match (own.file_name(), own.parent()) {
            (Some(last), Some(parent)) if last == DAEMON => parent.to_owned(),
            (_, _) => own.clone(),
        };
        let folder = root.join(format!("marquee-{name}"));
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                debug!(?root, %error, "no cgroups of our own: children are found by session and mark");
                return None;
            }
            Ok(()) | Err(_) => {}
        }
        if root != own
            && let Err(error) = hand_down(&root).and_then(|()| hand_down(&folder))
        {
            warn!(?root, %error, "the number of processes of a rank cannot be limited");
        }
        info!(?folder, "each rank gets a cgroup");
        Some(Self { folder })
    }

    /// Whether all in one of them can be killed at once (Linux 5.14).
    pub(super) fn can_kill(&self) -> bool {
        self.folder.join(KILL_FILE).exists()
    }

    /// Makes the cgroup of a child of at most so many processes and threads. None where it cannot be had: the child runs
    /// without.
    pub(super) fn make(&self, name: &str, tasks_max: u32) -> Option<PathBuf> {
        let folder = self.folder.join(name);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                warn!(?folder, %error, "a rank gets no cgroup");
                return None;
            }
            Ok(()) | Err(_) => {}
        }
        let limit = folder.join(TASKS_FILE);
        if limit.exists()
            && let Err(error) = fs::write(&limit, tasks_max.to_string())
        {
            warn!(?limit, %error, "the number of a rank's processes is not limited");
        }
        Some(folder)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        // Children that go on keep it.
        let _still_used = fs::remove_dir(&self.folder);
    }
}

/// Lets the cgroups in `folder` limit their processes, and count kills for want of memory.
fn hand_down(folder: &Path) -> io::Result<()> {
    let file = folder.join("cgroup.subtree_control");
    // Where memory is not counted, the kernel's count for the whole host has to do.
    if let Err(error) = fs::write(&file, "+memory") {
        debug!(?file, %error, "kills for want of memory are not counted for each rank");
    }
    fs::write(&file, "+pids").map_err(|e| at(&file, e))
}

/// Whether the kernel counts the processes of a cgroup.
pub(super) fn counts_tasks(folder: &Path) -> bool {
    folder.join(TASKS_FILE).exists()
}

/// How many processes of a cgroup the kernel has killed for want of memory. None where it does not count.
pub(super) fn oom_kills(folder: &Path) -> Option<u64> {
    let text = fs::read_to_string(folder.join("memory.events")).ok()?;
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    count.trim().parse().ok()
}

/// Moves this process into a cgroup, and gives the one where it was.
pub(super) fn enter(folder: &Path) -> io::Result<PathBuf> {
    let before = proc::own_cgroups()
        .into_iter()
        .find(|(controllers, _)| controllers.is_empty())
        .map(|(_, path)| path)
        .unwrap_or_default();
    let mount = MOUNTS
        .iter()
        .map(Path::new)
        .find(|mount| mount.join("cgroup.procs").exists())
        .unwrap_or(Path::new(MOUNTS[0]));
    join(folder)?;
    Ok(mount.join(before.trim_start_matches('/')))
}

/// Moves this process.
pub(super) fn join(folder: &Path) -> io::Result<()> {
    let file = folder.join("cgroup.procs");
    fs::write(&file, "0").map_err(|e| at(&file, e))
}

/// Kills everything in a cgroup at once, whatever it is doing. Whether the kernel could.
pub(super) fn kill(folder: &Path) -> bool {
    fs::write(folder.join(KILL_FILE), "1").is_ok()
}

/// The processes in a cgroup. None where it is gone, and all that was in it.
pub(super) fn processes(folder: &Path) -> Option<Vec<i32>> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).ok()?;
    Some(text.lines().filter_map(|pid| pid.parse().ok()).collect())
}

/// Removes a cgroup that is empty.
pub(super) fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        debug!(?folder, %error, "a cgroup stays");
    }
}
