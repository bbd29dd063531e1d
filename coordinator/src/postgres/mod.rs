//! A Postgres of our own, for when no `database_url` is configured: made with the installed server
//! binaries in the data folder, reached through a unix socket only, and stopped with us.
//!
//! Invariant: at most one server runs on a cluster (the data folder's lock is held while this
//! module works), and no server outlives us: it is told to stop, and where we are killed the
//! kernel tells it. fsync stays on: it holds jobs.
//! Not here: the tables (`marquee-store`), and anything about a Postgres that somebody else runs.

mod cluster;
mod find;
mod keeper;
pub mod launch;
mod leftover;
mod socket;

use std::io;
use std::path::{Path, PathBuf};

pub use cluster::Cluster;
pub use keeper::Keeper;

/// The oldest major version that the tables and statements are tried on.
pub const MAJOR_MIN: u32 = 14;

/// Why the private Postgres cannot run.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error(
        "no PostgreSQL server (version {MAJOR_MIN} or newer) was found; {}, or name the folder of its programs with postgres_bin, or a running server with database_url",
        find::how_to_install()
    )]
    NotFound,
    #[error(
        "postgres_bin names {0:?}, which does not hold working programs \"postgres\" and \"initdb\" of version {MAJOR_MIN} or newer"
    )]
    NotThere(PathBuf),
    #[error(
        "the cluster in {data:?} was made by PostgreSQL {made_by}, which is not installed (found: {found}); install that version, or upgrade the cluster with pg_upgrade and remove the old folder"
    )]
    OtherVersion {
        data: PathBuf,
        made_by: u32,
        found: String,
    },
    #[error(
        "PostgreSQL refuses to run as root, and neither a user namespace nor a user \"postgres\" or \"nobody\" is to be had; start the coordinator as another user, or set database_url"
    )]
    Root,
    #[error("{program} failed: {output}")]
    Program {
        program: &'static str,
        output: String,
    },
    #[error("postgres did not become ready: {why}; its log is {log:?}")]
    NotReady { why: String, log: PathBuf },
    #[error(
        "processes {pids:?} of an earlier Postgres still work in {data:?} and did not stop; end them and start again"
    )]
    StillRunning { pids: Vec<i32>, data: PathBuf },
    #[error("there is no folder for a socket with a path of at most {max} bytes; tried {tried:?}; set XDG_RUNTIME_DIR to a short private folder", max = socket::PATH_MAX_BYTES)]
    NoSocketFolder { tried: Vec<PathBuf> },
    #[error("could not {doing} {path:?}: {error}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        error: io::Error,
    },
}

/// The folder and major version of the programs that a cluster in `data_dir` would be run with.
pub fn programs(
    data_dir: &Path,
    postgres_bin: Option<&Path>,
) -> Result<(PathBuf, u32), PostgresError> {
    let data = data_dir.join("postgres");
    let found = find::find(postgres_bin, cluster::version_of(&data)?, &data)?;
    Ok((found.folder, found.major))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PostgresError + use<> {
    let path = path.to_owned();
    move |error| PostgresError::Io { doing, path, error }
}
