//! Submitting, watching and steering jobs.

pub(super) mod encode;
pub(super) mod follow;
mod lines;
mod listing;
mod merge;
mod points;
pub(super) mod reasons;
mod relatives;
mod series;
mod stored;
mod watch;
mod what_if;

use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::job::JobState;
use marquee_domain::limits::REQUEST_ID_MAX_BYTES;
use marquee_domain::pipeline::{DocumentText, Override};
use marquee_domain::users::Role;
use marquee_proto::convert::{self, BadField, timestamp};
use marquee_proto::v1;
use marquee_proto::v1::document::Format;
use marquee_store::forecasts::{self, Forecast};
use marquee_store::jobs::{self, Job};
use marquee_store::{Conn, StoreError};
use marquee_store::{attempts, events, pipelines, ranks, retention};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::scope;
use crate::app::App;
use crate::caller::Caller;
use crate::forecast;
use crate::lifecycle::{self, Because, LifecycleError, Submission, once_more};

/// Lines of history that come with a job, the newest.
const EVENTS_MAX: u32 = 200;

type Answered<T> = Result<Response<T>, Status>;
type Streamed<T> = ReceiverStream<Result<T, Status>>;

/// The service.
#[derive(Debug)]
pub(super) struct JobsService {
    app: App,
}

impl JobsService {
    pub(super) fn new(app: App) -> Self {
        Self { app }
    }

    async fn connection(&self) -> Result<Conn, LifecycleError> {
        Ok(self.app.db.read().await?)
    }

    async fn submit(
        &self,
        request_id: &str,
        job_name: Option<&str>,
        document: Option<v1::Document>,
        overrides: Vec<v1::Override>,
        dry_run: bool,
        caller: &Caller,
    ) -> Answered<v1::SubmitResponse> {
        if request_id.is_empty() || request_id.len() > REQUEST_ID_MAX_BYTES {
            let why = format!(
                "{} bytes, must be 1 to {REQUEST_ID_MAX_BYTES}",
                request_id.len()
            );
            return Err(BadField::invalid("request_id", why).into());
        }
        let request_id = &convert::text("request_id", request_id.to_owned(), REQUEST_ID_MAX_BYTES)?;
        let format = document.and_then(|document| document.format);
        let document = match format
            .as_ref()
            .ok_or_else(|| BadField::missing("document"))?
        {
            Format::Toml(text) => DocumentText::Toml(text),
            Format::Json(text) => DocumentText::Json(text),
        };
        let overrides: Vec<Override> = overrides
            .into_iter()
            .map(|v1::Override { path, value }| Override { path, value })
            .collect();
        let submission = Submission {
            request_id,
            job_name,
            document,
            overrides: &overrides,
            caller,
            due: None,
        };
        if dry_run {
            let spec = lifecycle::check(&self.app, &submission).await?;
            return Ok(Response::new(v1::SubmitResponse {
                jobs: spec.jobs.iter().map(encode::planned).collect(),
                ..v1::SubmitResponse::default()
            }));
        }
        let submitted = once_more(|| lifecycle::submit(&self.app, &submission)).await?;
        let repeated_request = submitted.jobs.is_none();
        let jobs = match submitted.jobs {
            Some(jobs) => visible(&self.app, jobs, caller),
            // What became of them since.
            None => self.pipeline_jobs(submitted.pipeline, caller).await?,
        };
        Ok(Response::new(v1::SubmitResponse {
            pipeline_id: submitted.pipeline.0,
            jobs,
            repeated_request,
        }))
    }

    async fn job(&self, id: JobId) -> Result<v1::Job, LifecycleError> {
        let mut conn = self.connection().await?;
        let job = jobs::get_job(&mut conn, id).await?;
        drop(conn);
        reasons::with_reason(&self.app, job).ok_or_else(|| StoreError::JobNotFound(id).into())
    }

