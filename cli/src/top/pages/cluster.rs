//! Hosts and their GPUs.

use chrono::{DateTime, Utc};
use marquee_proto::v1::{self, Worker, WorkerState, device::Kind};
use marquee_view::gpus::Gpus;
use marquee_view::workers::Workers;
use marquee_view::{Page, Tone, units, words};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{MARGIN, empty, lines, list, pending};
use crate::top::grid::{Col, Grid, prose};
use crate::top::ink::Ink;
use crate::top::marks;
use crate::top::state::{App, Key};
use crate::top::text::said;

/// Bulbs of a host that are drawn one by one: a host of eight GPUs and its CPU slots.
const BULBS_MAX: u32 = 16;
const LOAD_BAR: usize = 8;

fn col(head: &'static str, min: usize, max: usize, keep: u8) -> Col {
    Col {
        head,
        min,
        max,
        right: false,
        keep,
    }
}

/// How many devices of one kind a host has, and how many of them are held or closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Devices {
    held: u32,
    closed: u32,
    all: u32,
}

fn devices(worker: &Worker) -> (Devices, Devices) {
    let (mut gpus, mut cpus) = (Devices::default(), Devices::default());
    let Some(host) = &worker.inventory else {
        return (gpus, cpus);
    };
    let is_held = |kind: Kind| {
        let mut held = worker.ranks.iter().flat_map(|rank| &rank.devices);
        held.any(|device| device.kind == Some(kind))
    };
    // A device that is held counts as held, also on a host that takes no new work: its job goes on.
    let takes_work = worker.state() == WorkerState::Online && worker.closed.is_empty();
    for gpu in &host.gpus {
        let reading = worker
            .gpus
            .iter()
            .find(|reading| reading.index == gpu.index);
        let quarantined = worker
            .quarantined_gpus
            .iter()
            .any(|other| other.index == gpu.index);
        let is_well = !quarantined && reading.is_none_or(|reading| reading.fault.is_empty());
        let held = is_held(Kind::Gpu(gpu.index));
        gpus.all += 1;
        gpus.held += u32::from(held);
        gpus.closed += u32::from(!(held || takes_work && is_well));
    }
    cpus.all = host.cpu_slots;
    let held = worker.ranks.iter().flat_map(|rank| &rank.devices);
    let held = held.filter(|device| matches!(device.kind, Some(Kind::Cpu(_))));
    cpus.held = u32::try_from(held.count()).unwrap_or(u32::MAX);
    if !takes_work {
        cpus.closed = cpus.all.saturating_sub(cpus.held);
    }
    (gpus, cpus)
}

fn bulbs(name: &'static str, of: Devices, ink: Ink) -> Vec<Span<'static>> {
    if of.all == 0 {
        return Vec::new();
    }
    let picture = if of.all <= BULBS_MAX {
        marks::bulbs(of.held, of.closed, of.all, ink)
    } else {
        format!("{}/{}", of.held, of.all)
    };
    vec![
        Span::styled(format!("{name} "), ink.tone(Tone::Faint)),
        Span::styled(format!("{picture} "), ink.tone(Tone::Busy)),
    ]
}

fn state(worker: &Worker, ink: Ink) -> Line<'static> {
    let (word, tone) = match worker.state() {
        WorkerState::Online if !worker.closed.is_empty() => ("closed", Tone::Warn),
        WorkerState::Online => ("online", Tone::Good),
        WorkerState::Lost => ("lost", Tone::Bad),
        WorkerState::Left | WorkerState::Unspecified => (words::worker_state(worker), Tone::Faint),
    };
    Line::styled(word, ink.tone(tone))
}

/// The jobs on a host, or why it takes none.
fn does(worker: &Worker) -> String {
    let faults = worker.gpus.iter().filter(|gpu| !gpu.fault.is_empty());
    let faults = faults.map(|gpu| format!("gpu {} {}", gpu.index, gpu.fault));
    let runs = worker
        .ranks
        .iter()
        .map(|rank| format!("{} {} rank {}", rank.job_id, rank.job_name, rank.rank));
    let closed = [&worker.closed, &worker.unreadable, &worker.rival];
    let closed = closed.into_iter().filter(|text| !text.is_empty()).cloned();
    // What keeps work away first: the end of the column may be cut off.
    let all: Vec<String> = closed.chain(faults).chain(runs).collect();
    said(&all.join("; "))
}

