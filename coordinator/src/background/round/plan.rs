//! Decides what starts now: the pure planner over the index, off the async threads.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_store::steering;

use super::hosts::hosts;
use super::isolate;
use crate::app::App;
use crate::blocking::blocking;
use crate::index::{Index, Open};
use crate::lifecycle::Result;
use crate::scheduler::{Host, PlacedRank, Plan, Queue};

/// Checkpoints come every few minutes at most: what one would save is known well enough for the choice of victims.
const CHECKPOINTS_LOOKED_AT_EVERY: TimeDelta = TimeDelta::seconds(5);

/// A plan with the time it was made for.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) now: DateTime<Utc>,
    /// How long until the earliest back-off ends, where a job is in one.
    pub(super) due: Option<Duration>,
}

/// Reads when the checkpoints were stored of running jobs that may have to make room: what they would lose.
async fn look_at_checkpoints(app: &App, now: DateTime<Utc>) -> Result<()> {
    let jobs = {
        let mut open = app.index.open();
        let is_recent = open
            .saved_read_at
            .is_some_and(|at| now - at < CHECKPOINTS_LOOKED_AT_EVERY);
        // While somebody leaves already, nobody else is asked.
        if is_recent || !open.claims.is_empty() {
            return Ok(());
        }
        open.saved_read_at = Some(now);
        open.may_give_way(now)
    };
    if jobs.is_empty() {
        return Ok(());
    }
    let mut conn = app.db.read().await?;
    let saved = steering::list_saved_at(&mut conn, &jobs).await?;
    app.index.open().saved_at.extend(saved);
    Ok(())
}

/// None where nothing is queued.
pub(super) async fn plan(app: &App) -> Result<Option<Planned>> {
    if app.index.open().queue.is_empty() {
        return Ok(None);
    }
    let now = app.clock.now();
    look_at_checkpoints(app, now).await?;
    // Planned in another thread: tens of milliseconds of computing would hold up every session of this one.
    let (index, sessions) = (app.index.clone(), app.sessions.clone());
    let (trail, planner) = (app.walls.trail.clone(), app.planner);
    let planned = blocking(move || {
        let mut open = index.open();
        let hosts = hosts(&open, &sessions, now);
        let next = open.queue.wake(now);
        // By figures of what is planned: the same rows read at the next start have the same.
        let devices: usize = hosts.iter().map(|host| host.devices.len()).sum();
        let _step = trail.step(|| {
            let (jobs, hosts) = (open.queue.len(), hosts.len());
            format!("planning of {jobs} jobs on {hosts} hosts with {devices} devices")
        });
        let limits = open.limits(now);
        let Open { queue, aside, .. } = &mut *open;
        let mut plan = isolate::plan(queue, aside, now, |queue| {
            planner(queue, &hosts, &limits, now)
        });
        let planner = |queue: &Queue, hosts: &[Host]| planner(queue, hosts, &limits, now);
        elsewhere(&mut plan, &open.queue, &hosts, &index, planner);
        // Still under the lock of the plan: what it promised is known before anybody makes another one.
        open.held_back(&plan.reservations);
        open.claims.clone_from(&plan.claims);
        let next = [next, open.next_deadline()].into_iter().flatten().min();
        Planned {
            plan,
            now,
            due: next.and_then(|next| (next - now).to_std().ok()),
        }
    });
    // Ends only with a panic of something else than the planner, which is passed on to who watches the loops.
    match planned.await {
        Ok(planned) => Ok(Some(planned)),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Moves jobs away from hosts on which an earlier attempt failed, where they fit elsewhere beside all else that
/// starts in this round. Whether a job starts now is the plan's to say: here it only may start at another place.
fn elsewhere(
    plan: &mut Plan,
    queue: &Queue,
    hosts: &[Host],
    index: &Index,
    planner: impl Fn(&Queue, &[Host]) -> Plan,
) {
    // One after the other, with all that the others take left out: two that move never take the same device.
    for at in 0..plan.placements.len() {
        let job = plan.placements[at].job;
        let avoided = index.avoided(job);
        let is_bad = |rank: &PlacedRank| avoided.contains(&rank.worker);
        if !plan.placements[at].ranks.iter().any(is_bad) {
            continue;
        }
        let Some(pending) = queue.get(job) else {
            continue;
        };
        let mut left: Vec<Host> = hosts
            .iter()
            .filter(|host| !avoided.contains(&host.worker))
            .cloned()
            .collect();
        for (place, other) in plan.placements.iter().enumerate() {
            for rank in other.ranks.iter().filter(|_| place != at) {
                if let Some(host) = left.iter_mut().find(|host| host.worker == rank.worker) {
                    for device in &rank.devices {
                        host.devices.remove(device);
                    }
                }
            }
        }
        let alone = Queue::from_iter([*pending]);
        let found = planner(&alone, &left).placements.pop();
        if let Some(found) = found {
            plan.placements[at] = found;
        }
    }
}
