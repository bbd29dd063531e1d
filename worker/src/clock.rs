//! The host's clocks: the one place that asks for the time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::env::Clock;
use marquee_domain::steady::Steady;
use nix::time::{ClockId, clock_gettime};

/// The host's clocks. The steady one counts from its boot (`CLOCK_BOOTTIME`); children read it too,
/// for when a share of a host's rate runs out.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that asks for the time"
    )]
    fn now(&self) -> DateTime<Utc> {
        static STEADY: Mutex<Option<Steady>> = Mutex::new(None);
        let (wall, monotonic) = (Utc::now(), self.monotonic());
        let mut steady = STEADY.lock().unwrap_or_else(PoisonError::into_inner);
        let steady = steady.get_or_insert_with(|| Steady::starting(wall, monotonic));
        let now = steady.now(wall, monotonic);
        if let Some(off) = steady.jump(wall) {
            tracing::warn!(
                off_s = off.num_seconds(),
                "the host's clock was set; times of reports go on as they were and come nearer to it by one second in twenty"
            );
        }
        now
    }

    fn monotonic(&self) -> Duration {
        // Every kernel that runs this has the clock; one that would not tell it ends every share.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
    }
}
