//! Going on without ranks that were lost: the survivors agree on who they are and form a new group.
//!
//! Invariants: a generation of the group has one list of members, whoever asks for it. Who is not on
//! the list leaves, and can never meet those who go on, for each generation has a prefix of its own in
//! the store. So a rank that was only slow, or cut off for a while, cannot train on beside the others.
//! Whom the coordinator has given up is on no list.
//!
//! Where a network was cut in two, some may meet at the store and some at its standby: then the
//! coordinator decides whose work counts.

use std::thread;
use std::time::{Duration, Instant};

use marquee_domain::FailureClass;

use super::gathering::{
    STORE_ANSWER_MAX, Standing, agree, answers, find_store, gather, given_up_key, read_standing,
};
use super::peers::Peers;
use crate::error::RunError;

/// How long survivors wait for each other at least. Whoever shares a connection with a lost rank
/// notices within milliseconds, others when the first give up.
const REGROUP_WINDOW: Duration = Duration::from_secs(3);
/// Times a run regroups at most: a network that breaks so often is no network to train over.
const REGROUPS_MAX: u32 = 100;

/// How much longer survivors wait for each other at the standby: one finds the store's connection
/// broken at once, another waits until it has been silent for long enough, and then connects.
const STANDBY_WINDOW: Duration = Duration::from_secs(2 * STORE_ANSWER_MAX.as_secs());
/// Time between two looks at whom the coordinator has given up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the survivors agreed on.
#[derive(Debug)]
pub(crate) struct Regrouped {
    /// The rank, as now numbered, that has come furthest.
    pub(crate) source: u32,
    /// Its standing.
    pub(crate) standing: Standing,
    /// Whether somebody has not come as far and needs the source's state.
    pub(crate) needs_copy: bool,
    /// Those that go on, as they were numbered at the start.
    pub(crate) members: Vec<u32>,
    /// Steps that somebody had done and that are done again.
    pub(crate) steps_lost: u64,
}

impl Peers {
    /// Whether this gang may go on with fewer ranks.
    pub(crate) fn may_regroup(&self) -> bool {
        self.gathering.as_ref().is_some_and(|gathering| {
            gathering.min_ranks.is_some() && gathering.tries < REGROUPS_MAX
        })
    }

    /// An error if the coordinator has given up a member of this group: the group is then of no use, and
    /// the caller forms another. Reads the file at most once a second; a file that cannot be read names
    /// nobody.
    pub(crate) fn leave_behind(&mut self) -> Result<(), RunError> {
        let Some(gathering) = &mut self.gathering else {
            return Ok(());
        };
        let Some(path) = &gathering.lost_ranks else {
            return Ok(());
        };
        if gathering.looked_at.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        gathering.looked_at = Instant::now();
        let Ok(text) = std::fs::read(path) else {
            return Ok(());
        };
        let lost: Vec<u32> = serde_json::from_slice(&text).unwrap_or_default();
        let lost: Vec<u32> = lost
            .into_iter()
            .filter(|rank| gathering.members.contains(rank))
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        // By way of the store, so that those hear of it who do not have the coordinator's word yet.
        if answers(&gathering.store) {
            for rank in &lost {
                gathering.store.set(&given_up_key(*rank), b"1")?;
            }
        }
        Err(RunError::new(
            FailureClass::Collective,
            format!("the coordinator has given up ranks {lost:?}"),
        ))
    }

    /// Forms a new group of the ranks that still answer. After an error of the class `Network` the caller
    /// may try again with those that are left then; any other error ends the rank. `step_time` is how long
    /// a step takes: a survivor that is computing notices the loss only at the end of its step.
    pub(crate) fn regroup(
        &mut self,
        mine: &Standing,
        step_time: Duration,
    ) -> Result<Regrouped, RunError> {
        if let Some(group) = self.group.take() {
            // What GPUs still exchange with the lost rank would never end by itself.
            if let Err(error) = group.abort() {
                tracing::warn!(%error, "the old group cannot be ended in order");
            }
            // Freeing the group closes its connections, by which the others notice that this rank has
            // left it. It waits for operations that hang, so another thread does it.
            drop(thread::spawn(move || group.close()));
        }
        let gathering = self
            .gathering
            .as_mut()
            .ok_or_else(|| RunError::host("a rank without peers has nobody to regroup with"))?;
        // Counted before anything can fail: `REGROUPS_MAX` has to end a run whose every try fails,
        // too.
        gathering.tries += 1;
        find_store(gathering)?;
        // The number is raised only once the list of members is known. A rank that tries again meets
        // the others under the same number, and one that missed the list finds it there.
        let store = gathering
            .store
            .prefixed(&format!("regroup/{}", gathering.generation + 1))?;
        let mut window = REGROUP_WINDOW + step_time * 2;
        if gathering.is_at_standby {
            window += STANDBY_WINDOW;
        }
        let here = gather(&store, gathering, mine, window)?;
        let members = agree(&store, gathering, here)?;
        gathering.generation += 1;
        let place = |rank: u32| members.iter().position(|member| *member == rank);
        let Some(rank) = place(gathering.me) else {
            return Err(RunError::new(
                FailureClass::LostWorker,
                format!("ranks {members:?} went on without this one, which answered too late"),
            ));
        };
        let standings = members
            .iter()
            .map(|member| read_standing(&store, *member))
            .collect::<Result<Vec<_>, _>>()?;
        let (source, furthest) = standings
            .iter()
            .enumerate()
            // One that was being overwritten with another's weights has no state of its own.
            .filter(|(_, standing)| !standing.is_torn)
            // Of those that are as far the lowest, so that all choose the same.
            .max_by_key(|(place, standing)| (standing.progress, std::cmp::Reverse(*place)))
            .ok_or_else(|| {
                RunError::new(
                    FailureClass::LostWorker,
                    "no rank is left with a whole state; the next attempt goes on from a checkpoint",
                )
            })?;
        let needs_copy = standings
            .iter()
            .any(|standing| standing.is_torn || standing.progress != furthest.progress);
        let furthest_of_all = standings.iter().map(|standing| standing.progress.0).max();
        let steps_lost = furthest_of_all
            .unwrap_or(0)
            .saturating_sub(furthest.progress.0);
        let world_size = count(members.len());
        self.rank = count(rank);
        self.world_size = world_size;
        if world_size > 1 {
            let (group, carrier) = gathering
                .exchange
                .joining(self.rank, world_size, &gathering.address)
                .form(&store)?;
            self.group = Some(group);
            self.carrier = Some(carrier);
        }
        gathering.members.clone_from(&members);
        Ok(Regrouped {
            source: count(source),
            standing: furthest.clone(),
            needs_copy,
            members,
            steps_lost,
        })
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("there are no more members than ranks, which are u32")
}

#[cfg(test)]
mod tests;
