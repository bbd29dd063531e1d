//! Steps: which jobs do the same, and whose artifact can stand for another's.

use chrono::NaiveDate;
use marquee_domain::artifact::{Digest, Manifest};
use marquee_domain::ids::JobId;

use crate::{Conn, Result, Tx, convert};

/// A job whose artifact can stand for that of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reusable {
    /// The job that did the work.
    pub job: JobId,
    pub manifest: Manifest,
}

/// Stores what a job does, now that its inputs are there. Saying it twice is the same.
pub async fn mark_step(tx: &mut Tx, id: JobId, step: &Digest) -> Result<()> {
    // Only while it is open: what a job did that has ended is not said anew.
    sqlx::query!(
        "UPDATE jobs SET step_digest = $2 WHERE id = $1 AND state = 'open'",
        id.0,
        step.as_str(),
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// The newest `limit` jobs that did this step with this code, by their own work, and whose data may
/// still be used on the day `today`. Where the word on that cannot be read, they are not.
pub async fn list_reusable(
    conn: &mut Conn,
    step: &Digest,
    code: &str,
    today: NaiveDate,
    limit: u32,
) -> Result<Vec<Reusable>> {
    // By one code: another version of it may make something else of the same settings.
    let rows = sqlx::query!(
        "SELECT j.id, a.manifest
         FROM jobs j
         JOIN artifacts a ON a.job_id = j.id
         JOIN attempt_ranks r ON r.job_id = j.id AND r.attempt = a.attempt AND r.rank = 0
         WHERE j.step_digest = $1 AND a.code = $2 AND j.state = 'succeeded'
           -- As text: a word that is no date must not fail the statement, on which everybody's queue waits.
           AND CASE WHEN r.summary #>> '{source,use_until}' IS NULL THEN true
                    WHEN r.summary #>> '{source,use_until}' ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$'
                        THEN r.summary #>> '{source,use_until}' >= to_char($3::date, 'YYYY-MM-DD')
                    ELSE false END
         ORDER BY a.committed_at DESC, j.id DESC
         LIMIT $4",
        step.as_str(),
        code,
        today,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    let found = rows.into_iter().filter_map(|row| {
        let job = JobId(row.id);
        let manifest = convert::manifest(row.manifest);
        let manifest = manifest
            .inspect_err(|error| tracing::error!(%job, %error, "an artifact cannot be reused"))
            .ok()?;
        Some(Reusable { job, manifest })
    });
    Ok(found.collect())
}
