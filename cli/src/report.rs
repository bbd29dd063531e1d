//! Bringing the parts of a pipeline's summary together over gRPC.

use anyhow::Context as _;
use marquee_domain::artifact::Digest;
use marquee_domain::report::{EvalReport, FetchSummary, TrainSummary};
use marquee_proto::v1::{
    AttemptRank, AttemptState, Job, JobKind, JobState, get_artifact_request::Which,
};
use marquee_view::report::Summary;
use serde::de::DeserializeOwned;

use crate::client::Remote;
use crate::error::Result;
use crate::requests::{artifacts, download, jobs};

/// The file of a report artifact that holds its figures.
const REPORT_FILE: &str = "report.json";

/// Reads what a pipeline's jobs left behind.
pub(crate) async fn gather(remote: &Remote, pipeline_id: i64) -> Result<Summary> {
    let pipeline = jobs::get_pipeline(remote, pipeline_id).await?;
    // A job that reused a step did no work of its own: the summary is that of the job that did.
    let last_succeeded = |kind: JobKind| {
        let done = |job: &&Job| job.kind() == kind && job.state() == JobState::Succeeded;
        let job = pipeline.jobs.iter().rfind(done)?;
        Some(match job.reused_from_job_id {
            0 => job.id,
            from => from,
        })
    };
    let eval_job = last_succeeded(JobKind::Eval);
    let eval = match eval_job {
        Some(id) => Some(eval_report(remote, id).await?),
        None => None,
    };
    let ranks = match last_succeeded(JobKind::Train) {
        Some(id) => {
            let mut ranks: Vec<TrainSummary> = summaries(remote, id).await?;
            ranks.sort_by_key(|summary| summary.rank);
            ranks
        }
        None => Vec::new(),
    };
    let fetch = match last_succeeded(JobKind::Fetch) {
        Some(id) => fetch_summary(remote, id).await?,
        None => None,
    };
    let preprocess = match last_succeeded(JobKind::Preprocess) {
        Some(id) => summaries(remote, id).await?.into_iter().next(),
        None => None,
    };
    Ok(Summary {
        pipeline_id,
        pipeline_name: pipeline.name,
        jobs: pipeline.jobs,
        fetch,
        preprocess,
        eval,
        ranks,
        eval_job,
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
    let bytes = download::contents(remote, &digest).await?;
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
    let went_on = |rank: &&AttemptRank| rank.lost_at.is_none();
    for rank in committed.ranks.iter().filter(went_on) {
        let summary = serde_json::from_str(&rank.summary_json).with_context(|| {
            format!(
                "rank {} of job {job_id} left no summary this CLI knows",
                rank.rank
            )
        })?;
        summaries.push(summary);
    }
    Ok(summaries)
}
