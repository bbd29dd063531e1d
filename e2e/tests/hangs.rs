//! A rank that a signal holds up in the midst of training: told with its stacks and those of its peers, then
//! replaced, and training goes on from its checkpoint.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use marquee_e2e::jobs::{id_of, state};
use marquee_e2e::{Catalogue, TestCluster};
use marquee_proto::v1::{FailureClass, JobDetail, JobState, LogsRequest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const POSTERS: &str = include_str!("../../examples/posters.toml");
const DEADLINE: Duration = Duration::from_secs(300);

/// All stored log lines of one attempt's rank.
async fn log_of(cluster: &TestCluster, job_id: i64, attempt: u32, rank: u32) -> Result<String> {
    let request = LogsRequest {
        job_id,
        attempt,
        rank: Some(rank),
        ..LogsRequest::default()
    };
    let mut stream = cluster.jobs()?.logs(request).await?.into_inner();
    let mut text = String::new();
    while let Some(line) = stream.message().await? {
        text += &format!("{}\n", line.text);
    }
    Ok(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_rank_is_told_with_stacks_of_all_and_training_goes_on_from_its_checkpoint()
-> Result<()> {
    let cluster = TestCluster::start(2).await?;
    let catalogue = Catalogue::start(cluster.folder(), 300)?;
    let overrides = [
        ("jobs.fetch.source.api_url", catalogue.api_url.as_str()),
        ("jobs.train.epochs", "40"),
        ("jobs.train.checkpoint_every_steps", "4"),
        ("jobs.train.batch_size", "32"),
        // Long enough for all ranks to be looked at on a busy machine before they give each other up.
        ("jobs.train.collective_timeout_s", "60"),
        ("jobs.train.hang_after", "10s"),
    ];
    let submitted = cluster.submit("hangs", POSTERS, &overrides).await?;
    let train = id_of(&submitted, "train")?;
    let in_mid_run = |detail: &JobDetail| {
        state(detail) == JobState::Running
            && detail.events.iter().any(|e| e.text.contains("checkpoint"))
    };
    let detail = cluster
        .wait_job(train, "in mid-run with a checkpoint", DEADLINE, in_mid_run)
        .await?;
    let place = detail.attempts[0].ranks[1].worker_name.clone();
    let worker = cluster.workers().iter().find(|worker| worker.name == place);
    let children = worker.context("the rank's worker is ours")?.children();
    let rank = children.iter().find(|child| {
        let program = child.command.split(' ').next().unwrap_or_default();
        program.ends_with("/marquee-trainer") && child.command.contains(" run ")
    });
    let pid = Pid::from_raw(rank.context("the worker runs a rank")?.pid);
    kill(pid, Signal::SIGSTOP)?;
    let since = Instant::now();
    let is_told = |detail: &JobDetail| detail.events.iter().any(|e| e.text.starts_with("hung: "));
    let told = cluster
        .wait_job(train, "told to hang", DEADLINE, is_told)
        .await?;
    eprintln!("told after {:.1} s", since.elapsed().as_secs_f64());
    let event = told.events.iter().find(|e| e.text.starts_with("hung: "));
    let text = &event.context("it was there a moment ago")?.text;
    eprintln!("{text}");
    assert!(
        text.contains(&format!(
            "rank 1 on {place} is stopped by a signal (state T) at step "
        )),
        "{text}"
    );
    assert!(text.contains("rank 0 waits in all-reduce"), "{text}");
    let explained = cluster.cli(&["explain", &train.to_string()])?;
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    eprintln!("{explained}");
    // Nothing of either rank was killed for it: what they do is there to be read.
    let (waits, hangs) = (
        log_of(&cluster, train, 1, 0).await?,
        log_of(&cluster, train, 1, 1).await?,
    );
    assert!(
        hangs.contains("[marquee] hang:") && hangs.contains("(state T)"),
        "{hangs}"
    );
    assert!(
        waits.contains("[marquee] its stacks:") && waits.contains("gloo"),
        "{waits}"
    );

    let done = cluster.wait_success(train, DEADLINE).await?;
    let failure = done.attempts[0]
        .failure
        .clone()
        .context("the first attempt failed")?;
    assert_eq!(failure.class(), FailureClass::Hang, "{failure:?}");
    let resumed = done.attempts.last().and_then(|last| last.resumed_from_step);
    assert!(resumed.is_some_and(|step| step > 0), "{:#?}", done.attempts);
    Ok(())
}
