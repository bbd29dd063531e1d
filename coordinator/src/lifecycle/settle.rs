//! Moves jobs' live attempts to where their ranks are: start, commit, fail, interrupt or cancel them, all
//! that come together in one transaction.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Manifest;
use marquee_domain::end::{AfterEnd, AttemptBudget, AttemptEnd, after_end};
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::{AttemptNumber, JobId, WorkerId};
use marquee_domain::job::JobStateName;
use marquee_domain::spec::{Ended, JobKind};
use marquee_store::checkpoints::{self, CheckpointKey};
use marquee_store::live::{self, Live};
use marquee_store::ranks::{self, RankKey, RankRow};
use marquee_store::transitions::{self, Success};
use marquee_store::{StoreError, Tx, attempts, events, pipelines, steering};

use super::output::{Outputs, checked};
use super::verdict::{Situation, Verdict, judge};
use super::{Result, again, dependents, inputs};
use crate::app::App;
use crate::faults::{Fault, GpuId};
use crate::index::Open;
use crate::metrics;

/// What a settling changed, to be told once it is committed.
#[derive(Debug, Default)]
pub struct Settled {
    /// Jobs whose rows have changed. An array stands for its elements too.
    changed: Vec<JobId>,
    /// Jobs that have succeeded.
    pub succeeded: Vec<JobId>,
    /// Of those, the ones that may hold devices still.
    hold_devices: BTreeSet<JobId>,
    /// Jobs that have ended in another way, or go on in another attempt.
    ended: Vec<JobId>,
    /// Arrays whose counts have changed, and nothing else of them or their elements.
    counted: Vec<JobId>,
    /// Workers that have something to start or to stop.
    workers: Vec<WorkerId>,
    /// Jobs whose attempts can end once their outputs, or their inputs, are looked at.
    pub to_look_at: Vec<JobId>,
    /// Jobs whose ranks were told to start, and why attempts failed: counted once they are committed, since a
    /// transaction that is tried again would count them twice.
    started: Vec<JobId>,
    failures: Vec<FailureClass>,
    /// Ranks with one GPU each that failed on it with a device fault, and those that did their work.
    device_faults: Vec<Fault>,
    worked: Vec<GpuId>,
    /// What a planted bug does in a transaction of its own.
    #[cfg(feature = "planted")]
    apart: Option<(Vec<JobId>, Vec<transitions::ArrayCount>, DateTime<Utc>)>,
}

impl Settled {
    /// Wakes whoever has something to do or to show now.
    pub fn tell(&self, app: &App) {
        #[cfg(feature = "planted")]
        if let Some((needed, arrays, now)) = self.apart.clone() {
            let app = app.clone();
            tokio::spawn(async move {
                let mut tx = app.db.write("dependents apart").await?;
                let released = dependents::release(&mut tx, needed, &arrays, now).await?;
                tx.commit().await?;
                app.jobs_changed(&released);
                Ok::<(), StoreError>(())
            });
        }
        for job in &self.started {
            metrics::started(*job);
        }
        for class in &self.failures {
            metrics::attempt_failed(*class);
        }
        for gpu in &self.worked {
            app.faults.forget(gpu);
        }
        for fault in &self.device_faults {
            app.faults.add(fault.clone());
        }
        app.jobs_changed(&self.changed);
        let is_left = |job: &&JobId| self.hold_devices.contains(*job);
        let (left, free): (Vec<&JobId>, Vec<&JobId>) = self.succeeded.iter().partition(is_left);
        app.jobs_succeeded(&free.into_iter().copied().collect::<Vec<_>>());
        app.jobs_ended(&left.into_iter().copied().collect::<Vec<_>>());
        app.jobs_ended(&self.ended);
        app.jobs_shown(&self.counted);
        app.sessions.nudge(&self.workers);
    }

