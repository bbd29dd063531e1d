//! The stream of jobs as they change.

use std::collections::{BTreeMap, BTreeSet};

use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::limits::PIPELINE_MAX_JOBS;
use marquee_domain::users::Role;
use marquee_proto::convert::BadField;
use marquee_proto::v1;
use marquee_store::jobs::{self, Job, JobFilter};
use marquee_store::{StoreError, pipelines};
use tokio::sync::mpsc;
use tonic::Status;

use super::follow::{BUFFERED_MAX, News};
use super::{Streamed, listing, reasons};
use crate::app::App;
use crate::caller::Caller;
use crate::lifecycle::LifecycleError;
use crate::rpc::scope;

/// Starts to watch. Jobs and pipelines that are not there are refused at once.
pub(super) async fn start(
    app: &App,
    request: v1::WatchRequest,
    caller: &Caller,
) -> Result<Streamed<v1::WatchResponse>, Status> {
    let mut filter = filter(&request)?;
    match &filter.ids {
        Some(ids) => scope::jobs_of(app, caller, Role::Viewer, ids).await?,
        None => listing::narrow(&mut filter, caller),
    }
    // Before the first look, so that nothing between the two is missed.
    let news = News::new(app);
    let first = look(app, &filter).await?;
    let (sender, receiver) = mpsc::channel(BUFFERED_MAX);
    let watch = Watch {
        app: app.clone(),
        filter,
        keep_open: request.keep_open,
        sender,
        sent: BTreeMap::new(),
    };
    tokio::spawn(watch.run(news, first));
    Ok(Streamed::new(receiver))
}

fn filter(request: &v1::WatchRequest) -> Result<JobFilter, BadField> {
    match (request.pipeline_id, request.job_ids.as_slice()) {
        (0, []) => Err(BadField::invalid(
            "job_ids",
            "neither a pipeline nor jobs are named",
        )),
        (0, ids) if ids.len() > PIPELINE_MAX_JOBS => {
            let why = format!("{} jobs, at most {PIPELINE_MAX_JOBS}", ids.len());
            Err(BadField::invalid("job_ids", why))
        }
        (0, ids) => {
            let ids = Some(ids.iter().map(|id| JobId(*id)).collect());
            Ok(JobFilter {
                ids,
                ..JobFilter::default()
            })
        }
        (id, []) => Ok(JobFilter {
            pipeline: Some(PipelineId(id)),
            ..JobFilter::default()
        }),
        (_, _) => Err(BadField::invalid(
            "job_ids",
            "a pipeline is named already; leave one out",
        )),
    }
}

/// The watched jobs as they are, oldest first.
async fn look(app: &App, filter: &JobFilter) -> Result<Vec<Job>, LifecycleError> {
    let mut conn = app.db.read().await?;
    let mut jobs = jobs::list_jobs(&mut conn, filter, PIPELINE_MAX_JOBS).await?;
    if let Some(pipeline) = filter.pipeline.filter(|_| jobs.is_empty()) {
        // To tell one that is not there from one without a job that he may see.
        pipelines::get_pipeline(&mut conn, pipeline).await?;
    }
    for id in filter.ids.iter().flatten() {
        // Who watches jobs by their numbers is told when one is gone: waiting for it would not end.
        if !jobs.iter().any(|job| job.id == *id) {
            return Err(StoreError::JobNotFound(*id).into());
        }
    }
    jobs.sort_by_key(|job| job.id);
    Ok(jobs)
}

struct Watch {
    app: App,
    filter: JobFilter,
    keep_open: bool,
    sender: mpsc::Sender<Result<v1::WatchResponse, Status>>,
    /// What the reader knows.
    sent: BTreeMap<JobId, v1::Job>,
}

impl Watch {
    async fn run(mut self, mut news: News, first: Vec<Job>) {
        let mut seen = Some(first);
        loop {
            if let Some(jobs) = seen {
                let watched: BTreeSet<JobId> = jobs.iter().map(|job| job.id).collect();
                let all_ended = jobs.iter().all(|job| job.state.name().is_final());
                if self.send_changed(jobs).await.is_err() || (all_ended && !self.keep_open) {
                    return;
                }
                if news.next(&watched, &self.sender).await.is_err() {
                    return;
                }
            } else if news.next(&BTreeSet::new(), &self.sender).await.is_err() {
                return;
            }
            seen = match news.seen(look(&self.app, &self.filter).await) {
                Ok(seen) => seen,
                Err(status) => {
                    let _ = self.sender.send(Err(status)).await;
                    return;
                }
            };
        }
    }

    /// Sends the jobs that are not as the reader knows them.
    async fn send_changed(
        &mut self,
        jobs: Vec<Job>,
    ) -> Result<(), mpsc::error::SendError<Result<v1::WatchResponse, Status>>> {
        for job in reasons::with_reasons(&self.app, jobs) {
            let id = JobId(job.id);
            if self.sent.get(&id) != Some(&job) {
                self.sender
                    .send(Ok(v1::WatchResponse {
                        job: Some(job.clone()),
                    }))
                    .await?;
                self.sent.insert(id, job);
            }
        }
        Ok(())
    }
}
