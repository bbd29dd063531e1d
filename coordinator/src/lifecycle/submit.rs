//! Submitting a pipeline: read whole, stored whole, or refused with every error named.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::ids::{JobId, JobName, PipelineId};
use marquee_domain::pipeline::{
    Capacity, DocumentText, FieldError, Override, check_size, parse_job, parse_pipeline,
};
use marquee_domain::resources::DeviceKind;
use marquee_domain::schedule::{Outcome, Progress};
use marquee_domain::spec::{InputRef, JobSpec, PipelineSpec};
use marquee_domain::users::Role;
use marquee_store::jobs::{Job, NewJob};
use marquee_store::pipelines::NewPipeline;
use marquee_store::schedules::{self, Run};
use marquee_store::workers::{self, WhichWorkers, Worker, WorkerState};
use marquee_store::{Conn, StoreError, Tx, artifacts, jobs, pipelines, retention};

use super::secrets::missing_secrets;
use super::{LifecycleError, Result, projects};
use crate::app::App;
use crate::caller::Caller;

/// What a user sent.
#[derive(Debug, Clone, Copy)]
pub struct Submission<'a> {
    pub request_id: &'a str,
    /// The job's name where the document is one job; None: a pipeline.
    pub job_name: Option<&'a str>,
    pub document: DocumentText<'a>,
    pub overrides: &'a [Override],
    /// Who asks for it, and what he may do.
    pub caller: &'a Caller,
    /// The due time of a schedule for which it is; None: somebody asks.
    pub due: Option<&'a Due<'a>>,
}

/// A due time of a schedule, to be taken down in the transaction that stores its pipeline.
#[derive(Debug, Clone, Copy)]
pub struct Due<'a> {
    pub(super) schedule: i64,
    pub(super) due_at: DateTime<Utc>,
    pub(super) note: &'a str,
    /// How far the schedule was as it was read, and how far it is then: its next due time, and one that waits.
    pub(super) before: &'a Progress,
    pub(super) then: (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
}

/// A pipeline that is stored, now or before.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    pub pipeline: PipelineId,
    /// Its jobs as they were stored. None: the same submission had been stored before, and nothing new was.
    pub jobs: Option<Vec<Job>>,
}

/// Stores a pipeline with its jobs. The same request with the same document is the same pipeline,
/// also when both arrive at once.
pub async fn submit(app: &App, submission: &Submission<'_>) -> Result<Submitted> {
    // By its own id, under which a client sends it again after a crash.
    let _step = app
        .walls
        // Written down first, since reading a document is what may go wrong: after a crash this says which
        // one it was.
        .trail
        .step(|| format!("submission {:?}", submission.request_id));
    // Before anything else is done with it: its digest alone would take a while.
    check_size(submission.document, submission.overrides)
        .map_err(LifecycleError::InvalidDocument)?;
    let digest = submission.digest();
    let spec = match parse(app, submission).await? {
        Ok(spec) => spec,
        Err(fields) => return before_or(app, submission, &digest, fields).await,
    };
    check_role(&spec, submission.caller)?;
    let mut missing = projects::check_projects(app, &spec).await?;
    missing.extend(missing_artifacts(app, &spec, submission.caller).await?);
    missing.extend(missing_secrets(app, &spec).await?);
    if !missing.is_empty() {
        return before_or(app, submission, &digest, missing).await;
    }

    let now = app.clock.now();
    let caller = submission.caller.to_string();
    // The audit has to know who asks before the first row is written.
    let mut tx = app.db.write_as("submit", &caller).await?;
    let new = NewPipeline {
        name: &spec.name,
        request_id: submission.request_id,
        document_digest: &digest,
        created_at: now,
    };
    let Some(pipeline) = pipelines::insert_pipeline(&mut tx, &new).await? else {
        // It was stored before, or by somebody else just now, whose transaction is committed.
        drop(tx);
        let mut conn = app.db.read().await?;
        return find_before(&mut conn, submission.request_id, &digest)
            .await?
            .ok_or_else(|| StoreError::Vanished("pipeline").into());
    };
    // Behind the request id: a repeated request must not be refused for the jobs that it has stored itself.
    projects::check_queued(app, &mut tx, &spec).await?;
    let mut positions: BTreeMap<&JobName, u32> = BTreeMap::new();
    let mut new_jobs = Vec::with_capacity(spec.jobs.len());
    for (position, job) in (0..).zip(&spec.jobs) {
        // The parser has put every job after what it needs.
        let needs = all_needs(job);
        let needs = needs
            .iter()
            .filter_map(|name| Some((*positions.get(name)?, job.needs_of(name))));
        new_jobs.push(NewJob {
            spec: job,
            needs: needs.collect(),
        });
        positions.insert(&job.name, position);
    }
    if let Some(due) = submission.due {
        due.take_down(&mut tx, pipeline, now).await?;
    }
    // All jobs in one statement: a pipeline of a thousand is one round trip, and is there whole or not at all.
    let ahead = app.index.open().elements_ahead(app.settings.elements_ahead);
    let ids = jobs::insert_jobs(&mut tx, pipeline, &new_jobs, ahead, &caller, now).await?;
    let inputs: Vec<(JobId, Digest)> = ids
        .iter()
        .zip(&spec.jobs)
        .flat_map(|(id, job)| artifacts_of(job).map(|(_, digest)| (*id, digest.clone())))
        .collect();
    if !retention::insert_inputs(&mut tx, &inputs).await?.is_empty() {
        // It was there a moment ago, and somebody removed it since: the look finds it missing, and says where.
        drop(tx);
        let missing = missing_artifacts(app, &spec, submission.caller).await?;
        return Err(LifecycleError::InvalidDocument(missing));
    }
    tx.commit().await?;

    tracing::info!(%pipeline, name = %spec.name, jobs = ids.len(), "pipeline submitted");
    // Only now: a word before the commit would make the index read rows that it cannot see yet.
    app.jobs_changed(&ids);
    let stored = jobs::as_stored((pipeline, &spec.name), &ids, &new_jobs, now);
    Ok(Submitted {
        pipeline,
        jobs: Some(stored),
    })
}

