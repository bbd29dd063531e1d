//! What a backup reads: one moment of the database, which `pg_dump` is given the name of, and the files that the jobs
//! of that moment name. And the line of the audit that says who took one.

use marquee_domain::artifact::Digest;
use marquee_domain::ids::{JobId, PipelineId};
use sqlx::PgConnection;

use crate::{Conn, Db, Result, Tx, convert, removal};

/// A file that jobs name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedFile {
    pub digest: Digest,
    /// As the manifests say that name it; 0: none says it.
    pub size_bytes: u64,
}

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

/// What the whole database takes on the disk of its server.
pub async fn get_database_bytes(conn: &mut Conn) -> Result<u64> {
    let bytes: i64 = sqlx::query_scalar("SELECT pg_database_size(current_database())")
        .fetch_one(conn.sql())
        .await?;
    convert::u64_of("pg_database_size", bytes)
}

/// The major version of the server: an older `pg_dump` refuses to read it.
pub async fn get_server_major(conn: &mut Conn) -> Result<u32> {
    let number: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int")
        .fetch_one(conn.sql())
        .await?;
    // 150018 is 15.18.
    Ok(convert::u32_of("server_version_num", number)? / 10_000)
}

/// Writes down that somebody takes a copy of everything, in a transaction of whoever asked for it: no table changes with
/// it that a trigger could watch.
pub async fn insert_backup(tx: &mut Tx) -> Result<()> {
    sqlx::query!("INSERT INTO audit (kind) VALUES ('backed_up')")
        .execute(tx.sql())
        .await?;
    Ok(())
}

/// Files that the jobs of the next `limit` pipelines after `after` name, and the last of these pipelines; None where
/// there are no more.
pub async fn list_named_files(
    conn: &mut Conn,
    after: PipelineId,
    limit: u32,
) -> Result<Option<(PipelineId, Vec<NamedFile>)>> {
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
        files.extend(list_files(conn, &jobs).await?);
    }
    Ok(Some((last, files)))
}

/// As [`removal::list_files`], with the size of each.
async fn list_files(conn: &mut Conn, jobs: &[JobId]) -> Result<Vec<NamedFile>> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    // A size that is none, as of another version, does not stop a backup: the file is asked for all the same.
    let rows = sqlx::query!(
        r#"SELECT f ->> 'digest' AS "digest!",
                  max(CASE WHEN f ->> 'size_bytes' ~ '^[0-9]{1,18}$' THEN (f ->> 'size_bytes')::bigint ELSE 0 END)
                      AS "size_bytes!"
           FROM (SELECT manifest FROM artifacts WHERE job_id = ANY ($1)
                 UNION ALL SELECT manifest FROM checkpoints WHERE job_id = ANY ($1)
                 UNION ALL SELECT output FROM attempt_ranks WHERE job_id = ANY ($1)) m
           CROSS JOIN LATERAL jsonb_array_elements(
               CASE WHEN jsonb_typeof(m.manifest -> 'files') = 'array' THEN m.manifest -> 'files' ELSE '[]' END) f
           WHERE f ->> 'digest' ~ '^[0-9a-f]{64}$'
           GROUP BY 1"#,
        &ids,
    )
    .fetch_all(conn.sql())
    .await?;
    let files = rows.into_iter().map(|row| {
        Ok(NamedFile {
            digest: convert::digest(row.digest)?,
            size_bytes: convert::u64_of("size_bytes", row.size_bytes)?,
        })
    });
    files.collect()
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
