//! How much one user may ask, so that the flood of one is nobody else's: so many requests a second, and so many that
//! are open at once. Who asks a little too much waits a little; who asks far too much is told so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Requests a second of one user, over a while. Postgres answers several thousand.
const RATE: u32 = 500;
/// Requests that may come at once: a page, or `artifacts get` of a folder.
const BURST: u32 = 2_000;
/// How long a request may be made to wait; what would wait longer is refused.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Requests of one user that are open at once, streams among them.
const OPEN_MAX: usize = 500;

/// Keeps count. Users are few, so that this stays small.
#[derive(Debug, Default)]
pub(crate) struct Flow(Mutex<HashMap<String, Count>>);

#[derive(Debug)]
struct Count {
    /// When all that was asked will have been due, at the rate.
    due: Instant,
    open: Arc<Semaphore>,
}

/// A request's place among those that are open.
#[derive(Debug)]
pub(crate) struct Open(
    #[allow(dead_code, reason = "held for what its drop does")] OwnedSemaphorePermit,
);

/// Why a request is not let through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMuch {
    #[error(
        "user {0} asks more than {RATE} requests a second for longer than a burst of {BURST}: ask less often, or use a stream (Watch) in place of many looks"
    )]
    Often(String),
    #[error("user {0} has {OPEN_MAX} requests open, among them streams: end some")]
    Open(String),
}

impl Flow {
    /// Lets a request of a user through, after the time that is given.
    pub(crate) fn take(&self, user: &str) -> Result<(Open, Duration), TooMuch> {
        let now = Instant::now();
        let mut counts = self.counts();
        let count = counts.entry(user.to_owned()).or_insert_with(|| Count {
            due: now,
            open: Arc::new(Semaphore::new(OPEN_MAX)),
        });
        // Each request puts off the time at which all that he asked is due; a burst is how far that may lie
        // ahead.
        let every = Duration::from_secs(1) / RATE;
        let due = count.due.max(now) + every;
        let wait = due.saturating_duration_since(now + every * BURST);
        if wait > WAIT_MAX {
            return Err(TooMuch::Often(user.to_owned()));
        }
        let open = count.open.clone().try_acquire_owned();
        let open = open.map_err(|_| TooMuch::Open(user.to_owned()))?;
        // Only what is let through counts: a refused request must not make the next one wait longer.
        count.due = due;
        Ok((Open(open), wait))
    }

    /// Forgets users that are not there any more.
    pub(super) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.counts().retain(|name, _| is_there(name));
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_slowed_then_refused_and_nobody_else_notices() {
        let flow = Flow::default();
        let take = |user| flow.take(user).map(|(_, wait)| wait);
        for _ in 0..BURST {
            assert_eq!(take("flood"), Ok(Duration::ZERO));
        }
        let mut waits = Vec::new();
        let refused = loop {
            match take("flood") {
                Ok(wait) => waits.push(wait),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused, TooMuch::Often("flood".into()));
        assert!(waits.is_sorted() && waits[0] > Duration::ZERO);
        assert!(*waits.last().unwrap() <= WAIT_MAX);
        assert_eq!(take("ada"), Ok(Duration::ZERO));
        // It is over when it is over.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(take("flood"), Ok(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn streams_count_as_long_as_they_are_open() {
        let flow = Flow::default();
        let mut open = Vec::new();
        for _ in 0..OPEN_MAX {
            open.push(flow.take("ada").unwrap());
        }
        assert_eq!(flow.take("ada").unwrap_err(), TooMuch::Open("ada".into()));
        assert!(flow.take("bob").is_ok());
        open.pop();
        assert!(flow.take("ada").is_ok());
        flow.keep(|name| name == "ada");
        assert!(flow.counts().contains_key("ada") && !flow.counts().contains_key("bob"));
    }
}
