//! GPUs that something speaks against: put into quarantine, tested by a burn-in, and brought back by it.
//!
//! Invariant: a quarantine ends by somebody's word, or by a burn-in that succeeded on that very GPU while nothing new came
//! to speak against it. The row of the worker is locked for each change, so that of two at once the second sees what the
//! first decided.

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::evidence::{Evidence, clean};
use marquee_domain::gpu::GpuReading;
use marquee_domain::ids::{JobId, JobName, WorkerId};
use marquee_domain::job::JobState;
use marquee_domain::pipeline::{DocumentText, parse_job};
use marquee_domain::resources::{Device, GpuInfo, Inventory, PartKind};
use marquee_domain::spec::{JobSpec, OneGpu};
use marquee_domain::standing::{BurnIn, Standing, Taken};
use marquee_store::jobs::NewJob;
use marquee_store::pipelines::NewPipeline;
use marquee_store::workers::{Worker, WorkerState};
use marquee_store::{Conn, StoreError, events, jobs, pipelines, ranks, steering};

use super::{LifecycleError, Result};
use crate::app::App;
use crate::metrics;

/// How long a burn-in tests where nobody says: long enough for a GPU to become as warm as under a training.
pub const BURN_IN_MINUTES: u32 = 10;
/// The longest one. Beyond a day a slip of the hand is likelier than a wish.
pub const BURN_IN_MINUTES_MAX: u32 = 1_440;
/// What a burn-in may take besides: it fills the memory first, and trains at the end.
const BESIDES_MINUTES: u32 = 30;
/// Its pipeline and its job.
const NAME: &str = "burn-in";

/// Which GPU of which worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfWorker {
    pub worker: WorkerId,
    pub name: String,
    pub index: u32,
    pub uuid: String,
}

/// Changes the standing of a worker, where `change` has something to change. None: it had not, or the worker has left, or
/// what is stored cannot be read.
async fn change<T>(
    app: &App,
    (worker, name): (WorkerId, &str),
    caller: &str,
    change: impl FnOnce(&mut Standing) -> Option<T>,
) -> Result<Option<T>> {
    let mut tx = app.db.write_as("health", caller).await?;
    let named = steering::list_workers_named(&mut tx, name).await?;
    let own = named.into_iter().find(|(id, _)| *id == worker);
    let Some((_, Ok(mut standing))) = own else {
        return Ok(None);
    };
    let Some(done) = change(&mut standing) else {
        return Ok(None);
    };
    steering::mark_standing(&mut tx, worker, &standing).await?;
    tx.commit().await?;
    app.workers_changed();
    Ok(Some(done))
}

/// Writes down what speaks against GPUs of a worker, and puts those that are well so far into quarantine. `by` is who saw it.
pub async fn take_evidence(
    app: &App,
    worker: (WorkerId, &str),
    found: &[((u32, String), Vec<Evidence>)],
    by: &str,
) -> Result<()> {
    let now = app.clock.now();
    let take = |standing: &mut Standing| {
        let taken = found.iter().map(|((index, uuid), evidence)| {
            let taken = standing.take_evidence((*index, uuid), evidence, by, now);
            (*index, uuid.clone(), taken)
        });
        let taken: Vec<_> = taken.collect();
        let is_news = taken.iter().any(|(.., taken)| *taken != Taken::Nothing);
        is_news.then_some(taken)
    };
    let taken = change(app, worker, by, take).await?.unwrap_or_default();
    for (index, uuid, taken) in taken {
        if taken == Taken::Quarantined {
            let (id, name) = worker;
            tracing::warn!(worker = %id, name, gpu = index, uuid, "put into quarantine by evidence");
            tell_jobs(app, id, name, index, by).await?;
        }
    }
    Ok(())
}

