//! Where the time comes from. Everything else takes it as an argument.

use chrono::{DateTime, Utc};

/// The host's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The time now.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that asks for the time"
    )]
    pub fn now(self) -> DateTime<Utc> {
        Utc::now()
    }
}
