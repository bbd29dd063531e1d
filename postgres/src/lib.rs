//! A Postgres of our own, made and run with the server programs that are installed: in a folder, reached
//! through a unix socket only. The one place that knows how; coordinator, tests and `cargo xtask` use it.
//!
//! There are two kinds. A [`Cluster`] is kept: the coordinator's jobs are in it, fsync is on, and the next
//! start goes on with it. A [`Throwaway`] is for a test or a task: fsync is off, and its folder goes with it.
//!
//! Invariant: no server outlives the process that started it, however that ends. A [`Cluster`]'s is tied to
//! us by the kernel (see [`launch`]), a [`Throwaway`]'s by a shell that waits on a pipe.
//! Not here: tables and statements, and a Postgres that somebody else runs.

mod cluster;
mod error;
mod find;
pub mod launch;
mod leftover;
mod rights;
mod running;
mod server;
mod socket;
mod throwaway;

use std::path::{Path, PathBuf};

pub use cluster::Cluster;
pub use error::PostgresError;
pub use find::{BIN_VARIABLE, Binaries, by_environment, installed, look_into};
pub use running::{is_made, running};
pub use server::{STOP_WITHIN, Server};
pub use throwaway::{Throwaway, fresh_folder, memory};

/// The oldest major version that the tables and statements are tried on.
pub const MAJOR_MIN: u32 = 14;

/// The folder and major version of the programs that a cluster in `data_dir` would be run with.
pub fn programs(
    data_dir: &Path,
    postgres_bin: Option<&Path>,
) -> Result<(PathBuf, u32), PostgresError> {
    let data = data_dir.join("postgres");
    let found = find::find(postgres_bin, cluster::version_of(&data)?, &data)?;
    Ok((found.folder, found.major))
}
