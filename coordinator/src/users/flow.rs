//! How much one user, one worker, or one address of strangers may ask, so that the flood of one is nobody else's: so many
//! requests a second, and so many that are open at once. Who asks a little too much waits a little; who asks far too much
//! is told so.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use marquee_domain::ids::WorkerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How much one of a kind may ask.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Requests a second, over a while.
    rate: u32,
    /// Requests that may come at once.
    burst: u32,
    /// How long a request may be made to wait; what would wait longer is refused.
    wait_max: Duration,
    /// Requests that are open at once.
    open_max: usize,
}

/// Postgres answers several thousand a second. At once may come a page, or `artifacts get` of a folder; streams count
/// as open for as long as they last.
const USER: Limits = Limits {
    rate: 500,
    burst: 2_000,
    wait_max: Duration::from_secs(2),
    open_max: 500,
};
/// A worker asks for each file of an artifact. It is slowed for longer before it is refused: a refusal may cost an attempt.
const WORKER: Limits = Limits {
    rate: 2_000,
    burst: 10_000,
    wait_max: Duration::from_secs(15),
    open_max: 1_000,
};
/// Whoever has shown nothing logs in, or joins: a rack of hosts behind one address joins within seconds.
const STRANGERS: Limits = Limits {
    rate: 50,
    burst: 500,
    wait_max: Duration::from_secs(2),
    open_max: 200,
};
/// Askers that are counted; beyond, those are forgotten that have nothing open and asked little.
const ASKERS_MAX: usize = 10_000;

/// Who is counted by himself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Asker {
    User(String),
    Worker(WorkerId),
    /// Whoever comes from there and has shown nothing.
    Address(IpAddr),
}

impl Asker {
    fn limits(&self) -> Limits {
        match self {
            Self::User(_) => USER,
            Self::Worker(_) => WORKER,
            Self::Address(_) => STRANGERS,
        }
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user {name}"),
            Self::Worker(worker) => write!(f, "worker {worker}"),
            Self::Address(address) => write!(f, "whoever asks from {address} without a token"),
        }
    }
}

/// Keeps count. Askers are few, so that this stays small.
#[derive(Debug, Default)]
pub(crate) struct Flow(Mutex<HashMap<Asker, Count>>);

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
        "{asker} asks more than {} requests a second for longer than a burst of {}: ask less often, or use a stream (Watch) in place of many looks", asker.limits().rate, asker.limits().burst
    )]
    Often { asker: Asker },
    #[error("{asker} has {} requests open, among them streams: end some", asker.limits().open_max)]
    Open { asker: Asker },
}

impl Flow {
    /// Lets a request through, after the time that is given.
    pub(crate) fn take(&self, asker: Asker) -> Result<(Open, Duration), TooMuch> {
        let limits = asker.limits();
        let now = Instant::now();
        let mut counts = self.counts();
        if counts.len() >= ASKERS_MAX && !counts.contains_key(&asker) {
            counts.retain(|asker, count| {
                // Who floods stays, and who has streams open: forgotten, he would begin with
                // another burst.
                count.due > now || count.open.available_permits() < asker.limits().open_max
            });
        }
        let count = counts.entry(asker.clone()).or_insert_with(|| Count {
            due: now,
            open: Arc::new(Semaphore::new(limits.open_max)),
        });
        // Each request puts off the time at which all that he asked is due; a burst is how far that may lie
        // ahead.
        let every = Duration::from_secs(1) / limits.rate;
        let due = count.due.max(now) + every;
        let wait = due.saturating_duration_since(now + every * limits.burst);
        if wait > limits.wait_max {
            return Err(TooMuch::Often { asker });
        }
        // Not waited for: a stream may be open for days.
        let open = count.open.clone().try_acquire_owned();
        let Ok(open) = open else {
            return Err(TooMuch::Open { asker });
        };
        // Only what is let through counts: a refused request must not make the next one wait longer.
        count.due = due;
        Ok((Open(open), wait))
    }

    /// Forgets users that are not there any more.
    pub(super) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.counts().retain(|asker, _| match asker {
            Asker::User(name) => is_there(name),
            // Nobody says when one of these goes: they are forgotten when there are many (`take`).
            Asker::Worker(_) | Asker::Address(_) => true,
        });
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Asker, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use uuid::Uuid;

    use super::*;

    fn user(name: &str) -> Asker {
        Asker::User(name.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn workers_and_addresses_are_counted_by_themselves_and_forgotten_when_they_are_many() {
        let flow = Flow::default();
        let worker = |id| Asker::Worker(WorkerId(Uuid::from_u128(id)));
        let address = |last: u32| Asker::Address(Ipv4Addr::from(0x0a00_0000 + last).into());
        let refused = loop {
            if let Err(refused) = flow.take(worker(1)) {
                break refused.to_string();
            }
        };
        assert!(refused.contains("worker 00000000"), "{refused}");
        assert!(flow.take(worker(2)).is_ok());
        let refused = loop {
            if let Err(refused) = flow.take(address(1)) {
                break refused.to_string();
            }
        };
        assert!(
            refused.contains("from 10.0.0.1 without a token"),
            "{refused}"
        );
        assert!(flow.take(address(2)).is_ok());
        // Who floods is remembered, however many others come.
        for last in 10..20_000 {
            tokio::time::advance(Duration::from_micros(100)).await;
            drop(flow.take(address(last)));
        }
        assert!(flow.counts().len() <= ASKERS_MAX);
        assert!(flow.counts().contains_key(&worker(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_slowed_then_refused_and_nobody_else_notices() {
        let flow = Flow::default();
        let take = |name| flow.take(user(name)).map(|(_, wait)| wait);
        for _ in 0..USER.burst {
            assert_eq!(take("flood"), Ok(Duration::ZERO));
        }
        let mut waits = Vec::new();
        let refused = loop {
            match take("flood") {
                Ok(wait) => waits.push(wait),
                Err(refused) => break refused,
            }
        };
        assert_eq!(
            refused,
            TooMuch::Often {
                asker: user("flood")
            }
        );
        assert!(waits.is_sorted() && waits[0] > Duration::ZERO);
        assert!(*waits.last().unwrap() <= USER.wait_max);
        assert_eq!(take("ada"), Ok(Duration::ZERO));
        // It is over when it is over.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(take("flood"), Ok(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn streams_count_as_long_as_they_are_open() {
        let flow = Flow::default();
        let mut open = Vec::new();
        for _ in 0..USER.open_max {
            open.push(flow.take(user("ada")).unwrap());
        }
        assert_eq!(
            flow.take(user("ada")).unwrap_err(),
            TooMuch::Open { asker: user("ada") }
        );
        assert!(flow.take(user("bob")).is_ok());
        open.pop();
        assert!(flow.take(user("ada")).is_ok());
        flow.keep(|name| name == "ada");
        assert!(
            flow.counts().contains_key(&user("ada")) && !flow.counts().contains_key(&user("bob"))
        );
    }
}
