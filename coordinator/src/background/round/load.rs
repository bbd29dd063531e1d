//! Reads into the index what committed transactions changed, and now and then everything.

use std::collections::{BTreeMap, BTreeSet};

use marquee_domain::ids::JobId;
use marquee_domain::spec::JobSpec;
use marquee_store::open::{self, OpenJob, Which};
use marquee_store::workers::{self, WhichWorkers};
use marquee_store::{Conn, StoreError, elements, forecasts, pipelines, projects, transitions};

use crate::app::App;
use crate::index::{Accounts, Step, Touched};
use crate::lifecycle::{self, Result};

/// Differences named in the log at once; more have a common cause.
const DIFFERENCES_NAMED_MAX: usize = 10;

/// Of the newest jobs so many are looked at for how long their like takes.
const LENGTHS_LOOKED_AT: u32 = 20_000;

/// Reads what was touched since the last round.
pub(super) async fn changes(app: &App) -> Result<()> {
    let now = app.clock.now();
    // What was held until now is counted before anything changes.
    app.index.open().accounts.count_to(now);
    // Taken before the rows are read: what changes during the read is touched again, and read the next time.
    let touched = app.index.take_touched();
    let (unreadable, freed) = match read(app, &touched).await {
        Ok(read) => read,
        Err(error) => {
            // All of it is given back, whatever was read already: reading a row twice is right, and not at
            // all would be wrong.
            app.index.touch(touched.jobs);
            app.index.touch_unsure(touched.unsure);
            app.index.touch_succeeded(touched.succeeded);
            if touched.workers {
                app.index.touch_workers();
            }
            if touched.projects {
                app.index.touch_projects();
            }
            return Err(error);
        }
    };
    lifecycle::fail_unreadable(app, unreadable).await?;
    lifecycle::reuse(app, &touched.jobs, freed).await
}

/// Returns jobs that cannot be read, with why, and jobs whose twin has left its step.
async fn read(app: &App, touched: &Touched) -> Result<(Vec<(JobId, String)>, Vec<JobId>)> {
    let mut freed = Vec::new();
    if !touched.succeeded.is_empty() {
        let mut open = app.index.open();
        open.learn_lengths(&touched.succeeded, app.clock.now());
        freed = open.replace(&touched.succeeded, Vec::new());
        open.replace_held(&touched.succeeded, Vec::new());
    }
    if !touched.workers && !touched.projects && touched.jobs.is_empty() {
        return Ok((Vec::new(), freed));
    }
    if !touched.unsure.is_empty() {
        await_end_of_placing(app, &touched.unsure).await?;
    }
    let mut conn = app.db.read().await?;
    if touched.projects {
        projects(app, &mut conn).await?;
    }
    if touched.workers {
        // All workers: they are few, and a name or a seat may have gone from one to another.
        let workers = workers::list_workers(&mut conn, WhichWorkers::Known).await?;
        app.index.open().workers = workers;
    }
    if touched.jobs.is_empty() {
        return Ok((Vec::new(), freed));
    }
    let ids: Vec<JobId> = touched.jobs.iter().copied().collect();
    let read = read_open(app, &mut conn, Which::Of(&ids)).await?;
    // A job that neither held devices before nor runs now holds none; one that may have been placed since may have ended.
    let may_hold = !touched.unsure.is_empty()
        || read.jobs.iter().any(|job| job.is_running)
        || app.index.open().holds_any(&touched.jobs);
    let held = if may_hold {
        Some(open::list_held_ranks(&mut conn, Which::Of(&ids)).await?)
    } else {
        None
    };
    // An array may have elements that are to come and none that is open: no row says so.
    let rows: BTreeSet<JobId> = read.jobs.iter().map(|job| job.id).collect();
    let arrays: Vec<JobId> = ids.into_iter().filter(|id| !rows.contains(id)).collect();
    let to_come = if arrays.is_empty() {
        Vec::new()
    } else {
        elements::list_to_come(&mut conn, Which::Of(&arrays)).await?
    };
    let mut open = app.index.open();
    freed.extend(open.replace(&touched.jobs, read.jobs));
    for (array, left) in to_come {
        open.set_to_come(array, left);
    }
    if let Some(held) = held {
        open.replace_held(&touched.jobs, held);
    }
    Ok((read.unreadable, freed))
}

