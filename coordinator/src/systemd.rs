//! What the service manager is told, when there is one (`NOTIFY_SOCKET`); else nothing happens.

use sd_notify::NotifyState;

/// The coordinator accepts requests.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The scheduling loop finished a round. Called by that loop and by nothing else: a watchdog that
/// is fed by a timer proves only that the timer runs.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// The coordinator is on its way out.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}
