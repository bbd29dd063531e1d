//! The audit: what happened, line by line, as the database's own triggers wrote it down (migration 0015).
//!
//! Invariant: nothing writes a line but [`forget_pipeline`], [`insert_rehearsal`] and `backup::insert_backup`, and nothing changes one. Lines
//! that a later version wrote, or that no rule speaks of, are shown and not judged.

use chrono::{DateTime, Utc};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, Rank, WorkerId};
use marquee_domain::job::{AttemptStateName, JobStateName, RankState};
use marquee_domain::rank::RankKey;
use marquee_domain::resources::Device;
use marquee_history::{Event, StoredJob, StoredPipeline, StoredRank, What};
use serde_json::Value;

use crate::{Conn, Result, Tx, convert};

/// Lines that one statement goes through for those that are wanted: a few milliseconds, whatever is searched.
const SCAN_LINES: i64 = 20_000;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub number: i64,
    pub at: DateTime<Utc>,
    /// What happened, as a word such as `granted`.
    pub kind: String,
    /// Of a line about a whole pipeline.
    pub pipeline: Option<PipelineId>,
    pub job: Option<JobId>,
    pub attempt: Option<AttemptNumber>,
    pub rank: Option<Rank>,
    pub worker: Option<WorkerId>,
    /// The worker's present name.
    pub worker_name: Option<String>,
    /// The leader's epoch under which it was written; None: nobody was elected.
    pub epoch: Option<i64>,
    /// Who asked for it; empty: Marquee itself.
    pub actor: String,
    /// What else there is to say.
    pub detail: Value,
}

/// Which lines to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub job: Option<JobId>,
    pub pipeline: Option<PipelineId>,
    /// A worker's present name, or its id.
    pub worker: Option<String>,
    /// Part of the name of who asked.
    pub actor: Option<String>,
    /// Only lines after this one.
    pub after: i64,
    /// Only lines before this one; None: to the last. Looked at by [`list_lines_back`] alone.
    pub before: Option<i64>,
}

impl Filter {
    fn names_jobs(&self) -> bool {
        self.job.is_some() || self.pipeline.is_some()
    }
}

/// Some lines, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub lines: Vec<Line>,
    /// Where to go on; None: that was all.
    pub next: Option<i64>,
}

struct Row {
    id: i64,
    at: DateTime<Utc>,
    kind: String,
    pipeline_id: Option<i64>,
    job_id: Option<i64>,
    attempt: Option<i32>,
    rank: Option<i32>,
    worker_id: Option<uuid::Uuid>,
    worker_name: Option<String>,
    epoch: Option<i64>,
    actor: String,
    detail: Option<Value>,
}

impl From<Row> for Line {
    fn from(row: Row) -> Self {
        // A number that does not fit was written by hand; the line is shown without it.
        let number = |value: Option<i32>| value.and_then(|value| u32::try_from(value).ok());
        Self {
            number: row.id,
            at: row.at,
            kind: row.kind,
            pipeline: row.pipeline_id.map(PipelineId),
            job: row.job_id.map(JobId),
            attempt: number(row.attempt).map(AttemptNumber),
            rank: number(row.rank).map(Rank),
            worker: row.worker_id.map(WorkerId),
            worker_name: row.worker_name,
            epoch: row.epoch,
            actor: row.actor,
            detail: row.detail.unwrap_or(Value::Null),
        }
    }
}

