//! Workers: who is there, what they have, and whether their lease runs.

use chrono::{DateTime, Utc};
use marquee_domain::ids::{BootId, JobId, WorkerId};
use marquee_domain::resources::Inventory;
use uuid::Uuid;

use crate::{Conn, Result, StoreError, Tx, convert};

/// Whether a worker can be given work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    Online,
    /// Its lease ran out.
    Lost,
    /// It said goodbye.
    Left,
}

impl WorkerState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Online, Self::Lost, Self::Left];

    /// The word used in SQL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Lost => "lost",
            Self::Left => "left",
        }
    }
}

/// A worker as it introduces itself.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerHello {
    pub id: WorkerId,
    pub name: String,
    pub boot_id: BootId,
    /// New at each start of the daemon.
    pub instance_id: Uuid,
    pub version: String,
    pub inventory: Inventory,
    /// Version of the code of its `marquee-prep`; empty where it does not say.
    pub prep_code: String,
}

/// A stored worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    pub id: WorkerId,
    pub name: String,
    pub state: WorkerState,
    pub version: String,
    pub inventory: Inventory,
    /// Version of the code of its `marquee-prep`; empty where it does not say.
    pub prep_code: String,
    pub last_seen_at: DateTime<Utc>,
}

/// The unique index that keeps two workers of one name from being online.
const NAME_INDEX: &str = "workers_name_online";

/// any state, or none yet -> online, with what the worker says of itself.
pub async fn mark_worker_online(
    tx: &mut Tx,
    hello: &WorkerHello,
    now: DateTime<Utc>,
) -> Result<()> {
    let done = sqlx::query!(
        "INSERT INTO workers (id, name, boot_id, instance_id, state, version, inventory,
                              last_seen_at, prep_code)
         VALUES ($1, $2, $3, $4, 'online', $5, $6, $7, $8)
         ON CONFLICT (id) DO UPDATE
         SET name = excluded.name, boot_id = excluded.boot_id,
             instance_id = excluded.instance_id, state = 'online', version = excluded.version,
             inventory = excluded.inventory, last_seen_at = excluded.last_seen_at,
             prep_code = excluded.prep_code",
        hello.id.0,
        hello.name,
        hello.boot_id.0,
        hello.instance_id,
        hello.version,
        convert::to_json("inventory", &hello.inventory)?,
        now,
        hello.prep_code,
    )
    .execute(tx.sql())
    .await;
    name_taken(done, &hello.name)
}

/// Stores a sign of life. One that comes after the lease ran out makes the worker online again.
pub async fn mark_worker_seen(
    tx: &mut Tx,
    id: WorkerId,
    name: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE workers SET last_seen_at = $2, state = 'online'
         WHERE id = $1 AND state IN ('online', 'lost')",
        id.0,
        now,
    )
    .execute(tx.sql())
    .await;
    name_taken(done, name)
}

fn name_taken(
    done: std::result::Result<sqlx::postgres::PgQueryResult, sqlx::Error>,
    name: &str,
) -> Result<()> {
    match done {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) if error.constraint() == Some(NAME_INDEX) => {
            Err(StoreError::WorkerNameTaken(name.to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

/// online -> lost or left. False when it was not online any more.
pub async fn mark_worker_gone(tx: &mut Tx, id: WorkerId, state: WorkerState) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE workers SET state = $2 WHERE id = $1 AND state = 'online'",
        id.0,
        state.as_str(),
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Every worker that was ever seen, by name.
pub async fn list_workers(conn: &mut Conn) -> Result<Vec<Worker>> {
    let rows = sqlx::query!(
        "SELECT id, name, state, version, inventory, prep_code, last_seen_at
         FROM workers ORDER BY name, id"
    )
    .fetch_all(conn.sql())
    .await?;
    let workers = rows.into_iter().map(|row| {
        let state = WorkerState::ALL
            .into_iter()
            .find(|state| state.as_str() == row.state)
            .ok_or_else(|| convert::unreadable("workers.state", &row.state))?;
        Ok(Worker {
            id: WorkerId(row.id),
            name: row.name,
            state,
            version: row.version,
            inventory: convert::json("workers.inventory", row.inventory)?,
            prep_code: row.prep_code,
            last_seen_at: row.last_seen_at,
        })
    });
    workers.collect()
}

/// Jobs with a live attempt that has a rank on this worker.
pub async fn list_worker_jobs(conn: &mut Conn, id: WorkerId) -> Result<Vec<JobId>> {
    let ids = sqlx::query_scalar!(
        r#"SELECT DISTINCT r.job_id
           FROM attempt_ranks r
           JOIN attempts a ON a.job_id = r.job_id AND a.number = r.attempt
           WHERE r.worker_id = $1 AND a.state IN ('assigned', 'running')
           ORDER BY r.job_id"#,
        id.0,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(ids.into_iter().map(JobId).collect())
}
