//! Jobs as those beside them see them: what a job needs, what needs it, and the elements of an array.
//!
//! Elements have no needs of their own: what their array needs, they need too.

use marquee_domain::ids::{JobId, JobName};
use marquee_domain::job::JobStateName;

use crate::{Conn, Result, StoreError, convert};

/// A job that needs another one, is needed by it, or is an element of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    pub id: JobId,
    pub name: JobName,
    pub state: JobStateName,
    pub attempt: u32,
    /// The job whose end without success cancelled it.
    pub cancelled_for: Option<JobId>,
    pub is_array: bool,
}

/// The jobs that `job` needs, in pipeline order; for an element, those that its array needs.
pub async fn list_needs(conn: &mut Conn, job: JobId) -> Result<Vec<Neighbour>> {
    let rows = sqlx::query_as!(
        RawNeighbour,
        r#"SELECT n.id AS "id!", n.name AS "name!", n.state AS "state!", n.attempt AS "attempt!",
                  n.cancelled_for, n.array_size IS NOT NULL AS "is_array!"
           FROM jobs j
           JOIN job_needs d ON d.job_id = COALESCE(j.array_job_id, j.id)
           JOIN job_states n ON n.id = d.needs_job_id
           WHERE j.id = $1
           ORDER BY n.position, n.id"#,
        job.0,
    )
    .fetch_all(conn.sql())
    .await?;
    rows.into_iter().map(Neighbour::try_from).collect()
}

/// The jobs that cannot run without `job`: those that need it, directly or through others that wait or have ended
/// without success, each after what it needs. Elements of arrays are not among them: they go where their array goes.
///
/// Whoever is queued, runs or has succeeded has had all that it needs, also where that is made again meanwhile.
pub async fn list_dependents(conn: &mut Conn, job: JobId) -> Result<Vec<Neighbour>> {
    let rows = sqlx::query_as!(
        RawNeighbour,
        r#"WITH RECURSIVE dependents (id) AS (
               SELECT job_id FROM job_needs WHERE needs_job_id = $1
               UNION
               SELECT n.job_id FROM dependents d
               JOIN job_states s ON s.id = d.id AND s.state IN ('waiting', 'failed', 'cancelled')
               JOIN job_needs n ON n.needs_job_id = d.id
           )
           SELECT j.id AS "id!", j.name AS "name!", j.state AS "state!", j.attempt AS "attempt!",
                  j.cancelled_for, j.array_size IS NOT NULL AS "is_array!"
           FROM dependents d JOIN job_states j ON j.id = d.id
           ORDER BY j.position, j.id"#,
        job.0,
    )
    .fetch_all(conn.sql())
    .await?;
    rows.into_iter().map(Neighbour::try_from).collect()
}

struct RawNeighbour {
    id: i64,
    name: String,
    state: String,
    attempt: i32,
    cancelled_for: Option<i64>,
    is_array: bool,
}

impl TryFrom<RawNeighbour> for Neighbour {
    type Error = StoreError;
    fn try_from(raw: RawNeighbour) -> Result<Self> {
        Ok(Self {
            id: JobId(raw.id),
            name: convert::job_name(raw.name)?,
            state: convert::job_state(&raw.state)?,
            attempt: convert::u32_of("jobs.attempt", raw.attempt)?,
            cancelled_for: raw.cancelled_for.map(JobId),
            is_array: raw.is_array,
        })
    }
}
