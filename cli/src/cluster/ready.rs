//! Waits until daemons that were started are ready, or says why they are not.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use marquee_proto::v1::{ListWorkersRequest, ProbeRequest, ProbeResponse, Worker, WorkerState};
use tokio::time::{Instant, sleep};
use tonic::{Request, Status};

use super::program::Program;
use crate::client::Remote;
use crate::context::Place;
use crate::error::{CliError, Result};

/// The first start makes a Postgres cluster and its tables: two seconds, more on a busy disk.
const COORDINATOR_START: Duration = Duration::from_secs(90);
/// A worker asks the trainer what it links, which loads libtorch from disk.
const WORKERS_START: Duration = Duration::from_secs(90);
/// Pause between two checks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long one check may take.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Returns when our own coordinator answers, with the id of its cluster. It writes the id into `data_dir` before it
/// answers anybody, so that another one on this port, which answers at once, is told from it.
pub(super) async fn coordinator(
    program: &mut Program,
    place: &Place,
    data_dir: &Path,
) -> Result<String> {
    let remote = Remote::new(place.clone())?;
    let started = Instant::now();
    loop {
        let programs = std::slice::from_mut(program);
        if let Ok(answered) = probe(&remote).await {
            let ours = fs::read_to_string(data_dir.join("cluster-id")).unwrap_or_default();
            // Any answer would do for a port alone; workers that join another cluster would run its jobs and die
            // with it.
            if !ours.trim().is_empty() && ours.trim() == answered.cluster_id {
                // Once more: it may have answered and died since, and whoever answers next would be
                // another one.
                still_running(programs)?;
                return Ok(answered.cluster_id);
            }
            return Err(taken(place, &answered.cluster_id));
        }
        check(programs, started, COORDINATOR_START, "does not answer")?;
        sleep(LOOK_EVERY).await;
    }
}

/// Returns when every worker is online.
pub(super) async fn workers(programs: &mut [Program], place: &Place) -> Result<()> {
    let remote = Remote::new(place.clone())?;
    let started = Instant::now();
    loop {
        // A coordinator that has just come may refuse: that is looked at again, too.
        let online = list(&remote).await.unwrap_or_default();
        let is_online = |program: &Program| {
            let ours = |worker: &&Worker| worker.name == program.name();
            online
                .iter()
                .find(ours)
                .is_some_and(|found| found.state() == WorkerState::Online)
        };
        if programs.iter().all(is_online) {
            return Ok(());
        }
        check(programs, started, WORKERS_START, "is not online")?;
        sleep(LOOK_EVERY).await;
    }
}

fn taken(place: &Place, cluster_id: &str) -> CliError {
    let addr = place.addr.trim_start_matches("http://");
    let which = match cluster_id {
        "" => "an older one".to_owned(),
        id => format!("cluster {id}"),
    };
    anyhow!(
        "another coordinator ({which}) listens on {addr} already; stop it, use it (\"MARQUEE_ADDR={addr} marquee \
         jobs\"), or choose another address with --listen (127.0.0.1:0 takes a free port)"
    )
    .into()
}

async fn probe(remote: &Remote) -> Result<ProbeResponse, Status> {
    let mut request = Request::new(ProbeRequest {});
    request.set_timeout(LOOK_MAX);
    Ok(remote.workers().probe(request).await?.into_inner())
}

async fn list(remote: &Remote) -> Result<Vec<Worker>, Status> {
    let mut request = Request::new(ListWorkersRequest {});
    request.set_timeout(LOOK_MAX);
    Ok(remote
        .workers()
        .list_workers(request)
        .await?
        .into_inner()
        .workers)
}

fn still_running(programs: &mut [Program]) -> Result<()> {
    for program in programs {
        if let Some(status) = program.ended()? {
            let name = program.name();
            return Err(anyhow!(
                "{name} ended at its start, with {status}\n{}",
                program.last_words()
            )
            .into());
        }
    }
    Ok(())
}

fn check(programs: &mut [Program], since: Instant, limit: Duration, lacks: &str) -> Result<()> {
    still_running(programs)?;
    match programs.first() {
        Some(program) if since.elapsed() > limit => Err(anyhow!(
            "{} {lacks} after {} s\n{}",
            program.name(),
            limit.as_secs(),
            program.last_words()
        )
        .into()),
        Some(_) | None => Ok(()),
    }
}
