//! The attack suite from the outside: hostile clients, workers, children and artifacts, each a table of inputs, tried on
//! the real programs beside a job that must not notice. Each row is one fault that once stopped a cluster, or its
//! relative; the README beside it says where the same is tried part by part.

mod artifact;
mod child;
mod client;
mod worker;

use std::time::Duration;

use anyhow::{Context as _, Result};
use marquee_e2e::TestCluster;
use marquee_e2e::jobs::state;
use marquee_proto::v1::{CancelJobRequest, JobDetail, JobState};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A job of one command.
pub(crate) fn command(name: &str, script: &str, more: &str) -> String {
    format!(
        "name = {name:?}\n[jobs.{name}]\nkind = \"command\"\nmax_attempts = 1\nargv = [\"sh\", \"-c\", '''{script}''']\n{more}"
    )
}

/// A cluster whose second worker runs a job through all that happens.
pub(crate) struct Site {
    pub(crate) cluster: TestCluster,
    neighbour: i64,
}

impl Site {
    pub(crate) async fn start() -> Result<Self> {
        let cluster = TestCluster::start(2).await?;
        let document = command("neighbour", "exec sleep 600", "");
        let neighbour = cluster.submit("neighbour", &document, &[]).await?.jobs[0].id;
        let runs = |detail: &JobDetail| state(detail) == JobState::Running;
        cluster
            .wait_job(neighbour, "running", DEADLINE, runs)
            .await?;
        Ok(Self { cluster, neighbour })
    }

    /// Nobody noticed: the neighbour runs on in its first attempt, a new job is done, and the history keeps its rules.
    pub(crate) async fn all_is_well(self) -> Result<()> {
        let Self { cluster, neighbour } = self;
        let document = command("honest", "echo done > $MARQUEE_OUTPUT/result", "");
        let honest = cluster.submit("honest", &document, &[]).await?.jobs[0].id;
        cluster.wait_success(honest, DEADLINE).await?;
        let detail = cluster.job(neighbour).await?;
        assert_eq!(state(&detail), JobState::Running);
        assert_eq!(detail.attempts.len(), 1, "{detail:?}");
        let request = CancelJobRequest { id: neighbour };
        cluster.jobs()?.cancel_job(request).await?;
        let gone = |detail: &JobDetail| state(detail) == JobState::Cancelled;
        cluster
            .wait_job(neighbour, "cancelled", DEADLINE, gone)
            .await?;
        let verified = cluster.cli(&["audit", "verify"])?;
        let said = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert!(verified.status.success(), "{said}");
        for worker in cluster.workers() {
            assert!(!worker.log().contains("panicked"), "{}", worker.log());
        }
        let log = cluster.coordinator_log();
        assert!(!log.contains("panicked"), "{log}");
        Ok(())
    }

    /// How a job ended, and what was said of it.
    pub(crate) async fn end_of(
        &self,
        request_id: &str,
        document: &str,
    ) -> Result<(JobState, String)> {
        let submitted = self.cluster.submit(request_id, document, &[]).await?;
        let job = submitted.jobs.last().context("a pipeline has a job")?.id;
        let ended =
            |detail: &JobDetail| matches!(state(detail), JobState::Succeeded | JobState::Failed);
        let detail = self
            .cluster
            .wait_job(job, "over", DEADLINE, ended)
            .await
            .with_context(|| format!("of {request_id}"))?;
        let failure = detail.job.as_ref().and_then(|job| job.failure.clone());
        Ok((state(&detail), failure.unwrap_or_default().message))
    }
}
