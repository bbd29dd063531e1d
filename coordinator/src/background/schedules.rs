//! Submits what schedules are due for. Only a coordinator that leads runs it, and its writes are fenced like all others.

use std::time::Duration;

use super::Pace;
use crate::app::App;
use crate::lifecycle;

/// Patterns have minutes.
const EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(app: App) {
    let mut pace = Pace::new("schedules", EVERY.min(app.settings.poll_every));
    loop {
        let pause = pace.after(&lifecycle::run_due(&app).await);
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