/// Says in the history of what runs on a GPU that it does so on one in quarantine: who wonders about a result finds it.
async fn tell_jobs(app: &App, worker: WorkerId, name: &str, index: u32, by: &str) -> Result<()> {
    let concerned: Vec<(JobId, u32)> = {
        let open = app.index.open();
        let jobs = open.staying_on(worker).into_iter();
        let on_it = jobs.filter(|job| open.gpus_of(*job).contains(&(worker, index)));
        on_it
            .map(|job| (job, open.job(job).map_or(0, |known| known.attempt)))
            .collect()
    };
    if concerned.is_empty() {
        return Ok(());
    }
    let now = app.clock.now();
    let text = format!("gpu {index} of {name}, on which it runs, was put into quarantine");
    let mut tx = app.db.write_as("health", by).await?;
    for (job, attempt) in concerned {
        events::insert_event_by(&mut tx, job, attempt, &text, by, now).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Gives the quarantines of a worker the numbers that its GPUs have now.
pub async fn renumber(app: &App, worker: (WorkerId, &str), inventory: &Inventory) -> Result<()> {
    let by = format!("worker {}", worker.1);
    let renumber = |standing: &mut Standing| standing.renumber(inventory).then_some(());
    change(app, worker, &by, renumber).await?;
    Ok(())
}

/// A burn-in as somebody asks for it.
#[derive(Debug, Clone, Copy)]
pub struct WantedBurnIn<'a> {
    pub worker_name: &'a str,
    pub gpu: u32,
    pub minutes: u32,
    pub request_id: &'a str,
    pub caller: &'a str,
}

/// Submits a job that tests a GPU in quarantine. The same request again gives the same job.
pub async fn burn_in(app: &App, wanted: &WantedBurnIn<'_>) -> Result<JobId> {
    let now = app.clock.now();
    let name = wanted.worker_name;
    let cannot = |why: String| LifecycleError::CannotBurnIn(why);
    let (worker, gpu) = {
        let open = app.index.open();
        let found = find_worker(&open.workers, name)
            .ok_or_else(|| LifecycleError::WorkerNotFound(name.to_owned()))?;
        (found.id, gpu_of(found, wanted.gpu).map_err(cannot)?)
    };
    let spec = spec(&gpu, worker, wanted.minutes)?;
    let seen = newest_evidence(&app.sessions.gpus(worker), &gpu.uuid);
    let document = serde_json::to_string(&spec).unwrap_or_default();
    let pipeline_name: JobName = NAME
        .parse()
        .map_err(|_| cannot("its name is none".to_owned()))?;
    let new = NewPipeline {
        name: &pipeline_name,
        request_id: wanted.request_id,
        document_digest: &Digest::of(document.as_bytes()),
        created_at: now,
    };
    let mut tx = app.db.write_as("burn in", wanted.caller).await?;
    let Some(pipeline) = pipelines::insert_pipeline(&mut tx, &new).await? else {
        drop(tx);
        return before(app, wanted.request_id, new.document_digest).await;
    };
    let named = steering::list_workers_named(&mut tx, name).await?;
    let own = named.into_iter().find(|(id, _)| *id == worker);
    let Some((_, Ok(mut standing))) = own else {
        return Err(cannot(format!(
            "what was decided about worker {name} cannot be read"
        )));
    };
    let found = standing.quarantine_of(gpu.index, &gpu.uuid);
    let Some((number, quarantine)) = found else {
        return Err(cannot(format!(
            "gpu {} of {name} is not in quarantine: jobs use it; \"marquee quarantine {name}/{}\" puts it there first",
            gpu.index, gpu.index
        )));
    };
    if let Some(BurnIn { job, .. }) = quarantine.burn_in_at_work()
        && is_open(&mut tx, *job).await?
    {
        let job = *job;
        return Err(LifecycleError::BurnInAtWork {
            gpu: format!("gpu {} of {name}", gpu.index),
            job,
        });
    }
    let stored = quarantine.newest_evidence();
    let new = [NewJob {
        spec: &spec,
        needs: Vec::new(),
    }];
    let ids = jobs::insert_jobs(&mut tx, pipeline, &new, 0, wanted.caller, now).await?;
    let job = *ids.first().ok_or(StoreError::Vanished("job"))?;
    if let Some(quarantine) = standing.gpus.get_mut(&number) {
        quarantine.burn_in = Some(BurnIn {
            job,
            at: now,
            evidence_until: stored.max(seen),
            failure: None,
        });
    }
    steering::mark_standing(&mut tx, worker, &standing).await?;
    tx.commit().await?;
    tracing::info!(%job, worker = name, gpu = gpu.index, minutes = wanted.minutes, "burn-in submitted");
    app.jobs_changed(&ids);
    app.workers_changed();
    Ok(job)
}

/// The job that the same request submitted before.
async fn before(app: &App, request_id: &str, digest: &Digest) -> Result<JobId> {
    let mut conn = app.db.read().await?;
    let before = pipelines::find_pipeline_by_request_id(&mut conn, request_id).await?;
    let before = before.ok_or(StoreError::Vanished("pipeline"))?;
    if before.document_digest != *digest {
        return Err(LifecycleError::RequestIdReused(request_id.to_owned()));
    }
    let jobs = jobs::list_pipeline_jobs(&mut conn, before.id).await?;
    let job = jobs.first().ok_or(StoreError::Vanished("job"))?;
    Ok(job.id)
}

/// The worker of a name that is here or may come back, the one that is online first.
fn find_worker<'a>(workers: &'a [Worker], name: &str) -> Option<&'a Worker> {
    let of_name = workers.iter().filter(|worker| worker.name == name);
    of_name
        .filter(|worker| worker.state != WorkerState::Left)
        .min_by_key(|worker| (worker.state != WorkerState::Online, worker.id))
}

