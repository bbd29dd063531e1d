//! The keeper: a tiny process between the daemon and a child (`marquee-keeper DIR N -- ARGV`).
//!
//! It leads the child's session, outlives the daemon, and writes down how the child ended, so that
//! a daemon that was killed and started again learns the child's exit status all the same. As the
//! subreaper of all that the child starts, it also knows when nothing of it is left: it kills what
//! outlives the child, wherever it hid, and only then writes `exit-N.json`.
//!
//! A full disk does not end it: room for what it writes is kept from the start, and where there was none
//! it tries again until somebody makes some.
//!
//! Not here: any decision. TERM to the group passes it by; [`KILL_REQUEST`] makes it kill.

mod birth;
mod order;

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{set_child_subreaper, set_name};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};

use super::cage::Cage;
use super::launcher::Exit;
use super::{ProcessId, cgroup, signal};
use crate::durable::Room;
use crate::proc::{self, oom_kills};
pub(super) use birth::{channel, start};
pub use order::{Born, COMMAND, Claim, Keep};
pub(super) use order::{ChildOrder, look_path};
pub(crate) use order::{claim_path, exit_path, try_claim};

/// Asks a keeper to kill everything below it.
pub const KILL_REQUEST: Signal = Signal::SIGUSR1;
/// Asks a keeper whose child runs under another account to have it looked at; the answer is at [`order::look_path`]. A
/// keeper that does not know this signal, or the next, ignores it.
pub(super) const LOOK_REQUEST: Signal = Signal::SIGURG;
/// Asks the same to ask its child for its stacks.
pub(super) const STACKS_REQUEST: Signal = Signal::SIGWINCH;

/// Has such a child live its life, tells when it was started, and says how it ended when nothing of it is left:
/// [`super::cage::keeping::keep`], which needs this file.
pub type KeepCaged = fn(&Cage, Born, &SignalFd, &mut dyn FnMut(i32)) -> Exit;

/// How long what outlived the child may stay, at least, until it is looked for again: one that was
/// being forked while the list was read is not in it.
const RESCAN_MIN: Duration = Duration::from_millis(20);
/// A look at all processes may take a third of a core at most, however many there are.
const REST_FACTOR: u32 = 2;
/// A shell's exit status where its program was killed by SIGKILL. Alone it proves nothing.
const SHELL_KILLED: i32 = 128 + Signal::SIGKILL as i32;
/// Between two tries to write to a full disk.
const WRITE_AGAIN: Duration = Duration::from_millis(200);