    /// running -> succeeded for all of them, and on to those that need them.
    async fn commit(
        &mut self,
        tx: &mut Tx,
        commits: &[(Live, Manifest)],
        now: DateTime<Utc>,
    ) -> std::result::Result<(), StoreError> {
        if commits.is_empty() {
            return Ok(());
        }
        let texts: Vec<String> = commits
            .iter()
            .map(|(live, manifest)| {
                let name = live.kind.output();
                format!("succeeded; committed {name} {}", manifest.digest().short())
            })
            .collect();
        let successes: Vec<Success<'_>> = commits
            .iter()
            .zip(&texts)
            .map(|((live, manifest), text)| Success {
                at: (live.job, live.attempt.number),
                name: live.kind.output(),
                manifest,
                code: code(live),
                text,
            })
            .collect();
        // The fence: a job that is not running at this attempt any more is not among those that did.
        let (done, arrays) = transitions::mark_jobs_succeeded(tx, &successes, now).await?;
        tracing::info!(jobs = done.len(), first = ?done.first(), "succeeded");
        let needed = commits
            .iter()
            .filter(|(live, _)| live.is_needed && done.contains(&live.job));
        let needed: Vec<JobId> = needed.map(|(live, _)| live.job).collect();
        let left = commits.iter().filter(|(live, _)| may_hold_devices(live));
        self.hold_devices.extend(left.map(|(live, _)| live.job));
        self.succeeded.extend(done);
        for count in &arrays {
            if count.open == 0 {
                // It is committed, or has failed, with its last element.
                self.ended.push(count.array);
            } else {
                self.counted.push(count.array);
            }
        }
        #[cfg(feature = "planted")]
        if marquee_domain::planted::is("dependents-apart") {
            self.apart = Some((needed, arrays, now));
            return Ok(());
        }
        let released = dependents::release(tx, needed, &arrays, now).await?;
        self.changed.extend(released);
        Ok(())
    }
}

/// Whether a job that succeeds may hold devices still. Its output came from its newest attempt; a rank that was lost
/// with its worker, of this attempt or of an earlier one, may run on where nobody can see it, and its devices are
/// not free before that worker says so.
fn may_hold_devices(live: &Live) -> bool {
    live.attempt.number > AttemptNumber(1) || live.ranks.iter().any(|rank| !rank.state.has_ended())
}

/// Looks at jobs' live attempts and does what follows from their ranks. Without a live attempt, nothing
/// follows.
pub async fn advance(app: &App, jobs: &[JobId]) -> Result<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    // Files are looked at before the locks, which others wait for.
    let outputs = checked(app, jobs).await?;
    let mut tx = app.db.write("advance").await?;
    let pipelines = transitions::list_pipelines_of_jobs(&mut tx, jobs).await?;
    pipelines::lock_pipelines(&mut tx, &pipelines).await?;
    let settled = settle(app, &mut tx, jobs, &outputs).await?;
    // Nothing has changed, and the transaction is dropped: attempts that go on as before cost no commit, and
    // wake nobody.
    if settled.changed.is_empty() && settled.ended.is_empty() && settled.succeeded.is_empty() {
        return Ok(());
    }
    tx.commit().await?;
    // After the commit: until then the vouches are all that keeps these files.
    outputs.are_named(&settled.succeeded);
    settled.tell(app);
    Ok(())
}

