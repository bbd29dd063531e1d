//! What a rank's life needs of whoever starts its child. The real one is
//! [`super::kept::Keepers`]; a simulation brings one whose children are scripts.
//!
//! A child writes to files ([`stdout_path`], [`stderr_path`], [`events_path`]), so that it outlives the
//! daemon and its output does too. Invariant: a folder has one child at a time, and [`Launcher::adopt`] finds it
//! after the daemon was killed at any instant, or makes sure that none is to come.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::cage::Cage;
use super::fence::Fence;
use super::inside::Inside;

/// Starts children, and finds those that an earlier daemon started.
pub trait Launcher: Debug + Send + Sync {
    /// Starts a program. Its stdout and stderr are appended to the files of [`stdout_path`] and
    /// [`stderr_path`], which are there from now on, and so is that of [`events_path`] where it has such a
    /// channel; stdin is empty. May block.
    fn start(&self, launch: &Launch<'_>) -> io::Result<Box<dyn Child>>;

    /// The child that an earlier daemon of the same boot launched in `dir`, running or ended. If that
    /// daemon may have died while launching, the launch is fenced off and there is none. May block.
    fn adopt(&self, dir: &Path) -> io::Result<Option<Box<dyn Child>>>;

    /// Whether what runs under another account can be ended, beyond doubt. `attempts` is the folder of all ranks.
    fn can_cage(&self, _attempts: &Path) -> bool {
        false
    }
}

/// A child, launched by this daemon or taken over from an earlier one: no difference from then on.
pub trait Child: Debug + Send + Sync {
    /// How it is doing. An end that was seen once is not taken back.
    fn status(&mut self) -> io::Result<Status>;

    /// Its process id, once it was started.
    fn pid(&self) -> Option<u32>;

    /// Waits until there is something to look at. May speak up without a cause; an end is never
    /// missed, but output may be: [`Child::look_every`] says how often to look all the same.
    /// Nothing is lost when the wait is given up half-way.
    fn news(&mut self) -> BoxFuture<'_, News>;

    /// How often to look without a cause.
    fn look_every(&self) -> Duration;

    /// Asks all of it to leave.
    fn terminate(&self);

    /// Kills all that it started. It counts as running until nothing of it is left.
    fn kill(&self);

    /// Kills what is left even where [`Child::kill`] has no effect.
    fn kill_session(&self);

    /// Whether nothing is left of it, beyond doubt. Only of one that is gone; where it is not so,
    /// [`Child::survivors`] has to be asked.
    fn is_buried(&mut self) -> bool;

    /// What is left of it, as far as the kernel tells. Looks at every process of the host.
    fn survivors(&self) -> Vec<i32>;

    /// Whether a signal holds it up, as far as is known by now: the next look may know better. One that knows no signals is
    /// never held up.
    fn is_held_up(&self) -> bool {
        false
    }

    /// What its processes are at. None where nobody can tell. Looks at its processes without waiting, or waits seconds
    /// for who can look.
    fn look_inside(&self) -> BoxFuture<'_, Option<Inside>> {
        Box::pin(std::future::ready(None))
    }

    /// Asks it for its stacks, of which [`marquee_domain::pulse`] tells.
    fn ask_for_stacks(&self) {}
}

/// What to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Folder of the claim, the exit status and the output files.
    pub dir: &'a Path,
    pub work_dir: &'a Path,
    pub argv: Vec<OsString>,
    /// All of its environment, but for what the launcher adds: it gets nothing of the daemon's own.
    pub env: BTreeMap<OsString, OsString>,
    /// It gets a channel for events.
    pub events: bool,
    /// Which parts of the host are closed to it.
    pub fence: Option<Fence>,
    /// The account that it runs under. None: the daemon's.
    pub cage: Option<Cage>,
    /// Processes and threads that it may have, with all that it starts.
    pub tasks_max: u32,
}

/// What a look at a child may find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It may have started or ended.
    State,
    /// It may have written something.
    Output,
}

/// How a child is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It is about to be started.
    Starting,
    Running,
    /// It ended. None: who watched over it was killed before it could say how. See [`Child::is_buried`].
    Gone(Option<Exit>),
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It left by itself with this status.
    Code(i32),
    /// A signal killed it. `oom` says whether the kernel's out-of-memory killer struck on this
    /// host while the child ran.
    Signal { number: i32, oom: bool },
    /// It failed after the kernel's out-of-memory killer had struck at one of its processes, as its own cgroup
    /// counted. `how` it ended is no more than a consequence.
    OutOfMemory { how: String, kills: u64 },
    /// It could not be started.
    NotStarted { error: String },
    /// It could not be started under its account: a fault of the host.
    NotCaged { error: String },
}

/// File that a child's stdout goes into.
#[must_use]
pub fn stdout_path(dir: &Path) -> PathBuf {
    dir.join("stdout")
}

/// File that a child's stderr goes into.
#[must_use]
pub fn stderr_path(dir: &Path) -> PathBuf {
    dir.join("stderr")
}

/// File that a child's events go into. There is one where the child was given a channel.
#[must_use]
pub fn events_path(dir: &Path) -> PathBuf {
    dir.join("events")
}
