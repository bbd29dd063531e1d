//! Live attempts as they are judged: job, attempt and ranks as one statement sees them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Manifest;
use marquee_domain::end::Interruption;
use marquee_domain::ids::{AttemptNumber, JobId, Rank, WorkerId};
use marquee_domain::spec::JobKind;

use crate::attempts::{Attempt, RawAttempt};
use crate::ranks::{RankKey, RankRow};
use crate::{Conn, Result, convert};

/// A running job with its live attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    pub job: JobId,
    pub kind: JobKind,
    /// The array that it is an element of.
    pub array: Option<JobId>,
    pub cancel_requested: bool,
    /// It is to make room: why, and for whose sake.
    pub makes_room: Option<(Interruption, String)>,
    /// When it is too late for its result.
    pub deadline: Option<DateTime<Utc>>,
    /// The highest attempt number that may still be made.
    pub last_attempt: u32,
    /// Seconds that an attempt may run.
    pub timeout_s: Option<u32>,
    /// With how few ranks it goes on. None: all are needed.
    pub min_ranks: Option<u32>,
    /// Attempts that the job was given at first.
    pub max_attempts: u32,
    /// Other jobs need it.
    pub is_needed: bool,
    pub attempt: Attempt,
    pub ranks: Vec<RankRow>,
    /// Ranks that put forward an output.
    pub with_output: Vec<Rank>,
}

/// The running jobs among `jobs` with their live attempts. One that cannot be read has its reason in its
/// place and hides no other.
///
/// Reports are stored without the pipeline's lock, so two statements could see a rank prepared and its
/// attempt without the place to meet that came with it; one statement cannot.
pub async fn list_live(
    conn: &mut Conn,
    jobs: &[JobId],
) -> Result<Vec<std::result::Result<Live, (JobId, String)>>> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT o.job_id, j.kind, j.array_job_id, o.cancel_requested, o.last_attempt, j.max_attempts,
                  EXISTS (SELECT 1 FROM job_needs n WHERE n.needs_job_id = o.job_id) AS "is_needed!",
                  r.output IS NOT NULL AS "has_output!",
                  number_in(COALESCE(j.spec, y.spec) ->> 'timeout_s') AS timeout_s,
                  number_in(COALESCE(j.spec, y.spec) #>> '{resources,min_ranks}') AS min_ranks,
                  number_in(COALESCE(j.spec, y.spec) #>> '{sharing,deadline}') AS deadline,
                  o.interruption, o.interruption_message,
                  a.number, a.state, a.rendezvous_host, a.rendezvous_port, a.standby_host,
                  a.standby_port, a.resumed_from_attempt, a.resumed_from_step, a.created_at,
                  a.started_at, r.rank, r.worker_id, w.name AS worker_name,
                  w.state = 'online' AS "worker_online!", r.state AS rank_state, r.progress, r.summary,
                  r.failure_class, r.failure_message, r.ended_at, r.lost_at
           FROM open_jobs o
           JOIN jobs j ON j.id = o.job_id
           LEFT JOIN jobs y ON y.id = j.array_job_id
           JOIN attempts a ON a.job_id = o.job_id AND a.number = o.attempt
           JOIN attempt_ranks r ON r.job_id = o.job_id AND r.attempt = o.attempt
           JOIN workers w ON w.id = r.worker_id
           WHERE o.job_id = ANY ($1) AND o.state = 'running' AND a.state IN ('assigned', 'running')
           ORDER BY o.job_id, r.rank"#,
        &ids,
    )
    .fetch_all(conn.sql())
    .await?;
    let mut by_job: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
    for row in rows {
        by_job.entry(row.job_id).or_default().push(row);
    }
    let all = by_job.into_iter().map(|(job, rows)| {
        let job = JobId(job);
        read(job, rows).map_err(|error| (job, error.to_string()))
    });
    Ok(all.collect())
}

/// What rank 0, or the first that went on, put forward as each job's artifact, or why that cannot be used;
/// without those that put forward none.
pub async fn list_outputs(
    conn: &mut Conn,
    keys: &[RankKey],
) -> Result<Vec<(JobId, std::result::Result<Manifest, String>)>> {
    let jobs: Vec<i64> = keys.iter().map(|key| key.job.0).collect();
    let attempts = keys
        .iter()
        .map(|key| convert::int("attempt", key.attempt.0));
    let ranks = keys.iter().map(|key| convert::int("rank", key.rank.0));
    let rows = sqlx::query!(
        r#"SELECT r.job_id, r.output AS "output!"
           FROM unnest($1::bigint[], $2::int[], $3::int[]) AS k (job_id, attempt, rank)
           JOIN attempt_ranks r ON r.job_id = k.job_id AND r.attempt = k.attempt AND r.rank = k.rank
           WHERE r.output IS NOT NULL"#,
        &jobs,
        &attempts.collect::<Result<Vec<_>>>()?,
        &ranks.collect::<Result<Vec<_>>>()?,
    )
    .fetch_all(conn.sql())
    .await?;
    let outputs = rows.into_iter().map(|row| {
        let manifest = convert::manifest(row.output).map_err(|error| error.to_string());
        (JobId(row.job_id), manifest)
    });
    Ok(outputs.collect())
}

