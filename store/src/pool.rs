//! Connections, their limits, and the migrations.

use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgPool};

use crate::Result;

/// Connections of one coordinator: a stock Postgres allows 100, and the sessions of 100 workers
/// share these a few milliseconds at a time.
const CONNECTIONS_MAX: u32 = 20;
/// How long a caller waits for a connection before it hears that Postgres is away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
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

/// Opens a pool on `url` (`postgres://...`) and makes sure that one connection works.
pub async fn connect(url: &str) -> Result<PgPool> {
    let options = PgConnectOptions::from_str(url)?
        .application_name("marquee")
        .options([
            ("statement_timeout", STATEMENT_TIMEOUT_MS),
            (
                "idle_in_transaction_session_timeout",
                IDLE_TRANSACTION_TIMEOUT_MS,
            ),
        ]);
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|conn, about| {
            Box::pin(async move { Ok(about.idle_for < TRUSTED_FOR || conn.ping().await.is_ok()) })
        })
        .connect_with(options)
        .await?;
    Ok(pool)
}

/// Brings the tables to this version. Two coordinators may call it at once: sqlx takes a lock.
pub async fn migrate(pool: &PgPool) -> Result<()> {
    let mut conn = pool.acquire().await?;
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
