//! Writing a round's placements down: new attempts with their ranks, all in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, WorkerId};
use marquee_domain::spec::JobKind;
use marquee_store::attempts::{self, NewAttempt, NewRank};
use marquee_store::checkpoints::{self, CheckpointKey};
use marquee_store::open::{self, HeldRank};
use marquee_store::ranks::{Assignment, RankKey};
use marquee_store::{StoreError, reports};
use serde_json::Value;
use tokio::time::Instant;

use super::output::is_of_objects;
use super::{LifecycleError, Result};
use crate::app::{App, Change};
use crate::index::{Index, Known};
use crate::metrics;
use crate::scheduler::Placement;
use crate::session::PlacedRank;

/// Checkpoints looked at for one whose files are all here: more that are broken is a broken disk,
/// and then a new start beats a search.
const CHECKPOINTS_TRIED_MAX: u32 = 5;

/// Starts the next attempts of queued jobs where the scheduler put them, and stores what keeps others
/// waiting. A job that is not queued any more is left as it is, and read again.
pub async fn place(
    app: &App,
    placements: &[Placement],
    obstacles: &[(JobId, Value)],
    now: DateTime<Utc>,
) -> Result<()> {
    let mut known = known(app, placements);
    // Before the transaction, since it looks at files: nobody may wait for a disk with a pipeline's lock in
    // hand.
    let mut resumes: BTreeMap<JobId, Resume> = BTreeMap::new();
    let mut later = Vec::new();
    for (job, known) in &known {
        match newest_checkpoint(app, *job, known).await {
            // An object store that is away keeps those waiting that go on from its files, and nobody else.
            Err(LifecycleError::Blobs(error)) if is_of_objects(&error) => {
                tracing::warn!(%job, %error, "placed when the object store with its checkpoint answers");
                later.push(*job);
            }
            from => {
                resumes.extend(from?.map(|from| (*job, from)));
            }
        }
    }
    known.retain(|job, _| !later.contains(job));
    put_off(app, &later);
    let names = worker_names(app);
    let new: Vec<NewAttempt<'_>> = placements
        .iter()
        .filter_map(|placement| {
            let known = known.get(&placement.job)?;
            let resume = resumes.get(&placement.job).copied();
            Some(attempt(placement, known, resume, &names))
        })
        .collect();
    let pipelines: BTreeSet<PipelineId> = known.values().map(|known| known.pipeline).collect();
    let pipelines: Vec<PipelineId> = pipelines.into_iter().collect();

    let before = Instant::now();
    let stored = async {
        // Whoever changes a job's state holds its pipeline's lock.
        let mut tx = app.db.write_on("place", &pipelines).await?;
        let mut placed = BTreeSet::new();
        if !new.is_empty() {
            placed.extend(attempts::insert_attempts(&mut tx, &new, now).await?);
        }
        if !obstacles.is_empty() {
            open::mark_obstacles(&mut tx, obstacles).await?;
        }
        tx.commit().await?;
        Ok::<_, StoreError>(placed)
    };
    // Before the first statement is sent: from then on the placements may be committed, whatever is heard of
    // it.
    let unsure = Unsure {
        index: &app.index,
        jobs: known.keys().copied().collect(),
    };
    let placed = stored.await?;
    unsure.answered();

    let mut given: BTreeMap<WorkerId, Vec<PlacedRank>> = BTreeMap::new();
    {
        let mut open = app.index.open();
        for placement in placements.iter().filter(|p| placed.contains(&p.job)) {
            let Some(known) = known.get(&placement.job) else {
                continue;
            };
            // Made from what was planned and not read again: a round trip for each placement would cost more
            // than the placement.
            let held: Vec<HeldRank> = held(placement, known).collect();
            let mut assignment = at_once(placement, known, resumes.contains_key(&placement.job));
            for rank in &held {
                given.entry(rank.worker).or_default().push(PlacedRank {
                    key: rank.key,
                    before,
                    assignment: assignment.take(),
                });
            }
            open.placed(placement.job, held, now);
        }
    }
    for job in known.keys() {
        if placed.contains(job) {
            tracing::debug!(%job, "placed");
            let job = *job;
            let _ = app.changes.send(Change { job, ended: false });
        } else {
            // Changed since we read it.
            tracing::debug!(%job, "placement overtaken");
            app.index.touch([*job]);
        }
    }
    metrics::placed_after(known.iter().filter_map(|(job, known)| {
        let waited = (now - known.queued_at).to_std().ok()?;
        placed.contains(job).then_some((*job, waited))
    }));
    if !placed.is_empty() {
        tracing::info!(jobs = placed.len(), first = ?placed.first(), "placed");
    }
    for (worker, ranks) in given {
        app.sessions.placed(worker, ranks);
    }
    Ok(())
}

/// Keeps jobs out of the next plans for a moment: planned again at once, they would have the devices that nobody uses
/// meanwhile, round after round.
fn put_off(app: &App, jobs: &[JobId]) {
    if jobs.is_empty() {
        return;
    }
    // From now on, and not from when the round began: the look may have taken seconds.
    let until = app.clock.now() + app.settings.poll_every;
    let mut open = app.index.open();
    for job in jobs {
        open.put_off(*job, until);
    }
    drop(open);
    // What was planned for them goes to others.
    app.wake.notify_one();
}

