//! Ctrl-C and SIGTERM as a future, for commands that have something to put in order first.
//! Commands that have nothing to put in order keep the default: they end at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask us to end.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// From here on these signals end nothing by themselves.
    pub(crate) fn catch() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            // A terminal that is closed sends it. By default it would end `up` at once, and each
            // daemon would hear of it from the kernel, in no order.
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next of them. Safe to drop and call again.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
