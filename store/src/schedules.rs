//! Schedules, and what became of their due times.

use chrono::{DateTime, Utc};
use marquee_domain::ids::PipelineId;
use marquee_domain::schedule::{Missed, Outcome, Overlap, Progress};

use crate::{Conn, Result, StoreError, Tx, convert};

/// Runs that are remembered of a schedule, the newest: half a year of hours.
const RUNS_KEPT: i64 = 5_000;

/// A schedule without its document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub id: i64,
    pub name: String,
    pub cron: String,
    pub time_zone: String,
    pub progress: Progress,
    /// Who paused it, and when.
    pub paused: Option<(String, DateTime<Utc>)>,
    pub set_by: String,
    pub set_at: DateTime<Utc>,
}

/// What a schedule submits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub is_json: bool,
    pub text: String,
    /// Paths and values.
    pub overrides: Vec<(String, String)>,
}

/// What became of a due time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub due_at: DateTime<Utc>,
    pub outcome: Outcome,
    /// None: none was submitted, or it was removed since.
    pub pipeline: Option<PipelineId>,
    pub text: String,
    pub at: DateTime<Utc>,
}

/// A schedule to store.
#[derive(Debug, Clone, Copy)]
pub struct NewSchedule<'a> {
    pub name: &'a str,
    pub cron: &'a str,
    pub time_zone: &'a str,
    pub document: &'a Document,
    pub progress: Progress,
    pub caller: &'a str,
}

/// Which schedules to list.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    All,
    Named(&'a str),
    /// Those about which something may have to be done now.
    Due(DateTime<Utc>),
}

/// Schedules, by name. One that cannot be read is logged and left out.
pub async fn list_schedules(conn: &mut Conn, which: Which<'_>) -> Result<Vec<Schedule>> {
    let (name, due) = match which {
        Which::All => (None, None),
        Which::Named(name) => (Some(name), None),
        Which::Due(now) => (None, Some(now)),
    };
    let rows = sqlx::query!(
        "SELECT id, name, cron, time_zone, overlap, missed, next_due, waiting_due, paused_by, paused_at, set_by, set_at
         FROM schedules
         WHERE ($1::text IS NULL OR name = $1)
           AND ($2::timestamptz IS NULL OR paused_at IS NULL AND (next_due <= $2 OR waiting_due IS NOT NULL))
         ORDER BY name",
        name,
        due,
    )
    .fetch_all(conn.sql())
    .await?;
    let schedules = rows.into_iter().filter_map(|row| {
        // A word of a later version: better a schedule that rests and is named in the log than one that
        // starts twice or never stops.
        let policies = Overlap::from_word(&row.overlap).zip(Missed::from_word(&row.missed));
        let Some((overlap, missed)) = policies else {
            tracing::error!(schedule = row.name, "a schedule cannot be read");
            return None;
        };
        Some(Schedule {
            id: row.id,
            name: row.name,
            cron: row.cron,
            time_zone: row.time_zone,
            progress: Progress {
                overlap,
                missed,
                next_due: row.next_due,
                waiting_due: row.waiting_due,
            },
            paused: row.paused_by.zip(row.paused_at),
            set_by: row.set_by,
            set_at: row.set_at,
        })
    });
    Ok(schedules.collect())
}

/// How many schedules there are.
pub async fn count_schedules(conn: &mut Conn) -> Result<u64> {
    let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM schedules"#)
        .fetch_one(conn.sql())
        .await?;
    convert::u64_of("count of schedules", count)
}

/// What a schedule submits. None: it is not there any more.
pub async fn find_document(conn: &mut Conn, id: i64) -> Result<Option<Document>> {
    let row = sqlx::query!(
        "SELECT format, document, overrides FROM schedules WHERE id = $1",
        id
    )
    .fetch_optional(conn.sql())
    .await?;
    let document = row.map(|row| {
        Ok(Document {
            is_json: row.format == "json",
            text: row.document,
            overrides: convert::json("schedules.overrides", row.overrides)?,
        })
    });
    document.transpose()
}

