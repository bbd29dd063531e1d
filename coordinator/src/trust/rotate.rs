//! A rotation of the authority, as whoever runs the cluster takes it step by step: begin, switch, finish.
//!
//! Invariant: a step that would shut somebody out is refused, with his name, unless it is forced. Keys are made and kept
//! on the host of the coordinator that leads; the database has the public half alone.

use chrono::{DateTime, Utc};
use marquee_proto::certificate::bundle;
use marquee_proto::error::ErrorCode;
use marquee_store::audit;
use marquee_store::rotation::{self, Phase, Rotation, Standing};
use marquee_store::{Conn, leader};
use tonic::Status;

use super::authority::Files;
use super::beside::{self, Seen};
use super::{follow, succession, tokens};
use crate::app::App;
use crate::blocking::blocking;
use crate::lifecycle::LifecycleError;

/// Coordinators whose certificates are looked at.
const COORDINATORS_MAX: usize = 16;

/// A step to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Begin,
    Switch,
    Finish,
    Abandon,
}

/// Why a step is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hindrance {
    pub(crate) text: String,
    pub(crate) can_be_forced: bool,
}

/// How far a rotation is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The newest one; None: there never was one.
    pub(crate) rotation: Option<Rotation>,
    /// While it is open.
    pub(crate) workers: Vec<Standing>,
    pub(crate) coordinators: Vec<Seen>,
    pub(crate) usable_tokens: u32,
    /// What is in the way of the next step.
    pub(crate) hindrances: Vec<Hindrance>,
}

/// How far it is, with a look at everybody who takes part.
pub(crate) async fn look(app: &App) -> Result<Progress, Status> {
    let files = tokens::files(app)?;
    let now = app.clock.now();
    let mut conn = app.db.read().await.map_err(LifecycleError::from)?;
    let found = rotation::find_rotation(&mut conn)
        .await
        .map_err(LifecycleError::from)?;
    let Some(open) = found.as_ref().filter(|found| found.phase.is_open()) else {
        return Ok(Progress {
            rotation: found,
            ..Progress::default()
        });
    };
    let (workers, usable, others) = gather(&mut conn, app, now).await?;
    drop(conn);
    // Without a connection in hand: each of the others may take seconds to answer.
    let coordinators = beside::look(&files, &open.next, others).await;
    let next = open.next.clone();
    let has_key = on_disk(files, move |files| succession::has_key(files, &next)).await?;
    let hindrances = hindrances(open, &workers, &coordinators, has_key);
    Ok(Progress {
        rotation: found,
        workers,
        coordinators,
        usable_tokens: u32::try_from(usable).unwrap_or(u32::MAX),
        hindrances,
    })
}

/// Who takes part: workers, join tokens, and the addresses of the other coordinators.
async fn gather(
    conn: &mut Conn,
    app: &App,
    now: DateTime<Utc>,
) -> Result<(Vec<Standing>, i64, Vec<String>), LifecycleError> {
    let workers = rotation::list_standings(conn).await?;
    let usable = rotation::count_usable_join_tokens(conn, now).await?;
    let (_, living) = leader::list_coordinators(conn, &app.clock).await?;
    let others = living.into_iter().filter(|one| one.process != app.process);
    let others = others.map(|one| one.address).take(COORDINATORS_MAX);
    Ok((workers, usable, others.collect()))
}

/// What is in the way of the step that follows.
fn hindrances(
    rotation: &Rotation,
    workers: &[Standing],
    coordinators: &[Seen],
    has_key: bool,
) -> Vec<Hindrance> {
    let mut all = Vec::new();
    let mut add = |text: String, can_be_forced| {
        all.push(Hindrance {
            text,
            can_be_forced,
        });
    };
    let is_switch = rotation.phase == Phase::Begun;
    // By no force: from then on nobody could join or renew.
    if !has_key {
        add(
            "the next authority's key (tls/next.key, or tls/ca.key once it signs) is not on the host of the coordinator that leads: copy it there from the host where the rotation began, or abandon the rotation".to_owned(),
            false,
        );
    }
    for worker in workers {
        let name = &worker.name;
        let is_along = if is_switch {
            worker.believes.contains(&rotation.next)
        } else {
            worker.certified_by == rotation.next
        };
        if is_along {
            continue;
        }
        let lacks = if is_switch {
            "does not believe the next authority yet"
        } else {
            "still shows a certificate of the authority before"
        };
        let why = if !worker.is_online {
            "is not here: start it, or it must join again later with a token for its name"
        } else if worker.believes.is_empty() {
            "is here and has not said what it believes: is it of an older version? Upgrade it"
        } else {
            "is here: it follows within seconds"
        };
        add(format!("worker {name} {lacks}; it {why}"), true);
    }
    for seen in coordinators {
        let address = &seen.address;
        match &seen.found {
            Err(why) => add(
                format!("coordinator {address} could not be looked at: {why}"),
                true,
            ),
            Ok(found) if is_switch && !found.believes_next => add(
                format!(
                    "coordinator {address} does not believe the next authority yet; it follows within seconds of a start"
                ),
                true,
            ),
            Ok(found) if !is_switch && !found.shows_next => add(
                format!(
                    "coordinator {address} still shows a certificate of the authority before; copy tls/ca.key from the one that leads into its tls folder (same owner, mode 0600)"
                ),
                true,
            ),
            Ok(_) => {}
        }
    }
    all
}