/// One line a host.
pub(super) fn short(workers: &[Worker], ink: Ink) -> Grid {
    let row = |worker: &Worker| {
        let (gpus, cpus) = devices(worker);
        let mut picture = bulbs("gpu", gpus, ink);
        picture.extend(bulbs("cpu", cpus, ink));
        vec![
            Line::styled(said(&worker.name), ink.tone(Tone::Strong)),
            state(worker, ink),
            Line::from(picture),
            Line::raw(does(worker)),
        ]
    };
    Grid {
        cols: vec![
            col("HOST", 8, 24, 9),
            col("STATE", 6, 6, 8),
            col("DEVICES", 10, 48, 7),
            col("RUNS", 8, 120, 5),
        ],
        rows: workers.iter().map(row).collect(),
    }
}

pub(super) fn hosts(app: &mut App, buf: &mut Buffer, area: Rect, now: DateTime<Utc>) {
    let Some(workers) = app.facts.workers.clone() else {
        pending(app, buf, area);
        return;
    };
    if workers.is_empty() {
        let rest = [
            "Each host runs marquee-worker, which needs nothing but the coordinator's address.",
            "On this machine \"marquee up\" starts it.",
        ];
        empty(buf, area, app.ink, "No host has come yet.", &rest);
        return;
    }
    let ink = app.ink;
    let mut grid = short(&workers, ink);
    // Both at one place, the one that is to stand behind first; the cells of each row follow in the
    // same order.
    let before_runs = 3;
    grid.cols.insert(
        before_runs,
        Col {
            right: true,
            ..col("SEEN", 4, 9, 2)
        },
    );
    grid.cols.insert(
        before_runs,
        Col {
            right: true,
            ..col("MEMORY", 6, 10, 1)
        },
    );
    for (row, worker) in grid.rows.iter_mut().zip(&workers) {
        let seen = units::time(worker.last_seen_at.as_ref());
        let seen = seen
            .map(|at| units::about(units::between(at, now)))
            .unwrap_or_default();
        let memory = worker
            .inventory
            .as_ref()
            .map_or(0, |host| host.memory_bytes);
        row.insert(before_runs, Line::raw(seen));
        row.insert(before_runs, Line::raw(units::bytes(memory)));
    }
    let room = usize::from(area.width).saturating_sub(MARGIN);
    let (head, rows) = grid.lines(room, ink);
    let keys = workers.iter().map(|worker| Key::Host(worker.name.clone()));
    let chosen = app.offer(keys.collect());
    list(app, buf, area, head, rows, chosen);
}

pub(super) fn gpus(app: &mut App, buf: &mut Buffer, area: Rect, now: DateTime<Utc>) {
    let Some(workers) = app.facts.workers.clone() else {
        pending(app, buf, area);
        return;
    };
    let all: Vec<(&Worker, &v1::Gpu)> = workers
        .iter()
        .flat_map(|worker| {
            let gpus = worker.inventory.iter().flat_map(|host| &host.gpus);
            gpus.map(move |gpu| (worker, gpu))
        })
        .collect();
    if all.is_empty() {
        let rest = ["CPU devices are with their hosts, under 3."];
        empty(buf, area, app.ink, "No host has a GPU.", &rest);
        return;
    }
    let ink = app.ink;
    let grid = Grid {
        cols: vec![
            col("HOST", 8, 20, 9),
            Col {
                right: true,
                ..col("GPU", 3, 3, 8)
            },
            col("UTIL", 14, 14, 7),
            Col {
                right: true,
                ..col("MEMORY", 16, 20, 6)
            },
            Col {
                right: true,
                ..col("POWER", 5, 7, 3)
            },
            Col {
                right: true,
                ..col("TEMP", 4, 5, 4)
            },
            col("HEALTH", 6, 40, 5),
            col("NAME", 6, 24, 1),
            col("RUNS", 6, 60, 2),
        ],
        rows: all
            .iter()
            .map(|(worker, gpu)| gpu_row(worker, gpu, ink, now))
            .collect(),
    };
    let room = usize::from(area.width).saturating_sub(MARGIN);
    let (head, rows) = grid.lines(room, ink);
    let keys = all
        .iter()
        .map(|(worker, gpu)| Key::Gpu(worker.name.clone(), gpu.index));
    let chosen = app.offer(keys.collect());
    list(app, buf, area, head, rows, chosen);
}

