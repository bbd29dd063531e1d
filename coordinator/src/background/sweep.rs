//! Takes away what nobody may use and nobody names: artifacts whose data may not be used any more, and files that no
//! manifest names, as failed attempts and interrupted removals leave them.

use std::time::Duration;

use super::Pace;
use crate::app::App;
use crate::lifecycle::{self, Result};

/// How often it looks, and how long after the start it looks first: starts are busy.
const EVERY: Duration = Duration::from_secs(6 * 3600);
const FIRST_AFTER: Duration = Duration::from_secs(10 * 60);
/// Artifacts removed in one round.
const EXPIRED_MAX: u32 = 1_000;

pub(super) async fn run(app: App) {
    let mut pace = Pace::new("sweep", EVERY);
    let mut pause = FIRST_AFTER;
    loop {
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = pace.after(&round(&app).await);
    }
}

/// One round. Returns how many artifacts had expired, and how many files went with nobody naming them.
pub async fn round(app: &App) -> Result<(u64, u64)> {
    let now = app.clock.now();
    let mut conn = app.db.read().await?;
    let today = now.date_naive();
    let expired = marquee_store::removal::list_expired(&mut conn, today, EXPIRED_MAX).await?;
    drop(conn);
    let mut gone = 0;
    for (job, digest) in expired {
        let why = "its artifact was removed: its data may not be used any more (retention_days, or the source's terms)";
        match lifecycle::remove_artifact(app, &digest, false, "", why).await {
            Ok(removed) => gone += removed.artifacts,
            Err(error) if error.may_pass() => return Err(error),
            // A job that is at work with it ends first; one of the same digest went with another.
            Err(error) => tracing::debug!(%job, %error, "an expired artifact stays for now"),
        }
    }
    let (files, bytes) = lifecycle::collect_unnamed(app, false).await?;
    if gone + files > 0 {
        tracing::info!(expired = gone, files, bytes, "swept");
    }
    Ok((gone, files))
}
