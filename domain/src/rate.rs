//! One rate for each host over the whole cluster: what a fetch job says of its requests, and the
//! share that it is given.
//!
//! A child writes its [`RateUse`] into [`USE_FILE`] of the folder that its spec names, its worker
//! passes it to the coordinator with each heartbeat, and writes the [`RateShare`] that comes back
//! into [`SHARE_FILE`], which the child reads again and again. Both replace a whole file at once.
//!
//! Invariant: a child asks a host only while it holds a share of it that has not run out, and no
//! faster. So whoever knows which shares are out knows the most that can happen.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a child says, in the folder of its spec's `rate`.
pub const USE_FILE: &str = "use.json";
/// What its worker says, in the same folder.
pub const SHARE_FILE: &str = "share.json";
/// How long a share is good for, counted from the heartbeat that it answers. It is as long as a
/// worker's lease: who is silent for longer has lost its ranks, and their requests end by then too.
pub const SHARE_FOR: Duration = crate::limits::LEASE;
/// How often a child says how it stands, and looks for another share.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Hosts that are told apart for one rank: those beyond it count together as [`OTHER_HOSTS`].
pub const HOSTS_MAX: usize = 64;
/// What the hosts of a list beyond the first [`HOSTS_MAX`] are called.
pub const OTHER_HOSTS: &str = "*";

/// How a fetch job stands with its requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RateUse {
    /// Requests a second that its settings allow.
    pub limit: f64,
    /// Requests in flight that its settings allow.
    pub in_flight: u32,
    /// Whom it asks.
    pub hosts: Vec<String>,
    /// Number of the share it keeps to; 0 before the first.
    pub taken: u64,
    /// Requests a second of that share.
    pub per_second: f64,
    /// Requests a second of late.
    pub used: f64,
    /// It waits for its share rather than for anything else.
    pub hungry: bool,
    /// When this was said, in milliseconds of the machine's clock since its boot.
    pub at_ms: u64,
}

/// What a fetch job may do until it hears otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RateShare {
    /// Grows with each share that is given.
    pub number: u64,
    /// Requests a second, over all `hosts` together. 0: none.
    pub per_second: f64,
    /// Requests in flight.
    pub in_flight: u32,
    /// Whom it may ask.
    pub hosts: Vec<String>,
    /// Milliseconds of the machine's clock since its boot (`CLOCK_BOOTTIME`) at which the share runs
    /// out, so that no setting of the time of day prolongs it.
    pub until_ms: u64,
}
