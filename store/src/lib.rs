//! All the SQL: one file per table family, one function per statement, checked against the schema
//! when it is compiled (`.sqlx` holds what an offline build checks against).
//!
//! No type of sqlx leaves this crate: others hold a [`Db`], read on a [`Conn`] and write in a [`Tx`].
//!
//! Invariant: the connection is the first argument, so that the caller owns the transaction; each
//! transition is one guarded UPDATE that names the state and the attempt it expects, and an UPDATE
//! that finds no such row is an error, never ignored. Verbs: `insert_`, `get_` (must be there),
//! `find_` (may not be), `list_`, `lock_`, `mark_`.
//! Not here: decisions (`coordinator`), the clock (times are arguments), retries.

pub mod again;
pub mod artifacts;
pub mod attempts;
pub mod audit;
pub mod backup;
pub mod checkpoints;
pub mod cluster;
mod conn;
mod convert;
mod db;
pub mod elements;
mod error;
pub mod events;
#[cfg(feature = "testing")]
mod faults;
mod fence;
pub mod forecasts;
pub mod jobs;
pub mod leader;
pub mod listing;
pub mod live;
pub mod lock;
pub mod needs;
pub mod neighbours;
pub mod open;
pub mod pipelines;
pub mod projects;
pub mod ranks;
pub mod rehearse;
pub mod relatives;
pub mod removal;
pub mod reports;
pub mod retention;
pub mod reuse;
pub mod rotation;
pub mod schedules;
mod schema;
pub mod secrets;
pub mod series;
pub mod stats;
pub mod steering;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transitions;
pub mod trust;
pub mod usage;
pub mod users;
pub mod workers;

pub use conn::{Conn, Tx};
pub use db::{Connections, Db};
pub use error::{MigrateError, PostgresError, StoreError};
#[cfg(feature = "testing")]
pub use faults::When;
pub use schema::Schema;

/// What every function of this crate returns.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
