//! The server's own count of requests: how many came, and how many in the busiest second. With it a
//! client's politeness can be judged from the other side.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Requests come in a window of so long.
const WINDOW: Duration = Duration::from_secs(1);

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Count {
    pub(super) requests: u64,
    /// The most that came within any second.
    pub(super) busiest_second: usize,
    /// Between the first and the last.
    pub(super) milliseconds: u64,
}

/// Counts requests.
#[derive(Debug, Default)]
pub(super) struct Counter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    requests: u64,
    busiest: usize,
    first: Option<Instant>,
    last: Option<Instant>,
    recent: VecDeque<Instant>,
}

impl Counter {
    /// Notes a request that came `now`.
    pub(super) fn note(&self, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests += 1;
        state.first.get_or_insert(now);
        state.last = Some(now);
        state.recent.push_back(now);
        while state
            .recent
            .front()
            // Exactly one second later is another second: a client that keeps to 40 a second must not be counted
            // 41.
            .is_some_and(|at| now.duration_since(*at) >= WINDOW)
        {
            state.recent.pop_front();
        }
        // Kept as it goes: the times of a long run would not fit into memory, those of one second
        // do.
        state.busiest = state.busiest.max(state.recent.len());
    }

    pub(super) fn count(&self) -> Count {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let span = state.first.zip(state.last);
        Count {
            requests: state.requests,
            busiest_second: state.busiest,
            milliseconds: span.map_or(0, |(first, last)| {
                u64::try_from(last.duration_since(first).as_millis()).unwrap_or(u64::MAX)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_is_any_second() {
        let counter = Counter::default();
        let start = Instant::now();
        for at in [0, 900, 950, 1_000, 1_899, 1_950, 5_000] {
            counter.note(start + Duration::from_millis(at));
        }
        let count = counter.count();
        assert_eq!((count.requests, count.milliseconds), (7, 5_000));
        // 900, 950, 1,000 and 1,899.
        assert_eq!(count.busiest_second, 4);
    }
}
