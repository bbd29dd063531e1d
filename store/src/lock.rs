//! The lock that keeps two coordinators from working with one database: they would judge each other's
//! workers. It is an advisory lock of Postgres, and lives as long as the connection that took it.
//!
//! Invariant: a lock that is lost is taken again, for as long as it takes, unless another process has it. When
//! Postgres stands still, or the network is cut, Postgres may still believe in our old connection: it then
//! refuses us our own lock. Every connection that asks for the lock carries the name of its process, so that
//! the two can be told apart.
//!
//! Not here: leases and epochs. A process that hangs keeps this lock; it keeps a second coordinator out, and
//! is no proof that the first one lives.

use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgAdvisoryLock, PgConnectOptions};
use sqlx::{Connection as _, Either, PgConnection};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::{Result, StoreError};

/// Names the lock within a database; sqlx makes a number of it.
const LOCK_NAME: &str = "marquee coordinator";
/// How long to wait at start for a lock that another holds: Postgres notices the end of a killed
/// coordinator's connection in milliseconds on one host, a little later over a network.
const TAKE_WITHIN: Duration = Duration::from_secs(5);
const TAKE_EVERY: Duration = Duration::from_millis(100);
/// How often the connection that holds the lock is tried, and how long it may take to answer.
const CHECK_EVERY: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How often it is said that Postgres is still away.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The lock of the database.
#[derive(Debug)]
pub struct DatabaseLock {
    options: PgConnectOptions,
    name: String,
    connection: PgConnection,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another coordinator works with this database ({0}); stop that one first")]
    InUse(Holder),
    #[error("another coordinator took over this database ({0})")]
    TakenOver(Holder),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The connection that holds the lock, as Postgres shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pid: i32,
    name: String,
    address: Option<String>,
    since: Option<DateTime<Utc>>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.address.as_deref().unwrap_or("this host");
        write!(f, "Postgres process {}, connected from {from}", self.pid)?;
        match self.since {
            Some(since) => write!(f, " since {}", since.format("%Y-%m-%d %H:%M:%S UTC")),
            None => Ok(()),
        }
    }
}

/// What became of one try.
enum Try {
    Taken(PgConnection),
    /// None: whoever held it has gone since.
    Held(Option<Holder>),
}

impl DatabaseLock {
    /// Takes the lock. `process` is drawn anew by each process.
    pub async fn take(url: &str, process: Uuid) -> Result<Self, LockError> {
        let name = format!("marquee {}", process.simple());
        let options = PgConnectOptions::from_str(url)
            .map_err(StoreError::from)?
            .application_name(&name);
        let deadline = Instant::now() + TAKE_WITHIN;
        loop {
            match attempt(&options).await? {
                Try::Taken(connection) => {
                    return Ok(Self {
                        options,
                        name,
                        connection,
                    });
                }
                Try::Held(Some(holder)) if Instant::now() > deadline => {
                    return Err(LockError::InUse(holder));
                }
                Try::Held(_) => sleep(TAKE_EVERY).await,
            }
        }
    }

    /// Holds the lock, and takes it again when Postgres was away. Returns only when another
    /// coordinator has it: then this one must stop.
    pub async fn keep(mut self) -> LockError {
        loop {
            sleep(CHECK_EVERY).await;
            let answer = timeout(ANSWER_WITHIN, self.connection.ping()).await;
            if matches!(answer, Ok(Ok(()))) {
                continue;
            }
            tracing::warn!(
                "Postgres does not answer on the connection that holds the database's lock; taking the lock again"
            );
            match self.take_again().await {
                Ok(()) => tracing::info!("took the database's lock again"),
                Err(holder) => return LockError::TakenOver(holder),
            }
        }
    }

    async fn take_again(&mut self) -> Result<(), Holder> {
        let mut was_told = false;
        let (since, mut told_at) = (Instant::now(), Instant::now());
        loop {
            if told_at.elapsed() > TELL_EVERY {
                told_at = Instant::now();
                tracing::warn!(
                    away_for = ?since.elapsed(),
                    "Postgres does not answer, and this coordinator waits for it: nobody else has the database's lock, \
                     workers go on, and nothing is stored or placed until it does"
                );
            }
            match timeout(ANSWER_WITHIN, attempt(&self.options)).await {
                Ok(Ok(Try::Taken(connection))) => {
                    self.connection = connection;
                    return Ok(());
                }
                Ok(Ok(Try::Held(Some(holder)))) if holder.name != self.name => return Err(holder),
                Ok(Ok(Try::Held(Some(own)))) => {
                    if !was_told {
                        tracing::warn!(
                            pid = own.pid,
                            "our own old connection still holds the database's lock; ending it"
                        );
                        was_told = true;
                    }
                    // It has nothing to do any more. Over a cut network Postgres may believe in it for hours.
                    let _ = timeout(ANSWER_WITHIN, end(&self.options, &own)).await;
                }
                // Its holder has just gone, or Postgres is away: nobody else can take it either.
                Ok(Ok(Try::Held(None)) | Err(_)) | Err(_) => {}
            }
            sleep(TAKE_EVERY).await;
        }
    }
}

async fn attempt(options: &PgConnectOptions) -> Result<Try> {
    let connection = PgConnection::connect_with(options).await?;
    let lock = PgAdvisoryLock::new(LOCK_NAME);
    match lock.try_acquire(connection).await? {
        // Without its guard the lock ends with the connection, which is what we want.
        Either::Left(guard) => Ok(Try::Taken(guard.leak())),
        Either::Right(mut connection) => {
            let holder = holder(&mut connection, &lock).await?;
            let _ = connection.close().await;
            Ok(Try::Held(holder))
        }
    }
}

/// Who has the lock. This asks Postgres's own tables, not ours, so it is not checked against the migrations.
async fn holder(connection: &mut PgConnection, lock: &PgAdvisoryLock) -> Result<Option<Holder>> {
    let Some(key) = lock.key().as_bigint() else {
        return Ok(None);
    };
    // Postgres shows a key of 64 bits in two columns.
    type Row = (i32, String, Option<String>, Option<DateTime<Utc>>);
    let row: Option<Row> = sqlx::query_as(
        "SELECT l.pid, COALESCE(a.application_name, ''), host(a.client_addr), a.backend_start
         FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND (l.classid::bigint << 32) | l.objid::bigint = $1",
    )
    .bind(key)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|(pid, name, address, since)| Holder {
        pid,
        name,
        address,
        since,
    }))
}

/// Ends a connection of our own. Its name is asked for again: its number may be another's by now.
async fn end(options: &PgConnectOptions, own: &Holder) -> Result<()> {
    let mut connection = PgConnection::connect_with(options).await?;
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE pid = $1 AND application_name = $2",
    )
    .bind(own.pid)
    .bind(&own.name)
    .execute(&mut connection)
    .await?;
    let _ = connection.close().await;
    Ok(())
}
