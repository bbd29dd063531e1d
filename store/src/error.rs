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
    #[error("postgres: {0}")]
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
    /// Whether the same call may work later, because Postgres is away, busy or starting.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Postgres(error) => postgres_may_pass(&error.0),
            Self::StaleAttempt { .. }
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

/// Classes of SQLSTATE that pass: connection exceptions, serialization failures and deadlocks,
/// too many connections and the like, shutdown and start-up, and I/O errors.
const PASSING_CLASSES: [&str; 5] = ["08", "40", "53", "57", "58"];

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
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| PASSING_CLASSES.iter().any(|class| code.starts_with(class))),
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
