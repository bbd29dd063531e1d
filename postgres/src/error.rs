//! Why a private Postgres cannot run, each with the way out. Written by hand: a macro crate would cost
//! more to build than all of this crate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::MAJOR_MIN;

/// Why the private Postgres cannot run.
#[derive(Debug)]
pub enum PostgresError {
    NotFound {
        /// What installs one on this system.
        install: String,
    },
    /// The folder that was named does not hold what it should.
    NotThere(PathBuf),
    OtherVersion {
        data: PathBuf,
        made_by: u32,
        found: String,
    },
    Root,
    Program {
        program: &'static str,
        output: String,
    },
    NotReady {
        why: String,
        log: PathBuf,
    },
    StillRunning {
        pids: Vec<i32>,
        data: PathBuf,
    },
    NoSocketFolder {
        tried: Vec<PathBuf>,
        max_bytes: usize,
    },
    Io {
        doing: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    /// The step between us and the program went wrong.
    Launch(String),
}

impl fmt::Display for PostgresError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { install } => write!(
                f,
                "no PostgreSQL server (version {MAJOR_MIN} or newer) was found; install one with \"{install}\", \
                 or name the folder of its programs with postgres_bin, or a running server with database_url"
            ),
            Self::NotThere(folder) => write!(
                f,
                "postgres_bin names {folder:?}, which does not hold working programs \"postgres\" and \
                 \"initdb\" of version {MAJOR_MIN} or newer"
            ),
            Self::OtherVersion {
                data,
                made_by,
                found,
            } => write!(
                f,
                "the cluster in {data:?} was made by PostgreSQL {made_by}, which is not installed (found: \
                 {found}); install that version, or upgrade the cluster with pg_upgrade and remove the old folder"
            ),
            Self::Root => f.write_str(
                "PostgreSQL refuses to run as root, and neither a user namespace nor a user \"postgres\" or \
                 \"nobody\" is to be had; start the coordinator as another user, or set database_url",
            ),
            Self::Program { program, output } => write!(f, "{program} failed: {output}"),
            Self::NotReady { why, log } => {
                write!(f, "postgres did not become ready: {why}; its log is {log:?}")
            }
            Self::StillRunning { pids, data } => write!(
                f,
                "processes {pids:?} of an earlier Postgres still work in {data:?} and did not stop; end them \
                 and start again"
            ),
            Self::NoSocketFolder { tried, max_bytes } => write!(
                f,
                "there is no folder for a socket with a path of at most {max_bytes} bytes; tried {tried:?}; \
                 set XDG_RUNTIME_DIR to a short private folder"
            ),
            Self::Io { doing, path, error } => write!(f, "could not {doing} {path:?}: {error}"),
            Self::Launch(why) => f.write_str(why),
        }
    }
}

// What caused it is in the text already: as a source it would be told twice.
impl std::error::Error for PostgresError {}

impl PostgresError {
    /// Makes an error of one of the operating system: for `map_err`.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self::Io { doing, path, error }
    }
}
