//! Where a job's inputs came from, and who took what it made.

use marquee_domain::artifact::Digest;
use marquee_domain::ids::{JobId, JobName, PipelineId};
use marquee_domain::job::JobStateName;
use marquee_domain::spec::JobKind;

use crate::{Conn, Result, convert};

/// A job on the other side of an artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct Relative {
    pub job: JobId,
    pub job_name: JobName,
    pub pipeline: PipelineId,
    pub pipeline_name: JobName,
    pub kind: JobKind,
    pub state: JobStateName,
    /// The artifact between the two, once it is there.
    pub digest: Option<Digest>,
    /// The artifact was taken as the other one's own.
    pub is_reuse: bool,
}

struct Row {
    id: i64,
    name: String,
    pipeline_id: i64,
    pipeline_name: String,
    kind: String,
    state: String,
    digest: Option<String>,
    is_reuse: bool,
}

impl Row {
    fn read(self) -> Result<Relative> {
        Ok(Relative {
            job: JobId(self.id),
            job_name: convert::job_name(self.name)?,
            pipeline: PipelineId(self.pipeline_id),
            pipeline_name: convert::job_name(self.pipeline_name)?,
            kind: convert::kind(&self.kind)?,
            state: convert::job_state(&self.state)?,
            digest: self.digest.map(convert::digest).transpose()?,
            is_reuse: self.is_reuse,
        })
    }
}

/// The jobs that `job` needs, those that committed an artifact which it names by its digest, and the one whose
/// artifact stands for its own; at most `limit`.
pub async fn list_sources(
    conn: &mut Conn,
    job: JobId,
    named: &[Digest],
    limit: u32,
) -> Result<Vec<Relative>> {
    let digests: Vec<String> = named.iter().map(ToString::to_string).collect();
    let rows = sqlx::query_as!(
        Row,
        // Of several jobs with the same contents the first is where these came from.
        r#"WITH found AS (
               SELECT n.needs_job_id AS id, false AS is_reuse
               FROM jobs j JOIN job_needs n ON n.job_id = COALESCE(j.array_job_id, j.id) WHERE j.id = $1
               UNION
               SELECT a.job_id, false FROM (
                   SELECT DISTINCT ON (digest) job_id FROM artifacts
                   WHERE digest = ANY ($2) ORDER BY digest, committed_at, job_id) a
               UNION
               SELECT reused_from, true FROM jobs WHERE id = $1 AND reused_from IS NOT NULL
           )
           SELECT s.id AS "id!", s.name AS "name!", s.pipeline_id AS "pipeline_id!",
                  p.name AS "pipeline_name!", s.kind AS "kind!", s.state AS "state!",
                  a.digest AS "digest?", f.is_reuse AS "is_reuse!"
           FROM found f
           JOIN job_states s ON s.id = f.id
           JOIN pipelines p ON p.id = s.pipeline_id
           LEFT JOIN artifacts a ON a.job_id = f.id
           ORDER BY s.id LIMIT $3"#,
        job.0,
        &digests,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// The jobs that need `job`, and those for whose work its artifact stands; at most `limit`.
pub async fn list_takers(conn: &mut Conn, job: JobId, limit: u32) -> Result<Vec<Relative>> {
    let rows = sqlx::query_as!(
        Row,
        r#"WITH found AS (
               SELECT job_id AS id, false AS is_reuse FROM job_needs WHERE needs_job_id = $1
               UNION
               -- By the digest of the step, which has an index.
               SELECT r.id, true FROM jobs j JOIN jobs r ON r.step_digest = j.step_digest
               WHERE j.id = $1 AND r.reused_from = $1
           )
           SELECT s.id AS "id!", s.name AS "name!", s.pipeline_id AS "pipeline_id!",
                  p.name AS "pipeline_name!", s.kind AS "kind!", s.state AS "state!",
                  a.digest AS "digest?", f.is_reuse AS "is_reuse!"
           FROM found f
           JOIN job_states s ON s.id = f.id
           JOIN pipelines p ON p.id = s.pipeline_id
           LEFT JOIN artifacts a ON a.job_id = $1
           ORDER BY s.id LIMIT $2"#,
        job.0,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    rows.into_iter().map(Row::read).collect()
}
