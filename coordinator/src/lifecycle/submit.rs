//! Submitting a pipeline: read whole, stored whole, or refused with every error named.

use std::collections::{BTreeMap, BTreeSet};

use marquee_domain::artifact::Digest;
use marquee_domain::ids::{JobId, JobName, PipelineId};
use marquee_domain::pipeline::{
    Capacity, DocumentText, FieldError, Override, check_size, parse_job, parse_pipeline,
};
use marquee_domain::resources::DeviceKind;
use marquee_domain::spec::{InputRef, JobSpec, PipelineSpec};
use marquee_store::jobs::NewJob;
use marquee_store::pipelines::NewPipeline;
use marquee_store::workers::{self, WhichWorkers, Worker, WorkerState};
use marquee_store::{Conn, StoreError, artifacts, jobs, pipelines, retention};

use super::{LifecycleError, Result, projects};
use crate::app::App;

/// What a user sent.
#[derive(Debug, Clone, Copy)]
pub struct Submission<'a> {
    pub request_id: &'a str,
    /// The job's name where the document is one job; None: a pipeline.
    pub job_name: Option<&'a str>,
    pub document: DocumentText<'a>,
    pub overrides: &'a [Override],
    /// Who asks for it.
    pub caller: &'a str,
}

/// A pipeline that is stored, now or before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    pub pipeline: PipelineId,
    /// The same submission had been stored before, and nothing new was.
    pub repeated: bool,
}

/// Stores a pipeline with its jobs. The same request with the same document is the same pipeline,
/// also when both arrive at once.
pub async fn submit(app: &App, submission: &Submission<'_>) -> Result<Submitted> {
    // By its own id, under which a client sends it again after a crash.
    let _step = app
        .walls
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
    let mut missing = projects::check_projects(app, &spec).await?;
    missing.extend(missing_artifacts(app, &spec).await?);
    if !missing.is_empty() {
        return before_or(app, submission, &digest, missing).await;
    }

    let now = app.clock.now();
    let mut tx = app.db.write_as("submit", submission.caller).await?;
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
    projects::check_queued(app, &mut tx, &spec).await?;
    let mut positions: BTreeMap<&JobName, u32> = BTreeMap::new();
    let mut jobs = Vec::with_capacity(spec.jobs.len());
    for (position, job) in (0..).zip(&spec.jobs) {
        // The parser has put every job after what it needs.
        let needs = all_needs(job);
        let needs = needs
            .iter()
            .filter_map(|name| Some((*positions.get(name)?, job.needs_of(name))));
        jobs.push(NewJob {
            spec: job,
            needs: needs.collect(),
        });
        positions.insert(&job.name, position);
    }
    let ids = jobs::insert_jobs(&mut tx, pipeline, &jobs, submission.caller, now).await?;
    let inputs: Vec<(JobId, Digest)> = ids
        .iter()
        .zip(&spec.jobs)
        .flat_map(|(id, job)| artifacts_of(job).map(|(_, digest)| (*id, digest.clone())))
        .collect();
    if !retention::insert_inputs(&mut tx, &inputs).await?.is_empty() {
        // It was there a moment ago, and somebody removed it since: the look finds it missing, and says where.
        drop(tx);
        let missing = missing_artifacts(app, &spec).await?;
        return Err(LifecycleError::InvalidDocument(missing));
    }
    tx.commit().await?;

    tracing::info!(%pipeline, name = %spec.name, jobs = ids.len(), "pipeline submitted");
    app.jobs_changed(&ids);
    Ok(Submitted {
        pipeline,
        repeated: false,
    })
}

/// What would be stored: all that a submission is asked, and nothing done.
pub async fn check(app: &App, submission: &Submission<'_>) -> Result<PipelineSpec> {
    check_size(submission.document, submission.overrides)
        .map_err(LifecycleError::InvalidDocument)?;
    let spec = parse(app, submission)
        .await?
        .map_err(LifecycleError::InvalidDocument)?;
    let missing = missing_artifacts(app, &spec).await?;
    if missing.is_empty() {
        Ok(spec)
    } else {
        Err(LifecycleError::InvalidDocument(missing))
    }
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
            repeated: true,
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

/// An error for each input that names an artifact which nobody committed.
async fn missing_artifacts(app: &App, spec: &PipelineSpec) -> Result<Vec<FieldError>> {
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
        if artifacts::find_manifest_by_digest(&mut conn, digest)
            .await?
            .is_none()
        {
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
