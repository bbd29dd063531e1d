//! Submitting a pipeline: read whole, stored whole, or refused with every error named.

use std::collections::{BTreeMap, BTreeSet};

use marquee_domain::artifact::Digest;
use marquee_domain::ids::{JobId, JobName, PipelineId};
use marquee_domain::pipeline::{
    Capacity, DocumentText, FieldError, Override, parse_job, parse_pipeline,
};
use marquee_domain::resources::DeviceKind;
use marquee_domain::spec::{InputRef, JobSpec, PipelineSpec};
use marquee_store::jobs::NewJob;
use marquee_store::pipelines::NewPipeline;
use marquee_store::workers::WorkerState;
use marquee_store::{Conn, Tx};
use marquee_store::{artifacts, events, jobs, pipelines, workers};

use super::{LifecycleError, Result, dependents};
use crate::app::App;

/// What a user sent.
#[derive(Debug, Clone, Copy)]
pub struct Submission<'a> {
    pub request_id: &'a str,
    /// The job's name where the document is one job; None: a pipeline.
    pub job_name: Option<&'a str>,
    pub document: DocumentText<'a>,
    pub overrides: &'a [Override],
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
    let digest = submission.digest();
    let mut conn = app.db.read().await?;
    // Before reading the document: the answer must not depend on how large the cluster is now.
    if let Some(before) = find_before(&mut conn, submission.request_id, &digest).await? {
        return Ok(before);
    }
    let cluster = capacity(&mut conn).await?;
    let spec = submission
        .parse(cluster)
        .map_err(LifecycleError::InvalidDocument)?;
    let missing = missing_artifacts(&mut conn, &spec).await?;
    if !missing.is_empty() {
        return Err(LifecycleError::InvalidDocument(missing));
    }
    drop(conn);

    let now = app.clock.now();
    let mut tx = app.db.write("submit").await?;
    let new = NewPipeline {
        name: &spec.name,
        request_id: submission.request_id,
        document_digest: &digest,
        created_at: now,
    };
    let Some(pipeline) = pipelines::insert_pipeline(&mut tx, &new).await? else {
        // Somebody stored it since we looked; its transaction is committed now.
        drop(tx);
        let mut conn = app.db.read().await?;
        return find_before(&mut conn, submission.request_id, &digest)
            .await?
            .ok_or_else(|| StoreError::Vanished("pipeline").into());
    };
    let mut ids: BTreeMap<&JobName, JobId> = BTreeMap::new();
    for (position, job) in (0..).zip(&spec.jobs) {
        let needs: BTreeSet<&JobName> = all_needs(job);
        let waits = dependents::waits_for(needs.iter().map(|name| name.as_str()));
        let waits = (!needs.is_empty()).then_some(waits.as_str());
        // The parser has put every job after what it needs.
        let needs: Vec<JobId> = needs
            .iter()
            .filter_map(|name| ids.get(name))
            .copied()
            .collect();
        let new = NewJob {
            pipeline,
            position,
            spec: job,
            waits,
            array_job: None,
            created_at: now,
        };
        let id = insert(&mut tx, &new, &needs).await?;
        ids.insert(&job.name, id);
    }
    tx.commit().await?;

    tracing::info!(%pipeline, name = %spec.name, jobs = ids.len(), "pipeline submitted");
    for id in ids.values() {
        app.job_changed(*id);
    }
    Ok(Submitted {
        pipeline,
        repeated: false,
    })
}

/// Stores a job with what it needs, and an array with its elements.
async fn insert(tx: &mut Tx, new: &NewJob<'_>, needs: &[JobId]) -> Result<JobId> {
    let elements: Vec<JobSpec> = new.spec.elements().collect();
    let waits_for_elements = format!("0 of {} elements have succeeded", elements.len());
    let waits = match elements.as_slice() {
        [] => new.waits,
        _ => Some(new.waits.unwrap_or(&waits_for_elements)),
    };
    let id = jobs::insert_job(
        tx,
        &NewJob {
            waits,
            ..new.clone()
        },
    )
    .await?;
    for need in needs {
        jobs::insert_need(tx, id, *need).await?;
    }
    events::insert_event(tx, id, 0, "submitted", new.created_at).await?;
    for spec in &elements {
        let element = NewJob {
            spec,
            array_job: Some(id),
            ..new.clone()
        };
        let element = Box::pin(insert(tx, &element, needs)).await?;
        jobs::insert_need(tx, id, element).await?;
    }
    Ok(id)
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

/// The devices of every worker that is here or may come back. None: nobody has come yet.
async fn capacity(conn: &mut Conn) -> Result<Option<Capacity>> {
    let mut known = None;
    for worker in workers::list_workers(conn).await? {
        match worker.state {
            WorkerState::Online | WorkerState::Lost => {}
            WorkerState::Left => continue,
        }
        let Capacity { cpu_slots, gpus } = known.unwrap_or(Capacity {
            cpu_slots: 0,
            gpus: 0,
        });
        known = Some(Capacity {
            cpu_slots: cpu_slots.saturating_add(worker.inventory.devices(DeviceKind::Cpu)),
            gpus: gpus.saturating_add(worker.inventory.devices(DeviceKind::Gpu)),
        });
    }
    Ok(known)
}

/// An error for each input that names an artifact which nobody committed.
async fn missing_artifacts(conn: &mut Conn, spec: &PipelineSpec) -> Result<Vec<FieldError>> {
    let mut missing = Vec::new();
    for job in &spec.jobs {
        for (name, input) in &job.inputs {
            let InputRef::Artifact(digest) = input else {
                continue;
            };
            if artifacts::find_manifest_by_digest(conn, digest)
                .await?
                .is_none()
            {
                missing.push(FieldError {
                    field: format!("jobs.{}.inputs.{name}", job.name),
                    message: format!(
                        "there is no artifact {digest}; \"marquee artifacts ls\" lists those there are"
                    ),
                });
            }
        }
    }
    Ok(missing)
}

/// What a job waits for: what it says it needs, and the jobs that its inputs name.
fn all_needs(job: &JobSpec) -> BTreeSet<&JobName> {
    let inputs = job.inputs.values().filter_map(|input| match input {
        InputRef::Job { job, .. } => Some(job),
        InputRef::Artifact(_) => None,
    });
    job.needs.iter().chain(inputs).collect()
}
