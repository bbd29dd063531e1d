//! GPUs that something speaks against: looks at what workers and ranks tell, at the numbers of their GPUs, and at burn-ins that
//! have ended.

use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::evidence::Evidence;
use marquee_domain::ids::WorkerId;
use marquee_domain::resources::Inventory;
use marquee_domain::standing::{BurnIn, Standing, Taken};
use marquee_store::workers::{Worker, WorkerState};

use super::Pace;
use super::round::hosts;
use crate::app::App;
use crate::faults::GpuId;
use crate::lifecycle::{
    self, AGAIN_BY_ITSELF_AFTER, LifecycleError, OfWorker, Result, WantedBurnIn,
};
use crate::session::Sessions;

/// A GPU that something speaks against is held by its worker's own word for a minute at least.
const EVERY: Duration = Duration::from_secs(5);
/// Who submits burn-ins that nobody asked for.
const BY_ITSELF: &str = "burn_in_minutes of the coordinator's settings";

pub(super) async fn run(app: App) {
    let mut pace = Pace::new("health", EVERY.min(app.settings.poll_every * 3));
    loop {
        let pause = pace.after(&round(&app).await);
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What there is to do about one worker.
#[derive(Debug)]
struct Todo {
    worker: WorkerId,
    name: String,
    /// By number and UUID.
    evidence: Vec<((u32, String), Vec<Evidence>)>,
    /// The numbers of its GPUs have changed.
    renumber: Option<Inventory>,
    burn_ins: Vec<(OfWorker, BurnIn)>,
    /// GPUs that are to be tested without anybody's word, with the id of that request.
    untested: Vec<(u32, String)>,
}

pub(super) async fn round(app: &App) -> Result<()> {
    let now = app.clock.now();
    of_ranks(app, now).await?;
    let todo: Vec<Todo> = {
        let open = app.index.open();
        let here = open
            .workers
            .iter()
            .filter(|worker| worker.state != WorkerState::Left);
        here.filter_map(|worker| look(worker, &app.sessions, app.settings.burn_in_minutes, now))
            .collect()
    };
    for todo in todo {
        let worker = (todo.worker, todo.name.as_str());
        if !todo.evidence.is_empty() {
            let by = format!("worker {}", todo.name);
            lifecycle::take_evidence(app, worker, &todo.evidence, &by).await?;
        }
        if let Some(inventory) = &todo.renumber {
            lifecycle::renumber(app, worker, inventory).await?;
        }
        for (of, burn_in) in &todo.burn_ins {
            lifecycle::conclude_burn_in(app, of, burn_in).await?;
        }
        for (gpu, request_id) in &todo.untested {
            test(app, &todo.name, *gpu, request_id).await?;
        }
    }
    Ok(())
}

/// None where there is nothing to do.
fn look(
    worker: &Worker,
    sessions: &Sessions,
    by_itself: Option<u32>,
    now: DateTime<Utc>,
) -> Option<Todo> {
    let standing = worker.standing.as_ref().ok()?;
    let inventory = worker.inventory.as_ref().ok()?;
    let found: Vec<((u32, String), Vec<Evidence>)> = sessions
        .gpus(worker.id)
        .into_iter()
        .filter(|reading| !reading.evidence.is_empty())
        .map(|reading| ((reading.index, reading.uuid), reading.evidence))
        .collect();
    if found.is_empty() && standing.gpus.is_empty() {
        return None;
    }
    let mut trial = standing.clone();
    let mut is_news = |((index, uuid), evidence): &((u32, String), Vec<Evidence>)| {
        trial.take_evidence((*index, uuid), evidence, "", now) != Taken::Nothing
    };
    let evidence: Vec<_> = found.into_iter().filter(|found| is_news(found)).collect();
    let mut trial = standing.clone();
    let renumber = trial.renumber(inventory).then(|| inventory.clone());
    let at_work = standing.gpus.iter().filter_map(|(index, quarantine)| {
        let burn_in = quarantine.burn_in_at_work()?;
        let uuid = quarantine.uuid.clone().or_else(|| {
            let mut gpus = inventory.gpus.iter();
            let gpu = gpus.find(|gpu| gpu.index == *index)?;
            Some(gpu.uuid.clone())
        })?;
        let of = OfWorker {
            worker: worker.id,
            name: worker.name.clone(),
            index: *index,
            uuid,
        };
        Some((of, burn_in.clone()))
    });
    let todo = Todo {
        worker: worker.id,
        name: worker.name.clone(),
        evidence,
        renumber,
        burn_ins: at_work.collect(),
        untested: match by_itself {
            Some(_) if worker.state == WorkerState::Online => {
                untested(worker, standing, inventory, now)
            }
            Some(_) | None => Vec::new(),
        },
    };
    let is_idle = todo.evidence.is_empty()
        && todo.renumber.is_none()
        && todo.burn_ins.is_empty()
        && todo.untested.is_empty();
    (!is_idle).then_some(todo)
}

/// GPUs that evidence put into quarantine and nobody has tested, or decided about, since.
fn untested(
    worker: &Worker,
    standing: &Standing,
    inventory: &Inventory,
    now: DateTime<Utc>,
) -> Vec<(u32, String)> {
    if inventory.flavour.is_empty() {
        return Vec::new();
    }
    let automatic = standing.gpus.values().filter_map(|quarantine| {
        let uuid = quarantine.uuid.as_ref()?;
        // One that comes back by a burn-in only to fail again must not go on doing so to jobs.
        let came_back = standing.settled.get(uuid).is_some_and(|settled| {
            settled.burn_in.is_some() && now - settled.at < AGAIN_BY_ITSELF_AFTER
        });
        let is_untested = quarantine.is_automatic && quarantine.burn_in.is_none() && !came_back;
        let mut gpus = inventory.gpus.iter();
        let gpu = gpus.find(|gpu| gpu.uuid == *uuid).filter(|_| is_untested)?;
        let at = quarantine.decision.at.timestamp_micros();
        // The same for the same quarantine: asked twice, there is one.
        Some((gpu.index, format!("burn-in {} {uuid} {at}", worker.id)))
    });
    automatic.collect()
}

async fn test(app: &App, worker_name: &str, gpu: u32, request_id: &str) -> Result<()> {
    let wanted = WantedBurnIn {
        worker_name,
        gpu,
        minutes: app.settings.burn_in_minutes.unwrap_or_default(),
        request_id,
        caller: BY_ITSELF,
    };
    match lifecycle::burn_in(app, &wanted).await {
        Ok(_) => Ok(()),
        // Somebody was quicker, or it cannot be tested now: then it is for people to look.
        Err(
            LifecycleError::CannotBurnIn(_)
            | LifecycleError::BurnInAtWork { .. }
            | LifecycleError::RequestIdReused(_)
            | LifecycleError::WorkerNotFound(_),
        ) => Ok(()),
        Err(error) => Err(error),
    }
}

/// GPUs on which ranks of several jobs failed.
async fn of_ranks(app: &App, now: DateTime<Utc>) -> Result<()> {
    if app.faults.is_empty() {
        return Ok(());
    }
    for (gpu, evidence) in app.faults.against(now) {
        let (worker, uuid) = &gpu;
        let Some((name, index)) = place(app, &gpu) else {
            app.faults.forget(&gpu);
            continue;
        };
        if is_the_last(app, &gpu, now) {
            // Circumstances alone do not leave the cluster without a GPU. Its jobs' failures are told as ever.
            tracing::warn!(
                worker = name,
                gpu = index,
                evidence = evidence.words(),
                "the cluster's last GPU is left in use"
            );
            app.faults.forget(&gpu);
            continue;
        }
        let found = [((index, uuid.clone()), vec![evidence])];
        lifecycle::take_evidence(app, (*worker, &name), &found, "device faults of ranks").await?;
        app.faults.forget(&gpu);
    }
    Ok(())
}

/// The worker's name and the GPU's number now; None: it is not there, or in quarantine already.
fn place(app: &App, (worker, uuid): &GpuId) -> Option<(String, u32)> {
    let open = app.index.open();
    let worker = open.workers.iter().find(|known| known.id == *worker)?;
    let gpus = &worker.inventory.as_ref().ok()?.gpus;
    let index = gpus.iter().find(|gpu| gpu.uuid == *uuid)?.index;
    let standing = worker.standing.as_ref().ok()?;
    standing
        .quarantine_of(index, uuid)
        .is_none()
        .then(|| (worker.name.clone(), index))
}

/// Whether all other GPUs are gone, ill or closed.
fn is_the_last(app: &App, (worker, uuid): &GpuId, now: DateTime<Utc>) -> bool {
    let hosts = hosts(&app.index.open(), &app.sessions, now);
    let open = hosts.iter().filter(|host| host.accepting);
    let mut others = open.flat_map(|host| {
        let gpus = host.gpus.values();
        gpus.filter(move |gpu| {
            (host.worker, &gpu.uuid) != (*worker, uuid) && gpu.closed().is_none()
        })
    });
    others.next().is_none()
}