/// The same within a transaction that holds the locks of the jobs' pipelines. Jobs whose outputs or inputs are to be
/// looked at first, and are not among `outputs`, are left as they are and named.
pub async fn settle(
    app: &App,
    tx: &mut Tx,
    jobs: &[JobId],
    outputs: &Outputs,
) -> std::result::Result<Settled, StoreError> {
    let now = app.clock.now();
    let mut settled = Settled::default();
    let mut commits: Vec<(Live, Manifest)> = Vec::new();
    for live in live::list_live(tx, jobs).await? {
        let live = match live {
            Ok(live) => live,
            Err((job, error)) => {
                // Its ranks are let go when their worker is; the others must not wait for it.
                tracing::error!(%job, %error, "a live attempt cannot be read");
                continue;
            }
        };
        let verdict = match verdict(&live, app, now) {
            Verdict::Commit => match outputs.of(&live) {
                None => {
                    // It finished since somebody looked: its files are to be checked first.
                    settled.to_look_at.push(live.job);
                    continue;
                }
                Some(Ok(manifest)) => {
                    commits.push((live, manifest));
                    continue;
                }
                Some(Err(failure)) => Verdict::Fail(failure),
            },
            other @ (Verdict::Wait
            | Verdict::Start
            | Verdict::GoOn(_)
            | Verdict::Fail(_)
            | Verdict::MakeRoom { .. }
            | Verdict::Interrupt { .. }
            | Verdict::Cancel) => other,
        };
        let changed = match verdict {
            Verdict::Wait | Verdict::Commit => continue,
            Verdict::Start => {
                settled.started.push(live.job);
                start(tx, &live, now).await?
            }
            Verdict::GoOn(lost) => go_on(tx, &live, &lost, now).await?,
            Verdict::Fail(failure) if inputs::are_to_blame(&live, &failure) => {
                let Some(inputs) = outputs.inputs_of(&live) else {
                    settled.to_look_at.push(live.job);
                    continue;
                };
                let (how, changed) = again::remedy(tx, &live, inputs, failure, now).await?;
                settled.changed.extend(changed);
                settled.failures.extend(class_of(&how));
                end(tx, &live, how, app.random.unit(), now).await?
            }
            Verdict::Fail(failure) => {
                let jitter = app.random.unit();
                // Looked up before the end is written: by then the ranks say who it was.
                let at_fault = at_fault(app, &live, failure.class);
                settled.failures.push(failure.class);
                settled.device_faults.extend(faults_of(app, &live, now));
                let ended = end(tx, &live, AttemptEnd::Failed(failure), jitter, now).await?;
                // Should this not be committed, it avoids a host for a while without need.
                app.index.avoid(live.job, at_fault);
                ended
            }
            Verdict::MakeRoom { cause, message } => {
                let at = [(live.job, live.attempt.number)];
                let asked = steering::mark_interrupted(tx, &at, cause, &message, now).await?;
                settled.changed.extend(asked);
                settled
                    .workers
                    .extend(live.ranks.iter().map(|rank| rank.worker));
                continue;
            }
            Verdict::Interrupt { cause, message } => {
                let interrupted = AttemptEnd::Interrupted { cause, message };
                end(tx, &live, interrupted, 0.0, now).await?
            }
            Verdict::Cancel => end(tx, &live, AttemptEnd::Cancelled, 0.0, now).await?,
        };
        // Whoever waits for the end of any of them looks at once.
        settled.ended.extend(changed);
        settled.counted.extend(live.array);
        let workers = live.ranks.iter().map(|rank| rank.worker);
        settled.workers.extend(workers);
    }
    // After the others, and all at once: an attempt that finished is kept, whatever was decided about those
    // beside it.
    settled.worked = worked_on(app, &commits);
    settled.commit(tx, &commits, now).await?;
    settled.workers.sort_unstable();
    settled.workers.dedup();
    Ok(settled)
}

fn verdict(live: &Live, app: &App, now: DateTime<Utc>) -> Verdict {
    let is_leaving =
        |rank: &RankRow| !rank.state.has_ended() && app.sessions.is_leaving(rank.worker);
    let was_not_replaced =
        |rank: &RankRow| !rank.worker_online && app.sessions.went_to_be_replaced(rank.worker);
    let hung = app.sessions.hangs.told(live.job, live.attempt.number);
    judge(&Situation {
        attempt: &live.attempt,
        ranks: &live.ranks,
        cancel_requested: live.cancel_requested,
        makes_room: live.makes_room.as_ref(),
        deadline: live.deadline,
        min_ranks: live.min_ranks,
        timeout: live
            .timeout_s
            .map(|s| std::time::Duration::from_secs(s.into())),
        settle: app.settings.settle,
        is_leaving: live.ranks.iter().any(is_leaving),
        was_not_replaced: live.ranks.iter().any(was_not_replaced),
        hung: hung.as_deref(),
        now,
    })
}

/// The workers that the next attempt had better not be placed on.
fn at_fault(app: &App, live: &Live, class: FailureClass) -> Vec<WorkerId> {
    if !class.rule().avoids_host {
        return Vec::new();
    }
    let hangs = |rank: &RankRow| {
        let stall = app.sessions.hangs.stall(rank.worker, rank.key);
        stall.is_some_and(|stall| stall.is_stopped || !stall.waits_for_peers)
    };
    let is_at_fault = |rank: &&RankRow| match &rank.failure {
        Some(failure) => failure.class == class,
        None => !rank.worker_online || (class == FailureClass::Hang && hangs(rank)),
    };
    let members = live.ranks.iter().filter(|rank| rank.lost_at.is_none());
    members
        .filter(is_at_fault)
        .map(|rank| rank.worker)
        .collect()
}

