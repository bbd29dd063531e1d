//! One rate for all requests of a job: each takes the next slot, and a service that asks for a
//! pause gets one.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Hands out the times at which requests may be sent.
#[derive(Debug)]
pub(super) struct Pace {
    gap: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    /// At most `per_second` requests a second, evenly spread.
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            gap: Duration::from_secs(1) / per_second.max(1),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits for a slot.
    pub(super) async fn turn(&self) {
        sleep_until(self.reserve(Instant::now())).await;
    }

    /// Takes the next slot that is not before `now`.
    fn reserve(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = (*next).max(now);
        *next = slot + self.gap;
        slot
    }

    /// Sends nothing for this long from now. Requests that wait for a slot already keep it.
    pub(super) fn pause(&self, duration: Duration) {
        self.hold_until(Instant::now() + duration);
    }

    fn hold_until(&self, end: Instant) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_spread_and_a_pause_holds_the_next() {
        let pace = Pace::new(10);
        let start = Instant::now() + Duration::from_secs(1);
        let since = |slot: Instant| slot.duration_since(start).as_millis();
        let slots: Vec<_> = (0..4).map(|_| since(pace.reserve(start))).collect();
        assert_eq!(slots, [0, 100, 200, 300]);
        pace.hold_until(start + Duration::from_secs(5));
        assert_eq!(since(pace.reserve(start)), 5_000);
        // Who comes late does not make up for it.
        let late = start + Duration::from_secs(9);
        assert_eq!(
            [since(pace.reserve(late)), since(pace.reserve(late))],
            [9_000, 9_100]
        );
    }
}
