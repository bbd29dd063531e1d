//! Children behind keepers: how the daemon starts them and finds them again.
//!
//! What is true of a child stands in its folder (claim and exit file) and in the kernel. The daemon
//! hears of changes from the keeper's end and from inotify; where the kernel does not tell, it looks.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::departure::Departure;
use super::keeper::{self, Claim, KILL_REQUEST};
use super::launcher::{Child, Launch, Launcher, News, Status, stderr_path, stdout_path};
use super::watch::{FolderWatch, Watches};
use super::{ProcessId, signal};
use crate::proc;

/// The daemon's own program, even when its file was replaced by an upgrade.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// Variables that speak to the daemon, not to its children.
const NOT_FOR_CHILDREN: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDS",
    "LISTEN_PID",
];
/// Prefix of the daemon's own settings.
const OWN_VARIABLES: &str = "MARQUEE_WORKER__";
/// How often to look where the kernel tells of ends and output: only for what it may have missed.
const LOOK_WHEN_TOLD: Duration = Duration::from_secs(1);
/// How often to look where it does not: short enough for a live log.
const LOOK_WHEN_NOT: Duration = Duration::from_millis(100);

/// Starts each child behind a keeper, a process that outlives the daemon.
#[derive(Debug, Default)]
pub struct Keepers {
    /// Made with the first child; None where the kernel gives none.
    watches: OnceLock<Option<Arc<Watches>>>,
}

impl Keepers {
    fn watch(&self, dir: &Path) -> Option<FolderWatch> {
        let watches = self.watches.get_or_init(Watches::new);
        watches.as_ref().and_then(|watches| watches.watch(dir))
    }
}

impl Launcher for Keepers {
    fn start(&self, launch: &Launch<'_>) -> io::Result<Box<dyn Child>> {
        let number = newest_claim(launch.dir)?.map_or(1, |(newest, _)| newest + 1);
        let append = |path| OpenOptions::new().create(true).append(true).open(path);
        let mut command = tokio::process::Command::new(OWN_PROGRAM);
        command
            .arg0("marquee-worker")
            .args([
                OsStr::new("keep"),
                launch.dir.as_os_str(),
                OsStr::new(&number.to_string()),
            ])
            .arg("--")
            .args(&launch.argv)
            .current_dir(launch.work_dir)
            .envs(&launch.env)
            .stdin(Stdio::null())
            .stdout(append(stdout_path(launch.dir))?)
            .stderr(append(stderr_path(launch.dir))?);
        let own = std::env::vars_os().map(|(name, _)| name);
        for name in own.filter(|name| !is_for_children(name)) {
            command.env_remove(name);
        }
        // Before there is anything to miss.
        let watch = self.watch(launch.dir);
        // From here on the claim is what counts.
        let child = command.spawn()?;
        Ok(Box::new(Kept {
            dir: launch.dir.to_owned(),
            launch: number,
            keeper: None,
            spawned: child.id().and_then(|pid| i32::try_from(pid).ok()),
            child: None,
            departure: Departure::Own(Box::new(child)),
            watch,
        }))
    }

    fn adopt(&self, dir: &Path) -> io::Result<Option<Box<dyn Child>>> {
        let Some((launch, keeper)) = find(dir)? else {
            return Ok(None);
        };
        Ok(Some(Box::new(Kept {
            dir: dir.to_owned(),
            launch,
            keeper: Some(keeper),
            spawned: None,
            child: None,
            departure: Departure::of(keeper),
            watch: self.watch(dir),
        })))
    }
}

/// One child behind its keeper.
#[derive(Debug)]
struct Kept {
    dir: PathBuf,
    launch: u32,
    /// None while the keeper has not made its claim yet.
    keeper: Option<ProcessId>,
    /// The keeper's id as the parent knows it, until the claim says it with the start time.
    spawned: Option<i32>,
    child: Option<i32>,
    /// Of the keeper: to leave an exit file is the last thing it does.
    departure: Departure,
    /// Of the folder, for the child's start and its output.
    watch: Option<FolderWatch>,
}

