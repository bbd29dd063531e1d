//! A list of jobs, one row each.

use chrono::{DateTime, Utc};
use marquee_domain::job::JobStateName;
use marquee_proto::v1::Job;
use serde_json::Value;

use crate::page::{Cell, Page, Tone, View, left, right, toned};
use crate::{json, status, units, words};

/// A listing of jobs.
#[derive(Debug)]
pub struct Jobs<'a>(pub &'a [Job]);

impl View for Jobs<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        if !self.0.is_empty() {
            table(page, self.0, now);
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        self.0.iter().map(json::job).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.iter().map(|job| job.id.to_string()).collect()
    }
}

/// One row a job.
pub fn table(page: &mut Page, jobs: &[Job], now: DateTime<Utc>) {
    let heads = [
        right("ID"),
        left("PIPELINE"),
        left("NAME"),
        left("KIND"),
        left("STATE"),
        right("ATTEMPT"),
        right("RAN"),
        right("AGE"),
        left("DETAIL"),
    ];
    page.table(heads, jobs.iter().map(|job| row(job, now)).collect());
}

fn row(job: &Job, now: DateTime<Utc>) -> Vec<Cell> {
    let age = units::time(job.created_at.as_ref())
        .map(|at| units::about(units::between(at, now)))
        .unwrap_or_default();
    vec![
        toned(job.id.to_string(), Tone::Strong),
        format!("p{} {}", job.pipeline_id, job.pipeline_name).into(),
        name(job).into(),
        words::job_kind(job).into(),
        state(job),
        attempts(job).into(),
        words::ran_for(job, now)
            .map(units::duration)
            .unwrap_or_default()
            .into(),
        age.into(),
        detail(job, now).into(),
    ]
}

/// `sweep[3] lr=0.1 seed=2`: what an element of an array over values is told apart by.
fn name(job: &Job) -> String {
    let values = words::values(job);
    if values.is_empty() {
        words::job_name(job)
    } else {
        format!("{} {values}", words::job_name(job))
    }
}

/// `2/3`; an array has no attempts of its own.
fn attempts(job: &Job) -> String {
    match job.elements {
        Some(_) => String::new(),
        None => words::attempt_of(job),
    }
}

/// The job's detail, unless it would only repeat the time that stands in another column.
fn detail(job: &Job, now: DateTime<Utc>) -> String {
    // A column that repeats the one beside it takes room from those that say something.
    let only_time = match words::state_name(job) {
        // "in 3 m" stands under RAN already; that a result was reused, or how many elements there
        // were, does not.
        Some(JobStateName::Succeeded) => job.elements.is_none() && job.reused_from_job_id == 0,
        Some(JobStateName::Running) => {
            job.elements.is_none() && job.progress.is_none() && !job.cancel_requested
        }
        Some(
            JobStateName::Waiting
            | JobStateName::Queued
            | JobStateName::Failed
            | JobStateName::Cancelled,
        )
        | None => false,
    };
    if only_time {
        String::new()
    } else {
        status::detail(job, now)
    }
}

/// The state in its tone.
pub fn state(job: &Job) -> Cell {
    let tone = match words::state_name(job) {
        Some(JobStateName::Waiting | JobStateName::Queued) => Tone::Faint,
        Some(JobStateName::Running) => Tone::Busy,
        Some(JobStateName::Succeeded) => Tone::Good,
        Some(JobStateName::Failed) => Tone::Bad,
        Some(JobStateName::Cancelled) => Tone::Warn,
        None => Tone::Plain,
    };
    toned(words::job_state(job), tone)
}