/// Takes a step. With `dry_run` nothing is done, and what is told is how far it is.
pub(crate) async fn take(
    app: &App,
    step: Step,
    force: bool,
    dry_run: bool,
    caller: &str,
) -> Result<Progress, Status> {
    let progress = look(app).await?;
    may_follow(progress.rotation.as_ref(), step)?;
    if dry_run {
        return Ok(progress);
    }
    // What stands in the way is of the two steps forward alone: who begins or abandons shuts nobody out.
    if matches!(step, Step::Switch | Step::Finish) {
        let (hard, soft): (Vec<_>, Vec<_>) = progress
            .hindrances
            .iter()
            .partition(|hindrance| !hindrance.can_be_forced);
        let stands = if hard.is_empty() && force {
            hard
        } else {
            [hard, soft].concat()
        };
        if let Some(first) = stands.first() {
            let more = match stands.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            let way = if stands.iter().all(|one| one.can_be_forced) {
                "; \"marquee admin ca rotate status\" lists all, --force does it all the same"
            } else {
                ""
            };
            return Err(not_ready(format!("{}{more}{way}", first.text)));
        }
    }
    match (step, &progress.rotation) {
        (Step::Begin, _) => begin(app, caller).await?,
        (_, Some(open)) => go_on(app, open, step, caller).await?,
        (_, None) => return Err(not_ready("no rotation has begun".to_owned())),
    }
    look(app).await
}

fn not_ready(why: String) -> Status {
    ErrorCode::RotationNotReady.status(why)
}

/// Whether a step is the one to take.
fn may_follow(rotation: Option<&Rotation>, step: Step) -> Result<(), Status> {
    let phase = rotation.map(|rotation| rotation.phase);
    let why = match (step, phase) {
        (Step::Begin, None | Some(Phase::Finished | Phase::Abandoned))
        | (Step::Switch | Step::Abandon, Some(Phase::Begun))
        | (Step::Finish, Some(Phase::Switched)) => return Ok(()),
        (Step::Begin, Some(Phase::Begun)) => {
            "a rotation has begun already; the next step is \"switch\", or \"abandon\""
        }
        (Step::Begin | Step::Switch, Some(Phase::Switched)) => {
            "the next authority signs already; the step to take is \"finish\""
        }
        (Step::Abandon, Some(Phase::Switched)) => {
            "the next authority signs already, and certificates of it are in use: finish this rotation, and begin another one"
        }
        (Step::Finish, Some(Phase::Begun)) => {
            "the next authority does not sign yet; the step to take is \"switch\""
        }
        (
            Step::Switch | Step::Finish | Step::Abandon,
            None | Some(Phase::Finished | Phase::Abandoned),
        ) => "no rotation is under way; \"begin\" starts one",
    };
    Err(not_ready(why.to_owned()))
}

