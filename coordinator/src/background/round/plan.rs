//! Decides what starts now: the pure planner over the index, off the async threads.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::hosts::hosts;
use super::isolate;
use crate::app::App;
use crate::blocking::blocking;
use crate::index::Open;
use crate::lifecycle::Result;
use crate::scheduler::Plan;

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
    let (trail, planner) = (app.walls.trail.clone(), app.planner);
    let planned = blocking(move || {
        let mut open = index.open();
        let hosts = hosts(&open, &sessions);
        let next = open.queue.wake(now);
        // By figures of what is planned: the same rows read at the next start have the same.
        let devices: usize = hosts.iter().map(|host| host.devices.len()).sum();
        let _step = trail.step(|| {
            let (jobs, hosts) = (open.queue.len(), hosts.len());
            format!("planning of {jobs} jobs on {hosts} hosts with {devices} devices")
        });
        let Open { queue, aside, .. } = &mut *open;
        let plan = isolate::plan(queue, aside, now, |queue| planner(queue, &hosts, now));
        open.reservations.clone_from(&plan.reservations);
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