/// Whether an attempt that fails has got further than all before it: it stored a checkpoint beyond theirs.
async fn has_progressed(tx: &mut Tx, live: &Live) -> std::result::Result<bool, StoreError> {
    if live.kind != JobKind::Train {
        return Ok(false);
    }
    // Of two at the same step the later attempt's comes first, which is not further.
    let newest = checkpoints::list_checkpoints(tx, live.job, 2).await?;
    let own = |key: &CheckpointKey| key.attempt == live.attempt.number;
    Ok(match &newest[..] {
        [(first, _)] => own(first),
        [(first, _), (second, _), ..] => own(first) && (own(second) || first.step > second.step),
        [] => false,
    })
}

/// The store takes note; the sessions see it and send Start.
async fn start(
    tx: &mut Tx,
    live: &Live,
    now: DateTime<Utc>,
) -> std::result::Result<Vec<JobId>, StoreError> {
    let (job, number) = (live.job, live.attempt.number);
    attempts::mark_attempt_running(tx, job, number, now).await?;
    events::insert_event(tx, job, number.0, "every rank is prepared; started", now).await?;
    tracing::info!(%job, attempt = %number, ranks = live.ranks.len(), "attempt started");
    Ok(vec![job])
}

/// The version of the code that did the work, as the first rank that is left said.
fn code(live: &Live) -> &str {
    let rank = live.ranks.iter().find(|rank| rank.lost_at.is_none());
    let summary = rank.and_then(|rank| rank.summary.as_ref());
    summary
        .and_then(|summary| summary.get("code")?.as_str())
        .unwrap_or_default()
}

/// The store takes note; the sessions see it, end what is left of the lost ranks and tell the others.
async fn go_on(
    tx: &mut Tx,
    live: &Live,
    lost: &[(RankKey, Failure)],
    now: DateTime<Utc>,
) -> std::result::Result<Vec<JobId>, StoreError> {
    let (job, number) = (live.job, live.attempt.number);
    let all = live.ranks.len();
    let before = live.ranks.iter().filter(|rank| rank.lost_at.is_some());
    let mut left = all - before.count();
    for (key, failure) in lost {
        if !ranks::mark_rank_lost(tx, *key, failure, now).await? {
            continue;
        }
        left -= 1;
        let (rank, class) = (key.rank, failure.class.as_str());
        let text = format!(
            "rank {rank} was lost ({class}): {}; {left} of {all} ranks are left and go on",
            failure.message
        );
        events::insert_event(tx, job, number.0, &text, now).await?;
        tracing::warn!(%job, attempt = %number, %rank, class, message = failure.message, "rank lost; the others go on");
    }
    Ok(vec![job])
}

/// The GPU of a rank whose job has no other on its host.
fn only_gpu(open: &Open, job: JobId, rank: &RankRow) -> Option<GpuId> {
    let gpus = open.gpus_of(job);
    let here = gpus.iter().filter(|(worker, _)| *worker == rank.worker);
    let [(worker, index)] = here.collect::<Vec<_>>()[..] else {
        return None;
    };
    let known = open.workers.iter().find(|known| known.id == *worker)?;
    let gpus = &known.inventory.as_ref().ok()?.gpus;
    let gpu = gpus.iter().find(|gpu| gpu.index == *index)?;
    Some((*worker, gpu.uuid.clone()))
}

/// The ranks of an attempt that failed with a device fault of their own. Looked up before their end is told: then their
/// devices are not theirs any more.
fn faults_of(app: &App, live: &Live, now: DateTime<Utc>) -> Vec<Fault> {
    let open = app.index.open();
    let Some(pipeline) = open.job(live.job).map(|known| known.pipeline) else {
        return Vec::new();
    };
    let fault = |rank: &RankRow| {
        let failure = rank.failure.as_ref()?;
        (failure.class == FailureClass::DeviceFault).then_some(())?;
        Some(Fault {
            at: now,
            gpu: only_gpu(&open, live.job, rank)?,
            pipeline,
            job: live.job,
            message: failure.message.clone(),
        })
    };
    live.ranks.iter().filter_map(fault).collect()
}

/// The GPUs on which attempts did their work, where there is anything that this could make forgotten.
fn worked_on(app: &App, commits: &[(Live, Manifest)]) -> Vec<GpuId> {
    if commits.is_empty() || app.faults.is_empty() {
        return Vec::new();
    }
    let open = app.index.open();
    let of = |live: &Live| -> Vec<GpuId> {
        let ranks = live.ranks.iter();
        ranks
            .filter_map(|rank| only_gpu(&open, live.job, rank))
            .collect()
    };
    commits.iter().flat_map(|(live, _)| of(live)).collect()
}

