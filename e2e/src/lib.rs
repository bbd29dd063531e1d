//! A cluster of real processes for tests: coordinator with its private Postgres, workers, the
//! catalogue server, each killable.
//!
//! Invariant: a test waits for a named state with a deadline, never for time to pass; and a
//! [`TestCluster`] that is dropped leaves no process behind.

pub mod chaos;
pub mod cluster;
pub mod jobs;
pub mod process;

pub use cluster::{Catalogue, TestCluster, Worker};
