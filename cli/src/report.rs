//! Bringing the parts of a pipeline's summary together over gRPC.

use anyhow::Context as _;
use marquee_domain::artifact::Digest;
use marquee_domain::report::{EvalReport, FetchSummary, TrainSummary, read_summary};
use marquee_domain::spec::{InputRef, JobSpec};
use marquee_proto::v1::{
    AttemptRank, AttemptState, Job, JobKind, JobState, get_artifact_request::Which,
};
use marquee_view::report::{Part, Summary};
use serde::de::DeserializeOwned;

use crate::client::Remote;
use crate::error::Result;
use crate::requests::{artifacts, download, jobs};

/// The file of a report artifact that holds its figures.
const REPORT_FILE: &str = "report.json";

/// Reads what all jobs of a pipeline left behind.
pub(crate) async fn gather(remote: &Remote, pipeline_id: i64) -> Result<Summary> {
    let pipeline = jobs::get_pipeline(remote, pipeline_id).await?;
    let mut summary = Summary {
        pipeline_id,
        pipeline_name: pipeline.name,
        jobs: Vec::new(),
        fetches: Vec::new(),
        preprocesses: Vec::new(),
        trainings: Vec::new(),
        evals: Vec::new(),
    };
    let succeeded = |job: &&Job| job.state() == JobState::Succeeded;
    for job in pipeline.jobs.iter().filter(succeeded) {
        match job.kind() {
            JobKind::Fetch => {
                if let Some(fetched) = fetch_summary(remote, worker_of(job)).await? {
                    summary.fetches.push(part(remote, job, fetched).await?);
                }
            }
            JobKind::Preprocess => {
                let prepared = summaries(remote, worker_of(job)).await?;
                if let Some(prepared) = prepared.into_iter().next() {
                    summary
                        .preprocesses
                        .push(part(remote, job, prepared).await?);
                }
            }
            JobKind::Train => {
                let mut ranks: Vec<TrainSummary> = summaries(remote, worker_of(job)).await?;
                ranks.sort_by_key(|summary| summary.rank);
                summary.trainings.push(part(remote, job, ranks).await?);
            }
            JobKind::Eval => {
                let report = eval_report(remote, worker_of(job)).await?;
                summary.evals.push(part(remote, job, report).await?);
            }
            // What a program of the user's own printed has no figures that are known here.
            JobKind::Command | JobKind::Unspecified => {}
        }
    }
    summary.jobs = pipeline.jobs;
    Ok(summary)
}

/// The job that did the work: one that reused a step did none of its own.
fn worker_of(job: &Job) -> i64 {
    match job.reused_from_job_id {
        0 => job.id,
        from => from,
    }
}

/// What `job` left, with what it worked on.
async fn part<T>(remote: &Remote, job: &Job, left: T) -> Result<Part<T>> {
    let detail = jobs::get(remote, job.id).await?;
    // A spec that this CLI cannot read costs the names of inputs, not the figures.
    let inputs = serde_json::from_str::<JobSpec>(&detail.spec_json)
        .map(|spec| spec.inputs)
        .unwrap_or_default();
    let what = |input: InputRef| match input {
        InputRef::Job { job, .. } => job.to_string(),
        InputRef::Artifact(digest) => format!("artifact {}", digest.short()),
    };
    Ok(Part {
        job_id: worker_of(job),
        name: job.name.clone(),
        inputs: inputs
            .into_iter()
            .map(|(name, input)| (name, what(input)))
            .collect(),
        left,
    })
}

/// The summary of a fetch job; of a job array, those of all its elements added up.
async fn fetch_summary(remote: &Remote, job_id: i64) -> Result<Option<FetchSummary>> {
    let elements = jobs::elements(remote, job_id).await?;
    let ids = if elements.is_empty() {
        vec![job_id]
    } else {
        elements.iter().map(|element| element.id).collect()
    };
    let mut whole: Option<FetchSummary> = None;
    for id in ids {
        // Each rank fetched its own part of the ids: no outcome is counted twice.
        for share in summaries::<FetchSummary>(remote, id).await? {
            whole = Some(match whole {
                Some(sum) => sum.and(share),
                None => share,
            });
        }
    }
    Ok(whole)
}

async fn eval_report(remote: &Remote, job_id: i64) -> Result<EvalReport> {
    let artifact = artifacts::find(remote, Which::JobId(job_id)).await?;
    let files = artifact.manifest.unwrap_or_default().files;
    let file = files
        .iter()
        .find(|file| file.path == REPORT_FILE)
        .with_context(|| format!("the artifact of job {job_id} has no {REPORT_FILE}"))?;
    let digest: Digest = file
        .digest
        .parse()
        .context("the manifest has a wrong digest")?;
    let bytes = download::contents(remote, job_id, &digest).await?;
    let report = serde_json::from_slice(&bytes)
        .with_context(|| format!("{REPORT_FILE} of job {job_id} is not a report this CLI knows"))?;
    Ok(report)
}

/// The summaries of the ranks, from the attempt that was committed.
pub(crate) async fn summaries<T: DeserializeOwned>(remote: &Remote, job_id: i64) -> Result<Vec<T>> {
    let detail = jobs::get(remote, job_id).await?;
    let committed = detail
        .attempts
        .into_iter()
        .rfind(|attempt| attempt.state() == AttemptState::Succeeded)
        .with_context(|| format!("job {job_id} succeeded without an attempt that did"))?;
    let mut summaries = Vec::with_capacity(committed.ranks.len());
    // Ranks that the attempt went on without have no summary that would count.
    let went_on = |rank: &&AttemptRank| rank.lost_at.is_none();
    for rank in committed.ranks.iter().filter(went_on) {
        let summary = read_summary(&rank.summary_json).with_context(|| {
            format!(
                "the summary of rank {} of job {job_id} cannot be read",
                rank.rank
            )
        })?;
        summaries.push(summary);
    }
    Ok(summaries)
}
