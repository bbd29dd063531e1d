//! Advances attempts whose ranks, workers or time say so. The sessions do it too, right after a
//! report; this loop is for what has no report: a time-out, a settled failure, a killed process.

use std::time::Duration;

use marquee_domain::ids::JobId;
use marquee_store::attempts::list_jobs_to_advance;

use super::Pace;
use crate::app::App;
use crate::lifecycle::{self, Result};
use crate::walls::caught;

pub(super) async fn run(app: App) {
    // Often enough that a failure is settled soon after its time.
    let every = app.settings.poll_every.min(app.settings.settle);
    let mut pace = Pace::new("attempts", every);
    loop {
        let pause = pace.after(&round(&app).await);
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn advance(app: &App, jobs: &[JobId]) -> Result<()> {
    let _step = app.walls.trail.step(|| match jobs {
        [job] => format!("attempt of job {job}"),
        [] => "attempts of no job".to_owned(),
        [first, others @ ..] => format!("attempts of job {first} and {} others", others.len()),
    });
    caught(lifecycle::advance(app, jobs)).await?
}

pub(super) async fn round(app: &App) -> Result<()> {
    let now = app.clock.now();
    let prepare_max: Duration = lifecycle::PREPARE_MAX;
    // From the index, which may lag behind; the rows say what is to be done, so a job too many costs a look.
    let running: Vec<JobId> = app.index.open().running().collect();
    if running.is_empty() {
        return Ok(());
    }
    let mut conn = app.db.read().await?;
    let jobs = list_jobs_to_advance(&mut conn, &running, now, now - prepare_max).await?;
    drop(conn);
    if jobs.is_empty() {
        return Ok(());
    }
    match advance(app, &jobs).await {
        // Postgres is away: each of them apart would fail for the same reason.
        Err(error) if error.may_pass() => return Err(error),
        Ok(()) => return Ok(()),
        Err(_) => {}
    }
    // One job that cannot be advanced must not hold up the others.
    for job in jobs {
        match advance(app, &[job]).await {
            Ok(()) => {}
            Err(error) if error.may_pass() => return Err(error),
            Err(error) => tracing::error!(%job, %error, "could not advance the attempt"),
        }
    }
    Ok(())
}
