//! A job as its row is read.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use marquee_domain::failure::Failure;
use marquee_domain::ids::{AttemptNumber, JobId, JobName, PipelineId};
use marquee_domain::job::{JobState, JobStateName};
use marquee_domain::spec::{ArrayValues, NeedOn};

use super::{ElementOf, Job};
use crate::{Result, StoreError, convert};

pub(super) struct RawJob {
    pub(super) id: i64,
    pub(super) pipeline_id: i64,
    pub(super) pipeline_name: String,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) state: String,
    pub(super) reason: String,
    pub(super) attempt: i32,
    pub(super) max_attempts: i32,
    pub(super) ranks: i32,
    pub(super) priority: i32,
    pub(super) created_at: DateTime<Utc>,
    pub(super) not_before: Option<DateTime<Utc>>,
    pub(super) obstacle: Option<serde_json::Value>,
    pub(super) started_at: Option<DateTime<Utc>>,
    pub(super) finished_at: Option<DateTime<Utc>>,
    pub(super) cancel_requested: bool,
    pub(super) failure_class: Option<String>,
    pub(super) failure_message: Option<String>,
    pub(super) progress: Option<serde_json::Value>,
    pub(super) artifact: Option<String>,
    pub(super) needs: Vec<String>,
    pub(super) waits_for: Vec<String>,
    pub(super) is_not_needed: bool,
    pub(super) over_values: Option<serde_json::Value>,
    pub(super) elements: Option<serde_json::Value>,
    pub(super) array_job_id: Option<i64>,
    pub(super) array_index: Option<i32>,
    pub(super) reused_from: Option<i64>,
    pub(super) project: String,
    pub(super) held_by: Option<String>,
    pub(super) held_at: Option<DateTime<Utc>>,
    pub(super) interruption_message: Option<String>,
}

impl RawJob {
    /// The state with what is true in it; a column that it needs and lacks cannot be read.
    fn state(&self, failure: Option<&Failure>) -> Result<JobState> {
        let attempt = AttemptNumber(convert::u32_of("jobs.attempt", self.attempt)?);
        // A time that is missing is an error and not the present: a made-up end would move each time somebody
        // looks.
        let finished_at = || {
            self.finished_at
                .ok_or_else(|| convert::unreadable("jobs.finished_at", "null"))
        };
        Ok(match convert::job_state(&self.state)? {
            // Why is said by who knows what there is now.
            JobStateName::Waiting => JobState::Waiting {
                reason: String::new(),
            },
            JobStateName::Queued => JobState::Queued {
                reason: String::new(),
                not_before: self.not_before,
            },
            JobStateName::Running => JobState::Running {
                attempt,
                started_at: self
                    .started_at
                    .ok_or_else(|| convert::unreadable("open_jobs.started_at", "null"))?,
                cancel_requested: self.cancel_requested,
            },
            JobStateName::Succeeded => JobState::Succeeded {
                attempt,
                finished_at: finished_at()?,
            },
            JobStateName::Failed => JobState::Failed {
                failure: failure
                    .cloned()
                    .ok_or_else(|| convert::unreadable("jobs.failure_class", "null"))?,
                finished_at: finished_at()?,
            },
            JobStateName::Cancelled => JobState::Cancelled {
                reason: self.reason.clone(),
                finished_at: finished_at()?,
            },
        })
    }
}

impl TryFrom<RawJob> for Job {
    type Error = StoreError;
    fn try_from(raw: RawJob) -> Result<Self> {
        let failure = convert::failure(raw.failure_class.clone(), raw.failure_message.clone())?;
        let state = raw.state(failure.as_ref())?;
        Ok(Self {
            id: JobId(raw.id),
            pipeline_id: PipelineId(raw.pipeline_id),
            pipeline_name: convert::job_name(raw.pipeline_name)?,
            name: convert::job_name(raw.name)?,
            kind: convert::kind(&raw.kind)?,
            state,
            attempt: convert::u32_of("jobs.attempt", raw.attempt)?,
            max_attempts: convert::u32_of("jobs.max_attempts", raw.max_attempts)?,
            ranks: convert::u32_of("jobs.ranks", raw.ranks)?,
            priority: raw.priority,
            created_at: raw.created_at,
            started_at: raw.started_at,
            failure,
            // What an older version stored, or what is damaged, is left out: the job matters more than its progress.
            progress: raw.progress.and_then(|p| convert::json("progress", p).ok()),
            artifact: raw.artifact.map(convert::digest).transpose()?,
            needs: raw.needs.into_iter().map(need).collect::<Result<_>>()?,
            waits_for: raw.waits_for.into_iter().map(need).collect::<Result<_>>()?,
            is_not_needed: raw.is_not_needed,
            obstacle: raw.obstacle,
            elements: raw
                .elements
                .map(|counts| convert::json("elements", counts))
                .transpose()?,
            values: values_at(raw.over_values, raw.array_index)?,
            element: element_of(raw.array_job_id, raw.array_index)?,
            reused_from: raw.reused_from.map(JobId),
            project: raw.project,
            held: raw.held_by.zip(raw.held_at),
            makes_room: raw.interruption_message,
        })
    }
}

/// A need as `list_jobs` writes it: "train succeeded".
fn need(text: String) -> Result<(JobName, NeedOn)> {
    let (name, wanted) = text.split_once(' ').unwrap_or((&text, "succeeded"));
    Ok((
        convert::job_name(name.to_owned())?,
        convert::need_on(wanted)?,
    ))
}

/// The values of an element, from the lists of its array.
fn values_at(
    over: Option<serde_json::Value>,
    index: Option<i32>,
) -> Result<BTreeMap<String, serde_json::Value>> {
    let (Some(over), Some(index)) = (over, index) else {
        return Ok(BTreeMap::new());
    };
    let values = ArrayValues {
        over: convert::json("jobs.spec values", over)?,
        here: BTreeMap::new(),
    };
    Ok(values.at(convert::u32_of("jobs.array_index", index)?))
}

fn element_of(array: Option<i64>, index: Option<i32>) -> Result<Option<ElementOf>> {
    let (Some(array), Some(index)) = (array, index) else {
        return Ok(None);
    };
    Ok(Some(ElementOf {
        array: JobId(array),
        index: convert::u32_of("jobs.array_index", index)?,
    }))
}