struct Row {
    job_id: i64,
    kind: String,
    array_job_id: Option<i64>,
    cancel_requested: bool,
    last_attempt: i32,
    max_attempts: i32,
    is_needed: bool,
    has_output: bool,
    timeout_s: Option<i64>,
    min_ranks: Option<i64>,
    deadline: Option<i64>,
    interruption: Option<String>,
    interruption_message: Option<String>,
    number: i32,
    state: String,
    rendezvous_host: Option<String>,
    rendezvous_port: Option<i32>,
    standby_host: Option<String>,
    standby_port: Option<i32>,
    resumed_from_attempt: Option<i32>,
    resumed_from_step: Option<i64>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    rank: i32,
    worker_id: uuid::Uuid,
    worker_name: String,
    worker_online: bool,
    rank_state: String,
    progress: Option<serde_json::Value>,
    summary: Option<serde_json::Value>,
    failure_class: Option<String>,
    failure_message: Option<String>,
    ended_at: Option<DateTime<Utc>>,
    lost_at: Option<DateTime<Utc>>,
}

/// Reads one job's rows, of which there is at least one.
fn read(job: JobId, rows: Vec<Row>) -> Result<Live> {
    let small = |column, value: Option<i64>| -> Result<Option<u32>> {
        let number = |value| u32::try_from(value).map_err(|_| convert::unreadable(column, value));
        value.map(number).transpose()
    };
    let mut ranks = Vec::with_capacity(rows.len());
    let mut with_output = Vec::new();
    let mut live = None;
    for row in rows {
        let number = AttemptNumber(convert::u32_of("attempts.number", row.number)?);
        // What belongs to the job and its attempt is the same in all of its rows.
        if live.is_none() {
            let attempt = RawAttempt {
                number: row.number,
                state: row.state,
                rendezvous_host: row.rendezvous_host,
                rendezvous_port: row.rendezvous_port,
                standby_host: row.standby_host,
                standby_port: row.standby_port,
                resumed_from_attempt: row.resumed_from_attempt,
                resumed_from_step: row.resumed_from_step,
                failure_class: None,
                failure_message: None,
                created_at: row.created_at,
                started_at: row.started_at,
                finished_at: None,
            };
            live = Some(Live {
                job,
                kind: convert::kind(&row.kind)?,
                array: row.array_job_id.map(JobId),
                cancel_requested: row.cancel_requested,
                // A word of a later version counts as none: the job goes on as if nobody had asked, rather
                // than being left without a verdict.
                makes_room: row
                    .interruption
                    .as_deref()
                    .and_then(Interruption::from_word)
                    .zip(row.interruption_message),
                deadline: row
                    .deadline
                    .and_then(|seconds| DateTime::from_timestamp(seconds, 0)),
                last_attempt: convert::u32_of("open_jobs.last_attempt", row.last_attempt)?,
                timeout_s: small("jobs.spec timeout_s", row.timeout_s)?,
                min_ranks: small("jobs.spec resources.min_ranks", row.min_ranks)?,
                max_attempts: convert::u32_of("jobs.max_attempts", row.max_attempts)?,
                is_needed: row.is_needed,
                attempt: Attempt::try_from(attempt)?,
                ranks: Vec::new(),
                with_output: Vec::new(),
            });
        }
        let rank = Rank(convert::u32_of("attempt_ranks.rank", row.rank)?);
        if row.has_output {
            with_output.push(rank);
        }
        ranks.push(RankRow {
            key: RankKey {
                job,
                attempt: number,
                rank,
            },
            worker: WorkerId(row.worker_id),
            worker_name: row.worker_name,
            worker_online: row.worker_online,
            // A verdict does not ask which devices there are: they are freed by what ranks report.
            devices: Vec::new(),
            state: convert::rank_state(&row.rank_state)?,
            // Only whether there is any matters here.
            progress: row.progress.and_then(|p| convert::json("progress", p).ok()),
            summary: convert::summary(job, row.summary),
            failure: convert::failure(row.failure_class, row.failure_message)?,
            ended_at: row.ended_at,
            lost_at: row.lost_at,
        });
    }
    // Cannot be: a job has rows here only by its ranks.
    let live = live.ok_or_else(|| convert::unreadable("attempt_ranks", "no rank"))?;
    Ok(Live {
        ranks,
        with_output,
        ..live
    })
}
