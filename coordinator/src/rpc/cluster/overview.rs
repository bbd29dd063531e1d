//! How the cluster is now.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;
use marquee_domain::resources::Device;
use marquee_domain::users::Role;
use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use marquee_store::jobs::{self, JobFilter};
use marquee_store::listing::{self, Wanted};
use marquee_store::workers::WorkerState;

use crate::app::App;
use crate::background::hosts;
use crate::caller::Caller;
use crate::lifecycle::LifecycleError;
use crate::rpc::jobs::{encode, reasons};
use crate::scheduler::{Explainer, Host, Line};

/// An overview that has not changed is sent again after so long.
pub(super) const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(5);
/// Ended jobs are counted for so long.
const ENDED_WITHIN: TimeDelta = TimeDelta::hours(24);
const REASONS_MAX: usize = 20;
const JOBS_SHOWN: u32 = 20;

/// Looks at rows for the jobs, and at the index for what is asked every second of a queue of any length.
pub(super) async fn look(app: &App, caller: &Caller) -> Result<v1::Overview, LifecycleError> {
    let now = app.clock.now();
    let seen = caller.projects(Role::Viewer);
    let mut conn = app.db.read().await?;
    let counts = listing::count_jobs(&mut conn, now - ENDED_WITHIN).await?;
    let newest = listing::find_newest_id(&mut conn).await?;
    let ended = listing::list_ended_ids(&mut conn, seen.as_deref(), JOBS_SHOWN).await?;
    let running = JobFilter {
        states: Some(vec![JobStateName::Running]),
        projects: seen.clone(),
        ..JobFilter::default()
    };
    let running =
        listing::list_job_ids(&mut conn, &running, &Wanted::default(), JOBS_SHOWN as usize).await?;
    let shown: Vec<JobId> = running.iter().chain(&ended).copied().collect();
    // Among many, one whose row cannot be read is left out, and logged: the overview is how a person finds it.
    let filter = JobFilter {
        among: Some(shown),
        ..JobFilter::default()
    };
    let shown = jobs::list_jobs(&mut conn, &filter, usize::MAX).await?;
    drop(conn);

    let shown: BTreeMap<i64, v1::Job> = reasons::with_reasons(app, shown)
        .into_iter()
        .map(|job| (job.id, job))
        .collect();
    let of = |ids: &[JobId]| {
        ids.iter()
            .filter_map(|id| shown.get(&id.0).cloned())
            .collect()
    };
    let (ended, running) = (of(&ended), of(&running));
    let standby = app.role.standby();
    let states = counts.into_iter().map(|(state, jobs)| v1::StateCount {
        state: v1::JobState::from(state).into(),
        jobs,
    });
    Ok(v1::Overview {
        now: Some(timestamp(now)),
        version: env!("CARGO_PKG_VERSION").into(),
        cluster_id: app.cluster.to_string(),
        safe_mode: app
            .walls
            .safe_mode
            .as_deref()
            .unwrap_or_default()
            .to_owned(),
        jobs: states.collect(),
        newest_job_id: newest.map_or(0, |id| id.0),
        running,
        ended,
        caller: caller.to_string(),
        forecasts: app.index.plays.accuracy().map(encode::accuracy),
        stands_by: standby.is_some(),
        leader: standby
            .and_then(|standby| standby.leader)
            .unwrap_or_default(),
        ..in_memory(app, now, seen.as_deref())
    })
}