/// Comes back when no transaction that placed these jobs is open any more: it has locked their pipelines until its end,
/// whoever lost sight of it.
async fn await_end_of_placing(
    app: &App,
    unsure: &BTreeSet<JobId>,
) -> std::result::Result<(), StoreError> {
    let jobs: Vec<JobId> = unsure.iter().copied().collect();
    let mut tx = app.db.write("placed or not").await?;
    let of = transitions::list_pipelines_of_jobs(&mut tx, &jobs).await?;
    pipelines::lock_pipelines(&mut tx, &of).await
}

/// Reads the projects, their quotas and what is stored of their use.
async fn projects(app: &App, conn: &mut Conn) -> std::result::Result<(), StoreError> {
    let keep_from = Accounts::keep_from(app.clock.now());
    let counted_to = projects::get_counted_to(conn).await?;
    let hours = projects::list_hours(conn, keep_from).await?;
    let projects = projects::list_projects(conn).await?;
    let mut open = app.index.open();
    open.accounts.load(projects, hours, counted_to);
    Ok(())
}

/// Open jobs as they were read.
struct Read {
    jobs: Vec<OpenJob>,
    unreadable: Vec<(JobId, String)>,
}

/// Reads open jobs, and the specs of arrays whose elements are met for the first time.
async fn read_open(
    app: &App,
    conn: &mut Conn,
    which: Which<'_>,
) -> std::result::Result<Read, StoreError> {
    let mut unreadable: BTreeMap<JobId, String> = BTreeMap::new();
    let mut jobs = Vec::new();
    for row in open::list_open_jobs(conn, which).await? {
        match row {
            Err((id, why)) => {
                unreadable.insert(id, why);
            }
            Ok(job) => {
                if let Some(Err(why)) = &job.spec {
                    unreadable.insert(job.id, why.clone());
                }
                jobs.push(job);
            }
        }
    }
    let needs_array = |job: &OpenJob| job.element.filter(|_| job.spec.is_none());
    let arrays: BTreeSet<JobId> = {
        let open = app.index.open();
        let arrays = jobs.iter().filter_map(needs_array).map(|(array, _)| array);
        arrays.filter(|array| !open.knows_spec(*array)).collect()
    };
    if !arrays.is_empty() {
        let arrays: Vec<JobId> = arrays.into_iter().collect();
        let mut learnt: Vec<(JobId, JobSpec)> = Vec::new();
        for (array, spec) in open::list_specs(conn, &arrays).await? {
            match spec {
                Ok(spec) => learnt.push((array, spec)),
                Err(why) => {
                    unreadable.insert(array, why);
                }
            }
        }
        let mut open = app.index.open();
        for (array, spec) in learnt {
            open.learn_spec(array, spec);
        }
    }
    Ok(Read {
        jobs,
        unreadable: unreadable.into_iter().collect(),
    })
}

/// Reads everything, says what the index had not known, and takes it over: at start, on taking over from
/// another coordinator, and now and then.
pub(super) async fn everything(app: &App) -> Result<()> {
    // An empty index lacks everything, which is no finding.
    let is_first = app.index.open().workers.is_empty();
    let mut conn = app.db.read().await?;
    projects(app, &mut conn).await?;
    let workers = workers::list_workers(&mut conn, WhichWorkers::Known).await?;
    let read = read_open(app, &mut conn, Which::All).await?;
    let held = open::list_held_ranks(&mut conn, Which::All).await?;
    let to_come = elements::list_to_come(&mut conn, Which::All).await?;
    if app.index.open().lengths.is_empty() {
        let lengths = forecasts::list_lengths(&mut conn, LENGTHS_LOOKED_AT).await?;
        let mut open = app.index.open();
        for took in lengths {
            let step = Step {
                project: took.project,
                name: took.name,
                kind: took.kind,
                ranks: took.ranks,
            };
            open.lengths.learn(step, took.length);
        }
    }
    drop(conn);
    // What is touched by now may have been read before or after its change.
    let touched = app.index.touched();
    let unread = &touched.jobs | &touched.succeeded;
    let differences = {
        let mut open = app.index.open();
        open.workers = workers;
        let differences = open.reconcile(read.jobs, held, &unread);
        open.renew_lengths();
        open.set_all_to_come(to_come);
        differences
    };
    if !differences.is_empty() && !is_first {
        tracing::warn!(
            count = differences.len(),
            first = ?&differences[..differences.len().min(DIFFERENCES_NAMED_MAX)],
            "what is in memory was not what is in Postgres; read anew"
        );
    }
    lifecycle::fail_unreadable(app, read.unreadable).await?;
    let queued: BTreeSet<JobId> = app.index.open().queue.iter().map(|job| job.job).collect();
    lifecycle::reuse(app, &queued, Vec::new()).await
}