impl Child for Kept {
    fn status(&mut self) -> io::Result<Status> {
        // Before the exit file, so that one written in between is seen.
        let keeper_lives = match (self.keeper, self.spawned) {
            (Some(keeper), _) => keeper.is_alive(),
            (None, Some(pid)) => proc::stat(pid).is_some_and(|stat| !stat.is_zombie),
            (None, None) => false,
        };
        // To leave an exit file is the last that a keeper does: while it lives, nothing else is to be read.
        if keeper_lives && self.keeper.is_some() && self.child.is_some() {
            return Ok(Status::Running);
        }
        // The exit before the claim: once it is there, the claim says all that it ever will.
        let exit = read(&keeper::exit_path(&self.dir, self.launch))?;
        let claim: Option<Claim> = read(&keeper::claim_path(&self.dir, self.launch))?;
        self.keeper = self.keeper.or(claim.and_then(|claim| claim.keeper));
        self.child = self.child.or(claim.and_then(|claim| claim.child));
        if let Some(exit) = exit {
            return Ok(Status::Gone(Some(exit)));
        }
        if !keeper_lives {
            return Ok(Status::Gone(None));
        }
        Ok(if self.child.is_some() {
            Status::Running
        } else {
            Status::Starting
        })
    }

    fn pid(&self) -> Option<u32> {
        self.child.and_then(|pid| u32::try_from(pid).ok())
    }

    fn news(&mut self) -> BoxFuture<'_, News> {
        let (departure, watch) = (&mut self.departure, &mut self.watch);
        async move {
            let change = async {
                match watch {
                    Some(watch) => watch.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = departure.wait() => News::State,
                news = change => news,
            }
        }
        .boxed()
    }

    fn look_every(&self) -> Duration {
        if self.watch.is_some() && self.departure.is_told() {
            LOOK_WHEN_TOLD
        } else {
            LOOK_WHEN_NOT
        }
    }

    fn terminate(&self) {
        if let Some(pid) = self.keeper_pid() {
            let _gone_already = killpg(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    fn kill(&self) {
        if let Some(pid) = self.keeper_pid() {
            signal(pid, KILL_REQUEST);
        }
    }

    fn kill_session(&self) {
        self.survivors()
            .into_iter()
            .for_each(|pid| signal(pid, Signal::SIGKILL));
    }

    fn survivors(&self) -> Vec<i32> {
        let Some(keeper) = self.keeper else {
            return Vec::new();
        };
        let all = proc::running().into_iter();
        let own = all.filter(|(_, stat)| stat.session == keeper.pid && stat.start >= keeper.start);
        own.map(|(pid, _)| pid).collect()
    }
}

impl Kept {
    fn keeper_pid(&self) -> Option<i32> {
        match self.keeper {
            Some(keeper) => keeper.is_alive().then_some(keeper.pid),
            None => self.spawned,
        }
    }
}

/// The launch in `dir` and its keeper, living or not; a launch without one is fenced off.
fn find(dir: &Path) -> io::Result<Option<(u32, ProcessId)>> {
    let next = match newest_claim(dir)? {
        Some((
            launch,
            Claim {
                keeper: Some(keeper),
                ..
            },
        )) => return Ok(Some((launch, keeper))),
        Some((launch, Claim { keeper: None, .. })) => launch + 1,
        None => 1,
    };
    let fence = Claim {
        keeper: None,
        child: None,
    };
    if keeper::try_claim(dir, next, &fence)? {
        return Ok(None);
    }
    find(dir)
}

fn is_for_children(name: &OsStr) -> bool {
    name.to_str()
        .is_none_or(|name| !NOT_FOR_CHILDREN.contains(&name) && !name.starts_with(OWN_VARIABLES))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn newest_claim(dir: &Path) -> io::Result<Option<(u32, Claim)>> {
    let mut newest = None;
    for launch in 1.. {
        match read(&keeper::claim_path(dir, launch))? {
            Some(claim) => newest = Some((launch, claim)),
            None => break,
        }
    }
    Ok(newest)
}