/// The keeper's whole life. Returns when the child and all its descendants are gone.
pub fn keep(order: &Keep, keep_caged: KeepCaged) -> anyhow::Result<()> {
    let (dir, launch) = (order.dir.as_path(), order.launch);
    // Blocked, so that `wait_for` takes them one by one; `start` lifts the mask for the child.
    let mut signals = SigSet::empty();
    for each in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        KILL_REQUEST,
        LOOK_REQUEST,
        STACKS_REQUEST,
    ] {
        signals.add(each);
    }
    signals.thread_block()?;
    // A session of its own: what ends the daemon, from a terminal or by its group, does not reach it.
    setsid()?;
    // It was started by the number of an open file, which is no name to see in a list of processes.
    set_name(c"marquee-keeper")?;
    // What a child leaves behind comes to its keeper, and so is found whatever it does to its session.
    set_child_subreaper(true)?;
    let mut child = ChildOrder::read(io::stdin().lock())?;
    let ends = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;

    let keeper = ProcessId::own();
    let claim = Claim {
        keeper,
        child: None,
        cgroup: order.cgroup.clone(),
        is_caged: child.cage.is_some(),
    };
    // The claim before the child: a daemon that comes meanwhile either finds the claim, or fences this keeper
    // off with one.
    if !try_claim(dir, launch, &claim)? {
        anyhow::bail!("launch {launch} in {dir:?} is fenced off");
    }
    // While there is some: once the child has filled the disk, how it ended must still find room.
    let mut claim_room = Room::keep(&claim_path(dir, launch));
    let mut exit_room = Room::keep(&exit_path(dir, launch));
    if let Some(cage) = child.cage.take() {
        let born = Born {
            argv: order.argv.clone(),
            own: child,
            work_dir: std::env::current_dir()?,
            cgroup: order.cgroup.clone().context("a cage needs a cgroup")?,
            events: order.events.then(|| channel(dir)).transpose()?,
            answer: look_path(dir, launch),
        };
        let exit = keep_caged(&cage, born, &ends, &mut |child| {
            let claim = Claim {
                child: Some(child),
                ..claim.clone()
            };
            surely(|| claim_room.fill_json(&claim), &ends);
        });
        surely(|| exit_room.fill_json(&exit), &ends);
        return Ok(());
    }
    let ooms_before = oom_kills();
    // The child is born where the keeper is: it goes there for the birth.
    let birth = order.cgroup.as_deref().map(Birth::in_cgroup);
    let started = start(order, child, &signals);
    let cgroup = birth.and_then(Birth::go_home);
    let exit = match started {
        Ok(child) => {
            let claim = Claim {
                child: Some(child),
                ..claim
            };
            // With the child's number, so that a daemon that comes later finds the child even if its keeper
            // was killed.
            surely(|| claim_room.fill_json(&claim), &ends);
            let status = wait_for(child, &ends, cgroup)?;
            let own = cgroup.and_then(cgroup::oom_kills);
            exit_of(status, own, || oom_kills() > ooms_before)
        }
        Err(error) => Exit::NotStarted {
            error: error.to_string(),
        },
    };
    bury_the_rest(&ends, cgroup)?;
    // Before the exit's file, with which the daemon may take the folder for the next rank.
    if let Some(folder) = &order.cgroup {
        cgroup::remove(folder);
    }
    // The last thing it does: who sees the keeper gone finds the file, or knows that there is none.
    surely(|| exit_room.fill_json(&exit), &ends);
    Ok(())
}

/// The keeper's visit to the cgroup of its child.
struct Birth<'a> {
    cgroup: &'a Path,
    /// Where the keeper was before; an error where it could not leave.
    home: io::Result<PathBuf>,
}

impl<'a> Birth<'a> {
    fn in_cgroup(cgroup: &'a Path) -> Self {
        let home = cgroup::enter(cgroup);
        Self { cgroup, home }
    }

    /// The cgroup, where the child is in it and the keeper is not: then all in it may be killed.
    fn go_home(self) -> Option<&'a Path> {
        match self.home.and_then(|home| cgroup::join(&home)) {
            Ok(()) => Some(self.cgroup),
            Err(error) => {
                eprintln!("[marquee] this rank has no cgroup of its own: {error}");
                None
            }
        }
    }
}

/// Writes, for as long as it takes, and goes on doing what it is there for meanwhile.
fn surely(mut write: impl FnMut() -> io::Result<()>, ends: &SignalFd) {
    while let Err(error) = write() {
        // To the log of the rank: there is nobody else to tell.
        eprintln!("[marquee] the keeper cannot write: {error}");
        if error.kind() == io::ErrorKind::NotFound {
            // The child removed the folder it belongs into.
            return;
        }
        if wait_a_moment(ends, WRITE_AGAIN).unwrap_or(false) {
            kill_all(None);
        }
    }
}

/// Reaps all that ends until `child` does.
fn wait_for(child: i32, ends: &SignalFd, cgroup: Option<&Path>) -> nix::Result<WaitStatus> {
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
        if wait(ends, PollTimeout::NONE)? {
            kill_all(cgroup);
        }
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "waitpid was not asked for stops and continues"
)]
pub(super) fn exit_of(
    status: WaitStatus,
    own_kills: Option<u64>,
    host_had_some: impl Fn() -> bool,
) -> Exit {
    // Its own cgroup knows whom the killer struck. Without one, that it struck anybody on this host meanwhile is
    // all there is to know.
    let kills = own_kills.unwrap_or(0);
    let is_suspect = || own_kills.is_none() && host_had_some();
    let by_kernel = |how: String| Exit::OutOfMemory { how, kills };
    match status {
        WaitStatus::Exited(_, 0) => Exit::Code(0),
        WaitStatus::Exited(_, code) if kills > 0 => by_kernel(format!("exited with status {code}")),
        // How a shell says that its program was killed.
        WaitStatus::Exited(_, code @ SHELL_KILLED) if is_suspect() => {
            by_kernel(format!("exited with status {code}"))
        }
        WaitStatus::Exited(_, code) => Exit::Code(code),
        WaitStatus::Signaled(_, by, _) if kills > 0 => {
            by_kernel(format!("was killed by signal {} ({by})", by as i32))
        }
        WaitStatus::Signaled(_, by, _) => Exit::Signal {
            number: by as i32,
            oom: by == Signal::SIGKILL && is_suspect(),
        },
        other => Exit::NotStarted {
            error: format!("waitpid said {other:?}"),
        },
    }
}