/// The next lines that `filter` lets through, at most `limit`. A page may be empty and not be the last: a search
/// goes through a part of the lines at a time.
pub async fn list_lines(conn: &mut Conn, filter: &Filter, limit: u32) -> Result<Page> {
    let limit = i64::from(limit);
    // Not by going through the audit: the few lines of one job may lie anywhere in it.
    if filter.names_jobs() {
        return list_lines_of_jobs(conn, filter, i64::MAX, false, limit).await;
    }
    let until = filter.after.saturating_add(SCAN_LINES);
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT a.id, a.at, a.kind, a.pipeline_id, a.job_id, a.attempt, a.rank, a.worker_id,
                  w.name AS "worker_name?", a.epoch, a.actor, a.detail
           FROM audit a LEFT JOIN workers w ON w.id = a.worker_id
           WHERE a.id > $1 AND a.id <= $2
             AND ($3::text IS NULL OR w.name = $3 OR w.id::text = $3)
             AND ($4::text IS NULL OR strpos(a.actor, $4) > 0)
           ORDER BY a.id LIMIT $5"#,
        filter.after,
        until,
        filter.worker,
        filter.actor,
        limit,
    )
    .fetch_all(conn.sql())
    .await?;
    // The end is known by the newest line: a part without a match is not the last part.
    let newest = sqlx::query_scalar!("SELECT max(id) FROM audit")
        .fetch_one(conn.sql())
        .await?;
    Ok(page(
        rows,
        limit,
        newest.filter(|newest| *newest > until).map(|_| until),
    ))
}

/// The same from the newest line backwards; `next` is then what `before` should be.
pub async fn list_lines_back(conn: &mut Conn, filter: &Filter, limit: u32) -> Result<Page> {
    let limit = i64::from(limit);
    let before = filter.before.unwrap_or(i64::MAX);
    if filter.names_jobs() {
        return list_lines_of_jobs(conn, filter, before, true, limit).await;
    }
    let newest = sqlx::query_scalar!("SELECT max(id) FROM audit WHERE id < $1", before)
        .fetch_one(conn.sql())
        .await?;
    let Some(newest) = newest else {
        return Ok(page(Vec::new(), limit, None));
    };
    let from = newest.saturating_sub(SCAN_LINES).max(filter.after);
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT a.id, a.at, a.kind, a.pipeline_id, a.job_id, a.attempt, a.rank, a.worker_id,
                  w.name AS "worker_name?", a.epoch, a.actor, a.detail
           FROM audit a LEFT JOIN workers w ON w.id = a.worker_id
           WHERE a.id > $1 AND a.id <= $2
             AND ($3::text IS NULL OR w.name = $3 OR w.id::text = $3)
             AND ($4::text IS NULL OR strpos(a.actor, $4) > 0)
           ORDER BY a.id DESC LIMIT $5"#,
        from,
        newest,
        filter.worker,
        filter.actor,
        limit,
    )
    .fetch_all(conn.sql())
    .await?;
    // `from` itself was left out above, so the next part begins with it.
    Ok(page(rows, limit, (from > filter.after).then_some(from + 1)))
}

/// The lines of a job, of a pipeline, or of a job where it is one of that pipeline. By an index: what one job did is
/// few lines, wherever they stand.
async fn list_lines_of_jobs(
    conn: &mut Conn,
    filter: &Filter,
    before: i64,
    newest_first: bool,
    limit: i64,
) -> Result<Page> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT a.id, a.at, a.kind, a.pipeline_id, a.job_id, a.attempt, a.rank, a.worker_id,
                  w.name AS "worker_name?", a.epoch, a.actor, a.detail
           FROM (SELECT id FROM audit
                 WHERE job_id = $1 AND ($2::bigint IS NULL
                       OR EXISTS (SELECT FROM jobs j WHERE j.id = $1 AND j.pipeline_id = $2))
                 UNION ALL SELECT id FROM audit WHERE $1::bigint IS NULL AND pipeline_id = $2
                 UNION ALL SELECT l.id FROM jobs j JOIN audit l ON l.job_id = j.id
                           WHERE $1::bigint IS NULL AND j.pipeline_id = $2) k
           JOIN audit a ON a.id = k.id
           LEFT JOIN workers w ON w.id = a.worker_id
           WHERE a.id > $3 AND a.id < $4 AND ($5::text IS NULL OR w.name = $5 OR w.id::text = $5)
             AND ($6::text IS NULL OR strpos(a.actor, $6) > 0)
           -- They are sorted either way, since they come from several places.
           ORDER BY CASE WHEN $7::bool THEN -a.id ELSE a.id END LIMIT $8"#,
        filter.job.map(|id| id.0),
        filter.pipeline.map(|id| id.0),
        filter.after,
        before,
        filter.worker,
        filter.actor,
        newest_first,
        limit,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(page(rows, limit, None))
}

