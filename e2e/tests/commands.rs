//! Command jobs: any program, with the environment that torchrun would give it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use marquee_e2e::TestCluster;
use marquee_e2e::jobs::state;
use marquee_proto::v1::{Attempt, AttemptState, FailureClass, JobDetail, JobState};

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ranks_see_each_other_as_under_torchrun() -> Result<()> {
    let cluster = TestCluster::start(2).await?;
    // Rank 0 listens where MASTER_ADDR and MASTER_PORT say, rank 1 connects and says hello.
    let program = r#"
import os, socket, time
rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
host = os.environ["MASTER_ADDR"]
if rank == 0:
    server = socket.create_server((host, port))
    peer, _ = server.accept()
    print("rank 0 heard", peer.recv(100).decode(), "of", os.environ["WORLD_SIZE"], flush=True)
    open(os.path.join(os.environ["MARQUEE_OUTPUT"], "heard.txt"), "w").write("yes")
else:
    for _ in range(200):
        try:
            peer = socket.create_connection((host, port))
            break
        except OSError:
            time.sleep(0.05)
    peer.sendall(b"hello from rank 1")
"#;
    let document = format!(
        "name = \"pair\"\n[jobs.pair]\nkind = \"command\"\nranks = 2\nargv = [\"python3\", \"-c\", '''{program}''']\n"
    );
    let submitted = cluster.submit("pair", &document, &[]).await?;
    let job = submitted.jobs[0].id;
    cluster.wait_success(job, DEADLINE).await?;
    let log = cluster.log_of(job).await?;
    assert!(log.contains("rank 0 heard hello from rank 1 of 2"), "{log}");
    Ok(())
}

/// Two GPUs that there are none of: what their driver's library says, as `worker/tests/nvml/nvml.c` reads it.
const TWO_GPUS: &str = "\
driver 580.95.05
cuda 13000
count 2
0.uuid GPU-first
0.name NVIDIA H100
0.capability 90
0.bus 00000000:0A:00.0
0.memory_total 85899345920
1.uuid GPU-second
1.name NVIDIA H100
1.capability 90
1.bus 00000000:0B:00.0
1.memory_total 85899345920
";

/// The environment in which a worker finds these GPUs through the library that it asks on every host.
pub(crate) fn driver_of(answers: &str, folder: &Path) -> Result<Vec<(String, String)>> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../worker/tests/nvml/nvml.c");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"])
        .arg(folder.join("libnvidia-ml.so.1"))
        .arg(source);
    ensure!(cc.status()?.success(), "cc does not compile {source}");
    let file = folder.join("gpus.answers");
    std::fs::write(&file, answers)?;
    let text = |path: &Path| path.display().to_string();
    Ok(vec![
        ("LD_LIBRARY_PATH".to_owned(), text(folder)),
        ("FAKE_NVML".to_owned(), text(&file)),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranks_on_one_host_see_all_its_gpus_and_local_rank_picks_their_own() -> Result<()> {
    let mut cluster = TestCluster::start(0).await?;
    let env = driver_of(TWO_GPUS, cluster.folder())?;
    cluster.add_worker_with("gpus", env)?;
    cluster.wait_online(1).await?;
    // What torch.cuda.set_device(LOCAL_RANK) would choose, beside what the rank was given.
    let program = r#"
import os
seen, local = os.environ["CUDA_VISIBLE_DEVICES"].split(","), int(os.environ["LOCAL_RANK"])
print(os.environ["RANK"], local, os.environ["LOCAL_WORLD_SIZE"], seen[local], os.environ["MARQUEE_GPUS"], *seen)
"#;
    let document = format!(
        "name = \"gang\"\n[jobs.gang]\nkind = \"command\"\nranks = 2\ndevice = \"gpu\"\nargv = [\"python3\", \"-c\", '''{program}''']\n"
    );
    let submitted = cluster.submit("gang", &document, &[]).await?;
    let job = submitted.jobs[0].id;
    cluster.wait_success(job, DEADLINE).await?;
    let log = cluster.log_of(job).await?;
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "0 0 2 GPU-first 0 GPU-first GPU-second",
            "1 1 2 GPU-second 1 GPU-first GPU-second"
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_fails_is_the_users_and_is_not_tried_again() -> Result<()> {
    let cluster = TestCluster::start(1).await?;
    let document = "name = \"bad\"\n[jobs.bad]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"echo so sorry >&2; exit 3\"]\n";
    let submitted = cluster.submit("bad", document, &[]).await?;
    let job = submitted.jobs[0].id;
    let failed = |detail: &JobDetail| state(detail) == JobState::Failed;
    let detail = cluster.wait_job(job, "failed", DEADLINE, failed).await?;
    assert_eq!(detail.attempts.len(), 1);
    let failure = detail
        .job
        .and_then(|job| job.failure)
        .expect("a failed job has a failure");
    assert_eq!(failure.class(), FailureClass::UserError);
    assert!(failure.message.contains('3'), "{failure:?}");
    assert!(cluster.log_of(job).await?.contains("so sorry"));

    let explained = cluster.cli(&["explain", &job.to_string()])?;
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(
        explained.status.success() && text.contains("so sorry"),
        "{text}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_leaves_in_order_takes_its_children_along_and_costs_no_attempt() -> Result<()>
{
    let mut cluster = TestCluster::start(1).await?;
    let document = "name = \"long\"\n[jobs.long]\nkind = \"command\"\nargv = [\"sleep\", \"600\"]\nmax_attempts = 1\n";
    let submitted = cluster.submit("long", document, &[]).await?;
    let job = submitted.jobs[0].id;
    for stops in 1..=2 {
        let running = |detail: &JobDetail| {
            state(detail) == JobState::Running
                && detail
                    .attempts
                    .last()
                    .is_some_and(|a| a.started_at.is_some())
        };
        cluster.wait_job(job, "running", DEADLINE, running).await?;

        assert_eq!(cluster.worker(0).stop()?, 0);
        let sleeping = marquee_e2e::process::processes_with("sleep 600");
        assert_eq!(sleeping, []);
        let queued = |detail: &JobDetail| state(detail) == JobState::Queued;
        let detail = cluster
            .wait_job(job, "queued again", Duration::from_secs(10), queued)
            .await?;
        let reason = detail.job.map(|job| job.reason).unwrap_or_default();
        assert!(!reason.is_empty(), "a job that waits says why");
        // One attempt for each stop: none went to the worker while it left.
        assert_eq!(detail.attempts.len(), stops);
        let costs_nothing = |a: &Attempt| a.state() == AttemptState::Interrupted;
        assert!(
            detail.attempts.iter().all(costs_nothing),
            "{:#?}",
            detail.attempts
        );
        cluster.restart_worker(0)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_programs_write_no_colours_into_logs() -> Result<()> {
    let cluster = TestCluster::start(1).await?;
    let document = "name = \"gone\"\n[jobs.gone]\nkind = \"fetch\"\nsource = { type = \"folder\", path = \"/no/such/folder\" }\n";
    let submitted = cluster.submit("gone", document, &[]).await?;
    let job = submitted.jobs[0].id;
    let failed = |detail: &JobDetail| state(detail) == JobState::Failed;
    cluster.wait_job(job, "failed", DEADLINE, failed).await?;
    let log = cluster.log_of(job).await?;
    assert!(!log.is_empty() && !log.contains('\u{1b}'), "{log:?}");
    Ok(())
}
