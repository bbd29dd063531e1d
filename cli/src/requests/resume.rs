//! Continues a stream after its connection broke: the coordinator sends it from the start again, and
//! rows that were shown already are left out.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep};

use crate::say::say;

/// How long a coordinator that went away is waited for, as in `watch`.
const RECONNECT_FOR: Duration = Duration::from_secs(300);
/// How long it is waited for before it ever answered.
const CONNECT_FOR: Duration = Duration::from_secs(5);
const RECONNECT_EVERY: Duration = Duration::from_millis(500);

/// What was shown of each series. Within a series rows come in order of time, and several may
/// have the same time.
#[derive(Debug)]
pub(crate) struct Resume<K> {
    /// Newest time shown, and how many rows of that time.
    shown: HashMap<K, (DateTime<Utc>, u64)>,
    /// How many rows of that time this connection has sent so far.
    passed: HashMap<K, u64>,
}

impl<K> Default for Resume<K> {
    fn default() -> Self {
        Self {
            shown: HashMap::new(),
            passed: HashMap::new(),
        }
    }
}

impl<K: Hash + Eq + Clone> Resume<K> {
    /// Whether anything was shown.
    pub(crate) fn any(&self) -> bool {
        !self.shown.is_empty()
    }

    /// A new connection begins at the first row again.
    pub(crate) fn start_over(&mut self) {
        self.passed.clear();
    }

    /// Whether the next row of a series is one that was not shown yet.
    pub(crate) fn is_new(&mut self, series: K, at: DateTime<Utc>) -> bool {
        let passed = self.passed.entry(series.clone()).or_default();
        let (newest, count) = self
            .shown
            .entry(series)
            .or_insert((DateTime::<Utc>::MIN_UTC, 0));
        if at < *newest {
            return false;
        }
        if at > *newest {
            // A later time: those before it can only come again on another connection, and are told
            // from it by their time.
            (*newest, *count, *passed) = (at, 1, 1);
            return true;
        }
        *passed += 1;
        let new = *passed > *count;
        // Rows of one time are told apart by their place alone. The coordinator sends them in the
        // same order each time.
        *count = (*count).max(*passed);
        new
    }
}

/// How long to go on trying.
#[derive(Debug)]
pub(crate) struct Patience {
    since: Instant,
    answered: bool,
    tries: u32,
    /// Somebody else says how the connection is.
    is_quiet: bool,
}

impl Patience {
    pub(crate) fn new(is_quiet: bool) -> Self {
        Self {
            since: Instant::now(),
            answered: false,
            tries: 1,
            is_quiet,
        }
    }

    /// The coordinator answered.
    pub(crate) fn renew(&mut self) {
        *self = Self {
            answered: true,
            ..Self::new(self.is_quiet)
        };
    }

    pub(crate) fn is_over(&self) -> bool {
        self.since.elapsed()
            > if self.answered {
                RECONNECT_FOR
            } else {
                CONNECT_FOR
            }
    }

    pub(crate) fn tries(&self) -> u32 {
        self.tries
    }

    pub(crate) async fn pause(&mut self) {
        if self.tries == 1 && self.answered && !self.is_quiet {
            say!("lost the coordinator; trying again");
        }
        self.tries += 1;
        sleep(RECONNECT_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows that a reader sees over a run of connections, each from the start.
    fn shown(connections: &[&[(u32, i64)]]) -> Vec<(u32, i64)> {
        let mut seen = Resume::default();
        let mut out = Vec::new();
        for rows in connections {
            seen.start_over();
            for (rank, second) in *rows {
                if seen.is_new(*rank, DateTime::from_timestamp(*second, 0).unwrap()) {
                    out.push((*rank, *second));
                }
            }
        }
        out
    }

    #[test]
    fn nothing_is_shown_twice_and_nothing_is_left_out() {
        let all = [
            (0, 1),
            (0, 1),
            (1, 1),
            (0, 2),
            (1, 2),
            (0, 2),
            (0, 2),
            (1, 3),
        ];
        for broken_after in 0..=all.len() {
            assert_eq!(shown(&[&all[..broken_after], &all]), all, "{broken_after}");
        }
        assert_eq!(shown(&[&all[..2], &all[..1], &all[..4], &all]), all);
    }
}
