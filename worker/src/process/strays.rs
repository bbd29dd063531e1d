//! Processes that lost their keeper. A keeper buries all that its child started; where it is killed, what
//! is left comes to the daemon, as the next subreaper above it. From there it is killed and buried, so
//! that it holds no device, and no entry in the kernel's table of processes either.
//!
//! Not here: what came to init, because the daemon did not run when the keeper died. It is found by its
//! session, its mark or its cgroup ([`super::kept`]).

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid};
use tracing::warn;

use super::signal;
use crate::proc::{self, Stat};

/// Variable that names the folder of its launch to each child, and with it to all that it starts.
pub(super) const MARK: &str = "MARQUEE_LAUNCH";
/// How often to look for strays.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Which children of the daemon are its own.
#[derive(Debug)]
pub(super) struct Strays {
    /// Keepers that this daemon started. Locked while one is started: until it is listed here, it looks like
    /// a stray.
    keepers: Mutex<BTreeSet<i32>>,
}

/// The mark as it stands in an environment.
pub(super) fn mark_of(dir: &Path) -> Vec<u8> {
    [MARK.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat()
}

impl Strays {
    /// Takes orphans in, and sees to them for as long as somebody holds this. The caller runs inside the
    /// runtime.
    pub(super) fn watch_over() -> Arc<Self> {
        if let Err(error) = set_child_subreaper(true) {
            warn!(%error, "processes that lose their keeper go to init, and are looked for there");
        }
        let strays = Arc::new(Self {
            keepers: Mutex::default(),
        });
        tokio::spawn(look_again(Arc::downgrade(&strays)));
        strays
    }

    /// Starts a keeper.
    pub(super) fn spawn(
        &self,
        command: &mut tokio::process::Command,
    ) -> io::Result<tokio::process::Child> {
        let mut keepers = self.keepers();
        let child = command.spawn()?;
        keepers.extend(child.id().and_then(|pid| i32::try_from(pid).ok()));
        Ok(child)
    }

    /// The strays among running processes.
    pub(super) fn among(&self, all: &[(i32, Stat)]) -> Vec<i32> {
        let own = Pid::this();
        // The first process of a container is sent everybody's orphans.
        if own.as_raw() == 1 {
            return Vec::new();
        }
        let keepers = self.keepers();
        let is_stray = |(pid, stat): &&(i32, Stat)| {
            stat.parent == own.as_raw() && is_foreign(stat) && !keepers.contains(pid)
        };
        all.iter().filter(is_stray).map(|(pid, _)| *pid).collect()
    }

    /// Kills strays and buries dead ones.
    fn look(&self) {
        let Some(children) = proc::own_children() else {
            return;
        };
        let mut keepers = self.keepers();
        // Those that are gone and buried; their ids come round again.
        keepers.retain(|pid| children.contains(pid));
        for pid in children {
            let stat = proc::stat(pid).filter(|stat| is_foreign(stat) && !keepers.contains(&pid));
            let Some(stat) = stat else { continue };
            if stat.is_zombie {
                let _buried = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
            } else if Pid::this().as_raw() != 1 {
                warn!(pid, "a process lost its keeper; it is killed");
                signal(pid, Signal::SIGKILL);
            }
        }
    }

    fn keepers(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the daemon starts for itself stays in its session; keepers and all below them do not.
fn is_foreign(stat: &Stat) -> bool {
    getsid(None).is_ok_and(|own| stat.session != own.as_raw())
}

async fn look_again(strays: Weak<Strays>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(strays) = strays.upgrade() else {
            return;
        };
        let _looked = tokio::task::spawn_blocking(move || strays.look()).await;
    }
}
