//! Jobs as those beside them see them: what a job needs, what needs it, and the elements of an array.
//!
//! Elements have no needs of their own: what their array needs, they need too.

use marquee_domain::ids::{JobId, JobName};
use marquee_domain::job::JobStateName;
use marquee_domain::spec::{Ended, NeedOn};
use marquee_domain::transitions::needs::Need;

use crate::{Conn, Result, convert};

/// A job that needs another one, directly or through others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    pub id: JobId,
    pub name: JobName,
    pub state: JobStateName,
    /// It waited for another end than a success, and is queued or runs for it, or elements of it do.
    pub follows_at_work: bool,
}

/// A job that another one needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    pub id: JobId,
    pub name: JobName,
    /// How it must end.
    pub on: NeedOn,
    /// How it ended. None: it has not, or it is an array whose elements have not.
    pub ended: Option<Ended>,
}

impl Needed {
    /// Whether it has ended in another way than the one that is waited for.
    #[must_use]
    pub fn is_missed(&self) -> bool {
        self.ended.is_some_and(|ended| !self.on.is_met_by(ended))
    }
}

/// The jobs that `job` needs, in pipeline order; for an element, those that its array needs.
pub async fn list_needs(conn: &mut Conn, job: JobId) -> Result<Vec<Needed>> {
    let rows = sqlx::query!(
        r#"SELECT d.id, d.name, n.wanted AS "wanted!", n.ended
           FROM jobs j
           JOIN need_states n ON n.job_id = COALESCE(j.array_job_id, j.id)
           JOIN jobs d ON d.id = n.needs_job_id
           WHERE j.id = $1
           ORDER BY d.position, d.id"#,
        job.0,
    )
    .fetch_all(conn.sql())
    .await?;
    let needs = rows.into_iter().map(|row| {
        Ok(Needed {
            id: JobId(row.id),
            name: convert::job_name(row.name)?,
            on: convert::need_on(&row.wanted)?,
            ended: row.ended.as_deref().map(convert::ended).transpose()?,
        })
    });
    needs.collect()
}

/// A job that waits, with its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    pub id: JobId,
    pub attempt: u32,
    pub is_array: bool,
}

/// The jobs that wait for `job`, directly or through others, and what they need, each after what it needs. Elements
/// of arrays are not among them: they go where their array goes.
pub async fn list_waiting_needs(conn: &mut Conn, job: JobId) -> Result<(Vec<Waiting>, Vec<Need>)> {
    // UNION and not UNION ALL: what is reached in two ways is followed once, so that a wide pipeline does not
    // multiply.
    let rows = sqlx::query!(
        r#"WITH RECURSIVE dependents (id) AS (
               SELECT job_id FROM job_needs WHERE needs_job_id = $1
               UNION
               SELECT n.job_id FROM dependents d
               JOIN job_states s ON s.id = d.id AND s.state IN ('waiting', 'failed', 'cancelled')
               JOIN job_needs n ON n.needs_job_id = d.id
           )
           SELECT o.job_id, o.attempt, j.array_size IS NOT NULL AS "is_array!", n.needs_job_id, n.wanted
           FROM dependents d
           JOIN open_jobs o ON o.job_id = d.id AND o.state = 'waiting'
           JOIN jobs j ON j.id = d.id
           JOIN job_needs n ON n.job_id = d.id
           ORDER BY j.position, o.job_id, n.needs_job_id"#,
        job.0,
    )
    .fetch_all(conn.sql())
    .await?;
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut needs = Vec::with_capacity(rows.len());
    for row in rows {
        let id = JobId(row.job_id);
        // The rows of a job come together, one for each of its needs.
        if waiting.last().is_none_or(|last| last.id != id) {
            waiting.push(Waiting {
                id,
                attempt: convert::u32_of("open_jobs.attempt", row.attempt)?,
                is_array: row.is_array,
            });
        }
        needs.push(Need {
            job: id,
            of: JobId(row.needs_job_id),
            on: convert::need_on(&row.wanted)?,
        });
    }
    Ok((waiting, needs))
}

/// The jobs that need `job`: directly, or through others that wait or have ended without success, each after what it
/// needs. Elements of arrays are not among them: they go where their array goes.
///
/// Whoever is queued, runs or has succeeded has had all that it needs, also where that is made again meanwhile.
pub async fn list_dependents(conn: &mut Conn, job: JobId) -> Result<Vec<Neighbour>> {
    // As above; `follows` is part of the row, so a job may be in here twice, once for each way.
    let rows = sqlx::query!(
        r#"WITH RECURSIVE dependents (id, follows) AS (
               SELECT job_id, wanted <> 'succeeded' FROM job_needs WHERE needs_job_id = $1
               UNION
               SELECT n.job_id, d.follows OR n.wanted <> 'succeeded' FROM dependents d
               JOIN job_states s ON s.id = d.id AND s.state IN ('waiting', 'failed', 'cancelled')
               JOIN job_needs n ON n.needs_job_id = d.id
           )
           SELECT j.id AS "id!", j.name AS "name!", j.state AS "state!",
                  d.follows AND (j.state IN ('queued', 'running')
                  OR j.array_size IS NOT NULL
                     AND (EXISTS (SELECT 1 FROM open_jobs o WHERE o.array_job_id = j.id AND o.state <> 'waiting')
                          -- Between two of its elements.
                          OR EXISTS (SELECT 1 FROM arrays a WHERE a.job_id = j.id AND a.to_come > 0
                                     AND a.succeeded + a.failed + a.cancelled > 0)))
                      AS "follows_at_work!"
           FROM (SELECT id, bool_or(follows) AS follows FROM dependents GROUP BY id) d
           JOIN job_states j ON j.id = d.id
           ORDER BY j.position, j.id"#,
        job.0,
    )
    .fetch_all(conn.sql())
    .await?;
    let dependents = rows.into_iter().map(|row| {
        Ok(Neighbour {
            id: JobId(row.id),
            name: convert::job_name(row.name)?,
            state: convert::job_state(&row.state)?,
            follows_at_work: row.follows_at_work,
        })
    });
    dependents.collect()
}
