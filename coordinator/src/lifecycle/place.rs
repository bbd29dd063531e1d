//! Writing a placement down: a new attempt with its ranks, or nothing.

use std::collections::BTreeMap;

use marquee_domain::ids::WorkerId;
use marquee_domain::spec::JobKind;
use marquee_store::attempts::{self, NewAttempt};
use marquee_store::checkpoints::{self, CheckpointKey};
use marquee_store::jobs::QueuedJob;
use marquee_store::ranks::{self, NewRank, RankKey};
use marquee_store::{events, pipelines, transitions};

use super::Result;
use crate::app::App;
use crate::scheduler::Placement;

/// Checkpoints looked at for one whose files are all here: more that are broken is a broken disk,
/// and then a new start beats a search.
const CHECKPOINTS_TRIED_MAX: u32 = 5;

/// Starts the next attempt of a queued job where the scheduler put it. Fails with a stale attempt
/// when the job is not queued any more.
pub async fn place(
    app: &App,
    job: &QueuedJob,
    placement: &Placement,
    names: &BTreeMap<WorkerId, String>,
) -> Result<()> {
    let resume = newest_checkpoint(app, job).await?;
    let now = app.clock.now();
    let mut tx = app.db.write("place").await?;
    pipelines::lock_pipeline(&mut tx, job.pipeline_id).await?;
    let number = transitions::mark_job_running(&mut tx, job.id, job.attempt, now).await?;
    let new = NewAttempt {
        job: job.id,
        number,
        resume,
        created_at: now,
    };
    attempts::insert_attempt(&mut tx, &new).await?;
    for rank in &placement.ranks {
        let key = RankKey {
            job: job.id,
            attempt: number,
            rank: rank.rank,
        };
        let new = NewRank {
            key,
            worker: rank.worker,
            local_rank: rank.local_rank,
            devices: &rank.devices,
        };
        ranks::insert_rank(&mut tx, &new).await?;
    }
    let mut workers: Vec<WorkerId> = placement.ranks.iter().map(|rank| rank.worker).collect();
    workers.sort_unstable();
    workers.dedup();
    let text = describe(&workers, names, resume);
    events::insert_event(&mut tx, job.id, number.0, &text, now).await?;
    tx.commit().await?;

    tracing::info!(job = %job.id, attempt = %number, ranks = placement.ranks.len(), "placed");
    let _ = app.changes.send(job.id);
    app.sessions.nudge(&workers);
    Ok(())
}

/// The newest checkpoint of the job's earlier attempts whose files are all here.
async fn newest_checkpoint(app: &App, job: &QueuedJob) -> Result<Option<CheckpointKey>> {
    if job.attempt == 0 || job.spec.work.kind() != JobKind::Train {
        return Ok(None);
    }
    let mut conn = app.db.read().await?;
    let newest = checkpoints::list_checkpoints(&mut conn, job.id, CHECKPOINTS_TRIED_MAX).await?;
    drop(conn);
    for (key, manifest) in newest {
        let digests = manifest.files.into_iter().map(|file| file.digest).collect();
        let missing = app.blobs.missing(digests).await?;
        if missing.is_empty() {
            return Ok(Some(key));
        }
        tracing::warn!(job = %job.id, step = key.step, missing = missing.len(), "checkpoint skipped: files are missing");
    }
    Ok(None)
}

/// "placed on gpu-1 and gpu-2, to go on from step 120".
fn describe(
    workers: &[WorkerId],
    names: &BTreeMap<WorkerId, String>,
    resume: Option<CheckpointKey>,
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
    let resume = resume.map(|key| format!(", to go on from step {}", key.step));
    format!(
        "placed on {}{}",
        names.join(", "),
        resume.unwrap_or_default()
    )
}
