//! The database: its connections, their limits, and the migrations.
//!
//! Whoever reads takes a [`Conn`] from [`Db::read`]. Whoever writes takes a [`Tx`] from [`Db::write`], the
//! one way to a transaction: what must hold for every write is checked there and in [`Tx::commit`].

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use marquee_domain::env::is_played;
use marquee_domain::ids::PipelineId;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgPool};
use uuid::Uuid;

use crate::Result;
use crate::conn::{Conn, Transaction, Tx};
#[cfg(feature = "testing")]
use crate::faults::{Faults, When};
use crate::fence::{Fence, Opening};
use crate::schema::{self, Schema};
use crate::stats::{Counters, DbStats};

/// Connections of one coordinator: a stock Postgres allows 100, and the sessions of 100 workers
/// share these a few milliseconds at a time.
const CONNECTIONS_MAX: u32 = 20;
/// How long a caller waits for a connection before it hears that Postgres is away.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after its last use a connection needs no question whether it still works, which is half of
/// all round trips otherwise. A Postgres that fails is away for longer, and whoever calls meanwhile hears
/// so either way.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// Milliseconds that one statement may take: ours take a few, and a hung one must not hold a lock.
const STATEMENT_TIMEOUT_MS: &str = "30000";
/// Milliseconds that a transaction may lie idle before Postgres rolls it back: what a killed or
/// hung coordinator had locked is free again after this long.
const IDLE_TRANSACTION_TIMEOUT_MS: &str = "10000";
/// Milliseconds that one statement of a migration may take: a new index on a large table is slow.
const MIGRATION_TIMEOUT_MS: &str = "3600000";

/// Every migration, compiled in.
pub(crate) static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// The database. A cheap handle: clones share the connections.
#[derive(Debug, Clone)]
pub struct Db {
    pool: PgPool,
    counters: Arc<Counters>,
    fence: Arc<Fence>,
    #[cfg(feature = "testing")]
    faults: Arc<Faults>,
}

/// Connections to Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// Open, and somebody's.
    pub used: u32,
    /// Open, and nobody's.
    pub idle: u32,
    /// As many as there may be.
    pub max: u32,
}

