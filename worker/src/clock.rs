//! The host's clocks: the one place that asks for the time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::env::Clock;
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
        Utc::now()
    }

    fn monotonic(&self) -> Duration {
        // Every kernel that runs this has the clock; one that would not tell it ends every share.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
    }
}
