//! Where sessions bring their workers' reports: what waits at the same time is stored in one transaction, with
//! what follows from it for the attempts.
//!
//! Invariant: reports are stored in the same transaction as the number of the newest one, and are answered
//! after its commit. What cannot be stored of one rank ends that rank: it is tried apart from the others,
//! which do not notice.

use std::collections::{BTreeMap, BTreeSet};

use marquee_domain::ids::{JobId, PipelineId, WorkerId};
use marquee_domain::job::RankState;
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use marquee_store::ranks::{self, LockedRank, RankKey, Reported};
use marquee_store::reports::{self, LogLine, Metric};
use marquee_store::{Tx, pipelines, transitions};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::counter::{Answer, Batch, Outcome};
use super::reports::{Taken, next_in_order, refusal};
use super::rhythm::{GATHER, Rhythm, ends};
use super::{hello, regroup};
use crate::app::App;
use crate::lifecycle::{self, LifecycleError, Outputs, Result, Settled};
use crate::metrics;
use crate::walls::caught;

/// Reports stored in one transaction: enough that the commit's cost vanishes, few enough that nobody waits
/// long for theirs.
const REPORTS_AT_ONCE: usize = 2_000;

/// Serves the desk until the coordinator stops.
pub(crate) async fn run(app: App) {
    let Some(mut waiting) = app.reports.take() else {
        return;
    };
    let mut rhythm = Rhythm::default();
    loop {
        let first = tokio::select! {
            () = app.shutdown.cancelled() => return,
            batch = waiting.recv() => batch,
        };
        let Some(first) = first else { return };
        let mut count = first.reports.len();
        let mut batches = vec![first];
        // An idle desk stores at once; a busy one finds what came meanwhile.
        while count < REPORTS_AT_ONCE
            && let Ok(batch) = waiting.try_recv()
        {
            count += batch.reports.len();
            batches.push(batch);
        }
        if rhythm.is_quick(Instant::now()) && count < REPORTS_AT_ONCE {
            gather(&app, &mut waiting, &mut batches).await;
        }
        rhythm.ended(ended(&batches), Instant::now());
        serve(&app, batches).await;
    }
}

/// Waits a moment for jobs of other workers that are likely to end just now, too.
async fn gather(app: &App, waiting: &mut mpsc::Receiver<Batch>, batches: &mut Vec<Batch>) {
    // Whoever plans at this moment will be a while: then nothing is gained by waiting.
    let Some(at_work) = app.index.try_open().map(|open| open.at_work()) else {
        return;
    };
    let until = Instant::now() + GATHER;
    // What runs alone waits for nobody, and what has not ended waits for nothing.
    while (1..at_work).contains(&ended(batches))
        && let Ok(Some(batch)) = timeout_at(until, waiting.recv()).await
    {
        batches.push(batch);
    }
}

fn ended(batches: &[Batch]) -> usize {
    ends(batches.iter().flat_map(|batch| &batch.reports))
}

/// Reports of one rank from one worker, and who that is in histories.
type Parcel<'a> = ((RankKey, WorkerId), Sent<'a>);

#[derive(Debug)]
struct Sent<'a> {
    caller: &'a str,
    reports: Vec<&'a v1::Report>,
}