/// Placements whose transaction has not been answered. Dropped before it was, as by an error or a panic, it says so: the
/// next round looks before it gives the same devices to others.
struct Unsure<'a> {
    index: &'a Index,
    jobs: Vec<JobId>,
}

impl Unsure<'_> {
    fn answered(mut self) {
        self.jobs.clear();
    }
}

impl Drop for Unsure<'_> {
    fn drop(&mut self) {
        self.index.touch_unsure(std::mem::take(&mut self.jobs));
    }
}

fn known(app: &App, placements: &[Placement]) -> BTreeMap<JobId, Known> {
    let open = app.index.open();
    let known = placements.iter().filter_map(|placement| {
        let known = open.job(placement.job)?;
        Some((placement.job, known.clone()))
    });
    known.collect()
}

fn worker_names(app: &App) -> BTreeMap<WorkerId, String> {
    let open = app.index.open();
    let names = open.workers.iter().map(|w| (w.id, w.name.clone()));
    names.collect()
}

fn attempt<'a>(
    placement: &'a Placement,
    known: &Known,
    resume: Option<Resume>,
    names: &BTreeMap<WorkerId, String>,
) -> NewAttempt<'a> {
    let ranks = placement.ranks.iter().map(|rank| NewRank {
        worker: rank.worker,
        local_rank: rank.local_rank,
        devices: &rank.devices,
    });
    let workers: BTreeSet<WorkerId> = placement.ranks.iter().map(|rank| rank.worker).collect();
    NewAttempt {
        job: placement.job,
        after: known.attempt,
        resume: resume.map(|resume| resume.from),
        ranks: ranks.collect(),
        text: describe(&workers, names, resume),
    }
}

fn held(placement: &Placement, known: &Known) -> impl Iterator<Item = HeldRank> {
    let (job, attempt) = (placement.job, known.attempt + 1);
    let project = &known.spec.sharing.project;
    placement.ranks.iter().map(move |rank| HeldRank {
        key: RankKey {
            job,
            attempt: AttemptNumber(attempt),
            rank: rank.rank,
        },
        worker: rank.worker,
        devices: rank.devices.clone(),
        project: project.to_string(),
    })
}

/// All that the worker of a placed job has to be told, where nothing of it has to be read: the job has one rank, takes no
/// inputs and begins anew.
fn at_once(placement: &Placement, known: &Known, resumes: bool) -> Option<Assignment> {
    let [rank] = placement.ranks.as_slice() else {
        return None;
    };
    if resumes || !known.spec.inputs.is_empty() {
        return None;
    }
    // Elements stored by versions before 0.2 have a spec of their own.
    let spec = match known.element {
        Some((_, index)) if known.spec.element.is_none() => known.spec.element_at(index),
        Some(_) | None => (*known.spec).clone(),
    };
    Some(Assignment {
        key: RankKey {
            job: placement.job,
            attempt: AttemptNumber(known.attempt + 1),
            rank: rank.rank,
        },
        pipeline: known.pipeline,
        spec: Ok(spec),
        world_size: 1,
        local_rank: rank.local_rank,
        devices: rank.devices.clone(),
        resume: None,
        standby_rank: None,
    })
}

/// What an attempt goes on from.
#[derive(Debug, Clone, Copy)]
struct Resume {
    from: CheckpointKey,
    /// Steps that the attempt before had told of, and that are done again.
    steps_lost: u64,
}

/// The newest checkpoint of the job's earlier attempts whose files are all here.
async fn newest_checkpoint(app: &App, job: JobId, known: &Known) -> Result<Option<Resume>> {
    if known.attempt == 0 || known.spec.work.kind() != JobKind::Train {
        return Ok(None);
    }
    let mut conn = app.db.read().await?;
    let newest = checkpoints::list_checkpoints(&mut conn, job, CHECKPOINTS_TRIED_MAX).await?;
    let told = reports::find_last_step(&mut conn, job, AttemptNumber(known.attempt)).await?;
    drop(conn);
    for (key, manifest) in newest {
        // No vouch is kept: the checkpoint's own row names its files, and that keeps them.
        let wrong = app.blobs.check(&manifest).await?.wrong;
        let Some(first) = wrong.first() else {
            let steps_lost = told.unwrap_or(0).saturating_sub(key.step);
            return Ok(Some(Resume {
                from: key,
                steps_lost,
            }));
        };
        tracing::warn!(%job, step = key.step, files = wrong.len(), %first, "checkpoint skipped: files are missing or damaged");
    }
    Ok(None)
}

/// "placed on gpu-1 and gpu-2, to go on from step 120; 7 steps are done again".
fn describe(
    workers: &BTreeSet<WorkerId>,
    names: &BTreeMap<WorkerId, String>,
    resume: Option<Resume>,
) -> String {
    let names: Vec<String> = workers
        .iter()
        .map(|worker| {
            names
                .get(worker)
                .cloned()
                .unwrap_or_else(|| worker.to_string())
        })
        .collect();
    let resume = resume.map(|resume| {
        let again = match resume.steps_lost {
            0 => String::new(),
            1 => "; 1 step is done again".to_owned(),
            steps => format!("; {steps} steps are done again"),
        };
        format!(", to go on from step {}{again}", resume.from.step)
    });
    format!(
        "placed on {}{}",
        names.join(", "),
        resume.unwrap_or_default()
    )
}
