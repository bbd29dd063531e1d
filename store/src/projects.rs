//! Projects: weight and quotas with who changed them, and what they used.

use chrono::{DateTime, Utc};
use marquee_domain::project::{Hours, ProjectName, Quotas, Reset, Retention, Usage};

use crate::{Conn, Result, Tx, convert};

/// A stored project.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    pub name: ProjectName,
    /// Above 0.
    pub weight: f64,
    pub quotas: Quotas,
    pub retention: Retention,
    /// Minutes after which jobs whose GPUs do nothing are stopped. None: never.
    pub idle_stop_min: Option<u32>,
    pub usage: Usage,
}

/// What is set of a project.
#[derive(Debug, Clone, Copy)]
pub struct Set<'a> {
    pub weight: f64,
    pub quotas: &'a Quotas,
    pub retention: Retention,
    pub idle_stop_min: Option<u32>,
}

/// A change of a project's weight or quotas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectChange {
    pub text: String,
    pub caller: String,
    pub at: DateTime<Utc>,
}

/// Every project, by name. One that cannot be read is logged and left out: its jobs count as of a project without
/// quotas until it is set anew.
pub async fn list_projects(conn: &mut Conn) -> Result<Vec<Project>> {
    let rows = sqlx::query!(
        "SELECT name, weight, gpus, cpu_slots, queued, gpu_hours_week, reset, usage, usage_at, keep_days,
                keep_log_days, idle_stop_min
         FROM projects ORDER BY name"
    )
    .fetch_all(conn.sql())
    .await?;
    // One damaged project must not take the weights and quotas of all others away.
    let projects = rows.into_iter().filter_map(|row| {
        let name = row.name.clone();
        let read = || -> Result<Project> {
            let number = |column, value: Option<i32>| {
                value
                    .map(|value| convert::u32_of(column, value))
                    .transpose()
            };
            Ok(Project {
                name: convert::project(row.name)?,
                weight: row.weight,
                quotas: Quotas {
                    gpus: number("projects.gpus", row.gpus)?,
                    cpu_slots: number("projects.cpu_slots", row.cpu_slots)?,
                    queued: number("projects.queued", row.queued)?,
                    gpu_hours_week: row.gpu_hours_week,
                    reset: Reset::from_word(&row.reset)
                        .ok_or_else(|| convert::unreadable("projects.reset", &row.reset))?,
                },
                retention: Retention {
                    keep_days: number("projects.keep_days", row.keep_days)?,
                    keep_log_days: number("projects.keep_log_days", row.keep_log_days)?,
                },
                idle_stop_min: number("projects.idle_stop_min", row.idle_stop_min)?,
                usage: Usage::new(row.usage, row.usage_at),
            })
        };
        match read() {
            Ok(project) => Some(project),
            Err(error) => {
                tracing::error!(project = name, %error, "a project cannot be read");
                None
            }
        }
    });
    Ok(projects.collect())
}

/// How many projects there are.
pub async fn count_projects(conn: &mut Conn) -> Result<u64> {
    let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM projects"#)
        .fetch_one(conn.sql())
        .await?;
    convert::u64_of("count of projects", count)
}

/// GPU-seconds of a project by hour, from hour `since` on.
pub async fn list_hours(conn: &mut Conn, since: i64) -> Result<Vec<(String, Hours)>> {
    let rows = sqlx::query!(
        r#"SELECT project, array_agg(hour ORDER BY hour) AS "hours!",
                  array_agg(gpu_seconds ORDER BY hour) AS "seconds!"
           FROM project_hours WHERE hour >= $1 GROUP BY project ORDER BY project"#,
        since,
    )
    .fetch_all(conn.sql())
    .await?;
    let of = |hours: Vec<i64>, seconds: Vec<f64>| Hours::new(hours.into_iter().zip(seconds));
    Ok(rows
        .into_iter()
        .map(|row| (row.project, of(row.hours, row.seconds)))
        .collect())
}

/// Until when usage is counted; None: it never was.
pub async fn get_counted_to(conn: &mut Conn) -> Result<Option<DateTime<Utc>>> {
    let at = sqlx::query_scalar!("SELECT counted_to FROM project_clock")
        .fetch_one(conn.sql())
        .await?;
    Ok(at)
}

