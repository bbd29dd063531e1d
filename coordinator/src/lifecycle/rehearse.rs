//! Rehearsals: one fault on purpose, on a cluster at work, for whoever wants to see what follows.
//!
//! Invariant: nothing is broken that does not mend by itself. A job at its last attempt is left alone, a leader leads on
//! where nobody stands by, a cut has an end and is forgotten with the process that made it. Each fault is in the audit
//! before it is done, so that a history with it explains itself.

use std::collections::BTreeSet;
use std::time::Duration;

use marquee_domain::ids::{AttemptNumber, JobId, Rank, WorkerId};
use marquee_domain::job::{JobStateName, RankState};
use marquee_domain::rank::RankKey;
use marquee_store::audit::{self, Broken};
use marquee_store::open::{self, Which};
use marquee_store::transitions::JobHead;
use marquee_store::{Conn, events, leader, ranks, steering, transitions};
use serde_json::json;

use super::{LifecycleError, Result};
use crate::app::App;

/// How long a worker may be cut off: long enough to be noticed, and no longer than somebody waits to see it end.
pub const CUT_MIN: Duration = Duration::from_secs(1);
pub const CUT_MAX: Duration = Duration::from_secs(120);
/// A worker that was cut off comes back so much later at most: its tries have pauses. Where a cut and this are longer than
/// the lease, its ranks may be placed elsewhere.
const BACK_WITHIN: Duration = Duration::from_secs(6);
/// The coordinator answers before it hands over.
const ANSWER_FIRST: Duration = Duration::from_millis(200);
/// Jobs that a refusal names.
const NAMED_MAX: usize = 3;

/// What is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    KillRank { job: JobId, rank: Rank },
    CutWorker { name: String, time: Duration },
    StepDown,
}

/// What is done, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsal {
    pub done: String,
    /// What follows if all is well.
    pub expected: String,
    /// Of a rank: the attempt that loses it, else 0.
    pub attempt: u32,
}

/// A fault that does no lasting harm, as far as can be seen.
struct PlannedFault {
    said: Rehearsal,
    broken: Broken,
    /// Whose histories tell of it, with their attempts.
    jobs: Vec<(JobId, u32)>,
}

/// Does a fault on purpose or, where it `is_dry`, says what it would do.
pub async fn rehearse(app: &App, fault: &Fault, is_dry: bool, caller: &str) -> Result<Rehearsal> {
    let mut conn = app.db.read().await?;
    let planned = match fault {
        Fault::KillRank { job, rank } => kill_rank(app, &mut conn, *job, *rank).await?,
        Fault::CutWorker { name, time } => cut_worker(app, &mut conn, name, *time).await?,
        Fault::StepDown => step_down(app, &mut conn).await?,
    };
    drop(conn);
    if is_dry {
        return Ok(planned.said);
    }
    let now = app.clock.now();
    let text = format!("on purpose (marquee chaos): {}", planned.said.done);
    let mut tx = app.db.write_as("rehearsal", caller).await?;
    audit::insert_rehearsal(&mut tx, planned.broken, &detail(fault)).await?;
    for (job, attempt) in &planned.jobs {
        events::insert_event_by(&mut tx, *job, *attempt, &text, caller, now).await?;
    }
    tx.commit().await?;
    tracing::warn!(caller, "{text}");
    // Written down first. A fault that is explained and was not done is better than one that was done and
    // nobody can explain.
    strike(app, fault, planned.broken)?;
    Ok(planned.said)
}

fn detail(fault: &Fault) -> serde_json::Value {
    match fault {
        Fault::KillRank { .. } => json!({ "fault": "kill_rank" }),
        Fault::CutWorker { name, time } => {
            json!({ "fault": "cut_worker", "name": name, "seconds": time.as_secs_f64() })
        }
        Fault::StepDown => json!({ "fault": "step_down" }),
    }
}

fn strike(app: &App, fault: &Fault, broken: Broken) -> Result<()> {
    let (is_done, worker) = match (broken, fault) {
        (Broken::Rank(key, worker), _) => (app.sessions.kill(worker, key), worker),
        (Broken::Worker(worker), Fault::CutWorker { time, .. }) => {
            (app.sessions.cut_off(worker, *time), worker)
        }
        (Broken::Worker(_) | Broken::Leader, _) => {
            let role = app.role.clone();
            tokio::spawn(async move {
                tokio::time::sleep(ANSWER_FIRST).await;
                role.step_down();
            });
            return Ok(());
        }
    };
    if is_done {
        return Ok(());
    }
    refuse(format!(
        "worker {worker} has left meanwhile: nothing was done"
    ))
}

