//! What a job's end means for the jobs that need it.

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;
use marquee_store::Tx;
use marquee_store::jobs::{self, Neighbour};
use marquee_store::{StoreError, events, transitions};

use super::array;

/// What a waiting job says: the needs that have not succeeded yet.
pub(super) fn waits_for<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
    match names.split_last() {
        Some((last, [])) => format!("waits for {last} to succeed"),
        Some((last, others)) => format!("waits for {} and {last} to succeed", others.join(", ")),
        None => "waits for its needs".into(),
    }
}

/// `waits_for` over the needs of `job` as they are; None when all have succeeded.
pub(super) fn waits_for_needs(job: &Neighbour, needs: &[Neighbour]) -> Option<String> {
    let is_element = |need: &Neighbour| need.array_job == Some(job.id);
    let open: Vec<&str> = needs
        .iter()
        .filter(|need| need.state != JobStateName::Succeeded && !is_element(need))
        .map(|need| need.name.as_str())
        .collect();
    if open.is_empty() {
        array::waits_for_elements(needs, job.id)
    } else {
        Some(waits_for(open.into_iter()))
    }
}

/// Queues the jobs for which `job`, which has just succeeded, was the last need. Returns all that
/// changed.
pub(super) async fn release(
    tx: &mut Tx,
    job: JobId,
    now: DateTime<Utc>,
) -> Result<Vec<JobId>, StoreError> {
    let mut changed = Vec::new();
    for dependent in jobs::list_dependents(tx, job).await? {
        // An array that was committed on the way has released its own dependents.
        if dependent.state != JobStateName::Waiting || changed.contains(&dependent.id) {
            continue;
        }
        let needs = jobs::list_needs(tx, dependent.id).await?;
        let id = dependent.id;
        match waits_for_needs(&dependent, &needs) {
            None if dependent.is_array => {
                changed.extend(array::commit(tx, &dependent, now).await?);
            }
            None => {
                transitions::mark_job_queued(tx, id, now).await?;
                events::insert_event(tx, id, dependent.attempt, "queued", now).await?;
                changed.push(id);
            }
            Some(reason) => {
                if transitions::mark_reason(tx, id, JobStateName::Waiting, &reason).await? {
                    changed.push(id);
                }
            }
        }
    }
    Ok(changed)
}

/// Cancels the jobs that cannot run without `job`, which has `ended` without success ("failed" or
/// "was cancelled"). Returns those that changed.
pub(super) async fn cancel(
    tx: &mut Tx,
    job: JobId,
    ended: &str,
    now: DateTime<Utc>,
) -> Result<Vec<JobId>, StoreError> {
    let dependents = jobs::list_dependents(tx, job).await?;
    let waiting = dependents
        .into_iter()
        .filter(|d| d.state == JobStateName::Waiting);
    let mut changed = Vec::new();
    let mut reason = None;
    for dependent in waiting {
        let reason = match &reason {
            Some(reason) => reason,
            None => {
                let name = jobs::get_job_spec(tx, job).await?.display_name();
                &*reason.insert(format!(
                    "job {job} ({name:?}), which it needs, {ended}; \"marquee retry {job}\" brings both back"
                ))
            }
        };
        let Neighbour { id, attempt, .. } = dependent;
        transitions::mark_job_cancelled(tx, id, attempt, reason, Some(job), now).await?;
        let text = format!("cancelled: {reason}");
        events::insert_event(tx, id, attempt, &text, now).await?;
        changed.push(id);
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_job_names_what_it_waits_for() {
        let words = |names: &[&str]| waits_for(names.iter().copied());
        assert_eq!(words(&["fetch"]), "waits for \"fetch\" to succeed");
        assert_eq!(
            words(&["a", "b", "c"]),
            "waits for \"a\", \"b\" and \"c\" to succeed"
        );
    }
}
