//! Writes a plan down: all its placements in one transaction, and for those left why, where that changed.

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;
use serde_json::Value;

use super::plan::Planned;
use crate::app::App;
use crate::index::Open;
use crate::lifecycle::{self, Result};
use crate::scheduler::{Line, Obstacle, Placement, Plan};
use crate::walls::caught;

/// Jobs whose obstacle is written in one round: a plan writes down a bounded amount, however many jobs
/// were submitted one by one. The rest follows in later rounds.
const OBSTACLES_MAX: usize = 500;

pub(super) async fn apply(app: &App, planned: Planned) -> Result<()> {
    let Planned { plan, now, .. } = planned;
    // Looked up before anything is applied: placing takes jobs out of the lines that are compared.
    let changed = changed_obstacles(&app.index.open(), &plan);
    for preemption in &plan.preemptions {
        lifecycle::preempt(app, preemption).await?;
    }
    for job in &plan.growths {
        lifecycle::grow(app, *job).await?;
    }
    if plan.placements.is_empty() && changed.is_empty() {
        return Ok(());
    }
    let obstacles: Vec<(JobId, Value)> = changed.iter().flat_map(Changed::rows).collect();
    match place(app, &plan.placements, &obstacles, now).await {
        Ok(()) => {}
        // Postgres is away: each apart would fail for the same reason.
        Err(error) if error.may_pass() => return Err(error),
        Err(_) => place_apart(app, &plan.placements, &obstacles, now).await?,
    }
    // Only what is stored counts as told: a round that failed before this says it again.
    let mut open = app.index.open();
    for Changed {
        line,
        obstacle,
        jobs,
    } in changed
    {
        open.told(line, obstacle.class(), &jobs);
    }
    Ok(())
}

async fn place(
    app: &App,
    placements: &[Placement],
    obstacles: &[(JobId, Value)],
    now: DateTime<Utc>,
) -> Result<()> {
    caught(lifecycle::place(app, placements, obstacles, now)).await?
}

/// One by one: a job that cannot be placed fails for it, and the others do not notice.
async fn place_apart(
    app: &App,
    placements: &[Placement],
    obstacles: &[(JobId, Value)],
    now: DateTime<Utc>,
) -> Result<()> {
    for placement in placements {
        match place(app, std::slice::from_ref(placement), &[], now).await {
            Ok(()) => {}
            Err(error) if error.may_pass() => return Err(error),
            Err(error) => {
                let failed = vec![(placement.job, error.to_string())];
                lifecycle::fail_unreadable(app, failed).await?;
            }
        }
    }
    // Last and by themselves: a placement that fails must not keep the reasons of others from being stored.
    place(app, &[], obstacles, now).await
}

/// Jobs of a line that something else keeps waiting than what is stored. The elements of an array have one
/// entry together, under their array.
struct Changed {
    line: Line,
    obstacle: Obstacle,
    jobs: Vec<JobId>,
}

impl Changed {
    fn rows(&self) -> impl Iterator<Item = (JobId, Value)> {
        // An enum of plain numbers always has a JSON form.
        let json = serde_json::to_value(self.obstacle).unwrap_or_default();
        self.jobs.iter().map(move |job| (*job, json.clone()))
    }
}

fn changed_obstacles(open: &Open, plan: &Plan) -> Vec<Changed> {
    let mut changed = Vec::new();
    let mut room = OBSTACLES_MAX;
    for (line, obstacle) in &plan.waiting {
        let jobs = open.unlike(*line, obstacle.class(), room);
        room -= jobs.len();
        if !jobs.is_empty() {
            changed.push(Changed {
                line: *line,
                obstacle: *obstacle,
                jobs,
            });
        }
    }
    changed
}