/// What would be stored: all that a submission is asked, and nothing done.
pub async fn check(app: &App, submission: &Submission<'_>) -> Result<PipelineSpec> {
    // The same checks in the same order as for a submission, so that a schedule is not stored which will be
    // refused each night.
    check_size(submission.document, submission.overrides)
        .map_err(LifecycleError::InvalidDocument)?;
    let spec = parse(app, submission)
        .await?
        .map_err(LifecycleError::InvalidDocument)?;
    check_role(&spec, submission.caller)?;
    let mut missing = projects::check_projects(app, &spec).await?;
    missing.extend(missing_artifacts(app, &spec, submission.caller).await?);
    missing.extend(missing_secrets(app, &spec).await?);
    if missing.is_empty() {
        Ok(spec)
    } else {
        Err(LifecycleError::InvalidDocument(missing))
    }
}

/// Refuses jobs of projects in which the caller is no submitter, and what puts them before those of others where he is no
/// administrator.
fn check_role(spec: &PipelineSpec, caller: &Caller) -> Result<()> {
    for job in &spec.jobs {
        let project = &job.sharing.project;
        let has = |role| caller.may(role, project.as_str());
        let who = caller.user().unwrap_or_default();
        if !has(Role::Submitter) {
            return Err(LifecycleError::RoleTooLow(format!(
                "jobs.{}.project: user {who} is no submitter in project {project}; name another one (project = \"..\" or \
                 --project), or ask an administrator (\"marquee admin user role {who} --role submitter --project \
                 {project}\")",
                job.name
            )));
        }
        if job.priority > 0 && !has(Role::Admin) {
            return Err(LifecycleError::RoleTooLow(format!(
                "jobs.{}.priority: {} goes before the jobs of others, which takes an administrator; user {who} may give \
                 0 or less",
                job.name, job.priority
            )));
        }
    }
    Ok(())
}

/// A document that is refused may have been stored all the same, when the cluster was larger or an artifact
/// was there: the answer to a repeated request must not depend on that.
async fn before_or(
    app: &App,
    submission: &Submission<'_>,
    digest: &Digest,
    fields: Vec<FieldError>,
) -> Result<Submitted> {
    let mut conn = app.db.read().await?;
    let before = find_before(&mut conn, submission.request_id, digest).await?;
    before.ok_or(LifecycleError::InvalidDocument(fields))
}

impl Due<'_> {
    /// # Errors
    /// [`StoreError::Vanished`] where this due time was dealt with before, or the schedule changed: then nothing is
    /// submitted.
    async fn take_down(
        &self,
        tx: &mut Tx,
        pipeline: PipelineId,
        now: DateTime<Utc>,
    ) -> std::result::Result<(), StoreError> {
        let run = Run {
            due_at: self.due_at,
            outcome: Outcome::Submitted,
            pipeline: Some(pipeline),
            text: self.note.to_owned(),
            at: now,
        };
        schedules::mark_progress(tx, self.schedule, self.before, self.then).await?;
        schedules::insert_run(tx, self.schedule, &run).await
    }
}

