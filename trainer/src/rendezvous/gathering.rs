//! What a rank keeps to form another group, and how survivors find each other at the store.
//!
//! Each survivor leaves its standing in the store and waits a while for the others; then the first to
//! propose a list of members fixes it for all, by one atomic operation of the store. A store that is
//! lost with its host has a standby on another.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use marquee_domain::FailureClass;
use serde::{Deserialize, Serialize};

use super::arrive::ARRIVAL_POLL;
use super::exchange::Exchange;
use crate::error::RunError;
use crate::ffi::Store;

/// How long the store may take to answer. It waits for nobody, so silence means that it is gone.
pub(super) const STORE_ANSWER_MAX: Duration = Duration::from_secs(5);

/// Where a survivor stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Steps done, and whether all that follows a step (reports, validation) is done too.
    pub(crate) progress: (u64, bool),
    /// The weights are no longer those of any step: they were being overwritten when a peer was lost.
    pub(crate) is_torn: bool,
    /// What goes with the progress, as JSON.
    pub(crate) position: String,
}

/// What it takes to form another group.
#[derive(Debug)]
pub(super) struct Gathering {
    /// Its keys begin with the attempt's prefix.
    pub(super) store: Store,
    pub(super) prefix: String,
    /// Where to meet once the store is lost.
    pub(super) standby: Option<(String, u16)>,
    /// The store was lost, and `store` is its standby.
    pub(super) is_at_standby: bool,
    pub(super) lost_ranks: Option<PathBuf>,
    /// When the file `lost_ranks` was read last.
    pub(super) looked_at: Instant,
    /// Under which the other ranks reach this one.
    pub(super) address: String,
    pub(super) exchange: Exchange,
    pub(super) min_ranks: Option<u32>,
    /// Groups that came before.
    pub(super) generation: u32,
    /// How often it was tried to form another.
    pub(super) tries: u32,
    /// The ranks of the present group, as they were numbered at the start.
    pub(super) members: Vec<u32>,
    /// This rank, as it was numbered at the start.
    pub(super) me: u32,
}

/// Turns to the standby where the store is lost.
pub(super) fn find_store(gathering: &mut Gathering) -> Result<(), RunError> {
    if answers(&gathering.store) {
        return Ok(());
    }
    let lost = |what: &str| {
        RunError::new(
            FailureClass::LostWorker,
            format!(
                "the rendezvous store is lost{what}; the next attempt goes on from a checkpoint"
            ),
        )
    };
    // Taken out, for it serves once: there is no third store to go to when this one is lost too.
    let Some((host, port)) = gathering.standby.take() else {
        return Err(lost(", and there is no other"));
    };
    tracing::warn!(
        host,
        port,
        "the rendezvous store is lost; going to its standby"
    );
    let standby = Store::connect(&host, port, STORE_ANSWER_MAX)
        .and_then(|store| store.prefixed(&gathering.prefix))
        .map_err(|error| lost(&format!(", and its standby at {host}:{port} too: {error}")))?;
    if !answers(&standby) {
        return Err(lost(&format!(
            ", and its standby at {host}:{port} is silent"
        )));
    }
    gathering.store = standby;
    gathering.is_at_standby = true;
    Ok(())
}

/// Whether the store answers in time. A call to a store whose host lost power never returns, so it is
/// made in a thread of its own, which may be left behind.
pub(super) fn answers(store: &Store) -> bool {
    let Ok(probe) = store.prefixed("alive") else {
        return false;
    };
    let (sender, receiver) = mpsc::channel();
    let asked = thread::Builder::new()
        .name("store-probe".to_owned())
        .spawn(move || {
            // Fails where the answer came too late: nobody waits for it any more.
            let _ = sender.send(probe.has("probe").is_ok());
        });
    asked.is_ok() && receiver.recv_timeout(STORE_ANSWER_MAX).unwrap_or(false)
}

pub(super) fn given_up_key(rank: u32) -> String {
    format!("given-up/{rank}")
}

/// Leaves this rank's standing, and returns the ranks that have left theirs once all have, or once
/// `window` is over.
pub(super) fn gather(
    store: &Store,
    gathering: &Gathering,
    mine: &Standing,
    window: Duration,
) -> Result<Vec<u32>, RunError> {
    // In the attempt's part of the store, not in this generation's: who is given up stays so.
    if gathering.store.has(&given_up_key(gathering.me))? {
        return Err(RunError::new(
            FailureClass::LostWorker,
            "the coordinator has given up this rank, and the others go on without it",
        ));
    }
    let text = serde_json::to_vec(mine)
        .map_err(|error| RunError::host(format!("a standing has no form in JSON: {error}")))?;
    store.set(&here_key(gathering.me), &text)?;
    let deadline = Instant::now() + window;
    loop {
        let (mut here, mut awaited) = (Vec::new(), 0);
        for member in &gathering.members {
            if gathering.store.has(&given_up_key(*member))? {
                continue;
            }
            awaited += 1;
            if store.has(&here_key(*member))? {
                here.push(*member);
            }
        }
        let is_fixed = store.has(MEMBERS)?;
        if here.len() == awaited || is_fixed || Instant::now() > deadline {
            return Ok(here);
        }
        thread::sleep(ARRIVAL_POLL);
    }
}

const MEMBERS: &str = "members";

fn here_key(rank: u32) -> String {
    format!("here/{rank}")
}

/// The members of this generation: those that `here` lists, unless somebody has fixed others before.
pub(super) fn agree(
    store: &Store,
    gathering: &Gathering,
    here: Vec<u32>,
) -> Result<Vec<u32>, RunError> {
    // A job that names no least number never comes here (`may_regroup`); this is the safe side.
    let least = gathering.min_ranks.unwrap_or(u32::MAX);
    // A list that is fixed already holds however few this rank has seen: `gather` stops looking
    // once there is one.
    if here.len() < usize::try_from(least).unwrap_or(usize::MAX) && !store.has(MEMBERS)? {
        return Err(RunError::new(
            FailureClass::LostWorker,
            format!(
                "of ranks {:?} only {here:?} are left, but the job needs {least}",
                gathering.members
            ),
        ));
    }
    let broken = |error: serde_json::Error| {
        RunError::host(format!("the list of members cannot be read: {error}"))
    };
    let proposal = serde_json::to_vec(&here).map_err(broken)?;
    serde_json::from_slice(&store.agree(MEMBERS, &proposal)?).map_err(broken)
}

pub(super) fn read_standing(store: &Store, rank: u32) -> Result<Standing, RunError> {
    serde_json::from_slice(&store.get(&here_key(rank))?).map_err(|error| {
        RunError::host(format!(
            "the standing of rank {rank} cannot be read: {error}"
        ))
    })
}
