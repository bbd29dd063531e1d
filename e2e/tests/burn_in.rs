//! Burn-ins with the real coordinator, worker and trainer. The GPU is none: its driver is the tests' own, and the trainer does on
//! the CPU what it would do there. On a GPU this is tried by hand alone (docs/gpu-health.md).

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use marquee_e2e::TestCluster;
use marquee_e2e::process::Process;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_proto::v1::{AttemptState, ListWorkersRequest, QuarantinedGpu};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::commands::driver_of;

const SOON: Duration = Duration::from_secs(60);
const ONE_GPU: &str = "\
driver 580.95.05
cuda 13000
count 1
0.uuid GPU-first
0.name NVIDIA H100
0.capability 90
0.bus 00000000:0A:00.0
0.memory_total 85899345920
";
/// The name of the worker that has it, and the GPU.
const WORKER: &str = "gpus";
const GPU: &str = "gpus/0";

/// A worker with one GPU, in quarantine. Its trainer is the real one; a burn-in tests the CPU for as many seconds as the file
/// `seconds` says, and where there is none, it tests what it was told to.
async fn host() -> Result<TestCluster> {
    let env = |_: &Path| {
        let often = "MARQUEE_COORDINATOR__TIMING__POLL_EVERY_MS".to_owned();
        Ok(vec![(often, "200".to_owned())])
    };
    let mut cluster = TestCluster::start_with(0, env).await?;
    let bin = cluster.folder().join("bin");
    std::fs::create_dir_all(&bin)?;
    for name in ["marquee-prep", "marquee-keeper"] {
        std::os::unix::fs::symlink(cluster.bin().join(name), bin.join(name))?;
    }
    let trainer = bin.join("marquee-trainer");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = burn-in ] && seconds=$(cat '{seconds}'); then\n\
         set -- burn-in --device cpu --memory-mib 128 --seconds $seconds\nfi\nexec '{real}' \"$@\"\n",
        seconds = cluster.folder().join("seconds").display(),
        real = cluster.bin().join("marquee-trainer").display()
    );
    std::fs::write(&trainer, script)?;
    std::fs::set_permissions(&trainer, std::fs::Permissions::from_mode(0o755))?;
    let mut env = driver_of(ONE_GPU, cluster.folder())?;
    for (name, value) in &mut env {
        // The trainer's libraries stay where they are found.
        if name == "LD_LIBRARY_PATH"
            && let Ok(before) = std::env::var("LD_LIBRARY_PATH")
        {
            *value = format!("{value}:{before}");
        }
    }
    env.push((
        "MARQUEE_WORKER__BIN_DIR".to_owned(),
        bin.display().to_string(),
    ));
    cluster.add_worker_with(WORKER, env)?;
    cluster.wait_online(1).await?;
    let output = cluster.cli(&["quarantine", GPU, "--reason", "a test"])?;
    ensure!(output.status.success(), "{output:?}");
    Ok(cluster)
}

fn lasts(cluster: &TestCluster, seconds: u32) -> Result<()> {
    let file = cluster.folder().join("seconds");
    Ok(std::fs::write(file, seconds.to_string())?)
}