async fn serve(app: &App, batches: Vec<Batch>) {
    let parcels = parcels(&batches);
    let mut outcomes: BTreeMap<(RankKey, WorkerId), Result<Outcome>> = BTreeMap::new();
    match store(app, &parcels).await {
        Ok(stored) => {
            let keyed = parcels.iter().map(|(to, _)| *to).zip(stored);
            outcomes.extend(keyed.map(|(to, outcome)| (to, Ok(outcome))));
        }
        #[cfg(feature = "planted")]
        Err(_) if marquee_domain::planted::is("acknowledged-before-commit") => {
            for (to, sent) in &parcels {
                let sequence = sent.reports.iter().map(|report| report.sequence).max();
                let answer = Answer::Stored {
                    sequence: sequence.unwrap_or(0),
                    state: marquee_domain::job::RankState::Running,
                };
                let outcome = Outcome {
                    key: to.0,
                    answer,
                    regrouped: false,
                    moved: false,
                };
                outcomes.insert(*to, Ok(outcome));
            }
        }
        // Nobody's fault: Postgres is away, or the one rank's row has changed. Each session tries again with
        // what it has.
        Err(error) if error.may_pass() || parcels.len() == 1 && error.is_stale() => {
            let text = error.to_string();
            for batch in batches {
                let _ = batch
                    .answer
                    .send(Err(LifecycleError::Unstored(text.clone())));
            }
            return;
        }
        Err(_) => {
            for parcel in &parcels {
                outcomes.insert(parcel.0, store_apart(app, parcel).await);
            }
        }
    }
    for batch in batches {
        let mine = keys(&batch)
            .into_iter()
            .filter_map(|key| outcomes.remove(&(key, batch.worker)));
        // The session may have ended meanwhile: its worker sends again what is not acknowledged.
        let _ = batch.answer.send(mine.collect());
    }
}

/// One rank's reports by themselves; where they cannot be stored at all, the rank ends for it.
async fn store_apart(app: &App, parcel: &Parcel<'_>) -> Result<Outcome> {
    let one = std::slice::from_ref(parcel);
    let why = match store(app, one).await {
        Ok(mut stored) => {
            return stored.pop().ok_or(LifecycleError::Stopping);
        }
        Err(error) if error.may_pass() || error.is_stale() => return Err(error),
        Err(error) => error.to_string(),
    };
    let (key, worker) = parcel.0;
    tracing::error!(job = %key.job, rank = %key.rank, %worker, why, "reports of a rank cannot be stored; it ends");
    let mut stored = store_with(app, one, Some(&why)).await?;
    stored.pop().ok_or(LifecycleError::Stopping)
}

fn keys(batch: &Batch) -> BTreeSet<RankKey> {
    let keys = batch.reports.iter();
    keys.map(|report| hello::key(report.job_id, report.attempt, report.rank))
        .collect()
}

/// The batches' reports by rank, in key order: transactions that lock ranks of the same attempts cannot
/// deadlock.
fn parcels(batches: &[Batch]) -> Vec<Parcel<'_>> {
    let mut parcels: BTreeMap<(RankKey, WorkerId), Sent<'_>> = BTreeMap::new();
    for batch in batches {
        for report in &batch.reports {
            let key = hello::key(report.job_id, report.attempt, report.rank);
            let sent = parcels.entry((key, batch.worker)).or_insert_with(|| Sent {
                caller: &batch.caller,
                reports: Vec::new(),
            });
            sent.reports.push(report);
        }
    }
    parcels.into_iter().collect()
}

