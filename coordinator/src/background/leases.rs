//! Finds workers that were silent for longer than their lease, and places their ranks elsewhere.
//!
//! Invariant: no verdict on anybody before this process has listened for one whole lease, counted
//! anew whenever Postgres was away or this process stood still: then silence was ours, not theirs.

use std::time::Duration;

use marquee_domain::ids::WorkerId;
use marquee_store::workers::{self, WorkerState};
use tokio::time::Instant;

use super::Pace;
use crate::app::App;
use crate::lifecycle::{self, Result};
use crate::metrics;
use crate::walls::caught;

/// Looks in one lease: a lost worker is found at most this part of a lease late.
const LOOKS_PER_LEASE: u32 = 10;

pub(super) async fn run(app: App) {
    // Looked for as often as the other loops, and in a short lease, as tests have it, at least ten
    // times.
    let every = app
        .settings
        .poll_every
        .min(app.settings.lease / LOOKS_PER_LEASE);
    let mut pace = Pace::new("leases", every);
    let mut listening = Listening::from(Instant::now(), app.clock.monotonic(), every);
    loop {
        let round = round(&app, &mut listening).await;
        if round.is_err() {
            // What workers said while Postgres was away may not have been heard either: the hold-off begins
            // anew.
            listening.since = Instant::now();
        }
        let pause = pace.after(&round);
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn round(app: &App, listening: &mut Listening) -> Result<()> {
    listening.look(Instant::now(), app.clock.monotonic());
    let mut conn = app.db.read().await?;
    let online = workers::list_online_workers(&mut conn).await?;
    drop(conn);
    // Looked again, since the process may have been stopped while it waited for that answer.
    listening.look(Instant::now(), app.clock.monotonic());
    for (worker, name) in online {
        let since = listening.since;
        let is_over = || {
            let heard = app.sessions.last_seen(worker);
            has_expired(Instant::now(), since, heard, app.settings.lease)
        };
        if is_over() {
            match caught(lose(app, worker, &name, is_over)).await? {
                Ok(()) => {}
                Err(error) if error.may_pass() => return Err(error),
                // One worker whose jobs cannot be read must not keep the others' from being placed elsewhere.
                Err(error) => {
                    tracing::error!(%worker, %error, "a worker's end could not be settled")
                }
            }
        }
    }
    Ok(())
}

/// A round of somebody who has listened for two leases.
pub(super) async fn round_of_a_listener(app: &App) -> Result<()> {
    let (now, clock) = (Instant::now(), app.clock.monotonic());
    let mut listening = Listening::from(now, clock, app.settings.lease);
    listening.since = now.checked_sub(app.settings.lease * 2).unwrap_or(now);
    round(app, &mut listening).await
}

/// Since when this process has listened without a break. What workers said during a break lies in its sockets
/// still, so that the loop, if it judged at once, would judge them by what they said before it.
#[derive(Debug)]
struct Listening {
    since: Instant,
    /// When the loop last looked, by a clock that goes on while the machine is suspended.
    looked: Duration,
    every: Duration,
}

impl Listening {
    fn from(now: Instant, monotonic: Duration, every: Duration) -> Self {
        Self {
            since: now,
            looked: monotonic,
            every,
        }
    }

    /// Notes that the loop is at work. A look that comes later than two rounds after the one before ends a
    /// break: the process was stopped, its host was suspended or starved, or Postgres took that long.
    fn look(&mut self, now: Instant, monotonic: Duration) {
        let gap = monotonic.saturating_sub(self.looked);
        self.looked = monotonic;
        if gap > self.every * 2 {
            self.since = now;
            tracing::warn!(
                ?gap,
                "this process stood still; no worker is judged before one whole lease from now"
            );
        }
    }
}

/// Whether a worker last heard at `heard` is lost.
fn has_expired(
    now: Instant,
    listening_since: Instant,
    heard: Option<Instant>,
    lease: Duration,
) -> bool {
    #[cfg(feature = "planted")]
    if marquee_domain::planted::is("verdict-at-once") {
        return heard.is_none_or(|heard| now.duration_since(heard) > lease);
    }
    let silent_since = heard.map_or(listening_since, |heard| heard.max(listening_since));
    now.duration_since(silent_since) > lease
}

async fn lose(app: &App, id: WorkerId, name: &str, is_over: impl Fn() -> bool) -> Result<()> {
    let mut tx = app.db.write("worker lost").await?;
    // Somebody else has written it down already: there is nothing to do, and the transaction is dropped.
    if !workers::mark_worker_gone(&mut tx, id, WorkerState::Lost).await? {
        return Ok(());
    }
    // Looked again under the row's lock: it may have come back meanwhile. Whoever comes takes its seat before it is
    // stored to be here, and is seen by that.
    if !is_over() {
        return Ok(());
    }
    let jobs = workers::list_worker_jobs(&mut tx, id).await?;
    // Committed before the jobs are judged: the loss stands, also where one of them cannot be.
    tx.commit().await?;
    app.sessions.miss(id);
    tracing::warn!(
        worker = %id, name, jobs = jobs.len(),
        "worker lost: nothing was heard from it for a whole lease"
    );
    metrics::worker_lost();
    app.workers_changed();
    // What this does not reach, the attempts loop will.
    lifecycle::advance(app, &jobs).await
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

    #[test]
    fn a_break_in_the_rounds_starts_the_lease_anew_for_all() {
        let every = Duration::from_secs(1);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let clock = Duration::from_secs;
        let mut listening = Listening::from(start, clock(100), every);
        // A round that is as late as a busy host makes it is no break.
        listening.look(at(1), clock(101));
        listening.look(at(3), clock(103));
        assert_eq!(listening.since, start);
        // Stopped: both clocks went on.
        listening.look(at(20), clock(120));
        assert_eq!(listening.since, at(20));
        // Suspended: the clock that measures sleeps stood still.
        listening.look(at(21), clock(220));
        assert_eq!(listening.since, at(21));
        // A clock that goes back, as none should, is no break either.
        listening.look(at(22), clock(0));
        assert_eq!(listening.since, at(21));
    }
}