    async fn detail(&self, id: JobId, caller: &Caller) -> Result<v1::JobDetail, LifecycleError> {
        scope::job(&self.app, caller, Role::Viewer, id).await?;
        let mut conn = self.connection().await?;
        let job = jobs::get_job(&mut conn, id).await?;
        let (spec, spec_unreadable) = match jobs::get_job_spec(&mut conn, id).await {
            Ok(spec) => (Some(spec), String::new()),
            // Everything else of the job can be read, and says what became of it.
            Err(error @ StoreError::Unreadable { .. }) => (None, error.to_string()),
            Err(error) => return Err(error.into()),
        };
        let attempts = attempts::list_attempts(&mut conn, id).await?;
        let ranks = ranks::list_ranks(&mut conn, id, None).await?;
        let events = events::list_events(&mut conn, id, EVENTS_MAX).await?;
        let checkpoints = relatives::checkpoints(&mut conn, id).await?;
        let (takes_from, taken_by) =
            relatives::both_sides(&mut conn, id, spec.as_ref(), caller).await?;
        let first_said = forecasts::find_forecast(&mut conn, id).await?;
        // The play takes a while, for which no connection of the pool must be held.
        drop(conn);
        let (expected, no_forecast) = self.expected(&job, first_said.is_none()).await;
        Ok(v1::JobDetail {
            first_said: first_said.map(encode::forecast),
            forecast_accuracy: expected
                .as_ref()
                .and(self.app.index.plays.accuracy())
                .map(encode::accuracy),
            expected: expected.map(encode::forecast),
            no_forecast,
            job: reasons::with_reason(&self.app, job),
            spec_json: spec
                .map(|spec| serde_json::json!(spec).to_string())
                .unwrap_or_default(),
            checkpoints,
            takes_from,
            taken_by,
            spec_unreadable,
            attempts: attempts
                .into_iter()
                .map(|a| encode::attempt(a, &ranks, &self.app.sessions.hangs))
                .collect(),
            events: events.into_iter().map(encode::event).collect(),
        })
    }

    /// When a queued job is expected to start, or why nobody can tell. Kept when it is said for the first time.
    async fn expected(&self, job: &Job, is_first: bool) -> (Option<Forecast>, String) {
        if !matches!(job.state, JobState::Queued { .. }) {
            return (None, String::new());
        }
        let expected = match forecast::expected(&self.app, job.id).await {
            None => return (None, String::new()),
            Some(Err(why)) => return (None, why),
            Some(Ok(expected)) => expected,
        };
        let said = Forecast {
            said_at: self.app.clock.now(),
            expected_at: expected.at,
            likely_by: expected.by,
            basis: expected.basis,
        };
        if is_first && let Err(error) = self.keep(job.id, &said).await {
            // Who asks why a job waits is answered all the same.
            tracing::debug!(job = %job.id, %error, "what was said of a start is not kept");
        }
        (Some(said), String::new())
    }

    async fn keep(&self, job: JobId, said: &Forecast) -> Result<(), StoreError> {
        let mut tx = self.app.db.write("keep forecast").await?;
        forecasts::insert_forecast(&mut tx, job, said).await?;
        tx.commit().await
    }

    /// The jobs that a job needs.
    async fn needs(
        &self,
        detail: &v1::JobDetail,
        caller: &Caller,
    ) -> Result<Vec<v1::Job>, LifecycleError> {
        let Some(job) = detail.job.as_ref().filter(|job| !job.needs.is_empty()) else {
            return Ok(Vec::new());
        };
        let mut jobs = self
            .pipeline_jobs(PipelineId(job.pipeline_id), caller)
            .await?;
        jobs.retain(|other| job.needs.contains(&other.name));
        Ok(jobs)
    }

    async fn pipeline(
        &self,
        id: PipelineId,
        caller: &Caller,
    ) -> Result<v1::Pipeline, LifecycleError> {
        let mut conn = self.connection().await?;
        let pipeline = pipelines::get_pipeline(&mut conn, id).await?;
        let jobs = self.pipeline_jobs(id, caller).await?;
        // No jobs that he may see: whether that is one of others, or none at all, is told apart here.
        if jobs.is_empty() && caller.projects(Role::Viewer).is_some() {
            scope::pipeline(&self.app, caller, Role::Viewer, id).await?;
        }
        let kept = retention::find_keeper(&mut conn, id).await?;
        Ok(v1::Pipeline {
            kept_at: kept.as_ref().map(|(_, at)| timestamp(*at)),
            kept_by: kept.map(|(by, _)| by).unwrap_or_default(),
            id: id.0,
            name: pipeline.name.to_string(),
            created_at: Some(timestamp(pipeline.created_at)),
            jobs,
        })
    }