impl Db {
    /// Opens connections to `url` (`postgres://...`) and makes sure that one works. Nothing can be written until
    /// [`lead`](Self::lead) says by which epoch. `process` names the connections: a successor ends those of the
    /// process that it takes over from.
    pub async fn connect(url: &str, process: Uuid) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)?.application_name(&connection_name(process));
        let options = settings_of(options);
        // sqlx would ask each connection before each use whether it works. That is done below, where it is
        // worth a round trip.
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|conn, about| {
                Box::pin(async move {
                    // sqlx counts in real time, which a simulation must not see.
                    let is_fresh = is_played() || about.idle_for < TRUSTED_FOR;
                    Ok(is_fresh || conn.ping().await.is_ok())
                })
            })
            .connect_with(options)
            .await?;
        Ok(Self::over(pool, Fence::default()))
    }

    pub(crate) fn over(pool: PgPool, fence: Fence) -> Self {
        Self {
            pool,
            counters: Arc::default(),
            fence: Arc::new(fence),
            #[cfg(feature = "testing")]
            faults: Arc::default(),
        }
    }

    /// From now on transactions write as the leader of `epoch`; each checks that it is the newest. None: nothing
    /// is written.
    pub fn lead(&self, epoch: Option<i64>) {
        self.fence.set(epoch);
    }

    /// Lets transactions write without an election: for tests that fill tables or run one coordinator.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn without_election(self) -> Self {
        self.fence.set_open();
        self
    }

    /// What the tables are to this version.
    pub async fn schema(&self) -> Result<Schema> {
        let mut conn = self.pool.acquire().await?;
        let ours = MIGRATOR.iter().map(|migration| migration.version).max();
        schema::read(&mut conn, ours).await
    }

    /// Brings the tables to this version. Two coordinators may call it at once: sqlx takes a lock.
    pub async fn migrate(&self) -> Result<()> {
        let mut conn = self.pool.acquire().await?;
        sqlx::query_scalar!(
            "SELECT set_config('statement_timeout', $1, false)",
            MIGRATION_TIMEOUT_MS
        )
        .fetch_one(&mut *conn)
        .await?;
        MIGRATOR.run(&mut *conn).await?;
        // Not given back to the pool: its limit is not that of the others.
        conn.close().await?;
        Ok(())
    }

    /// A connection to read on. Each statement sees what is committed when it begins.
    pub async fn read(&self) -> Result<Conn> {
        let connection = self.pool.acquire().await?;
        Ok(Conn::reading(connection, self.counters.reading()))
    }

    /// A connection on which every statement sees what was committed when the first one began. Rows that change
    /// meanwhile are kept for it: for reads of minutes at most.
    pub async fn snapshot(&self) -> Result<Conn> {
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        // Read only: it cannot fail for what others write, and can write nothing past the fence.
        let transaction = self.pool.begin_with(BEGIN).await?;
        Ok(Conn::snapshot(transaction, self.counters.reading()))
    }

    /// Begins a transaction that writes. `operation` names what it is for, in a few plain words: counts, times
    /// and injected failures go by it. [`StoreError::NotLeading`](crate::StoreError::NotLeading) where another
    /// coordinator leads by now.
    pub async fn write(&self, operation: &'static str) -> Result<Tx> {
        self.begin(operation, Opening::default()).await
    }

    /// The same, of what somebody asked for: what the audit writes of it names `caller`.
    pub async fn write_as(&self, operation: &'static str, caller: &str) -> Result<Tx> {
        let opening = Opening {
            actor: Some(caller),
            ..Opening::default()
        };
        self.begin(operation, opening).await
    }

    /// The same, with the locks of `pipelines` from its first statement on: what
    /// [`lock_pipelines`](crate::pipelines::lock_pipelines) would take, without a statement of its own.
    pub async fn write_on(&self, operation: &'static str, pipelines: &[PipelineId]) -> Result<Tx> {
        let opening = Opening {
            pipelines,
            ..Opening::default()
        };
        self.begin(operation, opening).await
    }

    async fn begin(&self, operation: &'static str, opening: Opening<'_>) -> Result<Tx> {
        let connection = self.pool.acquire().await?;
        // Before it is counted: what the fence refuses was no transaction.
        let transaction = Transaction::begin(connection, &self.fence, opening).await?;
        Ok(Tx::new(
            transaction,
            self.counters.writing(operation),
            #[cfg(feature = "testing")]
            self.faults.clone(),
        ))
    }

    /// What has been done on this database by this process so far.
    #[must_use]
    pub fn stats(&self) -> DbStats {
        self.counters.snapshot()
    }

    /// COMMITs of this process so far whose answer did not come: see [`DbStats::unanswered`].
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.counters.unanswered()
    }

    /// The connections of this process.
    #[must_use]
    pub fn connections(&self) -> Connections {
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        Connections {
            used: self.pool.size().saturating_sub(idle),
            idle,
            max: CONNECTIONS_MAX,
        }
    }

    /// Says goodbye to Postgres, once every connection is given back.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Makes the next write called `operation` fail when it commits.
    #[cfg(feature = "testing")]
    pub fn fail_next(&self, operation: &'static str, when: When) {
        self.faults.fail_next(operation, when);
    }

    /// A [`Tx`] that is no transaction: each statement is committed by itself, and one that is refused does not
    /// stop those after it. For tests that fill tables.
    #[cfg(feature = "testing")]
    pub async fn autocommit(&self) -> Result<Tx> {
        let connection = self.pool.acquire().await?;
        let meter = self.counters.writing("autocommit");
        Ok(Tx::autocommit(connection, meter, self.faults.clone()))
    }

    /// For the raw statements of tests (`crate::testing`).
    #[cfg(feature = "testing")]
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// The name that Postgres shows of the connections of a process.
pub(crate) fn connection_name(process: Uuid) -> String {
    format!("marquee {}", process.simple())
}

/// What each connection sets, whatever the server's own settings are.
pub(crate) fn settings_of(options: PgConnectOptions) -> PgConnectOptions {
    options.options([
        ("statement_timeout", STATEMENT_TIMEOUT_MS),
        (
            "idle_in_transaction_session_timeout",
            IDLE_TRANSACTION_TIMEOUT_MS,
        ),
        // Whatever runs often goes by a key. A plan that was kept from when a table was empty would go through
        // all of it, again and again, until Postgres has looked at the table anew.
        ("enable_seqscan", "off"),
        // What a scan is made to seem to cost must not have a statement compiled.
        ("jit", "off"),
    ])
}