async fn store(app: &App, parcels: &[Parcel<'_>]) -> Result<Vec<Outcome>> {
    let _step = app.walls.trail.step(|| under_way(parcels));
    // One rank's reports that this version stumbles over are tried apart from the others', like any that cannot
    // be stored.
    caught(store_with(app, parcels, None)).await?
}

/// What the desk is at, for whoever looks after a crash.
fn under_way(parcels: &[Parcel<'_>]) -> String {
    match parcels {
        [] => "reports of nobody".to_owned(),
        [((key, _), _)] => format!("reports of rank {key}"),
        [((key, _), _), others @ ..] => {
            format!("reports of rank {key} and of {} others", others.len())
        }
    }
}

/// Stores parcels in one transaction and settles the attempts that they move. With `refused` only that the
/// ranks end, for this reason.
async fn store_with(
    app: &App,
    parcels: &[Parcel<'_>],
    refused: Option<&str>,
) -> Result<Vec<Outcome>> {
    let now = app.clock.now();
    // Locks of pipelines before those of ranks, here as everywhere: the other way round two transactions
    // could wait for each other.
    let mut tx = begin(app, parcels).await?;
    let keys: Vec<RankKey> = parcels.iter().map(|((key, _), _)| *key).collect();
    let locked = ranks::lock_ranks(&mut tx, &keys).await?;
    let locked: BTreeMap<RankKey, LockedRank> =
        locked.into_iter().map(|rank| (rank.key, rank)).collect();

    let mut outcomes = Vec::with_capacity(parcels.len());
    let mut taken: Vec<(RankKey, Taken)> = Vec::new();
    for ((key, worker), Sent { caller, reports }) in parcels {
        // Of a rank that another worker has nothing is taken, whatever it is called.
        let rank = locked.get(key).filter(|rank| rank.worker == *worker);
        let (answer, next) = answer(rank, *key, reports);
        let mut outcome = Outcome {
            key: *key,
            answer,
            regrouped: false,
            moved: false,
        };
        if let (Some(rank), false) = (rank, next.is_empty()) {
            tx.caused_by(key.job, caller);
            let fold = match refused {
                None => Taken::fold(rank, &next, now),
                Some(why) => Taken::refused(&next, why, now),
            };
            let state = fold.change.state.unwrap_or(rank.state);
            outcome.moved = state != rank.state;
            outcome.answer = Answer::Stored {
                sequence: fold.last_sequence,
                state,
            };
            taken.push((*key, fold));
        }
        outcomes.push(outcome);
    }
    let started = write(&mut tx, &taken, &locked, now).await?;
    for (key, fold) in taken.iter().filter(|(_, fold)| !fold.regrouped.is_empty()) {
        let regrouped = regroup::settle(&mut tx, *key, &fold.regrouped, now).await?;
        if let Some(outcome) = outcomes.iter_mut().find(|outcome| outcome.key == *key) {
            outcome.regrouped = regrouped;
        }
    }
    let moved: BTreeSet<JobId> = outcomes
        .iter()
        .filter(|outcome| outcome.moved || outcome.regrouped)
        .map(|outcome| outcome.key.job)
        .collect();
    let moved: Vec<JobId> = moved.into_iter().collect();
    // In the same transaction: that a rank has ended and what follows for its attempt cannot be stored apart.
    let settled = if moved.is_empty() {
        Settled::default()
    } else {
        lifecycle::settle(app, &mut tx, &moved, &Outputs::default()).await?
    };
    tx.commit().await?;
    for job in started {
        metrics::started(job);
    }
    tell(app, &outcomes, &moved, settled);
    Ok(outcomes)
}

/// Begins the transaction with the locks of the pipelines of jobs whose attempts may move by what their ranks say. They
/// come before those of ranks.
async fn begin(app: &App, parcels: &[Parcel<'_>]) -> Result<Tx> {
    let moves = |report: &&v1::Report| match &report.body {
        Some(
            Body::Prepared(_)
            | Body::Finished(_)
            | Body::Failed(_)
            | Body::Stopped(_)
            | Body::Regrouped(_),
        ) => true,
        // Who is started by its assignment starts its attempt too, which nobody else changes then.
        Some(
            Body::Started(_)
            | Body::Progress(_)
            | Body::Metrics(_)
            | Body::Log(_)
            | Body::Checkpoint(_),
        )
        | None => false,
    };
    let jobs: BTreeSet<JobId> = parcels
        .iter()
        .filter(|(_, sent)| sent.reports.iter().any(moves))
        .map(|((key, _), _)| key.job)
        .collect();
    let jobs: Vec<JobId> = jobs.into_iter().collect();
    let known: Option<BTreeSet<PipelineId>> = {
        let open = app.index.open();
        let pipelines = jobs.iter().map(|job| Some(open.job(*job)?.pipeline));
        pipelines.collect()
    };
    // The index knows the pipeline of nearly every job that reports: a job never changes it.
    if let Some(known) = known {
        let pipelines: Vec<PipelineId> = known.into_iter().collect();
        return Ok(app.db.write_on("reports", &pipelines).await?);
    }
    let mut tx = app.db.write("reports").await?;
    let pipelines = transitions::list_pipelines_of_jobs(&mut tx, &jobs).await?;
    pipelines::lock_pipelines(&mut tx, &pipelines).await?;
    Ok(tx)
}

/// What to answer, and the reports that are to be stored.
fn answer<'a>(
    rank: Option<&LockedRank>,
    key: RankKey,
    reports: &[&'a v1::Report],
) -> (Answer, Vec<&'a v1::Report>) {
    let Some(rank) = rank else {
        let reason = "the coordinator has not given this rank to this worker";
        return (Answer::Refused { reason }, Vec::new());
    };
    let stored = Answer::Stored {
        sequence: rank.last_sequence,
        state: rank.state,
    };
    let next = next_in_order(reports, rank.last_sequence);
    if next.is_empty() {
        return (stored, next);
    }
    if rank.is_lost {
        return (Answer::Lost, Vec::new());
    }
    match refusal(rank, key) {
        Some(reason) => (Answer::Refused { reason }, Vec::new()),
        None => (stored, next),
    }
}

/// Writes what was taken. Returns the jobs that started by it, to be counted once it is committed.
async fn write(
    tx: &mut Tx,
    taken: &[(RankKey, Taken)],
    locked: &BTreeMap<RankKey, LockedRank>,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<Vec<JobId>> {
    let reported: Vec<Reported<'_>> = taken
        .iter()
        .filter_map(|(key, fold)| {
            let rank = locked.get(key)?;
            Some(Reported {
                key: *key,
                from: rank.last_sequence,
                to: fold.last_sequence,
                change: &fold.change,
                starts_attempt: rank.world_size == 1,
            })
        })
        .collect();
    if reported.is_empty() {
        return Ok(Vec::new());
    }
    let has_begun = |rank: &&Reported<'_>| {
        rank.starts_attempt
            && matches!(
                rank.change.state,
                Some(RankState::Running | RankState::Finished)
            )
    };
    let started = reported.iter().filter(has_begun).map(|rank| rank.key.job);
    let started: Vec<JobId> = started.collect();
    ranks::mark_ranks_reported(tx, &reported, now).await?;
    // Of all ranks in one statement: a hundred chatty ones would be a hundred round trips in every transaction.
    let lines = taken.iter().map(|(key, fold)| (*key, &fold.lines[..]));
    let lines: Vec<(RankKey, &[LogLine])> = lines.filter(|(_, lines)| !lines.is_empty()).collect();
    if !lines.is_empty() {
        reports::insert_log_lines(tx, &lines).await?;
    }
    let metrics = taken.iter().map(|(key, fold)| (*key, &fold.metrics[..]));
    let metrics: Vec<(RankKey, &[Metric])> =
        metrics.filter(|(_, metrics)| !metrics.is_empty()).collect();
    if !metrics.is_empty() {
        reports::insert_metrics(tx, &metrics).await?;
    }
    for (key, fold) in taken {
        if let Some(rank) = locked.get(key) {
            fold.write_rows(tx, *key, rank).await?;
        }
    }
    Ok(started)
}

fn tell(app: &App, outcomes: &[Outcome], moved: &[JobId], settled: Settled) {
    // A rank's end frees its devices, whatever becomes of the attempt.
    let read: Vec<JobId> = moved
        .iter()
        .copied()
        .filter(|job| !settled.succeeded.contains(job))
        .collect();
    app.jobs_changed(&read);
    for outcome in outcomes.iter().filter(|outcome| !outcome.moved) {
        app.jobs_shown(&[outcome.key.job]);
    }
    settled.tell(app);
    let to_look_at = settled.to_look_at;
    if !to_look_at.is_empty() {
        // It reads files: others' reports must not wait for it.
        let app = app.clone();
        tokio::spawn(async move {
            if let Err(error) = lifecycle::advance(&app, &to_look_at).await {
                // The attempts loop tries again.
                tracing::warn!(%error, "could not settle attempts that have ended");
            }
        });
    }
}

#[cfg(test)]
mod tests;
