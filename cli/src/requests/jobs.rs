//! Questions about jobs and pipelines, and the submission of one.

use marquee_proto::v1::{self, Job, JobDetail, Pipeline};

use super::pages;
use crate::client::{Remote, Repeat, quick};
use crate::error::Result;

/// One job with its history.
pub(crate) async fn get(remote: &Remote, id: i64) -> Result<JobDetail> {
    remote
        .call(Repeat::Safe, async || {
            remote.jobs().get_job(quick(v1::GetJobRequest { id })).await
        })
        .await
}

/// One pipeline with its jobs.
pub(crate) async fn get_pipeline(remote: &Remote, id: i64) -> Result<Pipeline> {
    remote
        .call(Repeat::Safe, async || {
            remote
                .jobs()
                .get_pipeline(quick(v1::GetPipelineRequest { id }))
                .await
        })
        .await
}

/// The first `limit` jobs, newest first, and whether there are more.
pub(crate) async fn list(
    remote: &Remote,
    request: v1::ListJobsRequest,
    limit: usize,
) -> Result<(Vec<Job>, bool)> {
    pages::first(limit, async |page_size, page_token| {
        let request = v1::ListJobsRequest {
            page_size,
            page_token,
            ..request.clone()
        };
        let page = remote
            .call(Repeat::Safe, async || {
                remote.jobs().list_jobs(quick(request.clone())).await
            })
            .await?;
        Ok((page.jobs, page.next_page_token))
    })
    .await
}

/// The elements of a job array, in order; none for any other job.
pub(crate) async fn elements(remote: &Remote, array_job_id: i64) -> Result<Vec<Job>> {
    let request = v1::ListJobsRequest {
        array_job_id,
        ..v1::ListJobsRequest::default()
    };
    let (mut elements, _) = list(remote, request, usize::MAX).await?;
    // A listing is newest first, and elements were made in their order.
    elements.reverse();
    Ok(elements)
}

/// Sends a pipeline; the same `request_id` however often it is tried.
pub(crate) async fn submit(
    remote: &Remote,
    document: v1::Document,
    overrides: Vec<v1::Override>,
    request_id: String,
) -> Result<v1::SubmitResponse> {
    let request = v1::SubmitPipelineRequest {
        request_id,
        document: Some(document),
        overrides,
        dry_run: false,
    };
    remote
        .call(Repeat::Safe, async || {
            remote.jobs().submit_pipeline(quick(request.clone())).await
        })
        .await
}
