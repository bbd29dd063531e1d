//! Processes of this host: children behind keepers, and how to name one beyond doubt.
//!
//! A process is named by its id *and* its start time, because ids come round again. Zombies count
//! as gone: they hold no device and no memory.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::proc;

pub mod cage;
mod cgroup;
mod departure;
pub mod fence;
pub mod inside;
pub mod keeper;
pub mod kept;
pub mod launcher;
mod program;
mod strays;
mod watch;

/// One process, beyond doubt as long as the kernel is not booted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    pub start: u64,
}

impl ProcessId {
    /// The process that asks.
    #[must_use]
    pub fn own() -> Option<Self> {
        let pid = Pid::this().as_raw();
        Some(Self {
            pid,
            start: proc::stat(pid)?.start,
        })
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        proc::stat(self.pid).is_some_and(|stat| stat.start == self.start && !stat.is_zombie)
    }
}

/// Lets the runtime tell when there is something to read.
#[allow(
    deprecated,
    reason = "what it warns of, a descriptor closed by another owner, an OwnedFd rules out; what replaces it is unsafe"
)]
fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// Sends a signal. A process that is gone already is what one wanted.
pub(crate) fn signal(pid: i32, signal: Signal) {
    let _gone_already = kill(Pid::from_raw(pid), signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time_too() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive());
        assert!(
            !ProcessId {
                start: own.start + 1,
                ..own
            }
            .is_alive()
        );
    }
}