    /// The jobs of a pipeline that the caller may look at.
    async fn pipeline_jobs(
        &self,
        id: PipelineId,
        caller: &Caller,
    ) -> Result<Vec<v1::Job>, LifecycleError> {
        let mut conn = self.connection().await?;
        let jobs = jobs::list_pipeline_jobs(&mut conn, id).await?;
        drop(conn);
        Ok(visible(&self.app, jobs, caller))
    }
}

/// Those of the jobs that the caller may see, as messages.
fn visible(app: &App, mut jobs: Vec<Job>, caller: &Caller) -> Vec<v1::Job> {
    jobs.retain(|job| caller.may(Role::Viewer, &job.project));
    reasons::with_reasons(app, jobs)
}

#[tonic::async_trait]
impl v1::jobs_server::Jobs for JobsService {
    type WatchStream = Streamed<v1::WatchResponse>;
    type LogsStream = Streamed<v1::LogLine>;
    type MetricsStream = Streamed<v1::MetricPoint>;

    async fn submit_pipeline(
        &self,
        request: Request<v1::SubmitPipelineRequest>,
    ) -> Answered<v1::SubmitResponse> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        self.submit(
            &request.request_id,
            None,
            request.document,
            request.overrides,
            request.dry_run,
            &caller,
        )
        .await
    }

    async fn submit_job(
        &self,
        request: Request<v1::SubmitJobRequest>,
    ) -> Answered<v1::SubmitResponse> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let name = Some(request.name.as_str());
        self.submit(
            &request.request_id,
            name,
            request.document,
            request.overrides,
            false,
            &caller,
        )
        .await
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Answered<v1::JobDetail> {
        let caller = Caller::of(&request);
        let id = JobId(request.into_inner().id);
        Ok(Response::new(self.detail(id, &caller).await?))
    }

    async fn get_pipeline(
        &self,
        request: Request<v1::GetPipelineRequest>,
    ) -> Answered<v1::Pipeline> {
        let caller = Caller::of(&request);
        let id = PipelineId(request.into_inner().id);
        Ok(Response::new(self.pipeline(id, &caller).await?))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Answered<v1::ListJobsResponse> {
        let caller = Caller::of(&request);
        Ok(Response::new(
            listing::page(&self.app, &request.into_inner(), &caller).await?,
        ))
    }

    async fn cancel_job(&self, request: Request<v1::CancelJobRequest>) -> Answered<v1::Job> {
        let caller = Caller::of(&request);
        let id = JobId(request.into_inner().id);
        scope::job(&self.app, &caller, Role::Submitter, id).await?;
        let caller = caller.to_string();
        once_more(|| lifecycle::cancel_job(&self.app, id, &caller)).await?;
        Ok(Response::new(self.job(id).await?))
    }

    async fn cancel_pipeline(
        &self,
        request: Request<v1::CancelPipelineRequest>,
    ) -> Answered<v1::Pipeline> {
        let caller = Caller::of(&request);
        let id = PipelineId(request.into_inner().id);
        scope::pipeline(&self.app, &caller, Role::Submitter, id).await?;
        let by = caller.to_string();
        once_more(|| lifecycle::cancel_pipeline(&self.app, id, &by)).await?;
        Ok(Response::new(self.pipeline(id, &caller).await?))
    }

    async fn retry_job(&self, request: Request<v1::RetryJobRequest>) -> Answered<v1::Job> {
        let caller = Caller::of(&request);
        let id = JobId(request.into_inner().id);
        scope::job(&self.app, &caller, Role::Submitter, id).await?;
        let caller = caller.to_string();
        once_more(|| lifecycle::retry_job(&self.app, id, &caller)).await?;
        Ok(Response::new(self.job(id).await?))
    }

    async fn hold_job(&self, request: Request<v1::HoldJobRequest>) -> Answered<v1::Job> {
        let caller = Caller::of(&request);
        let id = JobId(request.into_inner().id);
        scope::job(&self.app, &caller, Role::Submitter, id).await?;
        let caller = caller.to_string();
        lifecycle::hold_job(&self.app, id, &caller).await?;
        Ok(Response::new(self.job(id).await?))
    }

    async fn release_job(&self, request: Request<v1::HoldJobRequest>) -> Answered<v1::Job> {
        let caller = Caller::of(&request);
        let id = JobId(request.into_inner().id);
        scope::job(&self.app, &caller, Role::Submitter, id).await?;
        let caller = caller.to_string();
        lifecycle::release_job(&self.app, id, &caller).await?;
        Ok(Response::new(self.job(id).await?))
    }

    async fn move_job(&self, request: Request<v1::MoveJobRequest>) -> Answered<v1::Job> {
        let caller = Caller::of(&request);
        let id = JobId(request.into_inner().id);
        scope::job(&self.app, &caller, Role::Submitter, id).await?;
        let caller = caller.to_string();
        once_more(|| lifecycle::move_job(&self.app, id, &caller)).await?;
        Ok(Response::new(self.job(id).await?))
    }

    async fn remove_pipeline(
        &self,
        request: Request<v1::RemovePipelineRequest>,
    ) -> Answered<v1::Removed> {
        let caller = Caller::of(&request);
        let v1::RemovePipelineRequest { id, dry_run } = request.into_inner();
        let id = PipelineId(id);
        scope::pipeline(&self.app, &caller, Role::Submitter, id).await?;
        let caller = caller.to_string();
        let remove = || lifecycle::remove_pipeline(&self.app, id, Because::Asked, dry_run, &caller);
        let removed = once_more(remove).await?;
        Ok(Response::new(encode::removed(&removed)))
    }

    async fn collect_garbage(
        &self,
        request: Request<v1::CollectGarbageRequest>,
    ) -> Answered<v1::CollectGarbageResponse> {
        let caller = Caller::of(&request).to_string();
        let v1::CollectGarbageRequest {
            dry_run,
            after_pipeline_id,
        } = request.into_inner();
        let after = PipelineId(after_pipeline_id);
        let step = once_more(|| lifecycle::retire(&self.app, after, dry_run, &caller)).await?;
        let (files, bytes) = match step.next {
            // After the last part alone: the files of pipelines that are still to go have names until then.
            Some(_) => (0, 0),
            None => lifecycle::collect_unnamed(&self.app, dry_run).await?,
        };
        Ok(Response::new(encode::step(step, files, bytes)))
    }

    async fn keep_pipeline(
        &self,
        request: Request<v1::KeepPipelineRequest>,
    ) -> Answered<v1::Pipeline> {
        let caller = Caller::of(&request);
        let v1::KeepPipelineRequest { id, lift } = request.into_inner();
        let id = PipelineId(id);
        scope::pipeline(&self.app, &caller, Role::Submitter, id).await?;
        lifecycle::keep_pipeline(&self.app, id, !lift, &caller.to_string()).await?;
        Ok(Response::new(self.pipeline(id, &caller).await?))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answered<Self::WatchStream> {
        let caller = Caller::of(&request);
        let stream = watch::start(&self.app, request.into_inner(), &caller).await?;
        Ok(Response::new(stream))
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Answered<Self::LogsStream> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        scope::job(&self.app, &caller, Role::Viewer, JobId(request.job_id)).await?;
        let stream = lines::start(&self.app, request).await?;
        Ok(Response::new(stream))
    }

    async fn metrics(&self, request: Request<v1::MetricsRequest>) -> Answered<Self::MetricsStream> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        scope::job(&self.app, &caller, Role::Viewer, JobId(request.job_id)).await?;
        let stream = points::start(&self.app, request).await?;
        Ok(Response::new(stream))
    }

    async fn series(&self, request: Request<v1::SeriesRequest>) -> Answered<v1::SeriesResponse> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        scope::job(&self.app, &caller, Role::Viewer, JobId(request.job_id)).await?;
        Ok(Response::new(series::look(&self.app, request).await?))
    }

    async fn what_if(&self, request: Request<v1::WhatIfRequest>) -> Answered<v1::WhatIfResponse> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        scope::job(&self.app, &caller, Role::Viewer, JobId(request.job_id)).await?;
        Ok(Response::new(what_if::look(&self.app, request).await?))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answered<v1::ExplainResponse> {
        let caller = Caller::of(&request);
        let detail = self
            .detail(JobId(request.into_inner().job_id), &caller)
            .await?;
        let needs = self.needs(&detail, &caller).await?;
        Ok(Response::new(encode::explanation(
            &detail,
            &needs,
            self.app.clock.now(),
        )))
    }
}
