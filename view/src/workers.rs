//! The hosts that take work, one row each.

use chrono::{DateTime, Utc};
use marquee_proto::v1::{self, Worker};
use prost_types::Timestamp;
use serde_json::Value;

use crate::page::{Cell, Page, Tone, View, left, right, toned};
use crate::{json, units, words};

/// A listing of workers.
#[derive(Debug)]
pub struct Workers<'a>(pub &'a [Worker]);

impl View for Workers<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        if self.0.is_empty() {
            return;
        }
        let heads = [
            left("NAME"),
            left("STATE"),
            right("SEEN"),
            left("DEVICES"),
            right("BUSY"),
            right("MEMORY"),
            left("FLAVOUR"),
            left("RUNS"),
        ];
        page.table(
            heads,
            self.0.iter().map(|worker| row(worker, now)).collect(),
        );
        for worker in self.0 {
            for trouble in [&worker.unreadable, &worker.rival] {
                if !trouble.is_empty() {
                    page.line(format!("{}: {trouble}", worker.name));
                }
            }
            if !worker.closed.is_empty() {
                page.line(format!("{} {}", worker.name, worker.closed));
            }
            for gpu in &worker.quarantined_gpus {
                page.line(format!(
                    "gpu {} of {} is {}",
                    gpu.index, worker.name, gpu.reason
                ));
            }
            for window in &worker.windows {
                page.line(format!("{} {}", worker.name, window.words));
            }
            let labels = worker.inventory.as_ref().map(|host| host.labels.join(", "));
            if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
                page.line(format!("{} has the labels {labels}", worker.name));
            }
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        self.0.iter().map(json::worker).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.iter().map(|worker| worker.name.clone()).collect()
    }
}

/// The maintenance windows of workers.
#[derive(Debug)]
pub struct Windows<'a>(pub &'a [Worker]);

impl Windows<'_> {
    fn all(&self) -> impl Iterator<Item = (&str, &v1::MaintenanceWindow)> {
        self.0.iter().flat_map(|worker| {
            let windows = worker.windows.iter();
            windows.map(|window| (worker.name.as_str(), window))
        })
    }
}

impl View for Windows<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        let heads = [
            left("WORKER"),
            right("NUMBER"),
            left("FROM"),
            left("UNTIL"),
            left("SET BY"),
            left("REASON"),
        ];
        let clock = |at: Option<&Timestamp>| {
            units::time(at)
                .map(|at| at.format("%Y-%m-%d %H:%M UTC").to_string())
                .unwrap_or_default()
        };
        let row = |(name, window): (&str, &v1::MaintenanceWindow)| {
            let has_begun = units::time(window.from.as_ref()).is_some_and(|from| from <= now);
            let tone = if has_begun { Tone::Strong } else { Tone::Plain };
            vec![
                toned(name, Tone::Strong),
                window.number.to_string().into(),
                toned(clock(window.from.as_ref()), tone),
                clock(window.until.as_ref()).into(),
                window.by.clone().into(),
                window.reason.clone().into(),
            ]
        };
        let rows: Vec<Vec<Cell>> = self.all().map(row).collect();
        if rows.is_empty() {
            page.line("No host has a maintenance window; \"marquee window add\" sets one.");
        } else {
            page.table(heads, rows);
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        let windows = self.all().map(|(name, window)| {
            let mut value = json::window(window);
            value["worker"] = name.into();
            value
        });
        windows.collect()
    }

    fn ids(&self) -> Vec<String> {
        let windows = self.all();
        windows
            .map(|(name, window)| format!("{name} {}", window.number))
            .collect()
    }
}

fn row(worker: &Worker, now: DateTime<Utc>) -> Vec<Cell> {
    let tone = match worker.state() {
        v1::WorkerState::Online => Tone::Good,
        v1::WorkerState::Lost => Tone::Bad,
        v1::WorkerState::Left | v1::WorkerState::Unspecified => Tone::Faint,
    };
    let seen = units::time(worker.last_seen_at.as_ref())
        .map(|at| format!("{} ago", units::about(units::between(at, now))))
        .unwrap_or_default();
    let inventory = worker.inventory.clone().unwrap_or_default();
    let devices = if worker.unreadable.is_empty() {
        devices(&inventory)
    } else {
        format!("unreadable: {}", worker.unreadable)
    };
    let busy: usize = worker.ranks.iter().map(|rank| rank.devices.len()).sum();
    let offered = u64::from(inventory.cpu_slots) + inventory.gpus.len() as u64;
    let runs = worker.ranks.iter().map(|rank| {
        format!(
            "{} {} rank {} on {}",
            rank.job_id,
            rank.job_name,
            rank.rank,
            words::devices(&rank.devices)
        )
    });
    vec![
        toned(worker.name.as_str(), Tone::Strong),
        toned(words::worker_state(worker), tone),
        seen.into(),
        devices.into(),
        format!("{busy}/{offered}").into(),
        units::bytes(inventory.memory_bytes).into(),
        inventory.flavour.into(),
        runs.collect::<Vec<_>>().join("; ").into(),
    ]
}

/// `2 cpu (4 threads each), 2 x Tesla K80 (11.2 GiB)`.
fn devices(inventory: &v1::Inventory) -> String {
    let mut parts = Vec::new();
    if inventory.cpu_slots > 0 {
        let threads = units::plural(inventory.threads_per_slot as usize, "thread");
        parts.push(format!("{} cpu ({threads} each)", inventory.cpu_slots));
    }
    let mut rest = inventory.gpus.as_slice();
    while let Some(gpu) = rest.first() {
        let alike = |other: &&v1::Gpu| {
            (other.name.as_str(), other.memory_bytes) == (gpu.name.as_str(), gpu.memory_bytes)
        };
        let many = rest.iter().take_while(alike).count();
        parts.push(format!(
            "{many} x {} ({})",
            gpu.name,
            units::bytes(gpu.memory_bytes)
        ));
        rest = &rest[many..];
    }
    parts.join(", ")
}
