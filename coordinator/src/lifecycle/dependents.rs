//! What the end of jobs means for the jobs that need them.

use chrono::{DateTime, Utc};
use marquee_domain::failure::Failure;
use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;
use marquee_store::transitions::{self, ArrayCount};
use marquee_store::{StoreError, Tx, neighbours};

use super::array;

/// Jobs whose rows have changed. An array stands for its elements too.
pub(super) type Changed = Vec<JobId>;

/// Jobs that have just succeeded: queues those for which they were the last need, and commits arrays of
/// which they were the last elements, and so on. Returns all that changed.
pub(super) async fn release(
    tx: &mut Tx,
    done: Vec<JobId>,
    counts: &[ArrayCount],
    now: DateTime<Utc>,
) -> Result<Changed, StoreError> {
    let mut done = done;
    let mut changed = Vec::new();
    for count in counts.iter().filter(|count| count.left == 0) {
        changed.push(count.array);
        let head = transitions::get_job_head(tx, count.array).await?;
        if head.life().fail_unplaced().is_err() {
            // It was cancelled, or has failed, while its last elements came to their end: it stays so, and what they have
            // committed is kept for a retry.
            continue;
        }
        match array::commit(tx, count.array, now).await? {
            // An array is no element of another one, so this goes no deeper.
            Ok(()) => done.push(count.array),
            Err(failure) => changed.extend(fail_array(tx, count.array, &failure, now).await?),
        }
    }
    if done.is_empty() {
        return Ok(changed);
    }
    let released = transitions::release(tx, &done, now).await?;
    changed.extend(released.queued);
    changed.extend(released.arrays);
    changed.extend(released.waiting);
    Ok(changed)
}

async fn fail_array(
    tx: &mut Tx,
    array: JobId,
    failure: &Failure,
    now: DateTime<Utc>,
) -> Result<Changed, StoreError> {
    let head = transitions::get_job_head(tx, array).await?;
    array::fail(tx, array, head.attempt, failure, now).await?;
    cancel(tx, array, "failed", now).await
}

/// Cancels the jobs that cannot run without `job`, which has `ended` without success ("failed" or
/// "was cancelled"), and the elements of those that are arrays. Returns those that changed.
pub(super) async fn cancel(
    tx: &mut Tx,
    job: JobId,
    ended: &str,
    now: DateTime<Utc>,
) -> Result<Changed, StoreError> {
    let dependents = neighbours::list_dependents(tx, job).await?;
    let mut waiting = Vec::new();
    for dependent in &dependents {
        if dependent.state != JobStateName::Waiting {
            continue;
        }
        waiting.push((dependent.id, dependent.attempt));
        if dependent.is_array {
            // They wait with it: what it needs, they need. One that runs while that is made again goes on.
            let elements = transitions::list_open_elements(tx, dependent.id).await?;
            let waits = elements
                .iter()
                .filter(|head| head.state == JobStateName::Waiting);
            waiting.extend(waits.map(|head| (head.id, head.attempt)));
        }
    }
    if waiting.is_empty() {
        return Ok(Vec::new());
    }
    let name = transitions::get_job_head(tx, job).await?.display_name;
    let reason = format!(
        "job {job} ({name:?}), which it needs, {ended}; \"marquee retry {job}\" brings both back"
    );
    transitions::mark_jobs_cancelled(tx, &waiting, &reason, Some(job), "", now).await
}

/// What a waiting job says: the needs that have not succeeded yet.
pub fn waits_for<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
    match names.split_last() {
        Some((last, [])) => format!("waits for {last} to succeed"),
        Some((last, others)) => format!("waits for {} and {last} to succeed", others.join(", ")),
        None => "waits for its needs".into(),
    }
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
