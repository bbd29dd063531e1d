//! The language of Marquee: what a job, an attempt, a worker and an artifact are, and what may
//! happen to them.
//!
//! Invariant: no I/O, no clock, no randomness, no async. Everything here is a value, a trait or a pure
//! function, so that the coordinator, the workers, the children and the CLI agree on meaning by
//! construction.

pub mod artifact;
pub mod backoff;
pub mod bottleneck;
pub mod child;
pub mod doctor;
pub mod end;
pub mod env;
pub mod evidence;
pub mod failure;
pub mod figures;
pub mod flavour;
pub mod gpu;
pub mod idle;
pub mod ids;
pub mod job;
pub mod join_token;
pub mod limits;
pub mod nearest;
pub mod pipeline;
pub mod planted;
pub mod project;
pub mod pulse;
pub mod rank;
pub mod rate;
pub mod report;
pub mod resources;
pub mod schedule;
pub mod secret;
pub mod spec;
pub mod standing;
pub mod steady;
pub mod step;
pub mod transitions;
pub mod users;
pub mod zoo;

pub use failure::FailureClass;
pub use ids::{AttemptNumber, BootId, JobId, JobName, PipelineId, Rank, WorkerId};
pub use rank::{RankKey, Rendezvous};
