//! Rules 1d and 1e: what is stored is what happened.

use std::collections::HashSet;

use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::job::JobStateName;

use crate::finding::Rule;
use crate::line::Findings;
use crate::state::State;
use crate::stored::{StoredJob, StoredPipeline};

/// 1d, of the jobs of one pipeline. One that the audit does not know is older than it.
pub(crate) fn all_jobs_are_there(state: &State, stored: &StoredPipeline, findings: &mut Findings) {
    if let Some(accepted) = state.accepted.get(&stored.id)
        && *accepted != stored.jobs
    {
        let text = format!(
            "{accepted} jobs were accepted with it, and {} are stored",
            stored.jobs
        );
        findings.add(Rule::NothingLost, None, stored.id, text);
    }
}

/// 1d, of whole pipelines.
pub(crate) fn no_pipeline_lost(state: &State, seen: &HashSet<PipelineId>, findings: &mut Findings) {
    let accepted = state.accepted.keys().copied();
    let mut lost: Vec<PipelineId> = accepted.filter(|id| !seen.contains(id)).collect();
    lost.sort_unstable();
    for pipeline in lost {
        let text = format!("pipeline {pipeline} was accepted and is not stored");
        findings.add(Rule::NothingLost, None, pipeline, text);
    }
}

/// 1d, of jobs with a history and without a row.
pub(crate) fn no_job_lost(state: &State, findings: &mut Findings) {
    // `Checker::job` has taken out those that have a row.
    let mut lost: Vec<JobId> = state.jobs.keys().copied().collect();
    lost.sort_unstable();
    for job in lost {
        let text = format!("job {job} has a history and is not stored");
        findings.add(Rule::NothingLost, None, job, text);
    }
}

/// 1e.
pub(crate) fn as_it_happened(state: &State, stored: &StoredJob, findings: &mut Findings) {
    let is_old = state.last_old_job.is_some_and(|last| stored.id <= last);
    let Some(job) = state.jobs.get(&stored.id) else {
        // Nothing has happened to it yet.
        if !is_old && (stored.attempt > 0 || stored.state.is_final()) {
            let text = format!(
                "it is stored as {} at attempt {}, and has no history",
                stored.state.as_str(),
                stored.attempt
            );
            findings.add(Rule::StoredAsItHappened, None, stored.id, text);
        }
        return;
    };
    let fits = match job.end {
        Some(end) => stored.state == end.state(),
        None => match stored.state {
            JobStateName::Waiting | JobStateName::Queued => !state.live.contains_key(&stored.id),
            JobStateName::Running => is_old || state.live.contains_key(&stored.id),
            JobStateName::Succeeded | JobStateName::Failed | JobStateName::Cancelled => is_old,
        },
    };
    // Of an old job without a new attempt the history knows no number.
    let same_attempt = job.newest == stored.attempt || (is_old && job.newest == 0);
    if !fits || !same_attempt {
        let happened = job.end.map_or("open", |end| end.state().as_str());
        let text = format!(
            "it is stored as {} at attempt {}, and by its history it is {happened} at attempt {}",
            stored.state.as_str(),
            stored.attempt,
            job.newest
        );
        findings.add(Rule::StoredAsItHappened, None, stored.id, text);
    }
}
