//! Time as an argument: only the program's main knows the real clock.

use chrono::{DateTime, Utc};

/// Tells the time.
pub type Clock = fn() -> DateTime<Utc>;
