//! Moves away what still runs on hosts whose drain has a deadline, once that has passed.

use std::time::Duration;

use marquee_domain::ids::JobId;

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
        let due = open.workers.iter().filter_map(|worker| {
            let drain = worker.standing.as_ref().ok()?.drain.as_ref()?;
            drain.deadline.filter(|deadline| *deadline <= now)?;
            let jobs = open.staying_on(worker.id);
            (!jobs.is_empty()).then(|| (worker.name.clone(), jobs))
        });
        due.collect()
    };
    for (worker, jobs) in due {
        lifecycle::move_away(app, &jobs, &worker).await?;
    }
    Ok(())
}
