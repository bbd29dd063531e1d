//! What no dispatcher could beat on this machine at this hour: a process that is only started, a commit
//! that is only made durable, a call that only goes there and back.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::cluster::{Cluster, SLOTS};
use crate::figure::{Figure, quantile};

const SPAWN_FOR: Duration = Duration::from_secs(3);
const COMMITS: u32 = 1_000;
const ECHOES: u32 = 1_000;

#[derive(Debug)]
pub(crate) struct Reference {
    /// Processes `true` a second, as many in flight as the worker has devices.
    pub(crate) spawns_per_s: f64,
    /// One process, started and waited for.
    spawn_ms: f64,
    pub(crate) commits_per_s: f64,
    echo_ms: f64,
    echoes_per_s: f64,
}

impl Reference {
    pub(crate) async fn measure(cluster: &Cluster) -> Result<Self> {
        let (spawns_per_s, spawn_ms) = spawn()?;
        let (echoes_per_s, echo_ms) = echo(cluster).await?;
        Ok(Self {
            spawns_per_s,
            spawn_ms,
            commits_per_s: commits(cluster)?,
            echo_ms,
            echoes_per_s,
        })
    }

    /// The least that a job which is stored before it is run can take: one call, one commit, one process.
    pub(crate) fn least_ms(&self) -> f64 {
        self.echo_ms + 1e3 / self.commits_per_s + self.spawn_ms
    }

    pub(crate) fn print(&self) {
        let row = |name: &str, value, unit: &'static str, ran: String| {
            Figure {
                name: name.to_owned(),
                value,
                unit,
                is_less_better: false,
                reference: None,
                goal: None,
                ran,
            }
            .print();
        };
        row(
            "reference: bare processes",
            self.spawns_per_s,
            "true/s",
            format!(
                "true started and waited for, {SLOTS} in flight, for {SPAWN_FOR:?}; one takes {:.2} ms at the median",
                self.spawn_ms
            ),
        );
        row(
            "reference: durable commits",
            self.commits_per_s,
            "commits/s",
            format!("the same Postgres, one client, {COMMITS} inserts of one row, fsync on"),
        );
        row(
            "reference: gRPC echo",
            self.echoes_per_s,
            "calls/s",
            format!(
                "the coordinator's health check, one client, {ECHOES} calls one after the other; {:.2} ms at the median",
                self.echo_ms
            ),
        );
    }
}

fn spawn() -> Result<(f64, f64)> {
    let run = || -> Result<Vec<f64>> {
        let (start, mut each) = (Instant::now(), Vec::new());
        while start.elapsed() < SPAWN_FOR {
            let one = Instant::now();
            Command::new("true").status().context("starting true")?;
            each.push(1e3 * one.elapsed().as_secs_f64());
        }
        Ok(each)
    };
    let each = std::thread::scope(|scope| -> Result<Vec<f64>> {
        let threads: Vec<_> = (0..SLOTS).map(|_| scope.spawn(run)).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow::anyhow!("a panic"))??);
        }
        Ok(all)
    })?;
    #[allow(clippy::cast_precision_loss, reason = "some thousands")]
    let rate = each.len() as f64 / SPAWN_FOR.as_secs_f64();
    Ok((rate, quantile(&each, 0.5)))
}

/// Durable commits of one client a second.
pub(crate) fn commits(cluster: &Cluster) -> Result<f64> {
    cluster.psql("create schema bench; create table bench.commits (at bigint)")?;
    // A procedure that commits after each row: one client without a round trip in between.
    cluster.psql(&format!(
        "do $$ declare start timestamptz := clock_timestamp(); begin for i in 1..{COMMITS} loop \
         insert into bench.commits values (i); commit; end loop; \
         insert into bench.commits values (1000 * extract(epoch from clock_timestamp() - start)); end $$",
    ))?;
    let ms: f64 = cluster
        .psql("select at from bench.commits order by ctid desc limit 1")?
        .parse()?;
    cluster.psql("drop schema bench cascade")?;
    Ok(f64::from(COMMITS) / (ms / 1e3))
}

async fn echo(cluster: &Cluster) -> Result<(f64, f64)> {
    let mut client = HealthClient::new(cluster.channel());
    let (start, mut each) = (Instant::now(), Vec::new());
    for _ in 0..ECHOES {
        let one = Instant::now();
        client.check(HealthCheckRequest::default()).await?;
        each.push(1e3 * one.elapsed().as_secs_f64());
    }
    let rate = f64::from(ECHOES) / start.elapsed().as_secs_f64();
    Ok((rate, quantile(&each, 0.5)))
}
