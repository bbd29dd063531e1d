//! The warden: `marquee-worker warden`, what the helper turns into. It runs as the job's user in the child's cgroup,
//! starts the child, and tells the keeper over the connection on its stdin how it goes.
//!
//! A job can kill or stop its warden, as both run under one account. Nothing depends on that: the keeper ends the
//! cgroup, and asks for another warden to open what is left (`tidy`). One without a keeper ends its child.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use marquee_domain::child::env::EVENTS_FD;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, dup2_stderr, dup2_stdout, geteuid, setsid};
use serde::{Deserialize, Serialize};

use super::tidy;
use super::wire::{self, Word};
use crate::process::inside;
use crate::process::keeper::{Born, Keep, bury_the_rest, kill_all, start};

/// The first word of its command line.
pub const COMMAND: &str = "warden";

/// What a warden is there for. A keeper of an older version may ask one of a newer: fields are only added, with a default.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::process) struct Order {
    /// None: only to open what an earlier one left.
    pub(in crate::process) child: Option<Born>,
    /// See [`tidy`].
    pub(in crate::process) left: Vec<PathBuf>,
    /// See `Cage::is_open`.
    #[serde(default)]
    pub(in crate::process) is_open: bool,
}

/// The warden's whole life. Single-threaded, as blocking its signals demands.
pub fn watch() -> anyhow::Result<()> {
    ensure!(!geteuid().is_root(), "a warden is no program for root");
    let mut signals = SigSet::empty();
    for each in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        signals.add(each);
    }
    signals.thread_block()?;
    // One that systemd started leads a session already.
    match setsid() {
        Ok(_) | Err(Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    set_child_subreaper(true)?;
    let socket = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?);
    wire::say(&socket, &Word::Ready)?;
    let (order, with) = wire::ordered::<Order>(&socket).context("the order cannot be read")?;
    let ends = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    if order.is_open {
        umask(Mode::empty());
    }
    if let Some(born) = order.child {
        let word = match begin(born, &with, &signals) {
            Ok(child) => {
                wire::say(&socket, &Word::Started(child))?;
                follow(child, &socket, &ends)?
            }
            Err(error) => Word::NotStarted(format!("{error:#}")),
        };
        // The keeper does not wait for ever for what follows.
        let _gone_already = wire::say(&socket, &word);
        bury_the_rest(&ends, None)?;
        let _gone_already = wire::say(&socket, &Word::Buried);
    }
    for folder in order.left {
        if let Err(error) = tidy::open_up(&folder) {
            eprintln!(
                "[marquee] not all of {} can be opened to the worker: {error}",
                folder.display()
            );
        }
    }
    let _gone_already = wire::say(&socket, &Word::Tidied);
    Ok(())
}

fn begin(born: Born, with: &[OwnedFd], signals: &SigSet) -> anyhow::Result<i32> {
    let (stdout, stderr, events) = match with {
        [stdout, stderr] => (stdout, stderr, None),
        [stdout, stderr, events] => (stdout, stderr, Some(events)),
        _ => anyhow::bail!(
            "the order comes with {} files instead of two or three",
            with.len()
        ),
    };
    dup2_stdout(stdout)?;
    dup2_stderr(stderr)?;
    let mut own = born.own;
    // Not closed when the child becomes its program, as the one that came is; it stays open here for nobody's sake.
    let channel = events.map(rustix::io::dup).transpose()?;
    if let Some(channel) = &channel {
        own.add(EVENTS_FD, channel.as_raw_fd().to_string());
    }
    let folder = born.work_dir;
    chdir(&folder)
        .with_context(|| format!("the work folder {} cannot be entered", folder.display()))?;
    let keep = Keep {
        dir: folder,
        launch: 0,
        events: false,
        cgroup: Some(born.cgroup),
        argv: born.argv,
    };
    Ok(start(&keep, own, signals)?)
}

/// Reaps all that ends until `child` does, and does what the keeper says meanwhile.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "waitpid was not asked for stops and continues"
)]
fn follow(child: i32, socket: &UnixStream, ends: &SignalFd) -> anyhow::Result<Word> {
    let mut has_keeper = true;
    loop {
        loop {
            let status = waitpid(None, Some(WaitPidFlag::WNOHANG))?;
            if status == WaitStatus::StillAlive {
                break;
            }
            if status.pid() == Some(Pid::from_raw(child)) {
                return Ok(match status {
                    WaitStatus::Exited(_, code) => Word::Exited(code),
                    WaitStatus::Signaled(_, by, _) => Word::Killed(by as i32),
                    other => Word::NotStarted(format!("waitpid said {other:?}")),
                });
            }
        }
        let mut asked = vec![PollFd::new(ends.as_fd(), PollFlags::POLLIN)];
        if has_keeper {
            asked.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut asked, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_told = asked.get(1).is_some_and(|asked| asked.any() == Some(true));
        // TERM is for the group, and passes by this process as it does a keeper.
        while ends.read_signal()?.is_some() {}
        if is_told {
            has_keeper = obey(child, socket)?;
        }
    }
}

/// Does what the keeper has said. Whether there is still one.
fn obey(child: i32, mut socket: &UnixStream) -> io::Result<bool> {
    let mut words = [0; 16];
    let count = match socket.read(&mut words) {
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
        Err(error) => return Err(error),
    };
    for word in &words[..count] {
        match *word {
            wire::TERMINATE => {
                let _gone_already = killpg(Pid::this(), Signal::SIGTERM);
            }
            wire::KILL => kill_all(None),
            wire::LOOK => {
                let _gone_already = wire::say(socket, &Word::Inside(inside::look(child)));
            }
            wire::STACKS => {
                let _gone_already = kill(Pid::from_raw(child), Signal::SIGUSR2);
            }
            _ => {}
        }
    }
    if count == 0 {
        // Nobody is left who could end this child.
        kill_all(None);
    }
    Ok(count > 0)
}
