//! Which pending jobs run where: a pure function. See README.md beside this file.
//!
//! Invariant: no database, channel, clock or randomness; the same input in any order gives the
//! same plan. Not here: reading the world and writing the plan down (`background`).

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use marquee_domain::ids::{JobId, JobName, Rank, WorkerId};
use marquee_domain::resources::{Device, Resources};

/// A job that may run: all it needs has succeeded, and no cancel was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub job: JobId,
    pub name: JobName,
    pub resources: Resources,
    pub priority: i32,
    /// When it was queued: a job that waits for long has devices held back for it.
    pub queued_at: DateTime<Utc>,
    /// End of the back-off after a failed attempt.
    pub not_before: Option<DateTime<Utc>>,
}

/// One worker's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub worker: WorkerId,
    pub name: String,
    /// Whether new ranks may be placed here: its session is up and its lease runs.
    pub accepting: bool,
    /// Every device the host offers.
    pub devices: BTreeSet<Device>,
    /// Ranks that hold devices here. A device is free when none of them has it.
    pub running: Vec<Held>,
}

/// Devices that a rank of a running attempt holds on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub job: JobId,
    pub devices: Vec<Device>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Jobs to start, in the order in which they were chosen.
    pub placements: Vec<Placement>,
    /// Every other pending job, with the reason in words.
    pub waiting: Vec<Waiting>,
}

/// A whole gang with a place for each rank, in rank order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub job: JobId,
    pub ranks: Vec<PlacedRank>,
}

/// A rank's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedRank {
    pub rank: Rank,
    pub worker: WorkerId,
    /// Index among the attempt's ranks on the same host.
    pub local_rank: u32,
    pub devices: Vec<Device>,
}

/// A job that is not placed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub job: JobId,
    /// For users; names what is missing and what it waits for.
    pub reason: String,
}
