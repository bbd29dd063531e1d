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
/// But there is one at least this often: one that took long may have waited for a Postgres that stood still.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(60);
/// The same share where a COMMIT had no answer: a Postgres that is slow leaves many of them, and must not be slowed down
/// by the looks that follow.
const DOUBTED_LOOK_SHARE: u32 = 4;

pub(super) async fn run(app: App) {
    let mut pace = Pace::new("schedule", app.settings.poll_every);
    // At once: a process that begins, or has just taken over, knows nothing yet.
    let mut look_at = Instant::now();
    let mut doubted_look_at = look_at;
    let mut unanswered = app.db.unanswered();
    loop {
        let began = Instant::now();
        // What a COMMIT was for that nobody heard the answer of may be stored, and told to no index.
        let in_doubt = app.db.unanswered();
        // Before the plan, so that what is found is planned in the same round.
        let is_doubted = in_doubt != unanswered && began >= doubted_look_at;
        let round = if began >= look_at || is_doubted {
            let looked = load::everything(&app).await;
            if looked.is_ok() {
                unanswered = in_doubt;
                let (now, took) = (Instant::now(), began.elapsed());
                look_at = now + until_next_look(app.settings.poll_every, took);
                doubted_look_at = now + took * DOUBTED_LOOK_SHARE;
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

/// How long a look at everything that took so long is enough.
fn until_next_look(poll_every: Duration, took: Duration) -> Duration {
    let seldom = (took * LOOK_SHARE).min(LOOK_PAUSE_MAX);
    seldom.max(poll_every * POLLS_PER_LOOK)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_seldom_where_they_are_dear_and_never_fail_to_come() {
        let ms = Duration::from_millis;
        let poll = ms(500);
        assert_eq!(until_next_look(poll, ms(0)), ms(5_000));
        assert_eq!(until_next_look(poll, ms(100)), ms(5_000));
        assert_eq!(until_next_look(poll, ms(800)), ms(40_000));
        // One that met a Postgres that stood still for seconds.
        assert_eq!(until_next_look(poll, ms(13_000)), LOOK_PAUSE_MAX);
        assert_eq!(until_next_look(ms(10_000), ms(13_000)), ms(100_000));
    }
}
