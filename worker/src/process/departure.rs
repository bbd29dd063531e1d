//! The end of a process as an event.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tracing::{debug, warn};

use super::{ProcessId, readable};

/// Tells when a process ends.
#[derive(Debug)]
pub(super) enum Departure {
    /// A child of this process. tokio hears of its end from a pidfd or, where the kernel has none,
    /// from SIGCHLD, and buries it.
    Own(Box<tokio::process::Child>),
    /// Anybody's process.
    Other(AsyncFd<OwnedFd>),
    /// It is gone already.
    Past,
    /// The kernel does not tell: one has to look.
    Untold,
}

impl Departure {
    /// Of a process that is not this one's child.
    pub(super) fn of(process: ProcessId) -> Self {
        let pid = Pid::from_raw(process.pid);
        let opened = pid.ok_or_else(|| io::Error::other("no process id"));
        let opened = opened.and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
        // The id may have gone to another process before it was opened, not after.
        if !process.is_alive() {
            return Self::Past;
        }
        let watched = opened.and_then(readable);
        watched.map_or_else(
            |error| {
                debug!(pid = process.pid, %error, "the kernel tells no ends of processes; looking instead");
                Self::Untold
            },
            Self::Other,
        )
    }

    /// Whether [`Departure::wait`] will tell.
    pub(super) fn is_told(&self) -> bool {
        match self {
            Self::Own(_) | Self::Other(_) | Self::Past => true,
            Self::Untold => false,
        }
    }

    /// Whether it is a child of this process that has not ended, as only its parent can tell whoever hides it.
    pub(super) fn is_still_ours(&mut self) -> bool {
        match self {
            Self::Own(child) => matches!(child.try_wait(), Ok(None)),
            Self::Other(_) | Self::Past | Self::Untold => false,
        }
    }

    /// Whether the process is known to have left by itself and in order. False where it was killed, and
    /// where its status is not ours to know.
    pub(super) fn was_in_order(&mut self) -> bool {
        match self {
            Self::Own(child) => matches!(child.try_wait(), Ok(Some(status)) if status.success()),
            Self::Other(_) | Self::Past | Self::Untold => false,
        }
    }

    /// Waits for the end. Never comes back where the kernel does not tell.
    pub(super) async fn wait(&mut self) {
        match self {
            Self::Own(child) => {
                if let Err(error) = child.wait().await {
                    warn!(%error, "the end of a keeper cannot be waited for");
                    *self = Self::Untold;
                    std::future::pending::<()>().await;
                }
            }
            Self::Other(fd) => {
                if let Err(error) = fd.readable().await {
                    warn!(%error, "a pidfd cannot be waited for");
                    *self = Self::Untold;
                    std::future::pending::<()>().await;
                }
            }
            Self::Past => {}
            Self::Untold => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc;
    use std::time::Duration;

    fn process(pid: u32) -> ProcessId {
        let pid = i32::try_from(pid).unwrap();
        let start = proc::stat(pid).unwrap().start;
        ProcessId { pid, start }
    }

    #[tokio::test]
    async fn the_end_of_another_ones_child_is_told_once_it_is_there() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let mut departure = Departure::of(process(child.id()));
        assert!(departure.is_told());
        let early = tokio::time::timeout(Duration::from_millis(20), departure.wait()).await;
        assert!(early.is_err(), "it lives");
        child.kill().unwrap();
        // A zombie has ended: its parent has not taken notice yet.
        departure.wait().await;
        departure.wait().await;
        let gone = process(child.id());
        child.wait().unwrap();
        assert!(matches!(Departure::of(gone), Departure::Past));
    }

    #[tokio::test]
    async fn a_child_is_ours_until_it_has_ended_and_nobody_elses_ever_is() {
        let child = tokio::process::Command::new("sleep").arg("100").spawn();
        let mut own = Departure::Own(Box::new(child.unwrap()));
        assert!(own.is_still_ours());
        let Departure::Own(child) = &mut own else {
            unreachable!()
        };
        child.start_kill().unwrap();
        own.wait().await;
        assert!(!own.is_still_ours());
        assert!(!own.was_in_order(), "it was killed");
        let mut others = Departure::of(ProcessId::own().unwrap());
        assert!(!others.is_still_ours());
    }

    #[tokio::test]
    async fn a_process_id_that_came_round_again_is_not_taken_for_the_old_process() {
        let own = ProcessId::own().unwrap();
        let older = ProcessId {
            start: own.start - 1,
            ..own
        };
        assert!(matches!(Departure::of(older), Departure::Past));
    }
}
