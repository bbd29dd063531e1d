//! Places queued jobs, round by round.
//!
//! A round has three parts: `load` reads what changed into the index, `plan` decides, and `apply` writes
//! the plan down. A queue of thousands costs a round little: only what changed is read, jobs alike are tried
//! once, and nothing is written for those that go on waiting as before.

mod apply;
mod hosts;
mod isolate;
mod load;
mod plan;

use std::time::Duration;

use tokio::time::Instant;

use super::Pace;
use crate::app::App;
use crate::lifecycle::{self, Result};

pub use hosts::hosts;

/// Looks at everything anew at least this many rounds of the slow poll apart: what a lost word hides is
/// found then.
const POLLS_PER_LOOK: u32 = 10;
/// A look at everything may take this share of the time between two of them.
const LOOK_SHARE: u32 = 50;

pub(super) async fn run(app: App) {
    let mut pace = Pace::new("schedule", app.settings.poll_every);
    // At once: a process that begins, or has just taken over, knows nothing yet.
    let mut look_at = Instant::now();
    loop {
        let began = Instant::now();
        // Before the plan, so that what is found is planned in the same round.
        let round = if began >= look_at {
            let looked = load::everything(&app).await;
            if looked.is_ok() {
                let pause = app.settings.poll_every * POLLS_PER_LOOK;
                look_at = Instant::now() + pause.max(began.elapsed() * LOOK_SHARE);
            }
            looked
        } else {
            Ok(())
        };
        let round = match round {
            Ok(()) => one(&app).await,
            Err(error) => Err(error),
        };
        // A failed round is progress too: Postgres may be away, and a restart would not bring it.
        crate::systemd::alive();
        let pause = pace.after(&round);
        // The end of the earliest back-off comes before the next poll.
        let due = round.ok().flatten().map_or(pause, |due| due.min(pause));
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = app.wake.notified() => {}
            () = tokio::time::sleep(due) => {}
        }
    }
}

/// One round. Returns how long until the next one is due, where something is known to be due.
async fn one(app: &App) -> Result<Option<Duration>> {
    lifecycle::line_up_elements(app).await?;
    load::changes(app).await?;
    // What is too late fails before the plan, and takes no devices from others any more.
    lifecycle::fail_overdue(app).await?;
    let Some(planned) = plan::plan(app).await? else {
        return Ok(None);
    };
    let due = planned.due;
    apply::apply(app, planned).await?;
    // So many have been placed that others are to follow: there may be devices left for them.
    let is_short = !app
        .index
        .open()
        .elements_wanted(app.settings.elements_ahead)
        .is_empty();
    Ok(if is_short { Some(Duration::ZERO) } else { due })
}

/// A round that looks at everything first.
pub(super) async fn whole(app: &App) -> Result<()> {
    load::everything(app).await?;
    one(app).await.map(drop)
}
