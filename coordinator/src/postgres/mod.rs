//! The private Postgres, for when no `database_url` is configured: made, started and stopped by
//! `marquee-postgres`, kept running here.
//!
//! Invariant: at most one server runs on a cluster (the data folder's lock is held while this
//! module works), and no server outlives us: it is told to stop, and where we are killed the
//! kernel tells it. fsync stays on: it holds jobs.
//! Not here: the tables (`marquee-store`), and anything about a Postgres that somebody else runs.

mod keeper;

pub use keeper::Keeper;
pub use marquee_postgres::{Cluster, PostgresError, launch, programs};
