//! Retrying a job that ended without success, and bringing back what was cancelled for its sake.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;
use marquee_domain::spec::{Ended, NeedOn};
use marquee_store::again::get_made;
use marquee_store::elements;
use marquee_store::neighbours::{self, Needed};
use marquee_store::transitions::{self, ArrayCount, JobHead};
use marquee_store::{Tx, needs, pipelines};

use super::again::Asked;
use super::{LifecycleError, Result, again, dependents, inputs};
use crate::app::App;

/// Queues a failed or cancelled job again, with as many attempts as it had at first; or one whose artifact is damaged,
/// however often that was made again.
pub async fn retry_job(app: &App, job: JobId, caller: &str) -> Result<()> {
    let now = app.clock.now();
    let wrong = {
        let mut conn = app.db.read().await?;
        match transitions::get_job_head(&mut conn, job).await?.state {
            // Hashing its files takes minutes, so it is done before the lock, and only of a job that could be made
            // again.
            JobStateName::Succeeded => inputs::damage(&mut conn, app, job).await?,
            JobStateName::Waiting
            | JobStateName::Queued
            | JobStateName::Running
            | JobStateName::Failed
            | JobStateName::Cancelled => Vec::new(),
        }
    };
    let mut tx = app.db.write_as("retry", caller).await?;
    let pipeline = transitions::get_pipeline_of_job(&mut tx, job).await?;
    pipelines::lock_pipeline(&mut tx, pipeline).await?;
    let head = transitions::get_job_head(&mut tx, job).await?;
    // An element of an array is made again with its array, which is damaged too.
    let changed = if wrong.is_empty() || head.array_job.is_some() {
        bring_back(&mut tx, &head, "a user asked for a retry", caller, now).await?
    } else {
        let made = get_made(&mut tx, job).await?;
        let asked = Asked::ByUser(caller);
        let begun = again::make_again(&mut tx, &head, &made, &wrong, asked, now).await?;
        begun.map_err(|why| LifecycleError::CannotBeMadeAgain { job, why })?
    };
    tx.commit().await?;
    tracing::info!(%job, attempt = head.attempt, back = changed.len(), "job retried");
    app.jobs_changed(&changed);
    Ok(())
}

/// Makes a failed or cancelled job an open one again, and those that were cancelled for its sake. The caller
/// holds the pipeline's lock. Returns what changed.
pub(super) async fn bring_back(
    tx: &mut Tx,
    head: &JobHead,
    text: &str,
    caller: &str,
    now: DateTime<Utc>,
) -> Result<Vec<JobId>> {
    let job = head.id;
    if head.life().retry(false, now).is_err() {
        return Err(LifecycleError::JobHasNotEnded {
            job,
            state: head.state,
        });
    }
    if let Some(array) = head.array_job {
        let state = transitions::get_job_head(tx, array).await?.state;
        if state == JobStateName::Succeeded {
            return Err(LifecycleError::ArrayIsCommitted { job, array });
        }
    }
    if head.is_array {
        // They will end cancelled, and the array would wait for ever for what it does not know to be brought back.
        let open = transitions::list_open_elements(tx, job).await?;
        let elements = open
            .iter()
            .filter(|element| element.cancel_requested)
            .count();
        if elements > 0 {
            return Err(LifecycleError::ElementsStop { job, elements });
        }
    }
    let needs = neighbours::list_needs(tx, job).await?;
    if let Some(need) = needs.iter().find(|need| need.is_missed()) {
        return Err(needs_another_end(job, need));
    }
    // Others need the array, never one of its elements.
    let origin = head.array_job.unwrap_or(job);
    let dependents = neighbours::list_dependents(tx, origin).await?;
    // What cleans up after it must not do so while it runs again.
    if let Some(by) = dependents.iter().find(|other| other.follows_at_work) {
        return Err(LifecycleError::FollowerAtWork { job, by: by.id });
    }
    let mut changed = revive(tx, std::slice::from_ref(head), text, caller, now).await?;
    let text = format!("back, because job {job} is retried");
    // An array ended with its element: it comes back with it.
    let mut also = Vec::new();
    if let Some(array) = head.array_job {
        let array = transitions::get_job_head(tx, array).await?;
        if array.life().revive(true, now).is_ok() {
            also.push(array);
        }
    }
    // Those that are back count as needs that may still come, for all behind them.
    let mut back: BTreeSet<JobId> = BTreeSet::from([job, origin]);
    let mut waiting: Vec<JobId> = Vec::new();
    let ids: Vec<JobId> = dependents.iter().map(|dependent| dependent.id).collect();
    // In pipeline order, so that what each needs is decided before it is.
    for head in in_order(&ids, transitions::list_job_heads(tx, &ids).await?) {
        if head.state == JobStateName::Waiting {
            waiting.push(head.id);
        }
        if head.life().revive(true, now).is_err() {
            continue;
        }
        let needs = neighbours::list_needs(tx, head.id).await?;
        let stays = |need: &Needed| need.is_missed() && !back.contains(&need.id);
        // One that lacks something else as well stays cancelled: it would wait for what never comes.
        if !needs.iter().any(stays) {
            back.insert(head.id);
            also.push(head);
        }
    }
    changed.extend(revive(tx, &also, &text, caller, now).await?);
    if !waiting.is_empty() {
        // What they had been waiting for had ended, and has not any more.
        needs::recount_needs(tx, &waiting).await?;
        changed.extend(waiting);
    }
    Ok(changed)
}

