//! Workers: who is there, what they have, and whether their lease runs.

use chrono::{DateTime, Utc};
use marquee_domain::ids::{BootId, JobId, WorkerId};
use marquee_domain::resources::Inventory;
use marquee_domain::standing::Standing;
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
    /// Name in the certificate that it showed; None: no certificate was asked for.
    pub identity: Option<String>,
}

/// A stored worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    pub id: WorkerId,
    pub name: String,
    pub state: WorkerState,
    pub version: String,
    /// What it found on its host, or why that cannot be read: a later version may have stored it.
    pub inventory: std::result::Result<Inventory, String>,
    /// Version of the code of its `marquee-prep`; empty where it does not say.
    pub prep_code: String,
    pub last_seen_at: DateTime<Utc>,
    /// What an operator decided about it. One that cannot be read keeps new work away: it was not for nothing.
    pub standing: std::result::Result<Standing, String>,
}

/// The unique index that keeps two workers of one name from being online.
const NAME_INDEX: &str = "workers_name_online";

/// any state, or none yet -> online, with what the worker says of itself.
///
/// Its id and its name belong to the certificate that first came with them: another one is refused. Who comes
/// without a certificate, where none is asked for, changes no owner.
pub async fn mark_worker_online(
    tx: &mut Tx,
    hello: &WorkerHello,
    now: DateTime<Utc>,
) -> Result<()> {
    check_owner(tx, hello).await?;
    let done = sqlx::query!(
        "INSERT INTO workers (id, name, boot_id, instance_id, state, version, inventory,
                              last_seen_at, prep_code, identity)
         VALUES ($1, $2, $3, $4, 'online', $5, $6, $7, $8, $9)
         ON CONFLICT (id) DO UPDATE
         SET name = excluded.name, boot_id = excluded.boot_id,
             instance_id = excluded.instance_id, state = 'online', version = excluded.version,
             inventory = excluded.inventory, last_seen_at = excluded.last_seen_at,
             prep_code = excluded.prep_code,
             identity = CASE WHEN workers.identity = '' THEN excluded.identity
                             ELSE workers.identity END",
        hello.id.0,
        hello.name,
        hello.boot_id.0,
        hello.instance_id,
        hello.version,
        convert::to_document("inventory", &hello.inventory)?,
        now,
        hello.prep_code,
        hello.identity.as_deref().unwrap_or_default(),
    )
    .execute(tx.sql())
    .await;
    name_taken(done, &hello.name)
}

/// Refuses a certificate that is not the owner's of the worker's id, or of its name.
pub async fn check_owner(conn: &mut Conn, hello: &WorkerHello) -> Result<()> {
    let Some(identity) = &hello.identity else {
        return Ok(());
    };
    let others = sqlx::query!(
        "SELECT id, name, identity FROM workers
         WHERE (id = $1 OR name = $2) AND identity NOT IN ('', $3)
         ORDER BY id",
        hello.id.0,
        hello.name,
        identity,
    )
    .fetch_all(conn.sql())
    .await?;
    // Its own row goes first: the id says more than the name.
    let own = others.iter().find(|other| other.id == hello.id.0);
    match own.or(others.first()) {
        None => Ok(()),
        Some(other) => Err(StoreError::WorkerOwned {
            what: if other.id == hello.id.0 { "id" } else { "name" },
            name: other.name.clone(),
            owner: other.identity.clone(),
            identity: identity.clone(),
        }),
    }
}

/// Stores a sign of life. One that comes after the lease ran out makes the worker online again; one of a worker that
/// was revoked meanwhile does not.
pub async fn mark_worker_seen(
    tx: &mut Tx,
    id: WorkerId,
    name: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    // One that has left says Hello before it counts again: a late heartbeat must not bring back who said
    // goodbye.
    let done = sqlx::query!(
        "UPDATE workers SET last_seen_at = $2, state = 'online'
         WHERE id = $1 AND state IN ('online', 'lost')
           AND NOT EXISTS (SELECT 1 FROM members WHERE worker_id = $1 AND revoked_at IS NOT NULL)",
        id.0,
        now,
    )
    .execute(tx.sql())
    .await;
    name_taken(done, name)
}

