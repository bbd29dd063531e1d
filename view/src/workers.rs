//! The hosts that take work, one row each.

use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::limits::CLOCKS_APART;
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
        for line in clocks(self.0) {
            page.line(line);
        }
        for worker in self.0 {
            // Below the table and in full, for a cell has no room for a cure.
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

/// A burn-in that was submitted.
#[derive(Debug)]
pub struct BurnIn<'a> {
    pub job: i64,
    pub worker: &'a str,
    pub gpu: u32,
    pub minutes: u32,
}

impl View for BurnIn<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        let Self {
            job,
            worker,
            gpu,
            minutes,
        } = self;
        page.line(format!(
            "job {job} tests gpu {gpu} of {worker} for {minutes} min; if it passes, the quarantine ends"
        ));
        page.line(format!(
            "\"marquee logs {job} --follow\" shows how far it is, \"marquee workers\" what came of it"
        ));
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        serde_json::json!({
            "job_id": self.job,
            "worker": self.worker,
            "gpu": self.gpu,
            "minutes": self.minutes,
        })
    }

    fn ids(&self) -> Vec<String> {
        vec![self.job.to_string()]
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
    // Stored by another version, say: the worker is shown all the same, with what is wrong in the
    // place of its devices.
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

/// Whose clock is off, and by how much. Where most workers agree that the coordinator's is, it is that one.
fn clocks(workers: &[Worker]) -> Vec<String> {
    let is_apart = |ahead: i64| Duration::from_millis(ahead.unsigned_abs()) >= CLOCKS_APART;
    let is_online = |worker: &&Worker| worker.state() == v1::WorkerState::Online;
    let said = workers.iter().filter(is_online);
    let said: Vec<(&str, i64)> = said
        .filter_map(|worker| Some((worker.name.as_str(), worker.clock_ahead_ms?)))
        .collect();
    let apart = |ahead: i64| {
        let way = if ahead > 0 { "ahead of" } else { "behind" };
        let span = units::duration(Duration::from_millis(ahead.unsigned_abs()));
        format!("{span} {way}")
    };
    let cure = "set it (\"timedatectl set-ntp true\" there)";
    let mut sorted: Vec<i64> = said.iter().map(|(_, ahead)| *ahead).collect();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    // Two that are off together may both be; three are not by chance.
    let is_coordinators = sorted.len() >= 3 && is_apart(median);
    let mut lines = Vec::new();
    if is_coordinators {
        let away = apart(median.saturating_neg());
        lines.push(format!(
            "the coordinator's clock is {away} those of most workers: {cure}"
        ));
    }
    for (name, ahead) in said {
        // By what the others say, where the coordinator's is the one that is off.
        let off = if is_coordinators {
            ahead.saturating_sub(median)
        } else {
            ahead
        };
        if is_apart(off) {
            let whose = if is_coordinators {
                "those of the other workers"
            } else {
                "the coordinator's"
            };
            lines.push(format!(
                "{name}: its clock is {} {whose}: {cure}",
                apart(off)
            ));
        }
    }
    lines
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
        // Neighbours alone, so that the order is NVML's: a part of a GPU stands behind the whole
        // ones.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str, ahead: Option<i64>) -> Worker {
        Worker {
            name: name.into(),
            state: v1::WorkerState::Online.into(),
            clock_ahead_ms: ahead,
            ..Worker::default()
        }
    }

    #[test]
    fn it_is_said_whose_clock_is_off_and_by_how_much() {
        let near = [
            worker("a", Some(400)),
            worker("b", Some(-4_900)),
            worker("c", None),
        ];
        assert!(clocks(&near).is_empty());
        let one = [worker("a", Some(0)), worker("b", Some(252_000))];
        let [line] = &clocks(&one)[..] else {
            panic!("{:?}", clocks(&one));
        };
        assert!(line.starts_with("b: its clock is 4"), "{line}");
        assert!(line.contains("ahead of the coordinator's"), "{line}");
        // Where all but one say the same, it is neither of them.
        let all = [
            worker("a", Some(-60_000)),
            worker("b", Some(-60_100)),
            worker("c", Some(-59_900)),
            worker("d", Some(0)),
        ];
        let lines = clocks(&all);
        assert!(
            lines[0].starts_with("the coordinator's clock is"),
            "{lines:?}"
        );
        assert!(
            lines[0].contains("ahead of those of most workers"),
            "{lines:?}"
        );
        assert!(
            lines.len() == 2 && lines[1].starts_with("d: its clock is"),
            "{lines:?}"
        );
        // Nobody's are the clocks of those that are gone.
        let gone = Worker {
            state: v1::WorkerState::Lost.into(),
            ..worker("a", Some(9_000_000))
        };
        assert!(clocks(&[gone]).is_empty());
    }
}
