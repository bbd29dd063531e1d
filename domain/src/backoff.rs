//! How long to wait before the next try at something that fails.

use std::time::Duration;

/// Doublings after which the ceiling is reached in any case.
const DOUBLINGS_MAX: u32 = 16;

/// Waits that double up to a ceiling.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits from `first` to `ceiling`.
    #[must_use]
    pub const fn new(first: Duration, ceiling: Duration) -> Self {
        Self {
            first,
            ceiling,
            failures: 0,
        }
    }

    /// The whole wait before the next try.
    #[must_use]
    pub fn next_whole(&mut self) -> Duration {
        let whole = self
            .first
            // A shift by more than 31 would panic, and failures count on for as long as the other
            // side is away.
            .saturating_mul(1 << self.failures.min(DOUBLINGS_MAX))
            .min(self.ceiling);
        self.failures = self.failures.saturating_add(1);
        whole
    }

    /// The wait before the next try, spread over the second half of its length by `chance` from 0
    /// to 1, so that a hundred who failed together do not come back at the same instant.
    #[must_use]
    pub fn next_spread(&mut self, chance: f64) -> Duration {
        self.next_whole().mul_f64(0.5 + 0.5 * chance)
    }

    /// Tries that failed since the last success.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// A try succeeded: begin again with the shortest wait.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CEILING: Duration = Duration::from_secs(3);

    #[test]
    fn waits_double_up_to_the_ceiling_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(200), CEILING);
        let waits: Vec<u128> = (0..6).map(|_| backoff.next_whole().as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3000, 3000]);
        assert_eq!(backoff.failures(), 6);
        backoff.reset();
        assert_eq!(backoff.next_whole(), Duration::from_millis(200));
    }

    #[test]
    fn a_wait_is_spread_over_its_second_half() {
        let mut backoff = Backoff::new(CEILING, CEILING);
        assert_eq!(backoff.next_spread(0.0), CEILING / 2);
        assert_eq!(backoff.next_spread(1.0), CEILING);
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::MAX / 2, Duration::MAX);
        assert!((0..1000).all(|_| backoff.next_whole() >= Duration::MAX / 2));
    }
}