/// A GPU of a worker that can be tested there, or why there is none.
fn gpu_of(worker: &Worker, index: u32) -> std::result::Result<GpuInfo, String> {
    let name = &worker.name;
    let inventory = worker
        .inventory
        .as_ref()
        .map_err(|why| format!("what worker {name} has cannot be read: {why}"))?;
    if inventory.gpus.is_empty() {
        return Err(format!(
            "worker {name} has no GPU; its CPU slots are in no quarantine and need no burn-in"
        ));
    }
    let parts: Vec<String> = inventory
        .gpus
        .iter()
        .filter(|gpu| gpu.part.is_some_and(|part| part.of == index))
        .map(|gpu| format!("{name}/{}", gpu.index))
        .collect();
    let Some(gpu) = inventory.gpus.iter().find(|gpu| gpu.index == index) else {
        return Err(if parts.is_empty() {
            format!(
                "worker {name} has no gpu {index} now; \"marquee workers\" lists those that it has"
            )
        } else {
            format!(
                "gpu {index} of {name} is offered in parts: name one of {}",
                parts.join(", ")
            )
        });
    };
    if inventory.flavour.is_empty() {
        return Err(format!(
            "worker {name} has no marquee-trainer that starts, which is what tests a GPU: install it (docs/deploy.md)"
        ));
    }
    Ok(gpu.clone())
}

/// The job: an ordinary command for one GPU, that one.
fn spec(gpu: &GpuInfo, worker: WorkerId, minutes: u32) -> Result<JobSpec> {
    let mebibytes = u32::try_from(gpu.memory_bytes >> 20).unwrap_or(u32::MAX);
    // Who has a share keeps to its memory, which he has to say.
    let memory = match gpu.part.map(|part| part.kind) {
        Some(PartKind::Share) => format!("gpu_memory = \"{mebibytes}MiB\"\n"),
        Some(PartKind::Mig) | None => String::new(),
    };
    let timeout = minutes.saturating_add(BESIDES_MINUTES);
    let document = format!(
        "kind = \"command\"\nargv = [\"marquee-trainer\", \"burn-in\", \"--minutes\", \"{minutes}\"]\n\
         device = \"gpu\"\ntimeout = \"{timeout}m\"\nidle_ok = true\n{memory}"
    );
    let parsed = parse_job(NAME, DocumentText::Toml(&document), &[], None);
    let pipeline = parsed.map_err(LifecycleError::InvalidDocument)?;
    let mut spec = pipeline
        .jobs
        .into_iter()
        .next()
        .ok_or(StoreError::Vanished("job"))?;
    spec.sharing.hosts.gpu = Some(OneGpu {
        worker,
        uuid: gpu.uuid.clone(),
    });
    Ok(spec)
}