fn burn_in(cluster: &TestCluster) -> Result<i64> {
    let output = cluster.cli(&["--output", "quiet", "burn-in", GPU, "--minutes", "1"])?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{error}");
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Waits until the GPUs in quarantine are like this.
async fn until(
    cluster: &TestCluster,
    what: &str,
    is_it: impl Fn(&[QuarantinedGpu]) -> bool,
) -> Result<Vec<QuarantinedGpu>> {
    let since = Instant::now();
    let mut client = WorkersClient::new(cluster.channel()?);
    loop {
        let listed = client.list_workers(ListWorkersRequest {}).await?;
        let mut workers = listed.into_inner().workers;
        let gpus = workers
            .iter_mut()
            .find(|worker| worker.name == WORKER)
            .map(|worker| std::mem::take(&mut worker.quarantined_gpus));
        let gpus = gpus.context("its worker is known")?;
        if is_it(&gpus) {
            return Ok(gpus);
        }
        ensure!(since.elapsed() < SOON, "{what} did not come: {gpus:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The trainer of the burn-in, once it tests.
async fn trainer(cluster: &TestCluster, job: i64) -> Result<Process> {
    let since = Instant::now();
    loop {
        let all = marquee_e2e::process::processes_with("burn-in --device cpu");
        let ours = all.into_iter().find(|process| {
            let folder = std::fs::read_link(format!("/proc/{}/cwd", process.pid));
            folder.is_ok_and(|folder| folder.starts_with(cluster.folder()))
        });
        if let Some(trainer) = ours
            && cluster.log_of(job).await?.contains("memory: 64 MiB")
        {
            return Ok(trainer);
        }
        ensure!(since.elapsed() < SOON, "no trainer of job {job}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn signal(process: &Process, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(process.pid), signal)?)
}

async fn history_is_clean(cluster: &TestCluster) -> Result<()> {
    let output = cluster.cli(&["audit", "verify"])?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_passes_brings_the_gpu_back_and_one_that_finds_no_gpu_says_so() -> Result<()> {
    let cluster = host().await?;
    // As it is told to: on the first GPU, of which there is none.
    let job = burn_in(&cluster)?;
    let has_failed = |gpus: &[QuarantinedGpu]| !gpus[0].burn_in_failure.is_empty();
    let gpus = until(&cluster, "its end", has_failed).await?;
    assert_eq!(gpus[0].burn_in_job, Some(job));
    let why = &gpus[0].burn_in_failure;
    eprintln!("{why}");
    assert!(why.starts_with("failed (") && why.contains("GPU"), "{why}");

    lasts(&cluster, 1)?;
    let job = burn_in(&cluster)?;
    until(&cluster, "its end", <[_]>::is_empty).await?;
    let detail = cluster.wait_success(job, SOON).await?;
    assert_eq!(detail.attempts.len(), 1);
    let log = cluster.log_of(job).await?;
    assert!(log.contains("passed: 64 MiB of memory, "), "{log}");
    // It is offered again.
    let document =
        "name = \"next\"\n[jobs.next]\nkind = \"command\"\ndevice = \"gpu\"\nargv = [\"true\"]\n";
    let next = cluster.submit("next", document, &[]).await?;
    cluster.wait_success(next.jobs[0].id, SOON).await?;
    history_is_clean(&cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_trainer_stands_still_keeps_its_gpu_to_itself_until_it_is_cancelled() -> Result<()>
{
    let cluster = host().await?;
    lasts(&cluster, 600)?;
    let job = burn_in(&cluster)?;
    let trainer = trainer(&cluster, job).await?;
    signal(&trainer, Signal::SIGSTOP)?;
    let again = cluster.cli(&["burn-in", GPU])?;
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(
        said.contains("MQ0398") && said.contains(&format!("job {job}")),
        "{said}"
    );
    let cancelled = cluster.cli(&["cancel", &job.to_string()])?;
    ensure!(cancelled.status.success(), "{cancelled:?}");
    // Whoever is stopped hears no SIGTERM; it is ended all the same.
    let has_ended = |gpus: &[QuarantinedGpu]| gpus[0].burn_in_failure.contains("was cancelled");
    until(&cluster, "its end", has_ended).await?;
    let left = marquee_e2e::process::processes_with("burn-in --device cpu");
    assert!(
        left.iter().all(|process| process.pid != trainer.pid),
        "{left:?}"
    );
    // The next one is as good as any.
    lasts(&cluster, 1)?;
    burn_in(&cluster)?;
    until(&cluster, "its end", <[_]>::is_empty).await?;
    history_is_clean(&cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_worker_dies_costs_an_attempt_and_passes_in_the_next() -> Result<()> {
    let mut cluster = host().await?;
    lasts(&cluster, 600)?;
    let job = burn_in(&cluster)?;
    trainer(&cluster, job).await?;
    cluster.worker(0).cut_power()?;
    lasts(&cluster, 1)?;
    cluster.restart_worker(0)?;
    until(&cluster, "its end", <[_]>::is_empty).await?;
    let detail = cluster.wait_success(job, SOON).await?;
    let ends: Vec<AttemptState> = detail
        .attempts
        .iter()
        .map(marquee_proto::v1::Attempt::state)
        .collect();
    assert_eq!(ends.len(), 2, "{:#?}", detail.attempts);
    assert!(
        ends.contains(&AttemptState::Succeeded),
        "{:#?}",
        detail.attempts
    );
    history_is_clean(&cluster).await
}
