//! How long the scheduler takes to decide, by the number of pending jobs. `cargo xtask bench dispatch`
//! builds and runs this and prints the figures. Each line of stdout is one as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use marquee_coordinator::scheduler::{
    self, Gpu, Group, Held, Host, Limits, Pending, ProjectId, Queue, RulesId, Shape,
};
use marquee_domain::ids::{JobId, WorkerId};
use marquee_domain::resources::{Device, DeviceKind};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use uuid::Uuid;

const HOSTS: u32 = 100;
const GPUS_A_HOST: u32 = 8;
const PENDING: [i64; 4] = [100, 1_000, 10_000, 100_000];
const ROUNDS: usize = 5;
/// What a round may take for `GOAL_PENDING` jobs.
const GOAL_MS: f64 = 50.0;
const GOAL_PENDING: i64 = 10_000;

fn main() -> Result<()> {
    let quick = std::env::args().any(|word| word == "--quick");
    let now = DateTime::from_timestamp(1_790_000_000, 0).context("a time")?;
    let (empty, full) = (hosts(0), hosts(GPUS_A_HOST));
    for count in PENDING {
        if quick && count > GOAL_PENDING {
            continue;
        }
        let pending: Queue = (1..=count).map(|id| job(id, now)).collect();
        for (what, hosts) in [("all free", &empty), ("all busy", &full)] {
            let (ms, wall_ms, placed, rounds) = measure(&pending, hosts, now)?;
            print(&json!({
                "name": format!("planner, {count} pending, {what}"),
                "value": ms, "unit": "CPU ms/round", "is_less_better": true, "reference": null,
                "goal": (count == GOAL_PENDING).then(|| json!({ "at_most": GOAL_MS })),
                "ran": format!(
                    "{HOSTS} hosts of {GPUS_A_HOST} GPUs, gangs of 1 to 16; {placed} placed; median of {rounds} rounds, \
                     {wall_ms:.1} ms by the clock"
                ),
            }));
        }
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the figures are data")]
fn print(line: &serde_json::Value) {
    println!("{line}");
}

/// Median milliseconds of this thread and of the clock, how many were placed, and how many rounds ran: one
/// where a round is long. The thread's own time is the same on a machine that is busy with other work.
fn measure(
    pending: &Queue,
    hosts: &[Host],
    now: DateTime<Utc>,
) -> Result<(f64, f64, usize, usize)> {
    let (mut cpu, mut wall) = (Vec::new(), Vec::new());
    let mut placed = 0;
    let limits = Limits::default();
    let start = Instant::now();
    while cpu.len() < ROUNDS && (cpu.is_empty() || start.elapsed().as_secs() < 10) {
        let (round, cpu_before) = (Instant::now(), thread_ms()?);
        // The optimiser must not see that each round plans the same.
        let plan = black_box(scheduler::plan(
            black_box(pending),
            black_box(hosts),
            &limits,
            now,
        ));
        cpu.push(thread_ms()? - cpu_before);
        wall.push(1e3 * round.elapsed().as_secs_f64());
        placed = plan.placements.len();
    }
    cpu.sort_by(f64::total_cmp);
    wall.sort_by(f64::total_cmp);
    let middle = cpu.len() / 2;
    Ok((cpu[middle], wall[middle], placed, cpu.len()))
}

/// Milliseconds that this thread has computed so far.
fn thread_ms() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(1e3 * Duration::from(time).as_secs_f64())
}

/// Jobs as a busy team has them: most want one GPU, some a gang, a few any device.
fn job(id: i64, now: DateTime<Utc>) -> Pending {
    let (ranks, device) = match id % 10 {
        0 => (16, DeviceKind::Gpu),
        1 | 2 => (4, DeviceKind::Gpu),
        3 => (1, DeviceKind::Any),
        _ => (1, DeviceKind::Gpu),
    };
    Pending {
        job: JobId(id),
        array: None,
        shape: Shape {
            ranks,
            device,
            devices_per_rank: 1,
            needs_trainer: id % 2 == 0,
            gpu_memory_mib: None,
            rules: RulesId::NONE,
            limit_s: None,
            expected_s: None,
        },
        priority: 0,
        project: ProjectId(0),
        group: Group::None,
        // None has waited so long that devices are held back for it.
        queued_at: now,
        not_before: None,
    }
}

/// Hosts on each of which a job holds the first `busy` GPUs.
fn hosts(busy: u32) -> Vec<Host> {
    let host = |index: u32| {
        let gpu = Gpu {
            name: "H100".into(),
            capability: (9, 0),
            memory_mib: 81_920,
            part: None,
            uuid: format!("GPU-{index}"),
            fault: None,
            quarantine: None,
        };
        let held = Held {
            // Beyond the numbers of all pending jobs.
            job: JobId(1_000_000 + i64::from(index)),
            devices: (0..busy).map(|index| Device::Gpu { index }).collect(),
            ends_at: None,
            is_measured: false,
        };
        Host {
            worker: WorkerId(Uuid::from_u128(u128::from(index) + 1)),
            name: format!("host-{index:03}"),
            accepting: true,
            closed: None,
            labels: BTreeSet::new(),
            window: None,
            devices: (0..GPUS_A_HOST)
                .map(|index| Device::Gpu { index })
                .collect::<BTreeSet<_>>(),
            gpus: (0..GPUS_A_HOST)
                .map(|index| (index, gpu.clone()))
                .collect::<BTreeMap<_, _>>(),
            flavour: "libtorch-2.11.0".into(),
            running: if busy > 0 { vec![held] } else { Vec::new() },
        }
    };
    (0..HOSTS).map(host).collect()
}