fn gpu_row(worker: &Worker, gpu: &v1::Gpu, ink: Ink, now: DateTime<Utc>) -> Vec<Line<'static>> {
    let reading = worker
        .gpus
        .iter()
        .find(|reading| reading.index == gpu.index);
    let reading = reading.cloned().unwrap_or_default();
    let load = match reading.utilisation_percent {
        Some(percent) => Line::from(vec![
            Span::styled(
                marks::bar(percent.into(), 100, LOAD_BAR, ink),
                ink.tone(Tone::Busy),
            ),
            Span::raw(format!(" {percent:>3} %")),
        ]),
        None => Line::raw("-"),
    };
    let memory = match (reading.memory_used_bytes, reading.memory_total_bytes) {
        (Some(used), Some(total)) => format!("{} of {}", gib(used), units::bytes(total)),
        _ => units::bytes(gpu.memory_bytes),
    };
    let is_hot = |celsius: u32| {
        reading
            .slowdown_temperature_c
            .is_some_and(|limit| celsius >= limit)
    };
    let heat = match reading.temperature_c {
        Some(celsius) if is_hot(celsius) => {
            Line::styled(format!("{celsius} C"), ink.tone(Tone::Bad))
        }
        Some(celsius) => Line::raw(format!("{celsius} C")),
        None => Line::raw("-"),
    };
    let power = reading
        .power_mw
        .map_or("-".to_owned(), |mw| format!("{} W", mw / 1_000));
    let (health, tone) = health(worker, gpu.index, &reading, now);
    let here = Kind::Gpu(gpu.index);
    let runs = worker
        .ranks
        .iter()
        .filter(|rank| rank.devices.iter().any(|device| device.kind == Some(here)))
        .map(|rank| format!("{} {} rank {}", rank.job_id, rank.job_name, rank.rank));
    // All of them begin so: the word would take the room of what tells them apart.
    let name = gpu.name.strip_prefix("NVIDIA ").unwrap_or(&gpu.name);
    vec![
        Line::styled(said(&worker.name), ink.tone(Tone::Strong)),
        Line::raw(gpu.index.to_string()),
        load,
        Line::raw(memory),
        Line::raw(power),
        heat,
        Line::styled(said(&health), ink.tone(tone)),
        Line::styled(said(name), ink.tone(Tone::Faint)),
        Line::raw(said(&runs.collect::<Vec<_>>().join("; "))),
    ]
}

/// Readings beyond this age say nothing of now: three of them are missing.
const OLD_S: u64 = 15;

fn health(
    worker: &Worker,
    index: u32,
    reading: &v1::GpuReading,
    now: DateTime<Utc>,
) -> (String, Tone) {
    // First: what a worker said of its GPUs before it went says nothing of now.
    if worker.state() != WorkerState::Online {
        return (
            format!("worker {}", words::worker_state(worker)),
            Tone::Faint,
        );
    }
    if !reading.fault.is_empty() {
        return (reading.fault.clone(), Tone::Bad);
    }
    if worker
        .quarantined_gpus
        .iter()
        .any(|other| other.index == index)
    {
        return ("in quarantine".to_owned(), Tone::Warn);
    }
    match units::time(reading.at.as_ref()).map(|at| units::between(at, now)) {
        None => ("not read yet".to_owned(), Tone::Faint),
        Some(age) if age.as_secs() >= OLD_S => {
            (format!("read {} ago", units::about(age)), Tone::Warn)
        }
        Some(_) => ("healthy".to_owned(), Tone::Good),
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 30))
}

/// All that is known of one host.
pub(super) fn host(app: &mut App, buf: &mut Buffer, area: Rect, now: DateTime<Utc>, name: &str) {
    let Some(workers) = &app.facts.workers else {
        pending(app, buf, area);
        return;
    };
    let here: Vec<Worker> = workers
        .iter()
        .filter(|worker| worker.name == name)
        .cloned()
        .collect();
    if here.is_empty() {
        empty(buf, area, app.ink, "This host said goodbye.", &[]);
        return;
    }
    let room = usize::from(area.width).saturating_sub(1);
    let mut text = prose(&Page::of(&Workers(&here), now), room, app.ink);
    let gpus = Page::of(&Gpus(&here), now);
    if !gpus.blocks().is_empty() {
        text.push(Line::raw(""));
        text.extend(prose(&gpus, room, app.ink));
    }
    scrolled(app, buf, area, text);
}

/// A page of text from the line on to which the user has gone.
pub(super) fn scrolled(app: &mut App, buf: &mut Buffer, area: Rect, text: Vec<Line<'static>>) {
    let last = text.len().saturating_sub(usize::from(area.height));
    app.last_top = last;
    let seat = app.seat_mut();
    seat.top = seat.top.min(last);
    let top = seat.top;
    let more = text.len().saturating_sub(top + usize::from(area.height));
    let mut shown: Vec<Line<'static>> = text
        .into_iter()
        .skip(top)
        .take(usize::from(area.height))
        .map(|mut line| {
            line.spans.insert(0, Span::raw(" "));
            line
        })
        .collect();
    if more > 0
        && let Some(line) = shown.last_mut()
    {
        // The line that says so hides one more.
        let words = format!(" {} {} more lines", app.ink.mark("↓", "v"), more + 1);
        *line = Line::styled(words, app.ink.tone(Tone::Faint));
    }
    lines(buf, area, shown);
}
