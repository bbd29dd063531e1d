//! What can go wrong between us and Postgres, in the classes that callers decide by.

use marquee_domain::{AttemptNumber, JobId, PipelineId, Rank};

/// Why a statement did not do what it says.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A guarded transition found the job in another state or at another attempt: somebody else
    /// was faster, or the sender is of an old attempt.
    #[error("job {job} is no longer at attempt {attempt} in the state that this change expects")]
    StaleAttempt { job: JobId, attempt: u32 },
    /// A guarded change of a rank found it ended, moved on or on another worker.
    #[error(
        "rank {rank} of job {job} attempt {attempt} is no longer in the state that this change expects"
    )]
    StaleRank {
        job: JobId,
        attempt: AttemptNumber,
        rank: Rank,
    },
    /// Another coordinator leads, or nobody does, and this one may change nothing.
    #[error("{}", not_leading(*mine, leader))]
    NotLeading {
        /// The epoch by which this one wanted to write; None: it does not lead.
        mine: Option<i64>,
        /// Where the coordinator that leads can be reached; empty where that is not known here.
        leader: String,
    },
    #[error("there is no job {0}")]
    JobNotFound(JobId),
    #[error("there is no pipeline {0}")]
    PipelineNotFound(PipelineId),
    #[error("a worker named {0:?} is online already")]
    WorkerNameTaken(String),
    /// Another certificate owns the worker's id or name.
    #[error(
        "the {what} of worker {name:?} belongs to certificate {owner:?}, and certificate {identity:?} was shown"
    )]
    WorkerOwned {
        /// "id" or "name".
        what: &'static str,
        name: String,
        owner: String,
        identity: String,
    },
    /// A stored value that this version cannot read.
    #[error(
        "column {column} holds {value:?}, which this version cannot read; was the database written by a newer one?"
    )]
    Unreadable { column: &'static str, value: String },
    /// A value that does not fit its column.
    #[error("{what} {value} does not fit its column")]
    OutOfRange { what: &'static str, value: String },
    #[error("the {0} that was stored a moment ago is gone; did somebody delete rows by hand?")]
    Vanished(&'static str),
    #[error("the migrations could not be applied: {0}")]
    Migrate(MigrateError),
    #[error("postgres: {}{}", .0, full(.0))]
    Postgres(PostgresError),
}

/// What Postgres, or the way to it, answered. Whoever decides asks [`StoreError::may_pass`].
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct PostgresError(sqlx::Error);

/// Why a migration could not be applied.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct MigrateError(sqlx::migrate::MigrateError);

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Postgres(PostgresError(error))
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        Self::Migrate(MigrateError(error))
    }
}

impl StoreError {
    /// Whether two transactions were in each other's way, and Postgres ended this one so that the other could go on
    /// (serialization failures and deadlocks): nothing was stored, and the same again at once most likely works.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        let Self::Postgres(PostgresError(sqlx::Error::Database(error))) = self else {
            return false;
        };
        // By code, not by message: Postgres speaks the language of its host.
        error
            .code()
            .is_some_and(|code| CONFLICTS.contains(&code.as_ref()))
    }

    /// Whether the same call may work later, because Postgres is away, busy or starting.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            // Every kind is named: whoever adds one decides here whether waiting helps.
            Self::Postgres(error) => postgres_may_pass(&error.0),
            Self::NotLeading { .. }
            | Self::StaleAttempt { .. }
            | Self::StaleRank { .. }
            | Self::JobNotFound(_)
            | Self::PipelineNotFound(_)
            | Self::WorkerNameTaken(_)
            | Self::WorkerOwned { .. }
            | Self::Unreadable { .. }
            | Self::OutOfRange { .. }
            | Self::Vanished(_)
            | Self::Migrate(_) => false,
        }
    }
}

fn not_leading(mine: Option<i64>, leader: &str) -> String {
    let whom = if leader.is_empty() {
        String::new()
    } else {
        format!(" ({leader})")
    };
    match mine {
        Some(epoch) => format!(
            "this coordinator led as epoch {epoch}, and another one has taken over{whom}: nothing was changed"
        ),
        None => "this coordinator does not lead: nothing was changed".to_owned(),
    }
}

/// Classes of SQLSTATE that pass: connection exceptions, serialization failures and deadlocks,
/// too many connections and the like, shutdown and start-up, and I/O errors.
const PASSING_CLASSES: [&str; 5] = ["08", "40", "53", "57", "58"];

/// A transaction that lay idle for too long, since this host was starved or stood still: its connection was closed.
const IDLE_TRANSACTION: &str = "25P03";
/// Postgres has no room on its disk for what it was to write.
const DISK_FULL: &str = "53100";
/// Serialization failure, and deadlock.
const CONFLICTS: [&str; 2] = ["40001", "40P01"];

/// The way out, where there is one that Postgres does not name.
fn full(error: &PostgresError) -> &'static str {
    let code = error.0.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        Some(DISK_FULL) => {
            "; the disk of Postgres is full: make room there, and all goes on by itself"
        }
        Some(_) | None => "",
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "sqlx's enum is non-exhaustive"
)]
fn postgres_may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code == IDLE_TRANSACTION || PASSING_CLASSES.iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_postgres_may_come_back_and_a_stale_attempt_never() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(StoreError::from(sqlx::Error::Io(refused)).may_pass());
        assert!(StoreError::from(sqlx::Error::PoolTimedOut).may_pass());
        assert!(!StoreError::from(sqlx::Error::RowNotFound).may_pass());
        assert!(
            !StoreError::StaleAttempt {
                job: JobId(1),
                attempt: 2
            }
            .may_pass()
        );
    }
}
