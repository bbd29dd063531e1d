//! The leader's row: which coordinator leads, since which epoch, and until when. All that is said to that row, and to
//! those of the coordinators beside it, is said here.
//!
//! The row is judged by Postgres' clock alone, so that no two hosts' clocks are compared. Only a simulation, in which
//! Postgres' time stands still, gives its own ([`Clock::of_postgres`]).
//!
//! Invariants: an epoch is led by one process; each take-over raises it, under the exclusive lock that every writing
//! transaction shares (`fence`), so that none of an earlier epoch is open by then and none can begin afterwards.
//! [`Post`] has a connection of its own: a pool that is exhausted by work costs nobody the lead.
//!
//! Not here: when to take over, and what a coordinator does that leads or no longer does (`coordinator`).

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::env::Clock;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;
use uuid::Uuid;

use crate::db::{connection_name, settings_of};
use crate::fence::LOCK_KEY;
use crate::{Conn, Result, StoreError};

/// How long a successor waits for writes in flight once it has ended the connections of the one before it.
const LOCK_TIMEOUT: &str = "2000ms";
/// How long after its lease the row of a coordinator is kept.
const FORGET_AFTER_SECONDS: f64 = 60.0;
/// Epochs before the newest that are kept in the history.
const HISTORY_MAX: i64 = 10_000;

/// A coordinator, as it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Drawn anew by each process.
    pub process: Uuid,
    /// Its data folder on its host: whoever holds that folder's lock and finds its own seat in the leader's row
    /// knows that the process of that row has ended.
    pub seat: String,
    pub address: String,
    pub version: String,
    /// Which folder of artifacts it has.
    pub storage: Uuid,
}

/// The leader's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub epoch: i64,
    /// None: nobody ever led, or the one that did has left.
    pub process: Option<Uuid>,
    pub seat: String,
    pub address: String,
    pub version: String,
    pub storage: Option<Uuid>,
    pub since: DateTime<Utc>,
    pub has_expired: bool,
}

/// One coordinator that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Living {
    pub process: Uuid,
    pub address: String,
    pub version: String,
    pub storage: Uuid,
    pub since: DateTime<Utc>,
}

/// What a leader heard when it renewed its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewed {
    Yes {
        /// Another coordinator lives that would take over.
        has_standby: bool,
    },
    /// Another one has taken over.
    TakenOver(Leader),
}

/// A coordinator's way to the leader's row.
#[derive(Debug)]
pub struct Post {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    me: Candidate,
    lease: Duration,
    clock: Arc<dyn Clock>,
}