async fn is_open(conn: &mut Conn, job: JobId) -> Result<bool> {
    match jobs::get_job(conn, job).await {
        Ok(job) => Ok(!job.state.name().is_final()),
        // Somebody removed its pipeline.
        Err(StoreError::JobNotFound(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// When the newest evidence against a GPU was seen, as its worker tells.
#[must_use]
pub fn newest_evidence(readings: &[GpuReading], uuid: &str) -> Option<DateTime<Utc>> {
    let of_gpu = readings.iter().filter(|reading| reading.uuid == uuid);
    let pieces = of_gpu.flat_map(|reading| &reading.evidence);
    pieces.map(|piece| piece.last_at).max()
}

/// Looks at the burn-in of a GPU, and does what follows from its end. Nothing where it has not ended.
pub async fn conclude(app: &App, of: &OfWorker, burn_in: &BurnIn) -> Result<()> {
    let Some(verdict) = verdict(app, of, burn_in).await? else {
        return Ok(());
    };
    let now = app.clock.now();
    let seen = newest_evidence(&app.sessions.gpus(of.worker), &of.uuid);
    let by = format!("burn-in job {}", burn_in.job);
    let conclude = |standing: &mut Standing| {
        let (number, quarantine) = standing.quarantine_of(of.index, &of.uuid)?;
        // Another one was submitted meanwhile, or somebody was here before.
        if quarantine.burn_in_at_work()?.job != burn_in.job {
            return None;
        }
        // In words that hold when they are stored: evidence may have come since the look.
        let newest = quarantine.newest_evidence().max(seen);
        let verdict = match verdict {
            Ok(()) if newest > burn_in.evidence_until => Err(
                "it passed, but meanwhile its worker saw something new that speaks against the GPU; run another one"
                    .to_owned(),
            ),
            verdict => verdict,
        };
        match &verdict {
            Ok(()) => standing.lift_gpu((of.index, &of.uuid), seen, Some(burn_in.job), now),
            Err(why) => {
                let own = standing.gpus.get_mut(&number)?.burn_in.as_mut()?;
                own.failure = Some(clean(why));
            }
        }
        Some(verdict)
    };
    let done = change(app, (of.worker, &of.name), &by, conclude).await?;
    let (worker, gpu, job) = (&of.name, of.index, burn_in.job);
    match done {
        Some(Ok(())) => {
            metrics::burn_in_ended(true);
            tracing::info!(worker, gpu, %job, "the GPU passed its burn-in and is offered again");
        }
        Some(Err(why)) => {
            metrics::burn_in_ended(false);
            tracing::warn!(worker, gpu, %job, why, "the GPU stays in quarantine after its burn-in");
        }
        None => {}
    }
    Ok(())
}

/// Whether the GPU passed, or why not. None: the burn-in has not ended.
async fn verdict(
    app: &App,
    of: &OfWorker,
    burn_in: &BurnIn,
) -> Result<Option<std::result::Result<(), String>>> {
    let mut conn = app.db.read().await?;
    let job = match jobs::get_job(&mut conn, burn_in.job).await {
        Ok(job) => job,
        Err(StoreError::JobNotFound(_)) => {
            return Ok(Some(Err("it was removed".to_owned())));
        }
        Err(error) => return Err(error.into()),
    };
    let attempt = match job.state {
        JobState::Waiting { .. } | JobState::Queued { .. } | JobState::Running { .. } => {
            return Ok(None);
        }
        JobState::Failed { failure, .. } => {
            let class = failure.class.as_str();
            let why = format!("failed ({class}): {}", failure.message);
            return Ok(Some(Err(why)));
        }
        JobState::Cancelled { .. } => return Ok(Some(Err("was cancelled".to_owned()))),
        JobState::Succeeded { attempt, .. } => attempt,
    };
    let ranks = ranks::list_ranks(&mut conn, burn_in.job, Some(attempt)).await?;
    let uuid_of = |device: &Device| {
        let open = app.index.open();
        let worker = open.workers.iter().find(|worker| worker.id == of.worker)?;
        let gpus = &worker.inventory.as_ref().ok()?.gpus;
        let gpu = match device {
            Device::Gpu { index } => gpus.iter().find(|gpu| gpu.index == *index)?,
            Device::Cpu { .. } => return None,
        };
        Some(gpu.uuid.clone())
    };
    let is_proven = match &ranks[..] {
        [rank] if rank.worker == of.worker => match &rank.devices[..] {
            [device] => uuid_of(device).as_deref() == Some(of.uuid.as_str()),
            _ => false,
        },
        _ => false,
    };
    Ok(Some(if is_proven {
        Ok(())
    } else {
        Err("it succeeded, but nothing proves that it ran on this GPU; run another one".to_owned())
    }))
}

/// A GPU that came back by a burn-in gets none by itself for this long.
pub const AGAIN_BY_ITSELF_AFTER: TimeDelta = TimeDelta::days(7);

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn gpu(part: Option<PartKind>) -> GpuInfo {
        let kind = part.map(|kind| marquee_domain::resources::GpuPart { of: 0, kind });
        GpuInfo {
            index: 3,
            uuid: "GPU-a".into(),
            name: "NVIDIA H100".into(),
            memory_bytes: 20 << 30,
            compute_capability: (9, 0),
            part: kind,
        }
    }

    #[test]
    fn a_burn_in_is_a_command_for_one_gpu_that_ends_in_time() {
        let worker = WorkerId(Uuid::from_u128(7));
        for (part, memory) in [
            (None, None),
            (Some(PartKind::Mig), None),
            (Some(PartKind::Share), Some(20 * 1024)),
        ] {
            let spec = spec(&gpu(part), worker, BURN_IN_MINUTES_MAX).unwrap();
            assert!(spec.is_burn_in());
            assert_eq!(spec.timeout_s, Some((1_440 + 30) * 60));
            assert_eq!(spec.sharing.gpu_memory_mib, memory);
            assert_eq!(spec.resources.ranks * spec.resources.devices_per_rank, 1);
            let stored = serde_json::to_value(&spec).unwrap();
            assert_eq!(serde_json::from_value::<JobSpec>(stored).unwrap(), spec);
        }
    }
}