fn page(rows: Vec<Row>, limit: i64, beyond: Option<i64>) -> Page {
    // A full page ends where its last line is, even if more of this part was looked at.
    let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows >= limit);
    let last = rows.last().map(|row| row.id);
    Page {
        lines: rows.into_iter().map(Line::from).collect(),
        next: if is_full { last } else { beyond },
    }
}

/// The number of the last line before a time. Times grow with numbers, but for transactions that were under way
/// together.
pub async fn find_line_before(conn: &mut Conn, time: DateTime<Utc>) -> Result<i64> {
    let ends = sqlx::query!("SELECT min(id) AS first, max(id) AS last FROM audit")
        .fetch_one(conn.sql())
        .await?;
    let (Some(mut low), Some(mut high)) = (ends.first.map(|id| id - 1), ends.last) else {
        return Ok(0);
    };
    // Before the time up to `low`, after it from `high` + 1 on: halved some thirty times at most.
    // By number, since only numbers have an index; one on times would cost every change that is written down.
    while low < high {
        let middle = low + (high - low) / 2;
        let next = sqlx::query!(
            "SELECT id, at FROM audit WHERE id > $1 ORDER BY id LIMIT 1",
            middle
        )
        .fetch_optional(conn.sql())
        .await?;
        match next {
            Some(line) if line.at < time => low = line.id,
            Some(_) | None => high = middle,
        }
    }
    Ok(low)
}

/// What a line says, as the checker takes it. None: no rule speaks of such lines, or a later version wrote it.
#[must_use]
pub fn event(line: &Line) -> Option<Event> {
    Some(Event {
        number: line.number,
        at: line.at,
        epoch: line.epoch,
        what: what(line)?,
    })
}

fn what(line: &Line) -> Option<What> {
    let key = || {
        Some(RankKey {
            job: line.job?,
            attempt: line.attempt?,
            rank: line.rank?,
        })
    };
    // A field that is missing or of another type makes the whole line unreadable (`?`): the checker must not
    // judge by half of what happened.
    let word = |name: &str| line.detail.get(name).and_then(Value::as_str);
    let number = |name: &str| line.detail.get(name).and_then(Value::as_i64);
    Some(match line.kind.as_str() {
        "began" => What::Began {
            last_job: JobId(number("last_job")?),
        },
        "submitted" => What::Submitted {
            pipeline: line.pipeline?,
            request_id: word("request_id")?.to_owned(),
        },
        "added" => What::Added {
            pipeline: line.pipeline?,
            jobs: u64::try_from(number("jobs")?).ok()?,
        },
        "granted" => What::Granted {
            key: key()?,
            worker: line.worker?,
            devices: devices(&line.detail),
        },
        "started" => What::Started {
            job: line.job?,
            attempt: line.attempt?,
        },
        "rank_started" => What::RankStarted { key: key()? },
        "rank_lost" => What::RankLost { key: key()? },
        "released" => What::Released {
            key: key()?,
            worker: line.worker?,
            // A rank without a row has proved nothing.
            state: word("state")
                .and_then(RankState::from_word)
                .unwrap_or(RankState::Assigned),
        },
        "attempt_ended" => What::AttemptEnded {
            job: line.job?,
            attempt: line.attempt?,
            state: AttemptStateName::from_word(word("state")?)?,
        },
        "committed" => What::Committed {
            job: line.job?,
            attempt: line.attempt?,
            digest: word("digest")?.to_owned(),
        },
        "cancel_asked" => What::CancelAsked { job: line.job? },
        "job_ended" => What::JobEnded {
            job: line.job?,
            state: JobStateName::from_word(word("state")?)?,
        },
        "revived" => What::Revived { job: line.job? },
        "made_again" => What::MadeAgain { job: line.job? },
        "worker_online" => What::WorkerOnline {
            worker: line.worker?,
        },
        // A lease runs out by itself, and nobody is named for it; a person's doing is no verdict that could be hasty.
        "worker_lost" if !line.actor.is_empty() => What::WorkerShutOut {
            worker: line.worker?,
        },
        "worker_lost" => What::WorkerLost {
            worker: line.worker?,
            heard_at: word("heard_at").and_then(|at| at.parse().ok()),
        },
        "worker_left" => What::WorkerLeft {
            worker: line.worker?,
        },
        "leader" => What::Leader {
            epoch: number("epoch")?,
        },
        "removed" => What::Removed {
            pipeline: line.pipeline?,
        },
        _ => return None,
    })
}

