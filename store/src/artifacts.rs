//! Artifacts: what jobs committed. A row is written once, under the fence, and never changed, but that the artifact of
//! a job which does again what was damaged takes the place of the damaged one ([`crate::again`]).

use chrono::{DateTime, Utc};
use marquee_domain::artifact::{Digest, Manifest};
use marquee_domain::ids::{AttemptNumber, JobId, JobName, PipelineId};

use crate::{Conn, Result, convert};

/// A committed artifact without its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    pub job: JobId,
    pub job_name: JobName,
    pub pipeline: PipelineId,
    pub project: String,
    pub attempt: AttemptNumber,
    pub name: String,
    pub digest: Digest,
    pub size_bytes: u64,
    pub file_count: u32,
    pub committed_at: DateTime<Utc>,
}

/// Place in the listing, newest first: what comes after this row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct After {
    pub committed_at: DateTime<Utc>,
    pub job: JobId,
}

/// The columns of [`Artifact`] as they come out.
struct Row {
    job_id: i64,
    job_name: String,
    pipeline_id: i64,
    project: String,
    attempt: i32,
    name: String,
    digest: String,
    size_bytes: i64,
    file_count: i32,
    committed_at: DateTime<Utc>,
}

impl TryFrom<Row> for Artifact {
    type Error = crate::StoreError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            job: JobId(row.job_id),
            job_name: convert::job_name(row.job_name)?,
            pipeline: PipelineId(row.pipeline_id),
            project: row.project,
            attempt: AttemptNumber(convert::u32_of("artifacts.attempt", row.attempt)?),
            name: row.name,
            digest: convert::digest(row.digest)?,
            size_bytes: convert::u64_of("artifacts.size_bytes", row.size_bytes)?,
            file_count: convert::u32_of("artifacts.file_count", row.file_count)?,
            committed_at: row.committed_at,
        })
    }
}

/// The artifact that a job committed.
pub async fn find_artifact_of_job(conn: &mut Conn, job: JobId) -> Result<Option<Artifact>> {
    let row = sqlx::query_as!(
        Row,
        "SELECT a.job_id, j.name AS job_name, j.pipeline_id, j.project, a.attempt, a.name, a.digest,
                a.size_bytes, a.file_count, a.committed_at
         FROM artifacts a JOIN jobs j ON j.id = a.job_id
         WHERE a.job_id = $1",
        job.0,
    )
    .fetch_optional(conn.sql())
    .await?;
    row.map(Artifact::try_from).transpose()
}

