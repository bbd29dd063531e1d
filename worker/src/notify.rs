//! What systemd wants to hear: ready, a status text, signs of life. Without systemd, nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// Speaks to systemd, where it listens.
#[derive(Debug, Clone, Copy)]
pub struct Notifier {
    watchdog: bool,
}

impl Notifier {
    /// Finds out what systemd wants.
    #[must_use]
    pub fn new() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled().is_some_and(|every| every > Duration::ZERO),
        }
    }

    /// The daemon has taken over what it held, and is on its way to the coordinator.
    pub fn ready(self) {
        tell(&[NotifyState::Ready]);
    }

    /// A text for `systemctl status`.
    pub fn status(self, text: &str) {
        tell(&[NotifyState::Status(text)]);
    }

    /// The session's loop turns. To be called from that loop alone: a timer would prove nothing.
    pub fn alive(self) {
        if self.watchdog {
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// The daemon is on its way out, and may be for at least so long from now.
    pub fn still_stopping(self, most: Duration) {
        let micros = u32::try_from(most.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
    }

    /// The daemon is on its way out.
    pub fn stopping(self) {
        tell(&[NotifyState::Stopping]);
    }
}

impl Default for Notifier {
    fn default() -> Self {
        Self::new()
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd does not listen");
    }
}
