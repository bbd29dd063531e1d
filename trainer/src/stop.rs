//! Being asked to stop: by SIGTERM or Ctrl-C, or by the end of stdin where the caller says so.
//!
//! Invariant: the request only sets a flag. Whoever works looks at it between steps and leaves in
//! order, with a checkpoint.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::error::RunError;

/// Whether somebody asked this process to stop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens for SIGTERM and SIGINT. Call it before the first thread starts: they are blocked in
    /// the calling thread and in all that it starts later, and one thread of ours waits for them.
    ///
    /// # Errors
    /// [`RunError`] when the system refuses.
    pub(crate) fn on_signals() -> Result<Self, RunError> {
        let stop = Self::default();
        let flag = stop.clone();
        let signals = block_signals()?;
        spawn("signals", move || {
            if signals.wait().is_ok() {
                flag.request();
            }
        })?;
        Ok(stop)
    }

    /// Asks to stop.
    pub(crate) fn request(&self) {
        // Nothing else is handed over with the flag, so no order of memory is needed.
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether to stop at the next good moment.
    #[must_use]
    pub(crate) fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Blocks the signals that ask for a stop in the calling thread and in all that it starts, and
/// returns them, to be waited for.
pub(crate) fn block_signals() -> Result<SigSet, RunError> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals
        .thread_block()
        .map_err(|error| RunError::host(format!("cannot block signals: {error}")))?;
    Ok(signals)
}

/// Treats the end of stdin like a SIGTERM: so a child ends when its parent is gone, however it went.
///
/// # Errors
/// [`RunError`] when the system refuses a thread.
pub(crate) fn when_stdin_ends() -> Result<(), RunError> {
    spawn("stdin", || {
        let mut buffer = [0; 256];
        let mut stdin = std::io::stdin().lock();
        while stdin.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
        // By the signal that somebody waits for in any case: the store's process has no `Stop`.
        if let Err(error) = kill(Pid::this(), Signal::SIGTERM) {
            tracing::error!(%error, "cannot tell this process to stop");
        }
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), RunError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop)
        .map_err(|error| RunError::host(format!("cannot start the thread {name:?}: {error}")))
}