async fn begin(app: &App, caller: &str) -> Result<(), Status> {
    let files = tokens::files(app)?;
    let now = app.clock.now();
    // Its certificate alone is asked for, so that one whose key is lost is followed all the same. The first in the file is
    // the one that it signs with.
    let before = tokens::bundle(app).await?.fingerprint();
    let believed = on_disk(files.clone(), succession::believed).await?;
    if believed.len() >= bundle::AUTHORITIES_MAX {
        return Err(ErrorCode::LimitReached.status(format!(
            "{} authorities are believed already, at most {} are; take out of tls/ca.pem those that nobody needs",
            believed.len(),
            bundle::AUTHORITIES_MAX
        )));
    }
    // One at a time: of two that begin together the second would put its key in the place of the first one's.
    let turn = app.walls.trust_news.turn.lock().await;
    let mut conn = app.db.read().await.map_err(LifecycleError::from)?;
    // Looked at anew: whoever had the lock before may have begun one.
    let found = rotation::find_rotation(&mut conn).await;
    may_follow(found.map_err(LifecycleError::from)?.as_ref(), Step::Begin)?;
    drop(conn);
    let (next, certificate) = on_disk(files, move |files| succession::prepare(files, now)).await?;
    let begun = Rotation {
        before,
        next,
        certificate,
        phase: Phase::Begun,
        begun_at: now,
        begun_by: caller.to_owned(),
        switched_at: None,
        ended_at: None,
    };
    let store = async {
        let mut tx = app.db.write("begin rotation").await?;
        audit::act_as(&mut tx, caller).await?;
        let is_stored = rotation::insert_rotation(&mut tx, &begun).await?;
        tx.commit().await?;
        Ok::<_, LifecycleError>(is_stored)
    };
    let is_stored = store.await?;
    drop(turn);
    if !is_stored {
        return Err(not_ready(
            "another rotation began in the same moment".to_owned(),
        ));
    }
    tracing::warn!(
        before = begun.before,
        next = begun.next,
        caller,
        "a next authority is believed beside the one that signs"
    );
    settle_now(app, &begun).await
}

async fn go_on(app: &App, open: &Rotation, step: Step, caller: &str) -> Result<(), Status> {
    let now = app.clock.now();
    let to = match step {
        Step::Begin | Step::Switch => Phase::Switched,
        Step::Finish => Phase::Finished,
        Step::Abandon => Phase::Abandoned,
    };
    let mark = async {
        let mut tx = app.db.write("rotation").await?;
        audit::act_as(&mut tx, caller).await?;
        // Only from the phase that was looked at: of two that take the same step one finds it
        // taken.
        let is_marked = rotation::mark_rotation(&mut tx, &open.next, open.phase, to, now).await?;
        let ended = if is_marked && to == Phase::Switched {
            // They pin an authority that is shown no more.
            rotation::revoke_join_tokens(&mut tx, caller, now).await?
        } else {
            0
        };
        let late = if is_marked && to == Phase::Finished {
            rotation::list_standings(&mut tx).await?
        } else {
            Vec::new()
        };
        tx.commit().await?;
        Ok::<_, LifecycleError>((is_marked, ended, late))
    };
    let (is_marked, ended, late) = mark.await?;
    if !is_marked {
        return Err(not_ready(
            "somebody else took a step in the same moment; look again".to_owned(),
        ));
    }
    tracing::warn!(
        before = open.before,
        next = open.next,
        phase = to.as_str(),
        ended_tokens = ended,
        caller,
        "the authority's rotation went on"
    );
    let open = Rotation {
        phase: to,
        ..open.clone()
    };
    // Stored first, and the files follow. Killed in between, the next start finds what was stored
    // and brings them in line (`follow`).
    settle_now(app, &open).await?;
    // Connections that stand would go on with what they were made with.
    for worker in late {
        if worker.certified_by != open.next {
            let why = "the authority of this worker's certificate is believed no more: make a token for its name on the coordinator's host (\"marquee-coordinator token create --name NAME\") and run \"marquee-worker join\" with it";
            app.sessions
                .expel(worker.worker, ErrorCode::NotIdentified.status(why));
        }
    }
    Ok(())
}

/// Brings this coordinator's files in line at once: whoever asked for a step sees it done.
async fn settle_now(app: &App, rotation: &Rotation) -> Result<(), Status> {
    let settled = follow::settle(app, rotation).await;
    settled.map_err(|error| {
        ErrorCode::Internal.status(format!(
            "the step is stored, and this coordinator's files do not follow yet; it tries again: {error:#}"
        ))
    })
}

/// Does work on files in a thread of its own.
async fn on_disk<T: Send + 'static>(
    files: Files,
    work: impl FnOnce(&Files) -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Status> {
    match blocking(move || work(&files)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(ErrorCode::NoAuthority.status(format!("{error:#}"))),
        Err(error) => Err(ErrorCode::Internal.status(error.to_string())),
    }
}

#[cfg(test)]
#[path = "rotate_tests.rs"]
mod tests;