/// The class of an end that is a failure.
fn class_of(end: &AttemptEnd) -> Option<FailureClass> {
    match end {
        AttemptEnd::Failed(failure) => Some(failure.class),
        AttemptEnd::Interrupted { .. } | AttemptEnd::Cancelled | AttemptEnd::Succeeded => None,
    }
}

/// Ends an attempt that committed nothing, and does with its job what follows.
async fn end(
    tx: &mut Tx,
    live: &Live,
    end: AttemptEnd,
    jitter: f64,
    now: DateTime<Utc>,
) -> std::result::Result<Vec<JobId>, StoreError> {
    let (job, number) = (live.job, live.attempt.number);
    let head = transitions::get_job_head(tx, job).await?;
    let mut budget = AttemptBudget {
        newest: number.0,
        last: live.last_attempt,
        granted: live.max_attempts,
    };
    let mut life = head.life();
    if matches!(end, AttemptEnd::Failed(_)) && has_progressed(tx, live).await? {
        budget = budget.renewed_by_progress();
        life.budget = budget;
    }
    let after = after_end(&end, budget, jitter);
    let stale = |_| StoreError::StaleAttempt {
        job,
        attempt: number.0,
    };
    let life = life.end_attempt(after, now).map_err(stale)?;
    // The state first, from the domain, then the row: a rule that says no must leave nothing written.
    attempts::mark_attempt_ended(tx, job, number, &end, now).await?;
    let (cause, message) = (end.cause(), end.message().unwrap_or_default());
    let failure = match &end {
        AttemptEnd::Failed(failure) => Some(failure),
        AttemptEnd::Interrupted { .. } | AttemptEnd::Cancelled | AttemptEnd::Succeeded => None,
    };
    let mut changed = vec![job];
    match (after, failure) {
        (
            AfterEnd::Requeue {
                spends_attempt,
                after,
            },
            _,
        ) => {
            let text = if spends_attempt {
                format!(
                    "attempt {number} failed ({cause}): {message}; the next one starts in {:.1} s",
                    after.as_secs_f64()
                )
            } else {
                format!("attempt {number} was interrupted ({cause}) and is not counted: {message}")
            };
            let not_before = spends_attempt.then(|| now + after);
            let last = life.budget.last;
            transitions::mark_job_requeued(tx, (job, number), last, failure, not_before).await?;
            // What it needs may be made again since it was placed.
            marquee_store::again::mark_waiting_again(tx, &[job], now).await?;
            events::insert_event(tx, job, number.0, &text, now).await?;
            tracing::warn!(%job, attempt = %number, cause, message, "attempt ended; queued again");
        }
        (AfterEnd::GiveUp, Some(failure)) => {
            let running = [JobStateName::Running];
            transitions::mark_job_failed(tx, job, number.0, &running, failure, now).await?;
            let text = format!("failed ({cause}): {message}");
            events::insert_event(tx, job, number.0, &text, now).await?;
            tracing::warn!(%job, attempt = %number, cause, message, "job failed");
            changed.extend(after_failure(tx, job, live.array, now).await?);
        }
        (AfterEnd::Cancel | AfterEnd::Succeed | AfterEnd::GiveUp, _) => {
            let by_user = super::cancel::BY_USER;
            let jobs = [(job, number.0)];
            transitions::mark_jobs_cancelled(tx, &jobs, by_user, None, "", now).await?;
            tracing::info!(%job, attempt = %number, "job cancelled; nothing of it is left");
            changed.extend(match live.array {
                None => dependents::ended(tx, job, Ended::Cancelled, now).await?,
                Some(array) => dependents::element_missed(tx, array, now).await?,
            });
        }
    }
    Ok(changed)
}

/// What the failure of a job means for its array, or for those that need it.
pub(super) async fn after_failure(
    tx: &mut Tx,
    job: JobId,
    array: Option<JobId>,
    now: DateTime<Utc>,
) -> std::result::Result<Vec<JobId>, StoreError> {
    match array {
        None => dependents::ended(tx, job, Ended::Failed, now).await,
        Some(array) => dependents::element_missed(tx, array, now).await,
    }
}