/// Stores signs of life of workers that are online, each with when it was heard. Returns those that are not: what
/// brings one back is [`mark_worker_seen`].
pub async fn mark_workers_seen(
    tx: &mut Tx,
    heard: &[(WorkerId, DateTime<Utc>)],
) -> Result<Vec<WorkerId>> {
    let ids: Vec<uuid::Uuid> = heard.iter().map(|(id, _)| id.0).collect();
    let times: Vec<DateTime<Utc>> = heard.iter().map(|(_, at)| *at).collect();
    // No state changes here, so that no worker's name or certificate can fail the statement for all the others.
    let seen = sqlx::query_scalar!(
        "UPDATE workers w SET last_seen_at = g.at
         FROM unnest($1::uuid[], $2::timestamptz[]) AS g (id, at)
         WHERE w.id = g.id AND w.state = 'online'
         RETURNING w.id",
        &ids,
        &times,
    )
    .fetch_all(tx.sql())
    .await?;
    let seen: std::collections::BTreeSet<uuid::Uuid> = seen.into_iter().collect();
    let missing = heard.iter().filter(|(id, _)| !seen.contains(&id.0));
    Ok(missing.map(|(id, _)| *id).collect())
}

fn name_taken(
    done: std::result::Result<sqlx::postgres::PgQueryResult, sqlx::Error>,
    name: &str,
) -> Result<()> {
    match done {
        Ok(_) => Ok(()),
        // By the name of the index, as any other conflict is a fault.
        Err(sqlx::Error::Database(error)) if error.constraint() == Some(NAME_INDEX) => {
            Err(StoreError::WorkerNameTaken(name.to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

/// online -> lost or left. False when it was not online any more.
pub async fn mark_worker_gone(tx: &mut Tx, id: WorkerId, state: WorkerState) -> Result<bool> {
    let done = sqlx::query!(
        // Only from online: a goodbye and a lease that runs out at once are written down as one of the two.
        "UPDATE workers SET state = $2 WHERE id = $1 AND state = 'online'",
        id.0,
        state.as_str(),
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Which workers to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichWorkers {
    /// Those that are here or may come back: online or lost.
    Known,
    /// Those that left too, which are kept as history.
    Ever,
}

/// Workers, by name. What cannot be read of one is said in its place.
pub async fn list_workers(conn: &mut Conn, which: WhichWorkers) -> Result<Vec<Worker>> {
    let rows = sqlx::query!(
        // Those that left are history, of which hot paths must not pay for every host there ever was.
        "SELECT id, name, state, version, inventory, prep_code, last_seen_at, standing
         FROM workers WHERE $1 OR state <> 'left' ORDER BY name, id",
        which == WhichWorkers::Ever,
    )
    .fetch_all(conn.sql())
    .await?;
    let workers = rows.into_iter().map(|row| {
        // The table allows no other word.
        let state = WorkerState::ALL
            .into_iter()
            .find(|state| state.as_str() == row.state)
            .ok_or_else(|| convert::unreadable("workers.state", &row.state))?;
        let inventory =
            convert::json("workers.inventory", row.inventory).and_then(|inventory: Inventory| {
                // Versions before 0.2 stored whatever a worker said.
                inventory.check().map_err(|bad| {
                    convert::unreadable("workers.inventory", format!("a host whose {bad}"))
                })?;
                Ok(inventory)
            });
        Ok(Worker {
            id: WorkerId(row.id),
            name: row.name,
            state,
            version: row.version,
            inventory: inventory.map_err(|error| error.to_string()),
            prep_code: row.prep_code,
            last_seen_at: row.last_seen_at,
            standing: convert::json("workers.standing", row.standing)
                .map_err(|error| error.to_string()),
        })
    });
    workers.collect()
}

/// The workers whose lease runs, with their names.
pub async fn list_online_workers(conn: &mut Conn) -> Result<Vec<(WorkerId, String)>> {
    let rows =
        sqlx::query!("SELECT id, name FROM workers WHERE state = 'online' ORDER BY name, id")
            .fetch_all(conn.sql())
            .await?;
    Ok(rows
        .into_iter()
        .map(|row| (WorkerId(row.id), row.name))
        .collect())
}

/// Jobs whose live attempt has a rank on this worker of which something may be left.
pub async fn list_worker_jobs(conn: &mut Conn, id: WorkerId) -> Result<Vec<JobId>> {
    // By the attempt that the job is at: what older attempts have left behind is not judged again.
    let ids = sqlx::query_scalar!(
        r#"SELECT DISTINCT h.job_id
           FROM held_ranks h JOIN open_jobs o ON o.job_id = h.job_id AND o.attempt = h.attempt
           WHERE h.worker_id = $1 AND o.state = 'running'
           ORDER BY h.job_id"#,
        id.0,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(ids.into_iter().map(JobId).collect())
}