impl Post {
    /// Connects when it is first asked. `lease` is how long a leader's row is good for after each renewal, and how
    /// long each answer may take.
    pub fn new(url: &str, me: Candidate, lease: Duration, clock: &Arc<dyn Clock>) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)?.application_name("marquee leader");
        Ok(Self {
            options: settings_of(options),
            connection: None,
            me,
            lease,
            clock: clock.clone(),
        })
    }

    #[must_use]
    pub fn me(&self) -> &Candidate {
        &self.me
    }

    /// Who leads.
    pub async fn look(&mut self) -> Result<Leader> {
        let now = self.now();
        self.within(async |connection, _| look(connection, now).await)
            .await
    }

    /// Says that this coordinator lives, whether it leads or not. Whether another one does too.
    pub async fn say_alive(&mut self) -> Result<bool> {
        let (now, lease) = (self.now(), self.lease.as_secs_f64());
        self.within(async |connection, me| say_alive(connection, me, now, lease).await)
            .await
    }

    /// Takes the lead, if `seen` is the newest epoch and its lease is over; or at once, where `is_gone` says that its
    /// process has ended or left. The new epoch; None where somebody was faster, or the old one lives after all.
    ///
    /// Where the answer to the COMMIT is lost, [`look`](Self::look) finds this process in the row.
    pub async fn take(&mut self, seen: &Leader, is_gone: bool) -> Result<Option<i64>> {
        let (now, lease) = (self.now(), self.lease.as_secs_f64());
        self.within(async |connection, me| {
            let mut tx = connection.begin().await?;
            sqlx::query_scalar!("SELECT set_config('lock_timeout', $1, true)", LOCK_TIMEOUT)
                .fetch_one(&mut *tx)
                .await?;
            // The lock before the row: a transaction that is open now began under the old epoch, and must
            // have ended before another epoch is named.
            lock_out(&mut tx, seen.process).await?;
            // Judged again under the lock: the leader may have renewed its lease since `seen` was read.
            let epoch = sqlx::query_scalar!(
                "UPDATE leader
                 SET epoch = epoch + 1, process = $2, seat = $3, address = $4, version = $5, storage = $6,
                     since = COALESCE($7, clock_timestamp()),
                     expires_at = COALESCE($7, clock_timestamp()) + make_interval(secs => $8)
                 WHERE epoch = $1 AND ($9 OR expires_at < COALESCE($7, clock_timestamp()))
                 RETURNING epoch",
                seen.epoch,
                me.process,
                me.seat,
                me.address,
                me.version,
                me.storage,
                now,
                lease,
                is_gone,
            )
            .fetch_optional(&mut *tx)
            .await?;
            let Some(epoch) = epoch else {
                tx.rollback().await?;
                return Ok(None);
            };
            // In the same transaction: the history has each epoch that led, and no other.
            sqlx::query!(
                "INSERT INTO leaderships (epoch, process, address, began_at)
                 VALUES ($1, $2, $3, COALESCE($4, clock_timestamp()))",
                epoch,
                me.process,
                me.address,
                now,
            )
            .execute(&mut *tx)
            .await?;
            sqlx::query!("DELETE FROM leaderships WHERE epoch < $1", epoch - HISTORY_MAX)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(Some(epoch))
        })
        .await
    }

    /// Makes the lease of `epoch` as long as it was at first. Also when it has run out, as long as nobody has taken
    /// over: Postgres may have stood still under all of us.
    pub async fn renew(&mut self, epoch: i64) -> Result<Renewed> {
        let (now, lease) = (self.now(), self.lease.as_secs_f64());
        self.within(async |connection, me| {
            // By epoch and process. A successor has changed both, and its lease is not lengthened by the one
            // it took over from.
            let renewed = sqlx::query!(
                "UPDATE leader SET expires_at = COALESCE($2, clock_timestamp()) + make_interval(secs => $3)
                 WHERE epoch = $1 AND process = $4",
                epoch,
                now,
                lease,
                me.process,
            )
            .execute(&mut *connection)
            .await?;
            // Who leads now is said with it, so that clients can be sent there.
            if renewed.rows_affected() == 0 {
                return Ok(Renewed::TakenOver(look(connection, now).await?));
            }
            let has_standby = say_alive(connection, me, now, lease).await?;
            Ok(Renewed::Yes { has_standby })
        })
        .await
    }

    /// Hands the lead of `epoch` over: the row is nobody's from now on, so that whoever stands by takes it at once. Also
    /// without an epoch this coordinator is no longer listed.
    pub async fn leave(&mut self, epoch: Option<i64>) -> Result<()> {
        self.within(async |connection, me| {
            if let Some(epoch) = epoch {
                // The epoch stays as it is: nothing more is written under it, and whoever takes over raises
                // it.
                sqlx::query!(
                    "UPDATE leader SET process = NULL, seat = '' WHERE epoch = $1 AND process = $2",
                    epoch,
                    me.process,
                )
                .execute(&mut *connection)
                .await?;
            }
            sqlx::query!("DELETE FROM coordinators WHERE process = $1", me.process)
                .execute(connection)
                .await?;
            Ok(())
        })
        .await
    }

    fn now(&self) -> Option<DateTime<Utc>> {
        self.clock.of_postgres()
    }

    /// Asks on the connection, which is made anew after anything went wrong on it. An answer that takes longer than the
    /// lease is not taken: what it says would be too old.
    async fn within<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut PgConnection, &Candidate) -> Result<T>,
    ) -> Result<T> {
        // Taken out, so that it is gone where this is dropped in the middle of an answer.
        let held = self.connection.take();
        let asked = timeout(self.lease, async {
            let mut connection = match held {
                Some(connection) => connection,
                None => PgConnection::connect_with(&self.options).await?,
            };
            let answer = ask(&mut connection, &self.me).await?;
            Ok::<_, StoreError>((connection, answer))
        });
        match asked.await {
            Ok(Ok((connection, answer))) => {
                self.connection = Some(connection);
                Ok(answer)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()).into()),
        }
    }
}