/// The queue and the devices, as the scheduler sees them. Why jobs wait is told of these projects alone, where some are
/// named; how many there are is no secret.
fn in_memory(app: &App, now: DateTime<Utc>, seen: Option<&[String]>) -> v1::Overview {
    let open = app.index.open();
    let hosts: Vec<Host> = hosts(&open, &app.sessions, now);
    let limits = open.limits(now);
    let shape_of = |job| Some(open.job(job)?.shape);
    let explainer = Explainer::new(&hosts, &limits, &open.reservations, shape_of, now);
    let mut lines: BTreeMap<Line, (u32, JobId)> = BTreeMap::new();
    let mut delayed: Option<(u32, JobId)> = None;
    let is_seen = |project| {
        seen.is_none_or(|seen| {
            let account = open.accounts.of(project);
            account.is_some_and(|account| seen.contains(&account.name))
        })
    };
    let jobs = open.queue.iter().map(|pending| (pending, 1));
    let mut queued = 0_u32;
    for (pending, jobs) in jobs.chain(open.queued_to_come()) {
        queued = queued.saturating_add(jobs);
        if !is_seen(pending.project) {
            continue;
        }
        // One that backs off waits for its time, whatever others of its line wait for.
        let backs_off = pending.not_before.is_some_and(|until| until > now);
        let (count, example) = if backs_off {
            delayed.get_or_insert((0, pending.job))
        } else {
            // Explained once for each line: its jobs wait for the same, however many they are.
            lines.entry(pending.line()).or_insert((0, pending.job))
        };
        *count += jobs;
        *example = (*example).min(pending.job);
    }
    // Lines may wait for the same thing in the same words.
    let mut reasons: BTreeMap<String, (u32, JobId)> = BTreeMap::new();
    let explained = lines.into_iter().map(|(line, jobs)| {
        let why = match explainer.quota(line) {
            Some(hit) => Some(format!("its project has what it may have: {}", hit.words())),
            None => explainer.explain(line),
        };
        (
            why.unwrap_or_else(|| "is placed in the next round".into()),
            jobs,
        )
    });
    let delayed = delayed.map(|jobs| {
        (
            "waits out a back-off after a failed attempt".to_owned(),
            jobs,
        )
    });
    for (why, (jobs, example)) in explained.chain(delayed) {
        let (count, first) = reasons.entry(why).or_insert((0, example));
        *count += jobs;
        *first = (*first).min(example);
    }
    let mut queue: Vec<v1::QueueReason> = reasons
        .into_iter()
        .map(|(text, (jobs, example))| v1::QueueReason {
            text,
            jobs,
            example_job_id: example.0,
        })
        .collect();
    queue.sort_by_key(|reason| std::cmp::Reverse(reason.jobs));
    queue.truncate(REASONS_MAX);
    let state = |wanted| {
        let of = open.workers.iter().filter(|worker| worker.state == wanted);
        u32::try_from(of.count()).unwrap_or(u32::MAX)
    };
    let (cpus, gpus) = devices(&hosts, now);
    let (idle_jobs, idle_gpus) = open.idle();
    v1::Overview {
        idle_jobs,
        idle_gpus,
        queue,
        queued,
        workers_online: state(WorkerState::Online),
        workers_lost: state(WorkerState::Lost),
        cpus: Some(cpus),
        gpus: Some(gpus),
        ..v1::Overview::default()
    }
}

/// CPU devices and GPUs of all hosts.
pub(crate) fn devices(hosts: &[Host], now: DateTime<Utc>) -> (v1::DeviceCount, v1::DeviceCount) {
    let (mut cpus, mut gpus) = (v1::DeviceCount::default(), v1::DeviceCount::default());
    for host in hosts {
        let takes_work = host.accepting && !host.is_in_window(now);
        let held = |device: &Device| {
            host.running
                .iter()
                .any(|held| held.devices.contains(device))
        };
        for device in &host.devices {
            let (count, is_well) = match device {
                Device::Cpu { .. } => (&mut cpus, true),
                Device::Gpu { index } => {
                    let fault = host.gpus.get(index).and_then(|gpu| gpu.closed());
                    (&mut gpus, fault.is_none())
                }
            };
            count.all += 1;
            // A device may be counted in both: a rank that was there before holds it, and nobody
            // else may have it.
            count.held += u32::from(held(device));
            count.closed += u32::from(!takes_work || !is_well);
        }
    }
    (cpus, gpus)
}