/// Kills what outlived the child, until nothing is left to wait for. Mostly nothing is, and then the
/// first question to the kernel says so.
pub(super) fn bury_the_rest(ends: &SignalFd, cgroup: Option<&Path>) -> nix::Result<()> {
    let mut look_at = Instant::now();
    loop {
        // All that have ended, before anything else is looked at: there may be thousands.
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
                Ok(WaitStatus::StillAlive) => break,
                Ok(_buried) => {}
            }
        }
        let now = Instant::now();
        if now >= look_at {
            kill_all(cgroup);
            // A process in an uninterruptible wait dies when the kernel lets it.
            look_at = Instant::now() + RESCAN_MIN.max(now.elapsed() * REST_FACTOR);
        }
        wait_a_moment(ends, look_at.saturating_duration_since(Instant::now()))?;
    }
}

/// Waits for the next signal, such as that of a child's end, but not for long. Whether one asked to kill.
fn wait_a_moment(ends: &SignalFd, most: Duration) -> nix::Result<bool> {
    let ms = u16::try_from(most.as_millis() + 1).unwrap_or(u16::MAX);
    wait(ends, PollTimeout::from(ms))
}

/// Waits for signals and takes all there are. Whether one of them asked to kill.
fn wait(ends: &SignalFd, most: PollTimeout) -> nix::Result<bool> {
    let mut asked = [PollFd::new(ends.as_fd(), PollFlags::POLLIN)];
    match poll(&mut asked, most) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(e) => return Err(e),
    }
    let mut shall_kill = false;
    while let Some(signal) = ends.read_signal()? {
        shall_kill |= i32::try_from(signal.ssi_signo).is_ok_and(|n| n == KILL_REQUEST as i32);
    }
    Ok(shall_kill)
}

/// Kills everything below this process, and whatever else is in the child's cgroup.
pub(super) fn kill_all(cgroup: Option<&Path>) {
    if let Some(folder) = cgroup {
        cgroup::kill(folder);
    }
    for pid in proc::below(&[Pid::this().as_raw()], &proc::running()) {
        signal(pid, Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_for_want_of_memory_is_told_from_any_other_by_the_kernels_word() {
        let pid = Pid::this();
        let exited = |code| WaitStatus::Exited(pid, code);
        let killed = WaitStatus::Signaled(pid, Signal::SIGKILL, false);
        let is_oom = |exit: Exit| {
            matches!(
                exit,
                Exit::OutOfMemory { .. } | Exit::Signal { oom: true, .. }
            )
        };
        // The rank's own cgroup decides, where it has one.
        assert!(is_oom(exit_of(killed, Some(1), || false)));
        assert!(is_oom(exit_of(exited(137), Some(2), || false)));
        assert!(
            is_oom(exit_of(exited(1), Some(1), || false)),
            "a loader's helper was killed"
        );
        assert!(
            !is_oom(exit_of(killed, Some(0), || true)),
            "somebody else's"
        );
        assert!(!is_oom(exit_of(exited(137), Some(0), || true)));
        // One that went well did well, whomever it lost.
        assert_eq!(exit_of(exited(0), Some(1), || true), Exit::Code(0));
        // Elsewhere the host's count is all there is.
        assert!(is_oom(exit_of(killed, None, || true)));
        assert!(is_oom(exit_of(exited(137), None, || true)));
        assert!(!is_oom(exit_of(exited(1), None, || true)));
        // Neither 137 nor SIGKILL is a proof.
        assert_eq!(exit_of(exited(137), None, || false), Exit::Code(137));
        assert!(!is_oom(exit_of(killed, None, || false)));
    }
}
