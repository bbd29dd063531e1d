//! The one place of the CLI that asks for the time. Everything that formats or decides takes it
//! as an argument, so that tests fix it.

use chrono::{DateTime, Utc};

/// The time now.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the clock that everything else is given"
)]
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now()
}
