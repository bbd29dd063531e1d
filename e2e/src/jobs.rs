//! Submitting pipelines and waiting for named states.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use marquee_proto::v1::document::Format;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::{
    Document, GetJobRequest, GetPipelineRequest, Job, JobDetail, JobState, LogsRequest, Override,
    Pipeline, SubmitPipelineRequest, SubmitResponse,
};
use tonic::transport::Channel;

use crate::TestCluster;

/// How often a state is looked at.
const POLL: Duration = Duration::from_millis(50);

/// A pipeline to submit.
#[must_use]
pub fn request(request_id: &str, toml: &str, overrides: &[(&str, &str)]) -> SubmitPipelineRequest {
    let set = |(path, value): &(&str, &str)| Override {
        path: (*path).into(),
        value: (*value).into(),
    };
    SubmitPipelineRequest {
        request_id: request_id.into(),
        document: Some(Document {
            format: Some(Format::Toml(toml.into())),
        }),
        overrides: overrides.iter().map(set).collect(),
        dry_run: false,
    }
}

impl TestCluster {
    /// Submits a pipeline under its own request id.
    pub async fn submit(
        &self,
        request_id: &str,
        toml: &str,
        overrides: &[(&str, &str)],
    ) -> Result<SubmitResponse> {
        let answer = self
            .jobs()?
            .submit_pipeline(request(request_id, toml, overrides))
            .await;
        Ok(answer.context("submitting")?.into_inner())
    }

    /// The job with its attempts.
    pub async fn job(&self, id: i64) -> Result<JobDetail> {
        get_job(&mut self.jobs()?, id).await
    }

    /// The pipeline with its jobs.
    pub async fn pipeline(&self, id: i64) -> Result<Pipeline> {
        Ok(self
            .jobs()?
            .get_pipeline(GetPipelineRequest { id })
            .await?
            .into_inner())
    }

    /// Waits until `is_so` holds of the job, through restarts of the coordinator.
    pub async fn wait_job(
        &self,
        id: i64,
        what: &str,
        deadline: Duration,
        is_so: impl Fn(&JobDetail) -> bool,
    ) -> Result<JobDetail> {
        let mut client = self.jobs()?;
        let start = Instant::now();
        let mut last = None;
        while start.elapsed() < deadline {
            if let Ok(detail) = get_job(&mut client, id).await {
                if is_so(&detail) {
                    return Ok(detail);
                }
                if has_ended(detail.job.as_ref()) && last.as_ref() == Some(&detail) {
                    break;
                }
                last = Some(detail);
            }
            tokio::time::sleep(POLL).await;
        }
        let log = self.log_of(id).await.unwrap_or_default();
        bail!("job {id} was not {what} within {deadline:?}; last seen: {last:#?}\nlog:\n{log}");
    }

    /// Waits until the job has succeeded.
    pub async fn wait_success(&self, id: i64, deadline: Duration) -> Result<JobDetail> {
        self.wait_job(id, "succeeded", deadline, |detail| {
            state(detail) == JobState::Succeeded
        })
        .await
    }

    /// Waits until every job of the pipeline has succeeded.
    pub async fn wait_pipeline(
        &self,
        submitted: &SubmitResponse,
        deadline: Duration,
    ) -> Result<Vec<JobDetail>> {
        let start = Instant::now();
        let mut details = Vec::new();
        for job in &submitted.jobs {
            details.push(
                self.wait_success(job.id, deadline.saturating_sub(start.elapsed()))
                    .await?,
            );
        }
        Ok(details)
    }

    /// All stored log lines of the job's newest attempt.
    pub async fn log_of(&self, id: i64) -> Result<String> {
        let request = LogsRequest {
            job_id: id,
            ..LogsRequest::default()
        };
        let mut stream = self.jobs()?.logs(request).await?.into_inner();
        let mut text = String::new();
        while let Some(line) = stream.message().await? {
            text.push_str(&line.text);
            text.push('\n');
        }
        Ok(text)
    }
}

async fn get_job(client: &mut JobsClient<Channel>, id: i64) -> Result<JobDetail> {
    Ok(client.get_job(GetJobRequest { id }).await?.into_inner())
}

fn has_ended(job: Option<&Job>) -> bool {
    job.is_some_and(|job| {
        matches!(
            job.state(),
            JobState::Succeeded | JobState::Failed | JobState::Cancelled
        )
    })
}

/// The state of a job.
#[must_use]
pub fn state(detail: &JobDetail) -> JobState {
    detail
        .job
        .as_ref()
        .map_or(JobState::Unspecified, Job::state)
}

/// The id of the job called `name`.
pub fn id_of(submitted: &SubmitResponse, name: &str) -> Result<i64> {
    let job = submitted.jobs.iter().find(|job| job.name == name);
    Ok(job
        .with_context(|| format!("the pipeline has no job {name:?}"))?
        .id)
}
