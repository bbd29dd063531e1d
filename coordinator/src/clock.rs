//! The one place that asks for the time.

use std::fmt::Debug;

use chrono::{DateTime, Utc};

/// Where the coordinator takes the time from.
pub trait Clock: Debug + Send + Sync {
    /// The time now.
    fn now(&self) -> DateTime<Utc>;
}

/// The host's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the clock that everything else is given"
    )]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}
