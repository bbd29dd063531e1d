//! The lock by which coordinators of versions before the leader's row keep one another out: an advisory lock of
//! Postgres that lives as long as the connection that took it. Tables of such a version are brought to this one under
//! it, so that no coordinator of that version is at work meanwhile.
//!
//! Not here: who leads (`leader`). This lock is no lease: a process that hangs keeps it.

use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgAdvisoryLock, PgConnectOptions};
use sqlx::{Connection as _, Either, PgConnection};
use tokio::time::{Instant, sleep};

use crate::{Result, StoreError};

/// Names the lock within a database; sqlx makes a number of it.
const LOCK_NAME: &str = "marquee coordinator";
/// How long to wait for a lock that another holds: Postgres notices the end of a killed coordinator's connection in
/// milliseconds on one host, a little later over a network.
const TAKE_WITHIN: Duration = Duration::from_secs(5);
const TAKE_EVERY: Duration = Duration::from_millis(100);

/// The lock of the database. Dropped, it is free.
#[derive(Debug)]
pub struct DatabaseLock {
    _connection: PgConnection,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "a coordinator of an earlier version works with this database ({0}); stop that one first: this version brings the tables to its own"
    )]
    InUse(Holder),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The connection that holds the lock, as Postgres shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pid: i32,
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
    /// Takes the lock.
    pub async fn take(url: &str) -> Result<Self, LockError> {
        let options = PgConnectOptions::from_str(url)
            .map_err(StoreError::from)?
            .application_name("marquee");
        // The first try counts, however long it took: the time limits only how long a holder is waited for.
        let deadline = Instant::now() + TAKE_WITHIN;
        loop {
            match attempt(&options).await? {
                Try::Taken(connection) => {
                    return Ok(Self {
                        _connection: connection,
                    });
                }
                Try::Held(Some(holder)) if Instant::now() > deadline => {
                    return Err(LockError::InUse(holder));
                }
                Try::Held(_) => sleep(TAKE_EVERY).await,
            }
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
            // Said goodbye to: tries in quick succession would otherwise leave connections behind that
            // Postgres still counts.
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
    type Row = (i32, Option<String>, Option<DateTime<Utc>>);
    let row: Option<Row> = sqlx::query_as(
        "SELECT l.pid, host(a.client_addr), a.backend_start
         FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND (l.classid::bigint << 32) | l.objid::bigint = $1",
    )
    .bind(key)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|(pid, address, since)| Holder {
        pid,
        address,
        since,
    }))
}
