//! The real daemon, real child processes and real gRPC, against a coordinator driven by the test.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that meets what it does not expect fails, and that is its job"
)]

mod cache;
mod cage;
mod cage_host;
mod caged_ours;
mod crashes;
mod daemon;
mod doctor;
mod fake;
mod figures;
mod full_disk;
mod gpus;
mod hostile;
mod leaders;
mod life;
mod limits;
mod links;
mod nvml;
mod outputs;
mod progress;
mod quick;
mod sandbox;
mod secrets;
mod simulated;
mod stopping;
mod walls;
