//! Places queued jobs, and stores for each of the others why it waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use marquee_domain::ids::WorkerId;
use marquee_domain::job::JobStateName;
use marquee_domain::resources::{Device, GpuInfo, Inventory};
use marquee_domain::spec::JobKind;
use marquee_proto::v1;
use marquee_store::jobs::{self, QueuedJob};
use marquee_store::ranks::{self, HeldDevices};
use marquee_store::transitions;
use marquee_store::workers::{self, Worker, WorkerState};

use super::Pace;
use crate::app::App;
use crate::lifecycle::{self, Result};
use crate::scheduler::{self, Gpu, Held, Host, Pending};
use crate::session::Sessions;

/// Queued jobs looked at in one round, the first by priority and age: a cluster of 1,600 devices
/// cannot start more.
const PENDING_MAX: usize = 10_000;

pub(super) async fn run(app: App) {
    let mut pace = Pace::new("schedule", app.settings.poll_every);
    loop {
        let round = round(&app).await;
        // A failed round is progress too: Postgres may be away, and a restart would not bring it.
        crate::systemd::alive();
        let pause = pace.after(&round);
        // The end of the earliest back-off comes before the next poll.
        let due = round.ok().flatten().map_or(pause, |due| due.min(pause));
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = app.wake.notified() => {}
            () = tokio::time::sleep(due) => {}
        }
    }
}

/// One round. Returns how long until the earliest back-off ends, where a job is in one.
async fn round(app: &App) -> Result<Option<Duration>> {
    let mut conn = app.db.read().await?;
    let queued = jobs::list_queued_jobs(&mut conn, PENDING_MAX).await?;
    if queued.is_empty() {
        return Ok(None);
    }
    let workers = workers::list_workers(&mut conn).await?;
    drop(conn);
    let queued = lifecycle::reuse(app, queued, &workers).await?;
    // After the looks above, so that what ended meanwhile counts as free.
    let mut conn = app.db.read().await?;
    let held = ranks::list_held_devices(&mut conn).await?;
    drop(conn);

    let now = app.clock.now();
    let pending: Vec<Pending> = queued.iter().map(pending).collect();
    let hosts = hosts(&workers, &held, &app.sessions);
    let plan = scheduler::place(&pending, &hosts, now);

    let by_id: BTreeMap<_, &QueuedJob> = queued.iter().map(|job| (job.id, job)).collect();
    let names = workers.iter().map(|w| (w.id, w.name.clone())).collect();
    let mut twins = lifecycle::Twins::default();
    for placement in &plan.placements {
        let Some(job) = by_id.get(&placement.job) else {
            continue;
        };
        if let Some(first) = twins.first_of(job) {
            lifecycle::keep_back(app, job, first).await?;
            continue;
        }
        match lifecycle::place(app, job, placement, &names).await {
            Ok(()) => {}
            // Cancelled since we read it.
            Err(error) if error.is_stale() => tracing::debug!(job = %job.id, "placement overtaken"),
            Err(error) => return Err(error),
        }
    }
    for waiting in &plan.waiting {
        let unchanged = by_id
            .get(&waiting.job)
            .is_none_or(|job| job.reason == waiting.reason);
        if unchanged {
            continue;
        }
        let (job, reason) = (waiting.job, &waiting.reason);
        let mut tx = app.db.write("reason").await?;
        let is_new = transitions::mark_reason(&mut tx, job, JobStateName::Queued, reason).await?;
        tx.commit().await?;
        if is_new {
            let _ = app.changes.send(job);
        }
    }
    let due = queued
        .iter()
        .filter_map(|job| job.not_before)
        .filter(|due| *due > now)
        .min();
    Ok(due.and_then(|due| (due - now).to_std().ok()))
}

fn pending(job: &QueuedJob) -> Pending {
    Pending {
        job: job.id,
        name: job.spec.name.clone(),
        resources: job.spec.resources.clone(),
        needs_trainer: match job.spec.work.kind() {
            JobKind::Train | JobKind::Eval => true,
            JobKind::Fetch | JobKind::Preprocess | JobKind::Command => false,
        },
        priority: job.spec.priority,
        queued_at: job.queued_at,
        not_before: job.not_before,
    }
}

/// The hosts that have devices, or whose devices are held. A worker that left offers none.
fn hosts(workers: &[Worker], held: &[HeldDevices], sessions: &Sessions) -> Vec<Host> {
    let mut running: BTreeMap<WorkerId, Vec<Held>> = BTreeMap::new();
    for rank in held {
        let on_host = Held {
            job: rank.key.job,
            devices: rank.devices.clone(),
        };
        running.entry(rank.worker).or_default().push(on_host);
    }
    let here = workers.iter().filter(|worker| match worker.state {
        WorkerState::Online | WorkerState::Lost => true,
        WorkerState::Left => false,
    });
    here.map(|worker| Host {
        worker: worker.id,
        name: worker.name.clone(),
        accepting: worker.state == WorkerState::Online && sessions.is_connected(worker.id),
        devices: devices(&worker.inventory),
        gpus: gpus(&worker.inventory, &sessions.gpus(worker.id)),
        flavour: worker.inventory.flavour.clone(),
        running: running.remove(&worker.id).unwrap_or_default(),
    })
    .collect()
}

fn devices(inventory: &Inventory) -> BTreeSet<Device> {
    let slots = (0..inventory.cpu_slots).map(|index| Device::Cpu { index });
    let gpus = inventory
        .gpus
        .iter()
        .map(|gpu| Device::Gpu { index: gpu.index });
    slots.chain(gpus).collect()
}

/// The host's GPUs with what they said last.
fn gpus(inventory: &Inventory, readings: &[v1::GpuReading]) -> BTreeMap<u32, Gpu> {
    let fault = |index: u32| {
        let reading = readings.iter().find(|reading| reading.index == index)?;
        let is_ill = !reading.fault.is_empty();
        is_ill.then(|| format!("{}: {}", reading.fault, reading.cure))
    };
    let gpu = |gpu: &GpuInfo| Gpu {
        name: gpu.name.clone(),
        capability: gpu.compute_capability,
        fault: fault(gpu.index),
    };
    inventory.gpus.iter().map(|g| (g.index, gpu(g))).collect()
}