/// Stores what is set of a project; a new one has used nothing.
pub async fn upsert_project(
    tx: &mut Tx,
    name: &ProjectName,
    set: &Set<'_>,
    now: DateTime<Utc>,
) -> Result<()> {
    let Set {
        weight,
        quotas,
        retention,
        idle_stop_min,
    } = *set;
    // What was used stays: another weight does not forgive it.
    sqlx::query!(
        "INSERT INTO projects (name, weight, gpus, cpu_slots, queued, gpu_hours_week, reset, usage_at, keep_days,
                               keep_log_days, idle_stop_min)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (name) DO UPDATE
         SET weight = excluded.weight, gpus = excluded.gpus, cpu_slots = excluded.cpu_slots,
             queued = excluded.queued, gpu_hours_week = excluded.gpu_hours_week,
             reset = excluded.reset, keep_days = excluded.keep_days,
             keep_log_days = excluded.keep_log_days, idle_stop_min = excluded.idle_stop_min",
        name.as_str(),
        weight,
        convert::optional_int("gpus", quotas.gpus)?,
        convert::optional_int("cpu_slots", quotas.cpu_slots)?,
        convert::optional_int("queued", quotas.queued)?,
        quotas.gpu_hours_week,
        quotas.reset.as_str(),
        now,
        convert::optional_int("keep_days", retention.keep_days)?,
        convert::optional_int("keep_log_days", retention.keep_log_days)?,
        convert::optional_int("idle_stop_min", idle_stop_min)?,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Notes who changed a project.
pub async fn insert_project_change(
    tx: &mut Tx,
    name: &ProjectName,
    change: &ProjectChange,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO project_changes (project, text, caller, at) VALUES ($1, $2, $3, $4)",
        name.as_str(),
        change.text,
        change.caller,
        change.at,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// The newest changes of a project, newest first.
pub async fn list_project_changes(
    conn: &mut Conn,
    name: &ProjectName,
    limit: u32,
) -> Result<Vec<ProjectChange>> {
    let changes = sqlx::query_as!(
        ProjectChange,
        "SELECT text, caller, at FROM project_changes WHERE project = $1 ORDER BY id DESC LIMIT $2",
        name.as_str(),
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(changes)
}

/// Locks a project until the end of the transaction: whoever counts its queued jobs and adds to them holds it.
/// False where there is none.
pub async fn lock_project(tx: &mut Tx, name: &ProjectName) -> Result<bool> {
    // NO KEY, as for pipelines: it is counting that must wait, nothing else.
    let found = sqlx::query_scalar!(
        "SELECT name FROM projects WHERE name = $1 FOR NO KEY UPDATE",
        name.as_str()
    )
    .fetch_optional(tx.sql())
    .await?;
    Ok(found.is_some())
}

/// Jobs of a project that are open and do not run, elements of arrays counted each and arrays not.
pub async fn count_queued(conn: &mut Conn, name: &ProjectName) -> Result<u64> {
    let count = sqlx::query_scalar!(
        r#"SELECT (SELECT count(*) FROM open_jobs o JOIN jobs j ON j.id = o.job_id
                   WHERE o.state <> 'running' AND j.array_size IS NULL AND j.project = $1)
                  + (SELECT COALESCE(sum(a.to_come), 0) FROM arrays a JOIN jobs j ON j.id = a.job_id
                     WHERE a.to_come > 0 AND j.project = $1) AS "count!""#,
        name.as_str()
    )
    .fetch_one(conn.sql())
    .await?;
    convert::u64_of("count of jobs", count)
}

/// What a project used, to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Used {
    pub name: String,
    /// GPU-seconds, decayed up to the time of the call.
    pub usage: f64,
    /// GPU-seconds of the hours that changed.
    pub hours: Vec<(i64, f64)>,
}

/// Stores what projects used up to `now`, and forgets the hours before `keep_from`. Those that are not there are
/// left out.
pub async fn mark_used(
    tx: &mut Tx,
    used: &[Used],
    keep_from: i64,
    now: DateTime<Utc>,
) -> Result<()> {
    let names: Vec<String> = used.iter().map(|used| used.name.clone()).collect();
    let usages: Vec<f64> = used.iter().map(|used| used.usage).collect();
    let hours = || {
        used.iter()
            .flat_map(|used| used.hours.iter().map(move |hour| (&used.name, hour)))
    };
    let hour_names: Vec<String> = hours().map(|(name, _)| name.clone()).collect();
    let hour_numbers: Vec<i64> = hours().map(|(_, (hour, _))| *hour).collect();
    let hour_seconds: Vec<f64> = hours().map(|(_, (_, seconds))| *seconds).collect();
    // Usage and the time up to which it is counted change together: a part of it would be counted twice, or
    // never, after a crash in between.
    sqlx::query!(
        "WITH clock AS (
             UPDATE project_clock SET counted_to = $1
         ), used AS (
             UPDATE projects p SET usage = g.usage, usage_at = $1
             FROM unnest($2::text[], $3::float8[]) AS g (name, usage)
             WHERE p.name = g.name
         ), old AS (
             DELETE FROM project_hours WHERE hour < $7
         )
         INSERT INTO project_hours (project, hour, gpu_seconds)
         SELECT g.project, g.hour, g.seconds
         FROM unnest($4::text[], $5::bigint[], $6::float8[]) AS g (project, hour, seconds)
         JOIN projects p ON p.name = g.project
         ON CONFLICT (project, hour) DO UPDATE SET gpu_seconds = excluded.gpu_seconds",
        now,
        &names,
        &usages,
        &hour_names,
        &hour_numbers,
        &hour_seconds,
        keep_from,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}
