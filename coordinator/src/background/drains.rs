//! Moves away what still runs on hosts whose drain has a deadline, once that has passed, or whose maintenance window
//! has begun.

use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::standing::Standing;

use super::Pace;
use crate::app::App;
use crate::lifecycle::{self, Result};

/// A deadline is a matter of minutes.
const EVERY: Duration = Duration::from_secs(2);

pub(super) async fn run(app: App) {
    let mut pace = Pace::new("drains", EVERY.min(app.settings.poll_every * 2));
    loop {
        let pause = pace.after(&round(&app).await);
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

pub(super) async fn round(app: &App) -> Result<()> {
    let now = app.clock.now();
    let due: Vec<(String, Vec<JobId>)> = {
        let open = app.index.open();
        // What was decided about a host and cannot be read moves nobody away. It keeps new work off, which
        // does no harm.
        let due = open.workers.iter().filter_map(|worker| {
            let why = why_empty(worker.standing.as_ref().ok()?, &worker.name, now)?;
            let jobs = open.staying_on(worker.id);
            (!jobs.is_empty()).then_some((why, jobs))
        });
        due.collect()
    };
    for (why, jobs) in due {
        lifecycle::move_away(app, &jobs, &why).await?;
    }
    Ok(())
}

/// Why nothing may run on a host any more; None: it may.
fn why_empty(standing: &Standing, name: &str, now: DateTime<Utc>) -> Option<String> {
    let drain = standing.drain.as_ref();
    let deadline = drain.and_then(|drain| drain.deadline);
    if deadline.is_some_and(|deadline| deadline <= now) {
        return Some(format!(
            "worker {name} is drained and its deadline has passed"
        ));
    }
    let window = standing.window(now)?;
    window
        .is_in_force(now)
        .then(|| format!("worker {name} {}", window.words(now)))
}
