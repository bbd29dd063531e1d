//! Loops that look at the world and put it right.
//!
//! Invariant: a round takes no input and may be run twice; a notification only starts it earlier.
//! A round that fails is logged once and tried again with back-off: Postgres may be away for as
//! long as it likes. Not here: the decisions (`scheduler`, `lifecycle`).

mod accounts;
mod attempts;
mod drains;
mod foresight;
mod health;
mod idle;
mod leases;
mod retention;
mod round;
mod schedules;
mod signs;
mod sweep;

use std::time::Duration;

use marquee_domain::backoff::Backoff;
use tokio::task::JoinSet;

use crate::app::App;
use crate::lifecycle;
use crate::session;
use crate::walls::guarded;

pub use retention::round as retire;
pub use round::hosts;
pub use sweep::round as sweep;

/// Longest pause between rounds that fail: Postgres was away, and should not be met by silence
/// when it is back.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Starts every loop. They end when `app.shutdown` is cancelled. One that panics is started again, by itself.
#[must_use = "dropping the set ends the loops"]
pub fn start(app: &App) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    // A task for each: one that waits for Postgres or for files keeps no other waiting, least of
    // all the leases.
    let stop = || app.shutdown.clone();
    let (schedule, reports) = (app.clone(), app.clone());
    let (attempts, leases) = (app.clone(), app.clone());
    let (files, used, drained) = (app.clone(), app.clone(), app.clone());
    let (old, said, timed) = (app.clone(), app.clone(), app.clone());
    let (quiet, alive, ill) = (app.clone(), app.clone(), app.clone());
    tasks.spawn(guarded("schedule", stop(), move || {
        round::run(schedule.clone())
    }));
    tasks.spawn(guarded("reports", stop(), move || {
        session::store_reports(reports.clone())
    }));
    tasks.spawn(guarded("attempts", stop(), move || {
        attempts::run(attempts.clone())
    }));
    tasks.spawn(guarded("sweep", stop(), move || sweep::run(files.clone())));
    tasks.spawn(guarded("retention", stop(), move || {
        retention::run(old.clone())
    }));
    tasks.spawn(guarded("accounts", stop(), move || {
        accounts::run(used.clone())
    }));
    tasks.spawn(guarded("drains", stop(), move || {
        drains::run(drained.clone())
    }));
    tasks.spawn(guarded("foresight", stop(), move || {
        foresight::run(said.clone())
    }));
    tasks.spawn(guarded("schedules", stop(), move || {
        schedules::run(timed.clone())
    }));
    tasks.spawn(guarded("idle", stop(), move || idle::run(quiet.clone())));
    tasks.spawn(guarded("health", stop(), move || health::run(ill.clone())));
    tasks.spawn(guarded("signs of life", stop(), move || {
        signs::run(alive.clone())
    }));
    tasks.spawn(guarded("leases", stop(), move || {
        leases::run(leases.clone())
    }));
    tasks
}

/// A loop that changes what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    Schedule,
    Attempts,
    Leases,
    Signs,
    Drains,
    Idle,
    Health,
    Accounts,
    Retention,
    Sweep,
}

impl Loop {
    pub const ALL: [Self; 10] = [
        Self::Schedule,
        Self::Attempts,
        Self::Drains,
        Self::Idle,
        Self::Health,
        Self::Leases,
        Self::Signs,
        Self::Accounts,
        Self::Retention,
        Self::Sweep,
    ];
}

/// One round of a loop, as it makes them once it has been at work for long: for whoever wants to see what a round
/// changes, and that another one after it changes nothing.
pub async fn one_round(app: &App, of: Loop) -> lifecycle::Result<()> {
    match of {
        Loop::Schedule => round::whole(app).await,
        Loop::Attempts => attempts::round(app).await,
        Loop::Leases => leases::round_of_a_listener(app).await,
        Loop::Signs => signs::round(app).await,
        Loop::Drains => drains::round(app).await,
        Loop::Idle => idle::round(app).await,
        Loop::Health => health::round(app).await,
        Loop::Accounts => accounts::round(app).await,
        Loop::Retention => retention::round(app).await.map(drop),
        Loop::Sweep => sweep::round(app).await.map(drop),
    }
}

/// No loop but one that tells the service manager that this process lives: in safe mode nothing changes.
#[must_use = "dropping the set ends the loops"]
pub fn alive_only(app: &App) -> JoinSet<()> {
    let (every, shutdown) = (app.settings.poll_every, app.shutdown.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            crate::systemd::alive();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
        }
    });
    tasks
}

/// How long to wait after a round: `every` when it went well, more and more when it did not. Logs
/// when rounds begin to fail and when they work again.
#[derive(Debug)]
struct Pace {
    name: &'static str,
    every: Duration,
    backoff: Backoff,
}

impl Pace {
    fn new(name: &'static str, every: Duration) -> Self {
        Self {
            name,
            every,
            // Never sooner than after a round that went well, for loops whose own pause is longer
            // than the longest.
            backoff: Backoff::new(every.saturating_mul(2), BACKOFF_MAX.max(every)),
        }
    }

    fn after<T>(&mut self, round: &lifecycle::Result<T>) -> Duration {
        match round {
            Ok(_) => {
                if self.backoff.failures() > 0 {
                    let failures = self.backoff.failures();
                    tracing::info!(task = self.name, failures, "works again");
                    self.backoff.reset();
                }
                self.every
            }
            Err(error) => {
                if self.backoff.failures() == 0 {
                    tracing::warn!(task = self.name, %error, "a round failed; trying again");
                }
                self.backoff.next_whole()
            }
        }
    }
}
