//! Decides what starts now: the pure planner over the index, off the async threads.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::hosts::hosts;
use crate::app::App;
use crate::index::Index;
use crate::lifecycle::Result;
use crate::scheduler::{self, Host, PlacedRank, Plan, Queue};

/// A plan with the time it was made for.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) now: DateTime<Utc>,
    /// How long until the earliest back-off ends, where a job is in one.
    pub(super) due: Option<Duration>,
}

/// None where nothing is queued.
pub(super) async fn plan(app: &App) -> Result<Option<Planned>> {
    if app.index.open().queue.is_empty() {
        return Ok(None);
    }
    let now = app.clock.now();
    let (index, sessions) = (app.index.clone(), app.sessions.clone());
    let trail = app.walls.trail.clone();
    let planned = tokio::task::spawn_blocking(move || {
        let mut open = index.open();
        let hosts = hosts(&open, &sessions);
        let next = open.queue.wake(now);
        // By figures of what is planned: the same rows read at the next start have the same.
        let devices: usize = hosts.iter().map(|host| host.devices.len()).sum();
        let _step = trail.step(|| {
            let (jobs, hosts) = (open.queue.len(), hosts.len());
            format!("planning of {jobs} jobs on {hosts} hosts with {devices} devices")
        });
        let mut plan = scheduler::plan(&open.queue, &hosts, now);
        elsewhere(&mut plan, &open.queue, &hosts, &index, now);
        open.reservations.clone_from(&plan.reservations);
        Planned {
            plan,
            now,
            due: next.and_then(|next| (next - now).to_std().ok()),
        }
    });
    // Ends only with a panic, which is passed on to who watches the loops.
    match planned.await {
        Ok(planned) => Ok(Some(planned)),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Moves jobs away from hosts on which an earlier attempt failed, where they fit elsewhere beside all else that
/// starts in this round. Whether a job starts now is the plan's to say: here it only may start at another place.
fn elsewhere(plan: &mut Plan, queue: &Queue, hosts: &[Host], index: &Index, now: DateTime<Utc>) {
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
        let found = scheduler::plan(&alone, &left, now).placements.pop();
        if let Some(found) = found {
            plan.placements[at] = found;
        }
    }
}
