//! The hosts as the scheduler sees them: their rows, their sessions and what ranks hold on them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use marquee_domain::gpu::GpuReading;
use marquee_domain::limits::HOST_DEVICES_MAX;
use marquee_domain::resources::{Device, GpuInfo, Inventory};
use marquee_store::workers::{Worker, WorkerState};

use crate::index::Open;
use crate::scheduler::{Gpu, Held, Host, Window};
use crate::session::Sessions;

/// The hosts that are here or may come back. One whose inventory cannot be read offers nothing.
pub fn hosts(open: &Open, sessions: &Sessions, now: DateTime<Utc>) -> Vec<Host> {
    let here = open.workers.iter().filter(|worker| match worker.state {
        WorkerState::Online | WorkerState::Lost => true,
        WorkerState::Left => false,
    });
    here.filter_map(|worker| {
        let inventory = worker.inventory.as_ref().ok()?;
        Some(host(open, sessions, worker, inventory, now))
    })
    .collect()
}

fn host(
    open: &Open,
    sessions: &Sessions,
    worker: &Worker,
    inventory: &Inventory,
    now: DateTime<Utc>,
) -> Host {
    let running = open.held_on(worker.id).map(|(key, devices)| {
        let end = open.planned_end(key.job, now);
        Held {
            job: key.job,
            devices: devices.clone(),
            ends_at: end.map(|(at, _)| at),
            is_measured: end.is_some_and(|(_, is_measured)| is_measured),
        }
    });
    // Closed: what an operator decided was not for nothing, even if nobody can read it any more.
    let closed = match &worker.standing {
        Ok(standing) => standing.closed(),
        Err(why) => Some(format!(
            "takes no work, for what was decided about it cannot be read: {why}"
        )),
    };
    Host {
        worker: worker.id,
        name: worker.name.clone(),
        accepting: worker.state == WorkerState::Online
            && closed.is_none()
            && sessions.takes_ranks(worker.id),
        closed,
        devices: devices(inventory),
        gpus: gpus(inventory, worker, &sessions.gpus(worker.id)),
        flavour: inventory.flavour.clone(),
        labels: inventory.labels.clone(),
        window: worker
            .standing
            .as_ref()
            .ok()
            .and_then(|standing| standing.window(now))
            .map(|window| Window {
                from: window.from,
                until: window.until,
                words: window.words(now),
            }),
        running: running.collect(),
    }
}

/// What a host offers, within bounds: memory must not follow from a number that a worker made up.
fn devices(inventory: &Inventory) -> BTreeSet<Device> {
    let slots = (0..inventory.cpu_slots.min(HOST_DEVICES_MAX)).map(|index| Device::Cpu { index });
    let gpus = inventory
        .gpus
        .iter()
        .map(|gpu| Device::Gpu { index: gpu.index });
    slots.chain(gpus).collect()
}

/// The host's GPUs with what they said last.
fn gpus(inventory: &Inventory, worker: &Worker, readings: &[GpuReading]) -> BTreeMap<u32, Gpu> {
    let standing = worker.standing.as_ref().ok();
    let name = &worker.name;
    let quarantine = |index: u32, uuid: &str| {
        let decided = standing?.gpu(index, uuid)?;
        Some(format!(
            "{decided}; \"marquee burn-in {name}/{index}\" tests it, and \"marquee quarantine {name}/{index} --lift\" ends that"
        ))
    };
    let fault = |index: u32| {
        let reading = readings.iter().find(|reading| reading.index == index)?;
        let is_ill = !reading.fault.is_empty();
        is_ill.then(|| format!("{}: {}", reading.fault, reading.cure))
    };
    let gpu = |gpu: &GpuInfo| Gpu {
        name: gpu.name.clone(),
        capability: gpu.compute_capability,
        memory_mib: u32::try_from(gpu.memory_bytes >> 20).unwrap_or(u32::MAX),
        part: gpu.part.map(|part| part.kind),
        uuid: gpu.uuid.clone(),
        // A part is closed with its GPU.
        fault: fault(gpu.index).or_else(|| fault(gpu.part?.of)),
        quarantine: quarantine(gpu.index, &gpu.uuid).or_else(|| quarantine(gpu.part?.of, "")),
    };
    inventory.gpus.iter().map(|g| (g.index, gpu(g))).collect()
}
