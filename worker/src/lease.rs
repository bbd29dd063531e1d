//! The worker's lease by its own clock: for how long after its last heartbeat the coordinator holds its ranks to
//! be alive. It counts from when the heartbeat was *sent*, the coordinator's from when it came: so this side is
//! through first, and a rank that stops with it does so before it can be placed elsewhere.
//!
//! By the clock that goes on while the machine is suspended. What an earlier daemon of the same boot knew is
//! read from a file, which is written while there are ranks that stop with the lease.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use marquee_domain::BootId;
use serde::{Deserialize, Serialize};
use tracing::debug;

use crate::{durable, files};

/// The last part of a lease, in which a rank that stops with it is told to leave in order.
const LAST_PART: u32 = 5;

/// The lease.
#[derive(Debug)]
pub struct Lease {
    file: PathBuf,
    boot: BootId,
    term: Mutex<Option<Term>>,
}

#[derive(Debug, Clone, Copy)]
struct Term {
    until: Duration,
    length: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    boot: BootId,
    until_ms: u64,
    length_ms: u64,
}

impl Lease {
    /// The lease as an earlier daemon of this boot left it; none where there was none.
    #[must_use]
    pub fn open(data_dir: &Path, boot: BootId) -> Self {
        let file = data_dir.join("lease.json");
        let stored = files::read_json::<Stored>(&file).ok().flatten();
        let term = stored
            .filter(|stored| stored.boot == boot)
            .map(|stored| Term {
                until: Duration::from_millis(stored.until_ms),
                length: Duration::from_millis(stored.length_ms),
            });
        Self {
            file,
            boot,
            term: Mutex::new(term),
        }
    }

    /// A heartbeat that was sent at `sent` has come. `is_kept`: the next daemon is to know.
    pub fn renew(&self, sent: Duration, length: Duration, is_kept: bool) {
        let until = sent + length;
        // Let go before the disk: whoever asks how long it still runs must not wait for a write.
        {
            let mut term = self.lock();
            // Answers may come in a bunch, an older one last.
            let until = term.map_or(until, |term| term.until.max(until));
            *term = Some(Term { until, length });
        }
        if is_kept {
            let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let stored = Stored {
                boot: self.boot,
                until_ms: ms(until),
                length_ms: ms(length),
            };
            if let Err(error) = durable::replace_json(&self.file, &stored) {
                debug!(%error, "the lease is not written down");
            }
        }
    }

    /// This coordinator keeps none.
    pub fn forget(&self) {
        *self.lock() = None;
    }

    /// In the last part of a lease, how long it still runs. None before that, and where there is none.
    #[must_use]
    pub fn ends_in(&self, now: Duration) -> Option<Duration> {
        let term = (*self.lock())?;
        let left = term.until.saturating_sub(now);
        (left <= term.length / LAST_PART).then_some(left)
    }

    /// How long it still runs; 0 when it has run out. None where there is none.
    #[must_use]
    pub fn left(&self, now: Duration) -> Option<Duration> {
        Some((*self.lock())?.until.saturating_sub(now))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Term>> {
        self.term.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const LENGTH: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_counts_from_when_its_heartbeat_was_sent_and_outlives_the_daemon_but_not_the_boot() {
        let dir = tempfile::tempdir().unwrap();
        let boot = |n| BootId(Uuid::from_u128(n));
        let lease = Lease::open(dir.path(), boot(1));
        assert_eq!(lease.ends_in(at(1_000_000)), None, "there is none");
        lease.renew(at(100), LENGTH, false);
        assert_eq!(lease.ends_in(at(107)), None);
        assert_eq!(lease.ends_in(at(108)), Some(at(2)));
        assert_eq!(lease.ends_in(at(200)), Some(at(0)));
        lease.renew(at(106), LENGTH, true);
        // The answer to an older one is late.
        lease.renew(at(104), LENGTH, true);
        assert_eq!(lease.ends_in(at(113)), None);
        let next = Lease::open(dir.path(), boot(1));
        assert!(next.ends_in(at(116)).is_some());
        assert_eq!(Lease::open(dir.path(), boot(2)).ends_in(at(116)), None);
        lease.forget();
        assert_eq!(lease.ends_in(at(1_000)), None);
    }
}
