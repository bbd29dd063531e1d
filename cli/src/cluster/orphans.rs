//! Processes that come to us because their parent died: as the subreaper we get them instead of
//! init, so that we can see them end and, at last, end them.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use crate::error::Result;

/// Time between TERM and KILL for an orphan. Its own daemon would have given it more, but that is
/// gone.
const GRACE: Duration = Duration::from_secs(3);
/// How long to wait for the kernel after KILL.
const KILL_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// From here on, orphaned descendants become our children.
pub(super) fn adopt() -> Result<()> {
    set_child_subreaper(true)
        .map_err(std::io::Error::from)
        .context("cannot become the reaper of orphaned processes")?;
    Ok(())
}

/// Our children besides `known`, whose ends somebody else waits for.
fn strangers(known: &[u32]) -> Vec<Pid> {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // Never those that somebody waits for: reaped here, their exit status would be lost to
    // `Program::ended`.
    pids.filter(|pid| !known.contains(pid))
        .filter(|pid| parent_of(*pid) == Some(own))
        .filter_map(|pid| i32::try_from(pid).ok().map(Pid::from_raw))
        .collect()
}

/// Field 4 of `/proc/<pid>/stat`, counted from the end of the name, which may hold anything.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Collects the exit codes of orphans that have ended, as init would; otherwise they stay as zombies.
pub(super) fn reap(known: &[u32]) {
    for pid in strangers(known) {
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    }
}

/// Ends all of them, and those that come to us while they end.
pub(super) async fn end(known: &[u32]) {
    signal_until_none(known, Signal::SIGTERM, GRACE).await;
    signal_until_none(known, Signal::SIGKILL, KILL_MAX).await;
}

async fn signal_until_none(known: &[u32], signal: Signal, limit: Duration) {
    let started = Instant::now();
    let mut told: Vec<Pid> = Vec::new();
    loop {
        reap(known);
        let left = strangers(known);
        // Looked for anew each time: what is ended leaves its own children to us.
        if left.is_empty() || started.elapsed() > limit {
            return;
        }
        for pid in left {
            if !told.contains(&pid) {
                let _ = kill(pid, signal);
                told.push(pid);
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_parent_is_found_whatever_the_child_is_called() {
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        assert_eq!(parent_of(child.id()), Some(std::process::id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(parent_of(child.id()), None);
    }
}