fn needs_another_end(job: JobId, need: &Needed) -> LifecycleError {
    let (needs, name) = (need.id, need.name.to_string());
    match (need.on, need.ended) {
        (NeedOn::Failed, Some(Ended::Succeeded)) => LifecycleError::NotNeeded {
            job,
            needs,
            name,
            ended: "succeeded",
        },
        (NeedOn::Failed, Some(Ended::Cancelled)) => LifecycleError::NotNeeded {
            job,
            needs,
            name,
            ended: "was cancelled",
        },
        (NeedOn::Succeeded | NeedOn::Finished, _)
        | (NeedOn::Failed, Some(Ended::Failed) | None) => {
            LifecycleError::NeedHasNotSucceeded { job, needs, name }
        }
    }
}

fn in_order(ids: &[JobId], mut heads: Vec<JobHead>) -> Vec<JobHead> {
    heads.sort_by_key(|head| ids.iter().position(|id| *id == head.id));
    heads
}

/// Puts jobs back to where their needs let them be, with those elements of arrays that had not succeeded.
/// Returns what changed.
async fn revive(
    tx: &mut Tx,
    heads: &[JobHead],
    text: &str,
    caller: &str,
    now: DateTime<Utc>,
) -> Result<Vec<JobId>> {
    let mut jobs: Vec<(JobId, u32)> = heads.iter().map(|head| (head.id, head.attempt)).collect();
    let arrays: Vec<JobId> = heads
        .iter()
        .filter(|head| head.is_array)
        .map(|head| head.id)
        .collect();
    for array in &arrays {
        jobs.extend(transitions::list_elements_to_revive(tx, *array).await?);
    }
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let mut changed = transitions::mark_jobs_revived(tx, &jobs, text, caller, now).await?;
    elements::mark_elements_to_come(tx, &arrays).await?;
    for array in arrays {
        // Where all elements had succeeded and the array failed all the same, only the commit is left to do.
        if transitions::get_elements_left(tx, array).await? == 0 {
            let count = ArrayCount {
                array,
                left: 0,
                open: 0,
            };
            changed.extend(dependents::release(tx, Vec::new(), &[count], now).await?);
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use marquee_domain::ids::PipelineId;
    use marquee_domain::spec::JobKind;

    use super::*;

    fn need(on: NeedOn, ended: Option<Ended>) -> Needed {
        Needed {
            id: JobId(4),
            name: "train".parse().unwrap(),
            on,
            ended,
        }
    }

    #[test]
    fn a_need_that_ended_otherwise_says_whether_there_is_anything_left_to_do() {
        let words = |on, ended| needs_another_end(JobId(5), &need(on, ended)).to_string();
        // What is there for a failure that did not come has nothing to do; retrying the other would not help it.
        assert!(
            words(NeedOn::Failed, Some(Ended::Succeeded))
                .ends_with("that did not come: it succeeded; there is nothing left for it to do")
        );
        assert!(words(NeedOn::Failed, Some(Ended::Cancelled)).contains("it was cancelled"));
        let retried = [
            (NeedOn::Succeeded, Some(Ended::Failed)),
            (NeedOn::Succeeded, Some(Ended::Cancelled)),
            (NeedOn::Succeeded, None),
            (NeedOn::Finished, None),
            (NeedOn::Failed, None),
        ];
        for (on, ended) in retried {
            let words = words(on, ended);
            assert!(
                words.contains("retry that one: \"marquee retry 4\""),
                "{on:?} {ended:?}: {words}"
            );
        }
    }

    #[test]
    fn only_an_end_that_came_otherwise_is_missed() {
        for on in NeedOn::ALL {
            assert!(!need(on, None).is_missed(), "{on:?}: it may still come");
        }
        let met = [
            (NeedOn::Succeeded, Ended::Succeeded),
            (NeedOn::Finished, Ended::Succeeded),
            (NeedOn::Finished, Ended::Failed),
            (NeedOn::Finished, Ended::Cancelled),
            (NeedOn::Failed, Ended::Failed),
        ];
        for on in NeedOn::ALL {
            for ended in [Ended::Succeeded, Ended::Failed, Ended::Cancelled] {
                let is_met = met.contains(&(on, ended));
                assert_eq!(
                    need(on, Some(ended)).is_missed(),
                    !is_met,
                    "{on:?} {ended:?}"
                );
            }
        }
    }

    #[test]
    fn jobs_come_back_in_the_order_of_their_pipeline() {
        let head = |id: i64| JobHead {
            id: JobId(id),
            pipeline_id: PipelineId(1),
            display_name: format!("j{id}"),
            kind: JobKind::Command,
            state: JobStateName::Cancelled,
            attempt: 1,
            last_attempt: 3,
            max_attempts: 3,
            cancel_requested: false,
            is_array: false,
            array_job: None,
            cancelled_for: None,
        };
        let ids = [JobId(9), JobId(2), JobId(5)];
        let read = vec![head(2), head(5), head(9)];
        let ordered: Vec<i64> = in_order(&ids, read).iter().map(|head| head.id.0).collect();
        assert_eq!(ordered, [9, 2, 5]);
        assert!(in_order(&ids, Vec::new()).is_empty());
    }
}
