//! What a backup reads: one moment of the database, which `pg_dump` is given the name of, and the files that the jobs
//! of that moment name.

use marquee_domain::artifact::Digest;
use marquee_domain::ids::PipelineId;
use sqlx::PgConnection;

use crate::{Conn, Db, Result, removal};

/// The name by which another connection can read what this [`Db::snapshot`] reads, for as long as that is held.
pub async fn export_snapshot(snapshot: &mut Conn) -> Result<String> {
    // Nothing of ours is read, so nothing is checked against the migrations.
    let name = sqlx::query_scalar("SELECT pg_export_snapshot()");
    Ok(name.fetch_one(snapshot.sql()).await?)
}

/// Keeps a snapshot that nothing else is asked of: Postgres ends transactions that lie idle.
pub async fn keep_snapshot(snapshot: &mut Conn) -> Result<()> {
    sqlx::query("SELECT 1").execute(snapshot.sql()).await?;
    Ok(())
}

/// Files that the jobs of the next `limit` pipelines after `after` name, and the last of these pipelines; None where
/// there are no more.
pub async fn list_named_files(
    conn: &mut Conn,
    after: PipelineId,
    limit: u32,
) -> Result<Option<(PipelineId, Vec<Digest>)>> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM pipelines WHERE id > $1 ORDER BY id LIMIT $2",
        after.0,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    let Some(last) = ids.last().copied().map(PipelineId) else {
        return Ok(None);
    };
    // One pipeline at a time: that of an array may have a hundred thousand jobs, each with files of its own.
    let mut files = Vec::new();
    for pipeline in ids {
        let jobs = removal::list_all_jobs(conn, PipelineId(pipeline)).await?;
        files.extend(removal::list_files(conn, &jobs).await?);
    }
    Ok(Some((last, files)))
}

impl Db {
    /// Whether there are no tables at all, whoever's they are.
    pub async fn is_empty(&self) -> Result<bool> {
        // Also tables of others count: a backup is put back into an empty database, or not at all.
        let mut conn = self.read().await?;
        has_no_tables(conn.sql()).await
    }
}

async fn has_no_tables(connection: &mut PgConnection) -> Result<bool> {
    let empty = sqlx::query_scalar(
        "SELECT NOT EXISTS (SELECT FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'S')
                            AND relnamespace = current_schema()::regnamespace)",
    );
    Ok(empty.fetch_one(connection).await?)
}
