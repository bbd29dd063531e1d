//! Children under accounts of their own: a stranger's program runs as `marquee-job-N`, which can neither read nor
//! signal nor trace anything of the worker's.
//!
//! Four processes take part. The **keeper** runs under the worker's account, as for every child, and nothing that the
//! child does reaches it ([`keeping`]). It asks the **helper** ([`helper`]), which systemd starts as root for each
//! connection: it looks at who asks and for what, joins the child's cgroup, becomes the job's user and turns into
//! the **warden** ([`warden`]). That one starts the **child**, says how it ended, and opens what it left to the worker
//! (`tidy`). What the worker may not do to another account, the cgroup does: its death is one write away.
//!
//! Invariant: as root there is no choice to be made and no path to be followed. A request is a number and open
//! descriptors; the program is the one that runs, and its arguments are fixed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub mod helper;
pub mod keeping;
mod tidy;
pub mod warden;
mod wire;

/// The account of the worker, which alone may ask.
pub const WORKER: &str = "marquee-worker";
/// How many accounts for jobs a host may have.
pub const JOB_USERS_MAX: u16 = 1_000;

/// The name of a job's account.
#[must_use]
pub fn job_user(number: u16) -> String {
    format!("marquee-job-{number}")
}

/// Opens a folder's files, which this process has made, to whoever gets there, to read and to change.
pub(crate) fn open_to_change(folder: &std::path::Path) -> std::io::Result<()> {
    tidy::open_up_as(folder, 0o666)
}

/// Under whose account a child runs, and what is given to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cage {
    /// Where the helper is asked.
    pub socket: PathBuf,
    /// See [`job_user`].
    pub user: u16,
    /// Folders that it may pass through, by names that it knows.
    pub entered: Vec<PathBuf>,
    /// Folders that are its own, and files that it may write.
    pub owned: Vec<PathBuf>,
    /// Those among them that the worker reads, or removes, afterwards.
    pub left: Vec<PathBuf>,
    /// What it makes is open to the worker from its first moment, and not only when it has ended: checkpoints of a
    /// program of ours. Nobody else gets to its folders.
    #[serde(default)]
    pub is_open: bool,
}
