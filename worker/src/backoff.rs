//! How long to wait before the next try at a coordinator that is away.

use std::time::Duration;

use uuid::Uuid;

/// First wait: a coordinator restart takes about a second, so most tries need one or two.
const FIRST: Duration = Duration::from_millis(200);
/// Longest wait: well below the lease, so that a worker is back before it is given up.
const CEILING: Duration = Duration::from_secs(3);

/// Waits that double up to a ceiling, each spread over half of its length, so that a hundred
/// workers do not all come back at the same instant.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next try. `jitter` is in [0, 1).
    #[must_use]
    pub fn next(&mut self, jitter: f64) -> Duration {
        let full = FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(CEILING);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + 0.5 * jitter)
    }

    /// A try succeeded: begin again with the shortest wait.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A number in [0, 1) from the kernel's random source.
#[must_use]
pub fn jitter() -> f64 {
    let (high, _) = Uuid::new_v4().as_u64_pair();
    f64::from(u32::try_from(high >> 32).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_ceiling_and_start_again_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..6).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3000, 3000]);
        assert_eq!(backoff.next(0.0), CEILING / 2);
        backoff.reset();
        assert_eq!(backoff.next(1.0), FIRST);
    }

    #[test]
    fn jitter_stays_in_its_range() {
        assert!((0..1000).map(|_| jitter()).all(|j| (0.0..1.0).contains(&j)));
    }
}
