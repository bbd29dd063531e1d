//! Pipelines: what was submitted together, under one `request_id`.

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::ids::{JobName, PipelineId};

use crate::{Conn, Result, StoreError, Tx, convert};

/// A pipeline to store.
#[derive(Debug, Clone)]
pub struct NewPipeline<'a> {
    pub name: &'a JobName,
    pub request_id: &'a str,
    /// Digest of the document and its overrides.
    pub document_digest: &'a Digest,
    pub created_at: DateTime<Utc>,
}

/// A stored pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipeline {
    pub id: PipelineId,
    pub name: JobName,
    pub document_digest: Digest,
    pub created_at: DateTime<Utc>,
}

/// Stores a pipeline. None when its `request_id` is taken; where a transaction that is still open
/// has it, this waits for that one's end.
pub async fn insert_pipeline(tx: &mut Tx, new: &NewPipeline<'_>) -> Result<Option<PipelineId>> {
    #[cfg(feature = "planted")]
    let request_id = if marquee_domain::planted::is("submit-without-request-id") {
        &format!("{} at {}", new.request_id, new.created_at)
    } else {
        new.request_id
    };
    #[cfg(not(feature = "planted"))]
    let request_id = new.request_id;
    let id = sqlx::query_scalar!(
        "INSERT INTO pipelines (name, request_id, document_digest, created_at)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (request_id) DO NOTHING
         RETURNING id",
        new.name.as_str(),
        request_id,
        new.document_digest.as_str(),
        new.created_at,
    )
    .fetch_optional(tx.sql())
    .await?;
    Ok(id.map(PipelineId))
}

/// The pipeline submitted under `request_id`.
pub async fn find_pipeline_by_request_id(
    conn: &mut Conn,
    request_id: &str,
) -> Result<Option<Pipeline>> {
    let row = sqlx::query!(
        "SELECT id, name, document_digest, created_at FROM pipelines WHERE request_id = $1",
        request_id,
    )
    .fetch_optional(conn.sql())
    .await?;
    row.map(|row| pipeline(row.id, row.name, row.document_digest, row.created_at))
        .transpose()
}

/// One pipeline.
pub async fn get_pipeline(conn: &mut Conn, id: PipelineId) -> Result<Pipeline> {
    let row = sqlx::query!(
        "SELECT id, name, document_digest, created_at FROM pipelines WHERE id = $1",
        id.0,
    )
    .fetch_optional(conn.sql())
    .await?
    .ok_or(StoreError::PipelineNotFound(id))?;
    pipeline(row.id, row.name, row.document_digest, row.created_at)
}

/// Locks pipelines until the end of the transaction. Whoever changes states of their jobs holds these
/// locks: jobs of one pipeline change each other's states, and locks at the top, always taken in the same
/// order, cannot deadlock. Those that are not there are left out.
pub async fn lock_pipelines(tx: &mut Tx, ids: &[PipelineId]) -> Result<()> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    // NO KEY: rows that only refer to a pipeline by a foreign key need not wait for this.
    sqlx::query_scalar!(
        "SELECT id FROM pipelines WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE",
        &ids
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(())
}

/// Locks one pipeline, which must be there.
pub async fn lock_pipeline(tx: &mut Tx, id: PipelineId) -> Result<()> {
    sqlx::query_scalar!(
        "SELECT id FROM pipelines WHERE id = $1 FOR NO KEY UPDATE",
        id.0
    )
    .fetch_optional(tx.sql())
    .await?
    .map(|_| ())
    // Which is missing is the caller's fault or a removal meanwhile: either way nothing may be changed under
    // a lock that is not held.
    .ok_or(StoreError::PipelineNotFound(id))
}

fn pipeline(
    id: i64,
    name: String,
    document_digest: String,
    created_at: DateTime<Utc>,
) -> Result<Pipeline> {
    Ok(Pipeline {
        id: PipelineId(id),
        name: convert::job_name(name)?,
        document_digest: convert::digest(document_digest)?,
        created_at,
    })
}
