//! What keeps a job out of its daemon, though both run under one account.
//!
//! The daemon's memory holds the key of its certificate and its whole environment. The kernel shows
//! neither to others once the process is marked as not to be dumped; that also ends core files of it.
//! `docs/deploy.md` says what this does not keep apart.

use nix::sys::prctl::set_dumpable;
use tracing::warn;

/// Closes this process to others of its account: its memory, its environment, its open files.
pub fn harden() {
    if let Err(error) = set_dumpable(false) {
        warn!(%error, "jobs of this worker's account can read its memory");
    }
}