impl Submission<'_> {
    fn parse(
        &self,
        cluster: Option<Capacity>,
    ) -> std::result::Result<PipelineSpec, Vec<FieldError>> {
        match self.job_name {
            Some(name) => parse_job(name, self.document, self.overrides, cluster),
            None => parse_pipeline(self.document, self.overrides, cluster),
        }
    }

    /// What makes two submissions the same: every part with its length before it, so that no two
    /// different ones read alike.
    fn digest(&self) -> Digest {
        let (format, text) = match self.document {
            DocumentText::Toml(text) => ("toml", text),
            DocumentText::Json(text) => ("json", text),
        };
        let kind = if self.job_name.is_some() {
            "job"
        } else {
            "pipeline"
        };
        // The text as it was sent, not what it means: a client that sends something again sends the
        // same bytes.
        let mut parts = vec![kind, self.job_name.unwrap_or_default(), format, text];
        for Override { path, value } in self.overrides {
            parts.extend([path.as_str(), value.as_str()]);
        }
        let framed: String = parts
            .iter()
            .map(|part| format!("{}:{part}\n", part.len()))
            .collect();
        Digest::of(framed.as_bytes())
    }
}

async fn find_before(
    conn: &mut Conn,
    request_id: &str,
    digest: &Digest,
) -> Result<Option<Submitted>> {
    match pipelines::find_pipeline_by_request_id(conn, request_id).await? {
        None => Ok(None),
        Some(before) if before.document_digest == *digest => Ok(Some(Submitted {
            pipeline: before.id,
            jobs: None,
        })),
        Some(_) => Err(LifecycleError::RequestIdReused(request_id.to_owned())),
    }
}

/// Reads the document against the cluster's size as the index has it. Where it knows of nobody, or the document is
/// refused, a worker may have come since: then the rows are asked.
async fn parse(
    app: &App,
    submission: &Submission<'_>,
) -> Result<std::result::Result<PipelineSpec, Vec<FieldError>>> {
    let known = capacity(&app.index.open().workers);
    // Without a lookup where it is plain: nearly every submission is right, and the rows are read only to
    // refuse fairly.
    if known.is_some()
        && let Ok(spec) = submission.parse(known)
    {
        return Ok(Ok(spec));
    }
    let mut conn = app.db.read().await?;
    let workers = workers::list_workers(&mut conn, WhichWorkers::Known).await?;
    Ok(submission.parse(capacity(&workers)))
}

/// The devices of every worker that is here or may come back. None: nobody has come yet.
fn capacity(workers: &[Worker]) -> Option<Capacity> {
    let inventories = workers.iter().filter_map(|worker| match worker.state {
        // A lost host may be back in a minute; to refuse its jobs meanwhile would make users submit twice.
        WorkerState::Online | WorkerState::Lost => worker.inventory.as_ref().ok(),
        WorkerState::Left => None,
    });
    inventories.fold(None, |known, inventory| {
        let Capacity { cpu_slots, gpus } = known.unwrap_or(Capacity {
            cpu_slots: 0,
            gpus: 0,
        });
        Some(Capacity {
            cpu_slots: cpu_slots.saturating_add(inventory.devices(DeviceKind::Cpu)),
            gpus: gpus.saturating_add(inventory.devices(DeviceKind::Gpu)),
        })
    })
}

/// An error for each input that names an artifact which nobody committed, or nobody whose jobs the caller may look at.
async fn missing_artifacts(
    app: &App,
    spec: &PipelineSpec,
    caller: &Caller,
) -> Result<Vec<FieldError>> {
    let named = spec
        .jobs
        .iter()
        .flat_map(|job| artifacts_of(job).map(|(name, digest)| (&job.name, name, digest)));
    let named: Vec<_> = named.collect();
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let mut missing = Vec::new();
    let mut conn = app.db.read().await?;
    for (job, name, digest) in named {
        let of = artifacts::list_artifact_projects(&mut conn, digest).await?;
        if !of.iter().any(|of| caller.may(Role::Viewer, of)) {
            missing.push(FieldError {
                field: format!("jobs.{job}.inputs.{name}"),
                message: format!(
                    "there is no artifact {digest}; \"marquee artifacts ls\" lists those there are"
                ),
            });
        }
    }
    Ok(missing)
}

/// The inputs of a job that name an artifact by its digest.
fn artifacts_of(job: &JobSpec) -> impl Iterator<Item = (&String, &Digest)> {
    job.inputs.iter().filter_map(|(name, input)| match input {
        InputRef::Artifact(digest) => Some((name, digest)),
        InputRef::Job { .. } => None,
    })
}

/// What a job waits for: what it says it needs, and the jobs that its inputs name.
fn all_needs(job: &JobSpec) -> BTreeSet<&JobName> {
    let inputs = job.inputs.values().filter_map(|input| match input {
        InputRef::Job { job, .. } => Some(job),
        InputRef::Artifact(_) => None,
    });
    job.needs.iter().chain(inputs).collect()
}
