//! Finds workers that were silent for longer than their lease, and places their ranks elsewhere.
//!
//! Invariant: no verdict on anybody before this process has listened for one whole lease, counted
//! anew whenever Postgres was away: then silence was ours, not theirs.

use std::time::Duration;

use marquee_domain::ids::WorkerId;
use marquee_store::workers::{self, Worker, WorkerState};
use tokio::time::Instant;

use super::Pace;
use crate::app::App;
use crate::lifecycle::{self, Result};

/// Looks in one lease: a lost worker is found at most this part of a lease late.
const LOOKS_PER_LEASE: u32 = 10;

pub(super) async fn run(app: App) {
    let every = app
        .settings
        .poll_every
        .min(app.settings.lease / LOOKS_PER_LEASE);
    let mut pace = Pace::new("leases", every);
    let mut listening_since = Instant::now();
    loop {
        let round = round(&app, listening_since).await;
        if round.is_err() {
            listening_since = Instant::now();
        }
        let pause = pace.after(&round);
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn round(app: &App, listening_since: Instant) -> Result<()> {
    let mut conn = app.db.read().await?;
    let known = workers::list_workers(&mut conn).await?;
    drop(conn);
    let now = Instant::now();
    for worker in known
        .iter()
        .filter(|worker| worker.state == WorkerState::Online)
    {
        let heard = app.sessions.last_seen(worker.id);
        if has_expired(now, listening_since, heard, app.settings.lease) {
            lose(app, worker).await?;
        }
    }
    Ok(())
}

/// Whether a worker last heard at `heard` is lost.
fn has_expired(
    now: Instant,
    listening_since: Instant,
    heard: Option<Instant>,
    lease: Duration,
) -> bool {
    let silent_since = heard.map_or(listening_since, |heard| heard.max(listening_since));
    now.duration_since(silent_since) > lease
}

async fn lose(app: &App, worker: &Worker) -> Result<()> {
    let id: WorkerId = worker.id;
    let mut tx = app.db.write("worker lost").await?;
    if !workers::mark_worker_gone(&mut tx, id, WorkerState::Lost).await? {
        return Ok(());
    }
    let jobs = workers::list_worker_jobs(&mut tx, id).await?;
    tx.commit().await?;
    tracing::warn!(
        worker = %id, name = worker.name, jobs = jobs.len(),
        "worker lost: nothing was heard from it for a whole lease"
    );
    app.wake.notify_one();
    for job in jobs {
        // What this round does not reach, the attempts loop will.
        lifecycle::advance(app, job).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_lost_before_one_whole_lease_of_listening() {
        let lease = Duration::from_secs(10);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!has_expired(at(10), start, None, lease));
        assert!(has_expired(at(11), start, None, lease));
        assert!(!has_expired(at(15), start, Some(at(5)), lease));
        assert!(has_expired(at(16), start, Some(at(5)), lease));
        // Postgres was away until 20: who was heard at 5 has until 30.
        assert!(!has_expired(at(30), at(20), Some(at(5)), lease));
    }
}
