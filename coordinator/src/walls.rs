//! Walls between the parts of this process: what panics in one of them ends that part's round, request or session,
//! and nothing else.
//!
//! A crash that no wall holds (no memory left, no stack left) ends the process, and its successor may meet the same
//! input. `trail` writes down what was being done, `starts` sees the same thing end three processes in a row, and
//! then the coordinator starts in its safe mode: it answers who reads, changes nothing, and says what it stumbled
//! over.

mod starts;
mod trail;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use marquee_domain::backoff::Backoff;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::listing::Listing;
use crate::trust::authority::Files;
use crate::users::Users;

pub use starts::{SAFE_MODE_FOR, STEADY, Starts};
pub use trail::{Step, Trail};

/// First and longest pause before a part that panicked is started again, and after how long without one the first
/// pause is taken again.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(30);
const RAN_WELL: Duration = Duration::from_secs(60);
/// Bytes of a panic's message that are kept.
const MESSAGE_MAX_BYTES: usize = 500;

/// What the walls of this process know. A cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Walls {
    pub trail: Trail,
    /// Why only reads are served; None: all is.
    pub safe_mode: Option<Arc<str>>,
    /// Who may ask; by default whoever can connect.
    pub access: Access,
    /// The authority by which workers join; None: there is none.
    pub authority: Option<Files>,
    /// Rung when that is followed by another one.
    pub trust_news: TrustNews,
    /// Who the users are.
    pub users: Users,
    /// The settings in force, and where each was written; without what may hold a password.
    pub listing: Listing,
}

/// Tells whoever waits that the authorities which are believed are others.
#[derive(Debug, Clone, Default)]
pub struct TrustNews {
    bell: Arc<Notify>,
    /// Held by whoever brings the files in line.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
}

impl TrustNews {
    pub(crate) fn ring(&self) {
        self.bell.notify_waiters();
    }

    /// Comes back at the next ring after this was called.
    pub(crate) fn next(&self) -> OwnedNotified {
        Arc::clone(&self.bell).notified_owned()
    }
}

/// Work that panicked: a fault of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a fault of this version of Marquee: {0}")]
pub struct Panicked(String);

impl Panicked {
    /// What a panic said.
    pub(crate) fn from_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        let mut text = text.unwrap_or_else(|| "it panicked without a word".to_owned());
        text.truncate(text.floor_char_boundary(MESSAGE_MAX_BYTES));
        Self(text)
    }
}

/// Does `work`; a panic in it is an error and goes no further. What it held is dropped: a transaction is rolled
/// back, a lock is free.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .map_err(|panic| Panicked::from_panic(panic.as_ref()))
}

/// Runs a loop until `shutdown`, and again whenever it panicked. What it panics over may come again each time, so
/// that the pauses grow; it is said once.
pub async fn guarded<F: Future<Output = ()>>(
    name: &'static str,
    shutdown: CancellationToken,
    run: impl FnMut() -> F,
) {
    guarded_from(RESTART_FIRST, name, shutdown, run).await;
}

async fn guarded_from<F: Future<Output = ()>>(
    first: Duration,
    name: &'static str,
    shutdown: CancellationToken,
    mut run: impl FnMut() -> F,
) {
    let mut backoff = Backoff::new(first, RESTART_MAX);
    let mut said: Option<Panicked> = None;
    loop {
        let began = Instant::now();
        let ended = caught(run()).await;
        if shutdown.is_cancelled() {
            return;
        }
        if began.elapsed() > RAN_WELL {
            backoff.reset();
        }
        let pause = backoff.next_whole();
        match ended {
            Err(panicked) if said.as_ref() == Some(&panicked) => {
                tracing::debug!(task = name, %panicked, ?pause, "a loop failed again");
            }
            Err(panicked) => {
                tracing::error!(task = name, %panicked, ?pause, "a loop failed; it is started again, and everything else goes on");
                said = Some(panicked);
            }
            // Another one is at the same work already.
            Ok(()) => tracing::debug!(task = name, "a loop ended by itself"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_panics_is_an_error_and_says_why() {
        assert_eq!(caught(async { 7 }).await, Ok(7));
        let why = caught(async { panic!("row {}", 17) }).await;
        let why: Result<(), Panicked> = why;
        assert_eq!(why, Err(Panicked("row 17".into())));
        let long = caught(async { panic!("{}", "x".repeat(10_000)) }).await;
        let long: Result<(), Panicked> = long;
        assert_eq!(long.unwrap_err().0.len(), MESSAGE_MAX_BYTES);
    }

    #[tokio::test]
    async fn a_loop_that_panics_is_started_again_until_the_process_stops() {
        let shutdown = CancellationToken::new();
        let rounds = AtomicU32::new(0);
        let run = || async {
            let round = rounds.fetch_add(1, Ordering::Relaxed);
            if round == 9 {
                shutdown.cancel();
                return;
            }
            panic!("the same each time");
        };
        guarded_from(Duration::from_millis(1), "test", shutdown.clone(), run).await;
        assert_eq!(rounds.load(Ordering::Relaxed), 10);
    }
}
