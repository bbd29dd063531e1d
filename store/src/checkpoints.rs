//! Checkpoints that attempts have put forward; their files are blobs.

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Manifest;
use marquee_domain::ids::{AttemptNumber, JobId};

use crate::{Conn, Result, Tx, convert};

/// A checkpoint of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointKey {
    /// The attempt that saved it.
    pub attempt: AttemptNumber,
    /// Optimizer steps done when it was saved.
    pub step: u64,
}

impl CheckpointKey {
    /// The two columns of a reference to a checkpoint; both are null where there is none.
    pub(crate) fn from_columns(attempt: Option<i32>, step: Option<i64>) -> Result<Option<Self>> {
        let (Some(attempt), Some(step)) = (attempt, step) else {
            return Ok(None);
        };
        Ok(Some(Self {
            attempt: AttemptNumber(convert::u32_of("resumed_from_attempt", attempt)?),
            step: convert::u64_of("resumed_from_step", step)?,
        }))
    }
}

/// Stores a checkpoint. A second one of the same step replaces the first.
pub async fn insert_checkpoint(
    tx: &mut Tx,
    job: JobId,
    key: CheckpointKey,
    manifest: &Manifest,
    at: DateTime<Utc>,
) -> Result<()> {
    let digest = manifest.digest();
    sqlx::query!(
        "INSERT INTO checkpoints (job_id, attempt, step, digest, manifest, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (job_id, attempt, step)
         DO UPDATE SET digest = excluded.digest, manifest = excluded.manifest,
                       created_at = excluded.created_at",
        job.0,
        convert::int("attempt", key.attempt.0)?,
        convert::bigint("step", key.step)?,
        digest.as_str(),
        convert::to_document("manifest", manifest)?,
        at,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// The `limit` checkpoints of a job with the most steps done, most first. One that cannot be read is left out
/// and logged: the job goes on from an earlier one.
pub async fn list_checkpoints(
    conn: &mut Conn,
    job: JobId,
    limit: u32,
) -> Result<Vec<(CheckpointKey, Manifest)>> {
    // By steps, not by age: an attempt that had to begin further back, since files were damaged, saves newer
    // checkpoints that know less.
    let rows = sqlx::query!(
        "SELECT attempt, step, manifest FROM checkpoints
         WHERE job_id = $1 ORDER BY step DESC, attempt DESC LIMIT $2",
        job.0,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    let checkpoints = rows.into_iter().filter_map(|row| {
        let read = || -> Result<(CheckpointKey, Manifest)> {
            let key = CheckpointKey {
                attempt: AttemptNumber(convert::u32_of("checkpoints.attempt", row.attempt)?),
                step: convert::u64_of("checkpoints.step", row.step)?,
            };
            Ok((key, convert::manifest(row.manifest)?))
        };
        read()
            .inspect_err(|error| tracing::error!(%job, %error, "a checkpoint cannot be read"))
            .ok()
    });
    Ok(checkpoints.collect())
}

/// The files of one checkpoint.
pub async fn find_checkpoint(
    conn: &mut Conn,
    job: JobId,
    key: CheckpointKey,
) -> Result<Option<Manifest>> {
    let manifest = sqlx::query_scalar!(
        "SELECT manifest FROM checkpoints WHERE job_id = $1 AND attempt = $2 AND step = $3",
        job.0,
        convert::int("attempt", key.attempt.0)?,
        convert::bigint("step", key.step)?,
    )
    .fetch_optional(conn.sql())
    .await?;
    manifest.map(convert::manifest).transpose()
}

/// A checkpoint as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRow {
    pub key: CheckpointKey,
    pub size_bytes: u64,
    pub created_at: DateTime<Utc>,
}

/// The `limit` checkpoints of a job with the most steps done, most first, without their files.
pub async fn list_checkpoint_rows(
    conn: &mut Conn,
    job: JobId,
    limit: u32,
) -> Result<Vec<CheckpointRow>> {
    // Added up in Postgres: a manifest may name thousands of files, of which only the sum is shown here.
    let rows = sqlx::query!(
        r#"SELECT attempt, step, created_at,
                  COALESCE((SELECT sum(number_in(f.value ->> 'size_bytes')) FROM jsonb_array_elements(
                      CASE WHEN jsonb_typeof(manifest -> 'files') = 'array' THEN manifest -> 'files'
                           ELSE '[]' END) f), 0)::bigint AS "size_bytes!"
           FROM checkpoints WHERE job_id = $1 ORDER BY step DESC, attempt DESC LIMIT $2"#,
        job.0,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    let rows = rows.into_iter().map(|row| {
        Ok(CheckpointRow {
            key: CheckpointKey {
                attempt: AttemptNumber(convert::u32_of("checkpoints.attempt", row.attempt)?),
                step: convert::u64_of("checkpoints.step", row.step)?,
            },
            size_bytes: convert::u64_of("checkpoints.size_bytes", row.size_bytes)?,
            created_at: row.created_at,
        })
    });
    rows.collect()
}
