//! A circuit breaker for each host: one that answers nothing is left alone, tried now and then, and
//! given up after a while.
//!
//! Without it every request to a host that is down would wait for its own time limit, use up its tries,
//! and end as a miss of a picture that is there. One outage of a minute would cost thousands of them.
//!
//! Invariant: while a host counts as down, one request at a time tries it; all others wait, and
//! their tries are not used up.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Requests in a row without an answer before a host counts as down: more than are in flight by
/// chance when one connection breaks.
const FAILURES_MAX: u32 = 20;
/// Wait before a host that is down is tried; doubled by each try that fails.
const TRY_FIRST: Duration = Duration::from_millis(500);
/// Longest wait between tries.
const TRY_MAX: Duration = Duration::from_secs(30);
/// How often those who wait look again while a try is under way.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The hosts, and how they are.
#[derive(Debug)]
pub(super) struct Breakers {
    hosts: Mutex<HashMap<String, Host>>,
    /// A host that is down for longer is given up.
    patience: Duration,
}

#[derive(Debug, Default)]
struct Host {
    failures: u32,
    down: Option<Down>,
}

#[derive(Debug, Clone, Copy)]
struct Down {
    since: Instant,
    next_try: Instant,
    wait: Duration,
    is_being_tried: bool,
}

/// The right to send one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Usual,
    /// The one request that tries a host that is down.
    Trial,
}

/// A host that was down for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GivenUp {
    pub(super) after: Duration,
}

impl Breakers {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            hosts: Mutex::default(),
            patience,
        }
    }

    /// Waits until `host` may be asked.
    pub(super) async fn turn(&self, host: &str) -> Result<Turn, GivenUp> {
        loop {
            let wait = match self.look(host, Instant::now()) {
                Ok(turn) => return turn,
                Err(wait) => wait,
            };
            sleep(wait).await;
        }
    }

    /// The turn, or how long to wait for it.
    fn look(&self, host: &str, now: Instant) -> Result<Result<Turn, GivenUp>, Duration> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(down) = hosts.get_mut(host).and_then(|host| host.down.as_mut()) else {
            return Ok(Ok(Turn::Usual));
        };
        let after = now.duration_since(down.since);
        // Looked at first, also while it is being tried: whoever waits is not to wait for that try
        // as well.
        if after >= self.patience {
            return Ok(Err(GivenUp { after }));
        }
        // One request says as much as a hundred, and a host that comes back is not run over by all
        // that waited.
        if down.is_being_tried {
            return Err(LOOK_EVERY);
        }
        if now < down.next_try {
            // Who waits is told of the end when it comes, not at the next try after it.
            let end = down.since + self.patience;
            return Err(down.next_try.min(end).duration_since(now));
        }
        down.is_being_tried = true;
        Ok(Ok(Turn::Trial))
    }

    /// `host` has answered, whatever it said.
    pub(super) fn answered(&self, host: &str) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        // A refusal is an answer, too: whether it is the one that was hoped for is for others to judge.
        if let Some(host) = hosts.get_mut(host) {
            *host = Host::default();
        }
    }

    /// A request to `host` had no answer, or one that says that the host is in trouble.
    pub(super) fn failed(&self, host: &str, turn: Turn) {
        self.note_failure(host, turn, Instant::now());
    }

    fn note_failure(&self, name: &str, turn: Turn, now: Instant) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = hosts.entry(name.to_owned()).or_default();
        host.failures = host.failures.saturating_add(1);
        match (&mut host.down, turn) {
            // Only the one that tried decides. What had been sent before the host counted as down
            // says nothing new.
            (Some(down), Turn::Trial) => {
                down.is_being_tried = false;
                down.wait = (down.wait * 2).min(TRY_MAX);
                down.next_try = now + down.wait;
            }
            // It was on its way before the host counted as down.
            (Some(_), Turn::Usual) => {}
            (None, _) if host.failures >= FAILURES_MAX => {
                tracing::warn!(host = name, failures = host.failures, "host counts as down");
                host.down = Some(Down {
                    since: now,
                    next_try: now + TRY_FIRST,
                    wait: TRY_FIRST,
                    is_being_tried: false,
                });
            }
            (None, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn broken(breakers: &Breakers, now: Instant) {
        for _ in 0..FAILURES_MAX {
            breakers.note_failure("a", Turn::Usual, now);
        }
    }

    #[test]
    fn a_host_that_is_down_is_tried_by_one_and_comes_back() {
        let breakers = Breakers::new(PATIENCE);
        let start = Instant::now();
        broken(&breakers, start);
        assert_eq!(breakers.look("a", start), Err(TRY_FIRST));
        assert_eq!(breakers.look("b", start), Ok(Ok(Turn::Usual)));
        let later = start + TRY_FIRST;
        assert_eq!(breakers.look("a", later), Ok(Ok(Turn::Trial)));
        assert_eq!(breakers.look("a", later), Err(LOOK_EVERY));
        breakers.note_failure("a", Turn::Trial, later);
        assert_eq!(breakers.look("a", later), Err(TRY_FIRST * 2));
        // Answers that were on their way before change nothing for the worse.
        breakers.note_failure("a", Turn::Usual, later);
        assert_eq!(breakers.look("a", later), Err(TRY_FIRST * 2));
        breakers.answered("a");
        assert_eq!(breakers.look("a", later), Ok(Ok(Turn::Usual)));
    }

    #[test]
    fn a_host_that_stays_down_is_given_up() {
        let breakers = Breakers::new(PATIENCE);
        let start = Instant::now();
        broken(&breakers, start);
        assert!(breakers.look("a", start + PATIENCE).unwrap().is_err());
    }

    #[test]
    fn failures_between_answers_are_no_outage() {
        let breakers = Breakers::new(PATIENCE);
        let now = Instant::now();
        for _ in 0..5 {
            for _ in 1..FAILURES_MAX {
                breakers.note_failure("a", Turn::Usual, now);
            }
            breakers.answered("a");
        }
        assert_eq!(breakers.look("a", now), Ok(Ok(Turn::Usual)));
    }
}
