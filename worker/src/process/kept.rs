//! A child behind its keeper, as the daemon sees it: launched by this daemon or found again after
//! a restart, which makes no difference from then on.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::keeper::{self, Claim, Exit, KILL_REQUEST};
use super::{ProcessId, find, signal};

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

/// What to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Folder of the claim, the exit status and the output files.
    pub dir: &'a Path,
    pub work_dir: &'a Path,
    pub argv: Vec<OsString>,
    /// Added to the daemon's own environment.
    pub env: BTreeMap<String, String>,
}

/// One child behind its keeper.
#[derive(Debug, Clone)]
pub struct Kept {
    dir: PathBuf,
    launch: u32,
    /// None while the keeper has not made its claim yet.
    keeper: Option<ProcessId>,
    /// The keeper's id as the parent knows it, until the claim says it with the start time.
    spawned: Option<i32>,
    child: Option<i32>,
}

/// How a child is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Its keeper is about to start it.
    Starting,
    Running,
    /// It ended. None: its keeper was killed before it could say how.
    Gone(Option<Exit>),
}

impl Kept {
    /// Starts a program behind a keeper. Its stdout and stderr are appended to the files of
    /// [`stdout_path`] and [`stderr_path`]; stdin is empty.
    pub fn start(launch: &Launch<'_>) -> io::Result<Self> {
        let number = newest_claim(launch.dir)?.map_or(1, |(newest, _)| newest + 1);
        let append = |path| OpenOptions::new().create(true).append(true).open(path);
        let mut command = Command::new(OWN_PROGRAM);
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
        // From here on the claim is what counts. A thread of its own buries the keeper, which
        // would stay a zombie otherwise.
        let mut child = command.spawn()?;
        let spawned = i32::try_from(child.id()).ok();
        std::thread::spawn(move || child.wait());
        Ok(Self {
            dir: launch.dir.to_owned(),
            launch: number,
            keeper: None,
            spawned,
            child: None,
        })
    }

    /// The child that an earlier daemon of the same boot launched in `dir`, running or ended. If
    /// that daemon may have died while launching, the launch is fenced off and there is none.
    pub fn find(dir: &Path) -> io::Result<Option<Self>> {
        let next = match newest_claim(dir)? {
            Some((
                launch,
                Claim {
                    keeper: Some(keeper),
                    ..
                },
            )) => {
                let dir = dir.to_owned();
                return Ok(Some(Self {
                    dir,
                    launch,
                    keeper: Some(keeper),
                    spawned: None,
                    child: None,
                }));
            }
            Some((launch, Claim { keeper: None, .. })) => launch + 1,
            None => 1,
        };
        if keeper::try_claim(
            dir,
            next,
            &Claim {
                keeper: None,
                child: None,
            },
        )? {
            return Ok(None);
        }
        Self::find(dir)
    }

    /// How the child is doing.
    pub fn status(&mut self) -> io::Result<Status> {
        // Before the exit file, so that one written in between is seen.
        let keeper_lives = match (self.keeper, self.spawned) {
            (Some(keeper), _) => keeper.is_alive(),
            (None, Some(pid)) => {
                super::stat(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
            }
            (None, None) => false,
        };
        // To leave an exit file is the last that a keeper does: while it lives, nothing else is to be read.
        if keeper_lives && self.keeper.is_some() && self.child.is_some() {
            return Ok(Status::Running);
        }
        let claim: Option<Claim> = read(&keeper::claim_path(&self.dir, self.launch))?;
        self.keeper = self.keeper.or(claim.and_then(|claim| claim.keeper));
        self.child = self.child.or(claim.and_then(|claim| claim.child));
        if let Some(exit) = read(&keeper::exit_path(&self.dir, self.launch))? {
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

    /// Process id of the child, once it was started.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.and_then(|pid| u32::try_from(pid).ok())
    }

    /// Asks the whole process group to leave.
    pub fn terminate(&self) {
        if let Some(pid) = self.keeper_pid() {
            let _gone_already = killpg(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    /// Kills everything the child started, by way of its keeper.
    pub fn kill(&self) {
        if let Some(pid) = self.keeper_pid() {
            signal(pid, KILL_REQUEST);
        }
    }

    /// Kills what is left of the child's session, the keeper included.
    pub fn kill_session(&self) {
        self.survivors()
            .into_iter()
            .for_each(|pid| signal(pid, Signal::SIGKILL));
    }

    /// What is left of the child's session.
    #[must_use]
    pub fn survivors(&self) -> Vec<i32> {
        match self.keeper {
            Some(keeper) => {
                find(|_, stat| stat.session == keeper.pid && stat.start >= keeper.start)
            }
            None => Vec::new(),
        }
    }

    fn keeper_pid(&self) -> Option<i32> {
        match self.keeper {
            Some(keeper) => keeper.is_alive().then_some(keeper.pid),
            None => self.spawned,
        }
    }
}

/// File that a child's stdout goes into.
#[must_use]
pub fn stdout_path(dir: &Path) -> PathBuf {
    dir.join("stdout")
}

/// File that a child's stderr goes into.
#[must_use]
pub fn stderr_path(dir: &Path) -> PathBuf {
    dir.join("stderr")
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
