//! Lets go of what has had its time, where a project says how long it keeps what has ended. Off where none does.

use std::time::Duration;

use marquee_domain::ids::PipelineId;

use super::Pace;
use crate::app::App;
use crate::lifecycle::{self, Result};

/// How often it looks, and how long after the start it looks first: starts are busy.
const EVERY: Duration = Duration::from_secs(3600);
const FIRST_AFTER: Duration = Duration::from_secs(10 * 60);
/// Between two steps of a round: whoever submits and finishes jobs has Postgres and its disk to himself meanwhile.
const BREATH: Duration = Duration::from_millis(100);

pub(super) async fn run(app: App) {
    let mut pace = Pace::new("retention", EVERY);
    let mut pause = FIRST_AFTER;
    loop {
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = pace.after(&round(&app).await);
    }
}

/// One round over all pipelines. Returns how many went, and of how many jobs logs and metrics did.
pub async fn round(app: &App) -> Result<(u64, u64)> {
    let mut conn = app.db.read().await?;
    let is_wanted = marquee_store::retention::is_wanted(&mut conn).await?;
    drop(conn);
    if !is_wanted {
        return Ok((0, 0));
    }
    let (mut gone, mut logs_of) = (0, 0);
    let mut after = PipelineId(0);
    loop {
        let step = lifecycle::retire(app, after, false, "").await?;
        let went = step.retired.iter().filter(|one| one.stays.is_none());
        gone += went.count() as u64;
        logs_of += step.logs_of;
        let Some(last) = step.next else { break };
        after = last;
        tokio::select! {
            () = app.shutdown.cancelled() => break,
            () = tokio::time::sleep(BREATH) => {}
        }
    }
    if gone + logs_of > 0 {
        tracing::info!(pipelines = gone, logs_of, "let go of what has had its time");
    }
    Ok((gone, logs_of))
}