/// Stores a schedule; one of this name is replaced where `replaces`, and keeps its runs. False: there is one.
pub async fn upsert_schedule(
    tx: &mut Tx,
    new: &NewSchedule<'_>,
    replaces: bool,
    now: DateTime<Utc>,
) -> Result<bool> {
    let Progress {
        overlap,
        missed,
        next_due,
        waiting_due,
    } = new.progress;
    // Whether it may replace another is decided by the statement itself, so that of two who add one name at
    // once the second is told so.
    let done = sqlx::query!(
        "INSERT INTO schedules (name, cron, time_zone, format, document, overrides, overlap, missed, next_due,
                                waiting_due, set_by, set_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         ON CONFLICT (name) DO UPDATE
         SET cron = EXCLUDED.cron, time_zone = EXCLUDED.time_zone, format = EXCLUDED.format,
             document = EXCLUDED.document, overrides = EXCLUDED.overrides, overlap = EXCLUDED.overlap,
             missed = EXCLUDED.missed, next_due = EXCLUDED.next_due, waiting_due = EXCLUDED.waiting_due,
             set_by = EXCLUDED.set_by, set_at = EXCLUDED.set_at, paused_by = NULL, paused_at = NULL
         WHERE $13",
        new.name,
        new.cron,
        new.time_zone,
        if new.document.is_json { "json" } else { "toml" },
        new.document.text,
        convert::to_document("schedules.overrides", &new.document.overrides)?,
        overlap.as_str(),
        missed.as_str(),
        next_due,
        waiting_due,
        new.caller,
        now,
        replaces,
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Pauses a schedule, or lets it go on with the due time given. False: it is not there.
pub async fn mark_paused(
    tx: &mut Tx,
    name: &str,
    by: Option<&str>,
    next_due: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<bool> {
    // A due time that waited is dropped: going on must not start what was due back then.
    let done = sqlx::query!(
        "UPDATE schedules
         SET paused_by = $2, paused_at = CASE WHEN $2::text IS NOT NULL THEN $4::timestamptz END,
             next_due = CASE WHEN $2::text IS NULL THEN $3 ELSE next_due END,
             waiting_due = NULL
         WHERE name = $1",
        name,
        by,
        next_due,
        now,
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a schedule with what is known of its runs. Their pipelines stay. False: it is not there.
pub async fn delete_schedule(tx: &mut Tx, name: &str) -> Result<bool> {
    let done = sqlx::query!("DELETE FROM schedules WHERE name = $1", name)
        .execute(tx.sql())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Moves a schedule on, if it is as it was read and not paused.
///
/// # Errors
/// [`StoreError::Vanished`] where somebody changed it meanwhile: whatever else the transaction did is not to be.
pub async fn mark_progress(
    tx: &mut Tx,
    id: i64,
    before: &Progress,
    (next_due, waiting_due): (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
) -> Result<()> {
    let done = sqlx::query!(
        // Both may be null, which `=` would never find.
        "UPDATE schedules SET next_due = $4, waiting_due = $5
         WHERE id = $1 AND paused_at IS NULL
           AND next_due IS NOT DISTINCT FROM $2 AND waiting_due IS NOT DISTINCT FROM $3",
        id,
        before.next_due,
        before.waiting_due,
        next_due,
        waiting_due,
    )
    .execute(tx.sql())
    .await?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::Vanished("due time of a schedule"))
    }
}

/// Takes down what became of a due time.
///
/// # Errors
/// [`StoreError::Vanished`] where that was done before: whatever else the transaction did is not to be.
pub async fn insert_run(tx: &mut Tx, id: i64, run: &Run) -> Result<()> {
    // The key is schedule and due time: this is what makes each due time run once, whoever looks and how
    // often.
    let done = sqlx::query!(
        "INSERT INTO schedule_runs (schedule_id, due_at, outcome, pipeline_id, text, at)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        id,
        run.due_at,
        run.outcome.as_str(),
        run.pipeline.map(|pipeline| pipeline.0),
        run.text,
        run.at,
    )
    .execute(tx.sql())
    .await?;
    if done.rows_affected() != 1 {
        return Err(StoreError::Vanished("due time of a schedule"));
    }
    // One for one: the oldest goes when a new one comes, so that no pass over all schedules is needed.
    sqlx::query!(
        "DELETE FROM schedule_runs WHERE schedule_id = $1 AND due_at < (
             SELECT due_at FROM schedule_runs WHERE schedule_id = $1 ORDER BY due_at DESC OFFSET $2 LIMIT 1)",
        id,
        RUNS_KEPT - 1,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Whether it is known what became of a due time.
pub async fn has_run(conn: &mut Conn, id: i64, due_at: DateTime<Utc>) -> Result<bool> {
    let has_run = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM schedule_runs WHERE schedule_id = $1 AND due_at = $2) AS "has_run!""#,
        id,
        due_at,
    )
    .fetch_one(conn.sql())
    .await?;
    Ok(has_run)
}

/// The newest runs of a schedule, newest first.
pub async fn list_runs(conn: &mut Conn, id: i64, limit: u32) -> Result<Vec<Run>> {
    let rows = sqlx::query!(
        "SELECT due_at, outcome, pipeline_id, text, at FROM schedule_runs
         WHERE schedule_id = $1 ORDER BY due_at DESC LIMIT $2",
        id,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    let runs = rows.into_iter().map(|row| {
        Ok(Run {
            due_at: row.due_at,
            outcome: Outcome::from_word(&row.outcome)
                .ok_or_else(|| convert::unreadable("schedule_runs.outcome", &row.outcome))?,
            pipeline: row.pipeline_id.map(PipelineId),
            text: row.text,
            at: row.at,
        })
    });
    runs.collect()
}

/// Whether the newest pipeline that a schedule submitted has not ended.
pub async fn is_open(conn: &mut Conn, id: i64) -> Result<bool> {
    // The newest that submitted anything: times that were skipped in between do not close it.
    let is_open = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT 1 FROM jobs j LEFT JOIN open_jobs o ON o.job_id = j.id
               -- Elements of an array that has ended may be to come.
               LEFT JOIN arrays a ON a.job_id = j.id AND a.to_come > 0
               WHERE (o.job_id IS NOT NULL OR a.job_id IS NOT NULL) AND j.pipeline_id = (
                   SELECT pipeline_id FROM schedule_runs
                   WHERE schedule_id = $1 AND pipeline_id IS NOT NULL ORDER BY due_at DESC LIMIT 1)) AS "is_open!""#,
        id
    )
    .fetch_one(conn.sql())
    .await?;
    Ok(is_open)
}