fn devices(detail: &Value) -> Vec<Device> {
    let devices = detail.get("devices").cloned().unwrap_or_default();
    // A later version may know other devices. Nothing is said of those.
    serde_json::from_value(devices).unwrap_or_default()
}

/// Pipelines after this one, with how many jobs are stored of each.
pub async fn list_stored_pipelines(
    conn: &mut Conn,
    after: PipelineId,
    limit: u32,
) -> Result<Vec<StoredPipeline>> {
    let rows = sqlx::query!(
        r#"SELECT p.id, (SELECT count(*) FROM jobs j WHERE j.pipeline_id = p.id) AS "jobs!"
           FROM pipelines p WHERE p.id > $1 ORDER BY p.id LIMIT $2"#,
        after.0,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    let pipelines = rows.into_iter().map(|row| {
        Ok(StoredPipeline {
            id: PipelineId(row.id),
            jobs: convert::u64_of("count of jobs", row.jobs)?,
        })
    });
    pipelines.collect()
}

/// Jobs after this one, elements of arrays among them.
pub async fn list_stored_jobs(conn: &mut Conn, after: JobId, limit: u32) -> Result<Vec<StoredJob>> {
    let rows = sqlx::query!(
        r#"SELECT j.id, COALESCE(o.state, j.state) AS "state!", COALESCE(o.attempt, j.attempt) AS "attempt!"
           FROM jobs j LEFT JOIN open_jobs o ON o.job_id = j.id
           WHERE j.id > $1 ORDER BY j.id LIMIT $2"#,
        after.0,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    let jobs = rows.into_iter().map(|row| {
        Ok(StoredJob {
            id: JobId(row.id),
            state: convert::job_state(&row.state)?,
            attempt: convert::u32_of("jobs.attempt", row.attempt)?,
        })
    });
    jobs.collect()
}

/// Ranks after this one, with the highest number of a report of which a row is stored.
pub async fn list_stored_ranks(
    conn: &mut Conn,
    after: RankKey,
    limit: u32,
) -> Result<Vec<StoredRank>> {
    let rows = sqlx::query!(
        r#"SELECT r.job_id, r.attempt, r.rank, r.last_sequence,
                  GREATEST(0,
                      (SELECT max(l.sequence) FROM log_lines l
                       WHERE l.job_id = r.job_id AND l.attempt = r.attempt AND l.rank = r.rank),
                      (SELECT max(m.sequence) FROM metrics m
                       WHERE m.job_id = r.job_id AND m.attempt = r.attempt AND m.rank = r.rank))
                      AS "highest_row!"
           FROM attempt_ranks r
           WHERE (r.job_id, r.attempt, r.rank) > ($1, $2, $3)
           ORDER BY r.job_id, r.attempt, r.rank LIMIT $4"#,
        after.job.0,
        convert::int("attempt", after.attempt.0)?,
        convert::int("rank", after.rank.0)?,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    let ranks = rows.into_iter().map(|row| {
        Ok(StoredRank {
            key: RankKey {
                job: JobId(row.job_id),
                attempt: AttemptNumber(convert::u32_of("attempt_ranks.attempt", row.attempt)?),
                rank: Rank(convert::u32_of("attempt_ranks.rank", row.rank)?),
            },
            last_sequence: convert::u64_of("attempt_ranks.last_sequence", row.last_sequence)?,
            highest_row: convert::u64_of("sequence", row.highest_row)?,
        })
    });
    ranks.collect()
}

/// Jobs that have an artifact, after this one.
pub async fn list_jobs_with_artifact(
    conn: &mut Conn,
    after: JobId,
    limit: u32,
) -> Result<Vec<(JobId, AttemptNumber)>> {
    let rows = sqlx::query!(
        "SELECT job_id, attempt FROM artifacts WHERE job_id > $1 ORDER BY job_id LIMIT $2",
        after.0,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    let jobs = rows.into_iter().map(|row| {
        let attempt = convert::u32_of("artifacts.attempt", row.attempt)?;
        Ok((JobId(row.job_id), AttemptNumber(attempt)))
    });
    jobs.collect()
}

/// What the audit writes from here on in this transaction was asked for by `caller`.
pub async fn act_as(tx: &mut Tx, caller: &str) -> Result<()> {
    // For this transaction alone (`true`): the connection goes back to the pool, and its next user is
    // somebody else.
    sqlx::query_scalar!("SELECT set_config('marquee.actor', $1, true)", caller)
        .fetch_one(tx.sql())
        .await?;
    Ok(())
}

/// What a rehearsal breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    Rank(RankKey, WorkerId),
    Worker(WorkerId),
    /// The coordinator that leads.
    Leader,
}

/// Writes down a fault on purpose, before it is done, in a transaction of whoever asked for it: no table changes with it
/// that a trigger could watch.
pub async fn insert_rehearsal(tx: &mut Tx, broken: Broken, detail: &Value) -> Result<()> {
    let (key, worker) = match broken {
        Broken::Rank(key, worker) => (Some(key), Some(worker)),
        Broken::Worker(worker) => (None, Some(worker)),
        Broken::Leader => (None, None),
    };
    let attempt = key.map(|key| convert::int("attempt", key.attempt.0));
    let rank = key.map(|key| convert::int("rank", key.rank.0));
    sqlx::query!(
        "INSERT INTO audit (kind, job_id, attempt, rank, worker_id, detail)
         VALUES ('rehearsed', $1, $2, $3, $4, $5)",
        key.map(|key| key.job.0),
        attempt.transpose()?,
        rank.transpose()?,
        worker.map(|worker| worker.0),
        detail,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Deletes the lines of a pipeline that is about to be deleted, and leaves one that says so. Deleting its artifacts
/// then writes no line of its own.
pub async fn forget_pipeline(tx: &mut Tx, id: PipelineId) -> Result<()> {
    // The triggers refuse every DELETE on the audit but in a transaction that says this.
    sqlx::query_scalar!("SELECT set_config('marquee.removal', 'on', true)")
        .fetch_one(tx.sql())
        .await?;
    // Before the jobs go: the lines are found by them.
    sqlx::query!(
        "WITH of_jobs AS (
             DELETE FROM audit a USING jobs j WHERE j.pipeline_id = $1 AND a.job_id = j.id
         ), of_pipeline AS (
             DELETE FROM audit WHERE pipeline_id = $1
         )
         INSERT INTO audit (kind, pipeline_id, detail)
         SELECT 'removed', p.id, jsonb_build_object('name', p.name, 'jobs', count(j.id))
         FROM pipelines p LEFT JOIN jobs j ON j.pipeline_id = p.id
         WHERE p.id = $1 GROUP BY p.id, p.name",
        id.0,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}
