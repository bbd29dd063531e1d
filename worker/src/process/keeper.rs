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
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};

use super::launcher::Exit;
use super::{ProcessId, signal};
use crate::durable;
use crate::proc::{self, oom_kills};

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

/// How long what outlived the child may stay, at most, until it is looked for again: one that was
/// being forked while the list was read is not in it.
const RESCAN_MS: u8 = 20;

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
            durable::replace_json(
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
    bury_the_rest(&signals)?;
    // The last thing it does: who sees the keeper gone finds the file, or knows that there is none.
    durable::replace_json(&exit_path(dir, launch), &exit)?;
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

/// Kills what outlived the child, until nothing is left to wait for. Mostly nothing is, and then the
/// first question to the kernel says so.
fn bury_the_rest(signals: &SigSet) -> nix::Result<()> {
    let mut ends = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
            // A process in an uninterruptible wait dies when the kernel lets it.
            Ok(WaitStatus::StillAlive) => {
                descendants()
                    .into_iter()
                    .for_each(|pid| signal(pid, Signal::SIGKILL));
                let ends = match &ends {
                    Some(ends) => ends,
                    None => ends.insert(SignalFd::with_flags(
                        signals,
                        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
                    )?),
                };
                wait_a_moment(ends)?;
            }
            Ok(_buried) => {}
        }
    }
}

/// Waits for the next signal, such as that of a child's end, but not for long.
fn wait_a_moment(signals: &SignalFd) -> nix::Result<()> {
    let mut asked = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    match poll(&mut asked, PollTimeout::from(RESCAN_MS)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(e) => return Err(e),
    }
    while signals.read_signal()?.is_some() {}
    Ok(())
}

/// Everything below this process.
fn descendants() -> Vec<i32> {
    let all = proc::running();
    let mut family = vec![Pid::this().as_raw()];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        let children = all.iter().filter(|(_, stat)| stat.parent == parent);
        family.extend(children.map(|(pid, _)| *pid));
        next += 1;
    }
    family.split_off(1)
}