/// The newest artifact of each digest that starts with `prefix` (lowercase hexadecimal), at most
/// two: more than one means that the prefix is not unique. Of these projects alone, where some are named.
pub async fn list_artifacts_by_digest(
    conn: &mut Conn,
    prefix: &str,
    projects: Option<&[String]>,
) -> Result<Vec<Artifact>> {
    // "g" follows every hexadecimal digit, so the index serves the range under any collation.
    let rows = sqlx::query_as!(
        Row,
        "SELECT DISTINCT ON (a.digest)
                a.job_id, j.name AS job_name, j.pipeline_id, j.project, a.attempt, a.name, a.digest,
                a.size_bytes, a.file_count, a.committed_at
         FROM artifacts a JOIN jobs j ON j.id = a.job_id
         WHERE a.digest >= $1 AND a.digest < $1 || 'g'
           AND ($2::text[] IS NULL OR j.project = ANY ($2))
         ORDER BY a.digest, a.committed_at DESC, a.job_id DESC
         LIMIT 2",
        prefix,
        projects,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(rows.into_iter().filter_map(readable).collect())
}

/// An artifact, unless its row is damaged: one must not hide all others from who lists them.
fn readable(row: Row) -> Option<Artifact> {
    let job = row.job_id;
    Artifact::try_from(row)
        .inspect_err(|error| tracing::error!(job, %error, "an artifact's row cannot be read"))
        .ok()
}

/// The files of the artifact that a job committed.
pub async fn find_manifest_of_job(conn: &mut Conn, job: JobId) -> Result<Option<Manifest>> {
    let manifest = sqlx::query_scalar!("SELECT manifest FROM artifacts WHERE job_id = $1", job.0)
        .fetch_optional(conn.sql())
        .await?;
    manifest.map(convert::manifest).transpose()
}

/// The files of the artifact that the job named `name` of a pipeline committed.
pub async fn find_manifest_by_name(
    conn: &mut Conn,
    pipeline: PipelineId,
    name: &JobName,
) -> Result<Option<Manifest>> {
    let manifest = sqlx::query_scalar!(
        "SELECT a.manifest FROM artifacts a JOIN jobs j ON j.id = a.job_id
         WHERE j.pipeline_id = $1 AND j.name = $2 AND j.array_job_id IS NULL",
        pipeline.0,
        name.as_str(),
    )
    .fetch_optional(conn.sql())
    .await?;
    manifest.map(convert::manifest).transpose()
}

/// What the elements of an array have committed, in order, or why that cannot be used.
pub async fn list_element_manifests(
    conn: &mut Conn,
    array: JobId,
) -> Result<Vec<(u32, std::result::Result<Manifest, String>)>> {
    let rows = sqlx::query!(
        r#"SELECT j.array_index AS "array_index!", a.manifest
           FROM artifacts a JOIN jobs j ON j.id = a.job_id
           -- One whose damaged artifact was to be made again, in vain, has the old one still.
           WHERE j.array_job_id = $1 AND j.state = 'succeeded'
           ORDER BY j.array_index"#,
        array.0,
    )
    .fetch_all(conn.sql())
    .await?;
    let manifests = rows.into_iter().map(|row| {
        let index = convert::u32_of("jobs.array_index", row.array_index)?;
        let manifest = convert::manifest(row.manifest).map_err(|error| error.to_string());
        Ok((index, manifest))
    });
    manifests.collect()
}

/// The files of the artifact with this digest.
pub async fn find_manifest_by_digest(conn: &mut Conn, digest: &Digest) -> Result<Option<Manifest>> {
    // Whose row it is does not matter: the digest is that of the manifest, so equal digests have equal files.
    let manifest = sqlx::query_scalar!(
        "SELECT manifest FROM artifacts WHERE digest = $1 LIMIT 1",
        digest.as_str(),
    )
    .fetch_optional(conn.sql())
    .await?;
    manifest.map(convert::manifest).transpose()
}

/// The projects whose jobs committed the artifact with this digest, each once.
pub async fn list_artifact_projects(conn: &mut Conn, digest: &Digest) -> Result<Vec<String>> {
    let projects = sqlx::query_scalar!(
        "SELECT DISTINCT j.project FROM artifacts a JOIN jobs j ON j.id = a.job_id
         WHERE a.digest = $1 ORDER BY j.project",
        digest.as_str(),
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(projects)
}

/// Committed artifacts, newest first, at most `limit`; of these projects alone, where some are named.
pub async fn list_artifacts(
    conn: &mut Conn,
    projects: Option<&[String]>,
    pipeline: Option<PipelineId>,
    job: Option<JobId>,
    after: Option<After>,
    limit: u32,
) -> Result<Vec<Artifact>> {
    // By time and number: what one transaction commits has one time, and a page that ends between two such
    // rows would skip the second, if the time alone said where to go on.
    let rows = sqlx::query_as!(
        Row,
        "SELECT a.job_id, j.name AS job_name, j.pipeline_id, j.project, a.attempt, a.name, a.digest,
                a.size_bytes, a.file_count, a.committed_at
         FROM artifacts a JOIN jobs j ON j.id = a.job_id
         WHERE ($1::bigint IS NULL OR j.pipeline_id = $1)
           AND ($2::bigint IS NULL OR a.job_id = $2)
           AND ($3::timestamptz IS NULL OR (a.committed_at, a.job_id) < ($3, $4::bigint))
           AND ($6::text[] IS NULL OR j.project = ANY ($6))
         ORDER BY a.committed_at DESC, a.job_id DESC
         LIMIT $5",
        pipeline.map(|id| id.0),
        job.map(|id| id.0),
        after.map(|after| after.committed_at),
        after.map(|after| after.job.0),
        i64::from(limit),
        projects,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(rows.into_iter().filter_map(readable).collect())
}