async fn look(connection: &mut PgConnection, now: Option<DateTime<Utc>>) -> Result<Leader> {
    let leader = sqlx::query_as!(
        Leader,
        r#"SELECT epoch, process, seat, address, version, storage, since,
                  expires_at < COALESCE($1, clock_timestamp()) AS "has_expired!"
           FROM leader"#,
        now,
    )
    .fetch_one(connection)
    .await?;
    Ok(leader)
}

async fn say_alive(
    connection: &mut PgConnection,
    me: &Candidate,
    now: Option<DateTime<Utc>>,
    lease: f64,
) -> Result<bool> {
    let others = sqlx::query_scalar!(
        r#"WITH forgotten AS (
             DELETE FROM coordinators
             WHERE expires_at < COALESCE($5, clock_timestamp()) - make_interval(secs => $7)
         )
         INSERT INTO coordinators (process, address, version, storage, since, expires_at)
         VALUES ($1, $2, $3, $4, COALESCE($5, clock_timestamp()),
                 COALESCE($5, clock_timestamp()) + make_interval(secs => $6))
         ON CONFLICT (process) DO UPDATE SET expires_at = EXCLUDED.expires_at
         RETURNING (SELECT EXISTS (
             SELECT 1 FROM coordinators others
             WHERE others.process <> $1 AND others.expires_at >= COALESCE($5, clock_timestamp())
         )) AS "others!""#,
        me.process,
        me.address,
        me.version,
        me.storage,
        now,
        lease,
        FORGET_AFTER_SECONDS,
    )
    .fetch_one(connection)
    .await?;
    Ok(others)
}

/// Takes the lock that every writing transaction shares, for this one alone. What the process before has in flight
/// ends by itself within moments, or is ended: that process may be stopped, and its transactions with it.
async fn lock_out(connection: &mut PgConnection, before: Option<Uuid>) -> Result<()> {
    // Tried without waiting at first: mostly nothing is in flight, and nobody's connection has to be ended.
    let is_free = sqlx::query_scalar!(
        r#"SELECT pg_try_advisory_xact_lock($1) AS "taken!""#,
        LOCK_KEY
    )
    .fetch_one(&mut *connection)
    .await?;
    if is_free {
        return Ok(());
    }
    if let Some(before) = before {
        // By a name that only that process draws, and as the same user, since Postgres allows no other.
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = $1 AND usename = current_user AND datname = current_database()",
        )
        .bind(connection_name(before))
        .execute(&mut *connection)
        .await?;
    }
    // Not a query with an answer that the macros know: it gives void.
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK_KEY)
        .execute(connection)
        .await?;
    Ok(())
}

/// Who leads, and every coordinator that lives, the leader first. Read with this process' other reads.
pub async fn list_coordinators(
    conn: &mut Conn,
    clock: &Arc<dyn Clock>,
) -> Result<(Leader, Vec<Living>)> {
    let now = clock.of_postgres();
    let leader = look(conn.sql(), now).await?;
    let mut living = sqlx::query_as!(
        Living,
        "SELECT process, address, version, storage, since FROM coordinators
         WHERE expires_at >= COALESCE($1, clock_timestamp()) ORDER BY since, process",
        now,
    )
    .fetch_all(conn.sql())
    .await?;
    // The leader first; the others keep their order by age, since the sort is stable.
    living.sort_by_key(|living| Some(living.process) != leader.process);
    Ok((leader, living))
}
