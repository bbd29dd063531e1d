//! How many requests may be under way at once: a limit that a share of the rate may change.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

/// Requests in flight: a limit that may change.
#[derive(Debug)]
pub(super) struct InFlight {
    permits: Semaphore,
    /// Permits there are, taken or not.
    there: Mutex<usize>,
}

impl InFlight {
    pub(super) fn new(limit: u32) -> Self {
        let there = limit.max(1) as usize;
        Self {
            permits: Semaphore::new(there),
            there: Mutex::new(there),
        }
    }

    /// Waits until one more may be in flight. The semaphore is never closed.
    pub(super) async fn acquire(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.permits.acquire().await
    }

    /// Moves towards this limit: what is in flight comes back first, so it is to be said again.
    pub(super) fn limit(&self, limit: u32) {
        let wanted = limit.max(1) as usize;
        let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted > *there {
            self.permits.add_permits(wanted - *there);
            *there = wanted;
        } else {
            // Only those that are free can be taken away now; the rest goes when this is called
            // again.
            *there -= self.permits.forget_permits(*there - wanted);
        }
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.permits.available_permits() == 0
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.permits.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lower_limit_in_flight_waits_for_what_is() {
        let in_flight = InFlight::new(3);
        let held = [in_flight.acquire().await, in_flight.acquire().await];
        in_flight.limit(1);
        assert!(in_flight.is_exhausted());
        drop(held);
        in_flight.limit(1);
        assert_eq!(in_flight.free(), 1);
        in_flight.limit(5);
        assert_eq!(in_flight.free(), 5);
    }
}
