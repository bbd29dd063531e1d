//! The keeper: a tiny process between the daemon and a child (`marquee-worker keep DIR N -- ARGV`).
//!
//! It leads the child's session, outlives the daemon, and writes down how the child ended, so that
//! a daemon that was killed and started again learns the child's exit status all the same. As the
//! subreaper of all that the child starts, it also knows when nothing of it is left: it kills what
//! outlives the child, wherever it hid, and only then writes `exit-N.json`.
//!
//! Not here: any decision. TERM to the group passes it by; [`KILL_REQUEST`] makes it kill.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};

use super::{ProcessId, find, oom_kills, signal};
use crate::durable;

/// Asks a keeper to kill everything below it.
pub const KILL_REQUEST: Signal = Signal::SIGUSR1;

/// The claim on launch number N, `claim-N.json`: made once, by the keeper, or by a daemon that
/// wants to be sure that no late keeper starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// None where a daemon fenced this launch off.
    pub keeper: Option<ProcessId>,
    /// The child, once it is started.
    pub child: Option<i32>,
}

/// How a child ended, `exit-N.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It left by itself with this status.
    Code(i32),
    /// A signal killed it. `oom` says whether the kernel's out-of-memory killer struck on this
    /// host while the child ran.
    Signal { number: i32, oom: bool },
    /// It could not be started.
    NotStarted { error: String },
}

pub(crate) fn claim_path(dir: &Path, launch: u32) -> PathBuf {
    dir.join(format!("claim-{launch}.json"))
}

pub(crate) fn exit_path(dir: &Path, launch: u32) -> PathBuf {
    dir.join(format!("exit-{launch}.json"))
}

/// Writes a claim if there is none yet: whole, and only one of several that try.
pub(crate) fn try_claim(dir: &Path, launch: u32, claim: &Claim) -> io::Result<bool> {
    let aside = dir.join(format!("claim-{launch}.{}", std::process::id()));
    fs::write(&aside, serde_json::to_vec(claim)?)?;
    let linked = fs::hard_link(&aside, claim_path(dir, launch));
    fs::remove_file(&aside)?;
    match linked {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

/// The keeper's whole life. Returns when the child and all its descendants are gone.
pub fn keep(dir: &Path, launch: u32, argv: &[OsString]) -> anyhow::Result<()> {
    // Blocked, so that `wait_for` takes them one by one; `start` lifts the mask for the child.
    let mut signals = SigSet::empty();
    for each in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        KILL_REQUEST,
    ] {
        signals.add(each);
    }
    signals.thread_block()?;
    setsid()?;
    set_child_subreaper(true)?;

    let keeper = ProcessId::own();
    if !try_claim(
        dir,
        launch,
        &Claim {
            keeper,
            child: None,
        },
    )? {
        anyhow::bail!("launch {launch} in {dir:?} is fenced off");
    }
    let ooms_before = oom_kills();
    let exit = match start(argv, &signals) {
        Ok(child) => {
            durable::write_json(
                &claim_path(dir, launch),
                &Claim {
                    keeper,
                    child: Some(child),
                },
            )?;
            let status = wait_for(child, &signals)?;
            exit_of(status, ooms_before)
        }
        Err(error) => Exit::NotStarted {
            error: error.to_string(),
        },
    };
    bury_the_rest()?;
    durable::write_json(&exit_path(dir, launch), &exit)?;
    Ok(())
}

/// Starts the child from a thread of its own, whose mask alone is lifted: a child inherits the mask
/// of the thread that starts it, and with TERM blocked it could never be told to stop.
fn start(argv: &[OsString], blocked: &SigSet) -> io::Result<i32> {
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program"))?;
    let spawn = || -> io::Result<i32> {
        blocked.thread_unblock()?;
        let child = Command::new(program)
            .args(arguments)
            .arg0(program)
            .spawn()?;
        i32::try_from(child.id()).map_err(io::Error::other)
    };
    std::thread::scope(|scope| scope.spawn(spawn).join())
        .map_err(|_| io::Error::other("the thread that starts the child panicked"))?
}

/// Reaps all that ends until `child` does.
fn wait_for(child: i32, signals: &SigSet) -> nix::Result<WaitStatus> {
    loop {
        loop {
            let status = waitpid(None, Some(WaitPidFlag::WNOHANG))?;
            if status == WaitStatus::StillAlive {
                break;
            }
            if status.pid() == Some(Pid::from_raw(child)) {
                return Ok(status);
            }
        }
        if signals.wait()? == KILL_REQUEST {
            descendants()
                .into_iter()
                .for_each(|pid| signal(pid, Signal::SIGKILL));
        }
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "waitpid was not asked for stops and continues"
)]
fn exit_of(status: WaitStatus, ooms_before: u64) -> Exit {
    match status {
        WaitStatus::Exited(_, code) => Exit::Code(code),
        WaitStatus::Signaled(_, by, _) => {
            let oom = by == Signal::SIGKILL && oom_kills() > ooms_before;
            Exit::Signal {
                number: by as i32,
                oom,
            }
        }
        other => Exit::NotStarted {
            error: format!("waitpid said {other:?}"),
        },
    }
}

/// Kills what outlived the child, until nothing is left to wait for.
fn bury_the_rest() -> nix::Result<()> {
    loop {
        descendants()
            .into_iter()
            .for_each(|pid| signal(pid, Signal::SIGKILL));
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
            // A process in an uninterruptible wait dies when the kernel lets it.
            Ok(WaitStatus::StillAlive) => std::thread::sleep(std::time::Duration::from_millis(5)),
            Ok(_buried) => {}
        }
    }
}

/// Everything below this process.
fn descendants() -> Vec<i32> {
    let mut family = vec![Pid::this().as_raw()];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(find(|_, stat| stat.parent == parent));
        next += 1;
    }
    family.split_off(1)
}