async fn kill_rank(app: &App, conn: &mut Conn, job: JobId, rank: Rank) -> Result<PlannedFault> {
    let head = transitions::get_job_head(conn, job).await?;
    if head.is_array {
        return refuse(format!(
            "job {job} is an array, whose elements run; name one, such as {job}[0]"
        ));
    }
    if head.state != JobStateName::Running || head.cancel_requested {
        let state = match head.cancel_requested {
            true => "being cancelled",
            false => head.state.as_str(),
        };
        return refuse(format!(
            "job {job} is {state}; only a rank of a job that runs can be killed"
        ));
    }
    if is_at_its_last(&head) {
        return refuse(format!(
            "job {job} is at attempt {}, its last: without the rank it would fail for good; choose another job, or one with a \
             higher max_attempts",
            head.attempt
        ));
    }
    let attempt = AttemptNumber(head.attempt);
    let ranks = ranks::list_ranks(conn, job, Some(attempt)).await?;
    let Some(row) = ranks.iter().find(|row| row.key.rank == rank) else {
        return refuse(format!(
            "attempt {attempt} of job {job} has {} rank(s), and rank {rank} is none of them; they count from 0",
            ranks.len()
        ));
    };
    if row.state != RankState::Running || row.lost_at.is_some() {
        return refuse(format!(
            "rank {rank} of job {job} does not run (it is {}); try again when \"marquee show {job}\" says that it does",
            row.state.as_str()
        ));
    }
    must_be_connected(app, row.worker, &row.worker_name)?;
    let key = RankKey { job, attempt, rank };
    Ok(PlannedFault {
        said: Rehearsal {
            done: format!(
                "rank {rank} of job {job} (attempt {attempt}, on {}) is killed",
                row.worker_name
            ),
            expected: format!(
                "attempt {attempt} ends, or goes on without the rank where the job may; the next attempt, of {} at most, goes \
                 on from the newest checkpoint",
                head.last_attempt
            ),
            attempt: head.attempt,
        },
        broken: Broken::Rank(key, row.worker),
        jobs: vec![(job, head.attempt)],
    })
}

async fn cut_worker(
    app: &App,
    conn: &mut Conn,
    name: &str,
    time: Duration,
) -> Result<PlannedFault> {
    let worker = steering::find_worker_named(conn, name)
        .await?
        .ok_or_else(|| LifecycleError::WorkerNotFound(name.to_owned()))?;
    must_be_connected(app, worker, name)?;
    let held = open::list_held_ranks(conn, Which::All).await?;
    let held: Vec<RankKey> = held
        .into_iter()
        .filter(|rank| rank.worker == worker)
        .map(|rank| rank.key)
        .collect();
    let jobs: BTreeSet<JobId> = held.iter().map(|key| key.job).collect();
    let jobs: Vec<JobId> = jobs.into_iter().collect();
    let heads = transitions::list_job_heads(conn, &jobs).await?;
    let lease = app.settings.lease;
    let is_lost = time + BACK_WITHIN > lease;
    let mut last = heads.iter().filter(|head| is_at_its_last(head)).peekable();
    // A cut that ends within the lease takes no rank from anybody: then a last attempt is in no
    // danger.
    if is_lost && last.peek().is_some() {
        let named: Vec<String> = last
            .take(NAMED_MAX)
            .map(|head| head.id.to_string())
            .collect();
        return refuse(format!(
            "job(s) {} on {name} are at their last attempt, and would fail for good; wait for them, or drain {name} first",
            named.join(", ")
        ));
    }
    let seconds = time.as_secs_f64();
    let expected = if is_lost {
        format!(
            "after the lease of {} s it counts as lost, and its {} rank(s) are placed elsewhere; it comes back by itself",
            lease.as_secs(),
            held.len()
        )
    } else {
        format!(
            "it comes back within its lease: its {} rank(s) go on",
            held.len()
        )
    };
    Ok(PlannedFault {
        said: Rehearsal {
            done: format!("worker {name} is cut off from its coordinator for {seconds} s"),
            expected,
            attempt: 0,
        },
        broken: Broken::Worker(worker),
        jobs: heads.iter().map(|head| (head.id, head.attempt)).collect(),
    })
}

async fn step_down(app: &App, conn: &mut Conn) -> Result<PlannedFault> {
    let (leader, living) = leader::list_coordinators(conn, &app.clock).await?;
    // One that has its artifacts elsewhere cannot take over.
    let heir = living
        .iter()
        .find(|one| one.process != app.process && Some(one.storage) == leader.storage);
    let Some(heir) = heir else {
        return refuse(
            "no other coordinator stands by that could take over; start a second one (docs/deploy.md)".to_owned(),
        );
    };
    Ok(PlannedFault {
        said: Rehearsal {
            done: format!(
                "the coordinator that leads, {}, hands over and ends",
                leader.address
            ),
            expected: format!(
                "{} takes over within a second; no rank is stopped, and no attempt is spent; the one that ended is started \
                 again by its service manager, to stand by",
                heir.address
            ),
            attempt: 0,
        },
        broken: Broken::Leader,
        jobs: Vec::new(),
    })
}

fn must_be_connected(app: &App, worker: WorkerId, name: &str) -> Result<()> {
    if app.sessions.is_connected(worker) {
        return Ok(());
    }
    refuse(format!(
        "worker {name} is not connected just now; \"marquee workers\" says when it was last heard"
    ))
}

fn is_at_its_last(head: &JobHead) -> bool {
    head.state == JobStateName::Running && head.attempt >= head.last_attempt
}

fn refuse<T>(why: String) -> Result<T> {
    Err(LifecycleError::CannotRehearse(why))
}
