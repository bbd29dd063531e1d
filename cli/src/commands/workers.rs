//! `marquee workers`.

use chrono::{DateTime, Utc};
use marquee_proto::v1::{self, Worker};
use serde_json::Value;

mod gpus;

use gpus::Gpus;

use super::Session;
use crate::client::{Repeat, quick};
use crate::clock;
use crate::error::Result;
use crate::output::table::{Entry, left, right, toned};
use crate::output::{Page, Show, Tone, json, words};

/// List the hosts that take work, and what they do now
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee workers
  marquee workers --gpus
  marquee workers --output json | jq '.[].inventory.gpus'
  marquee workers --gpus --output json | jq '.[] | select(.healthy == false)'")]
pub(super) struct Args {
    /// Show each GPU instead: load, memory, power, heat, clocks, errors, processes, and its health
    #[arg(long)]
    gpus: bool,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let workers = remote
        .call(Repeat::Safe, async || {
            remote
                .workers()
                .list_workers(quick(v1::ListWorkersRequest {}))
                .await
        })
        .await?
        .workers;
    if args.gpus {
        session.output.show(&Gpus(&workers), clock::now())?;
    } else {
        session.output.show(&Workers(&workers), clock::now())?;
    }
    if session.output.is_for_people() {
        let has_gpu = |worker: &Worker| {
            let offered = worker
                .inventory
                .as_ref()
                .is_some_and(|host| !host.gpus.is_empty());
            offered || !worker.gpus.is_empty()
        };
        if workers.is_empty() {
            eprintln!("no workers; start marquee-worker on a host, or \"marquee up\" here");
        } else if args.gpus && !workers.iter().any(has_gpu) {
            eprintln!(
                "no worker has a GPU; if one should, run \"marquee-worker doctor\" on its host"
            );
        }
    }
    Ok(())
}

struct Workers<'a>(&'a [Worker]);

impl Show for Workers<'_> {
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
            &heads,
            self.0.iter().map(|worker| row(worker, now)).collect(),
        );
    }

    fn json(&self) -> Value {
        self.0.iter().map(json::worker).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.iter().map(|worker| worker.name.clone()).collect()
    }
}

fn row(worker: &Worker, now: DateTime<Utc>) -> Vec<Entry> {
    let tone = match worker.state() {
        v1::WorkerState::Online => Tone::Good,
        v1::WorkerState::Lost => Tone::Bad,
        v1::WorkerState::Left | v1::WorkerState::Unspecified => Tone::Faint,
    };
    let seen = words::time(worker.last_seen_at.as_ref())
        .map(|at| format!("{} ago", words::about(words::between(at, now))))
        .unwrap_or_default();
    let inventory = worker.inventory.clone().unwrap_or_default();
    let devices = devices(&inventory);
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
        words::bytes(inventory.memory_bytes).into(),
        inventory.flavour.into(),
        runs.collect::<Vec<_>>().join("; ").into(),
    ]
}

/// `2 cpu (4 threads each), 2 x Tesla K80 (11.2 GiB)`.
fn devices(inventory: &v1::Inventory) -> String {
    let mut parts = Vec::new();
    if inventory.cpu_slots > 0 {
        let threads = words::plural(inventory.threads_per_slot as usize, "thread");
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
            words::bytes(gpu.memory_bytes)
        ));
        rest = &rest[many..];
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use marquee_proto::convert::timestamp;

    use super::*;

    #[test]
    fn workers_show_their_devices_and_what_runs_on_them() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let gpu = |index| v1::Gpu {
            index,
            name: "Tesla K80".into(),
            memory_bytes: 12 << 30,
            ..v1::Gpu::default()
        };
        let device = v1::Device {
            kind: Some(v1::device::Kind::Gpu(1)),
        };
        let busy = Worker {
            name: "gpu-03".into(),
            state: v1::WorkerState::Online.into(),
            last_seen_at: Some(timestamp(now - chrono::TimeDelta::seconds(2))),
            inventory: Some(v1::Inventory {
                cpu_slots: 1,
                threads_per_slot: 8,
                memory_bytes: 64 << 30,
                gpus: vec![gpu(0), gpu(1)],
                flavour: "libtorch-2.11.0".into(),
                ..v1::Inventory::default()
            }),
            ranks: vec![v1::RunningRank {
                job_id: 17,
                job_name: "train".into(),
                attempt: 1,
                rank: 1,
                devices: vec![device],
            }],
            ..Worker::default()
        };
        let lost = Worker {
            name: "gpu-04".into(),
            state: v1::WorkerState::Lost.into(),
            ..Worker::default()
        };
        let mut page = Page::new(false, None);
        Workers(&[busy, lost]).page(&mut page, now);
        insta::assert_snapshot!(page.finish(), @r#"
        NAME    STATE      SEEN  DEVICES                                           BUSY    MEMORY  FLAVOUR          RUNS
        gpu-03  online  2 s ago  1 cpu (8 threads each), 2 x Tesla K80 (12.0 GiB)   1/3  64.0 GiB  libtorch-2.11.0  17 train rank 1 on gpu 1
        gpu-04  lost                                                                0/0       0 B
        "#);
    }
}
