//! What the end of jobs means for the jobs that need them.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;
use marquee_domain::spec::{Ended, NeedOn};
use marquee_domain::transitions::needs::{Need, lost};
use marquee_store::transitions::{self, ArrayCount, ArrayEnds, JobHead};
use marquee_store::{StoreError, Tx, elements, needs, neighbours};

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
    for count in counts.iter().filter(|count| count.open == 0) {
        let ends = transitions::get_array_ends(tx, count.array).await?;
        match through(tx, count.array, ends, now).await? {
            // An array is no element of another one, so this goes no deeper.
            Through::Whole => {
                changed.push(count.array);
                done.push(count.array);
            }
            Through::Lost(lost) => changed.extend(lost),
        }
    }
    if done.is_empty() {
        return Ok(changed);
    }
    let ended: Vec<(JobId, Ended)> = done.iter().map(|job| (*job, Ended::Succeeded)).collect();
    let missed = count_down(tx, &ended, &mut changed, now).await?;
    for job in missed {
        changed.extend(cancel(tx, job, Ended::Succeeded, true, now).await?);
    }
    Ok(changed)
}

/// What became of an array with the end of its last element.
enum Through {
    /// It is committed; those that need it are not told yet.
    Whole,
    /// It has ended in another way, now or before. What changed.
    Lost(Changed),
}

/// Every element of an array has ended.
async fn through(
    tx: &mut Tx,
    array: JobId,
    ends: ArrayEnds,
    now: DateTime<Utc>,
) -> Result<Through, StoreError> {
    let head = transitions::get_job_head(tx, array).await?;
    if head.life().fail_unplaced().is_err() {
        // One that was cancelled, or has failed, while its last elements came to their end stays so, and what they
        // have committed is kept for a retry.
        return Ok(Through::Lost(array_over(tx, array, now).await?));
    }
    if ends.is_lost() {
        let lost = give_up(tx, &head, ends, now).await?;
        return Ok(Through::Lost(lost));
    }
    match array::commit(tx, array, ends, now).await? {
        Ok(()) => Ok(Through::Whole),
        Err(failure) => {
            array::fail(tx, array, head.attempt, &failure, now).await?;
            let mut changed = ended(tx, array, Ended::Failed, now).await?;
            changed.push(array);
            Ok(Through::Lost(changed))
        }
    }
}

async fn give_up(
    tx: &mut Tx,
    array: &JobHead,
    ends: ArrayEnds,
    now: DateTime<Utc>,
) -> Result<Changed, StoreError> {
    let how = array::give_up(tx, array, ends, now).await?;
    let mut changed = ended(tx, array.id, how, now).await?;
    changed.push(array.id);
    Ok(changed)
}

/// Returns those for whose other end somebody waits.
async fn count_down(
    tx: &mut Tx,
    ended: &[(JobId, Ended)],
    changed: &mut Changed,
    now: DateTime<Utc>,
) -> Result<Vec<JobId>, StoreError> {
    let released = needs::release(tx, ended, now).await?;
    changed.extend(released.queued);
    changed.extend(released.arrays);
    changed.extend(released.waiting);
    Ok(released.missed)
}

/// A job that has ended without success: those that cannot run without it are cancelled, with the elements of those
/// that are arrays, and those that waited for this end are counted down. Returns those that changed.
pub(super) async fn ended(
    tx: &mut Tx,
    job: JobId,
    how: Ended,
    now: DateTime<Utc>,
) -> Result<Changed, StoreError> {
    // Elements of an array that failed go on. What cleans up after them waits until they have ended, and what needs
    // its success need not.
    let is_over = needs::find_array_end(tx, job).await?.is_some();
    cancel(tx, job, how, is_over, now).await
}

/// An element has ended without success. Where that is one too many, its array ends with it; where it was the last
/// one, its array is through.
pub(super) async fn element_missed(
    tx: &mut Tx,
    array: JobId,
    now: DateTime<Utc>,
) -> Result<Changed, StoreError> {
    let ends = transitions::get_array_ends(tx, array).await?;
    if ends.open() == 0 {
        let last = ArrayCount {
            array,
            left: ends.missed,
            open: 0,
        };
        return release(tx, Vec::new(), &[last], now).await;
    }
    let head = transitions::get_job_head(tx, array).await?;
    if ends.is_lost() && head.life().fail_unplaced().is_ok() {
        return give_up(tx, &head, ends, now).await;
    }
    Ok(Vec::new())
}

/// The last element of an array has ended that had ended itself, without success: it is over for those that waited
/// for that.
async fn array_over(tx: &mut Tx, array: JobId, now: DateTime<Utc>) -> Result<Changed, StoreError> {
    match needs::find_array_end(tx, array).await? {
        Some(how @ (Ended::Failed | Ended::Cancelled)) => cancel(tx, array, how, true, now).await,
        Some(Ended::Succeeded) | None => Ok(Vec::new()),
    }
}

async fn cancel(
    tx: &mut Tx,
    job: JobId,
    how: Ended,
    is_over: bool,
    now: DateTime<Utc>,
) -> Result<Changed, StoreError> {
    let (waiting, mut all) = neighbours::list_waiting_needs(tx, job).await?;
    if !is_over {
        all.retain(|need: &Need| need.of != job || need.on == NeedOn::Succeeded);
    }
    let lost = lost(job, how, &all);
    let mut changed = Vec::new();
    let mut ended = Vec::new();
    if !lost.is_empty() {
        let mut gone = Vec::with_capacity(lost.len());
        let (mut arrays, mut at_work) = (Vec::new(), BTreeSet::new());
        for one in waiting.iter().filter(|one| lost.contains(&one.id)) {
            gone.push((one.id, one.attempt));
            if one.is_array {
                // They wait with it: what it needs, they need. One that runs while that is made again goes on, and
                // the array is over for others when that has ended.
                let elements = transitions::list_open_elements(tx, one.id).await?;
                let waits = |head: &&JobHead| head.state == JobStateName::Waiting;
                if !elements.iter().all(|head| waits(&head)) {
                    at_work.insert(one.id);
                }
                let waiting = elements.iter().filter(waits);
                gone.extend(waiting.map(|head| (head.id, head.attempt)));
                arrays.push(one.id);
            }
        }
        elements::mark_elements_dropped(tx, &arrays).await?;
        let name = transitions::get_job_head(tx, job).await?.display_name;
        let reason = reason(job, &name, how);
        changed = transitions::mark_jobs_cancelled(tx, &gone, &reason, Some(job), "", now).await?;
        let so = how.of_what_is_lost_by_it();
        let over = lost.into_iter().filter(|job| !at_work.contains(job));
        ended.extend(over.map(|job| (job, so)));
    }
    // A success was told to those that wait for it before this is called.
    // An array that failed while elements run is not over for those who clean up after it: they would pull away what
    // these still use.
    if is_over && how != Ended::Succeeded {
        ended.push((job, how));
    }
    if !ended.is_empty() {
        // Whoever waits for another end of these is lost, and among them.
        count_down(tx, &ended, &mut changed, now).await?;
    }
    Ok(changed)
}

/// Why a job is cancelled that can never run, since `job` ended so.
fn reason(job: JobId, name: &str, how: Ended) -> String {
    let ended = match how {
        Ended::Succeeded => {
            return format!(
                "not needed: job {job} ({name:?}) succeeded, and this was for its failure"
            );
        }
        Ended::Failed => "failed",
        Ended::Cancelled => "was cancelled",
    };
    format!(
        "job {job} ({name:?}), which it needs, {ended}; \"marquee retry {job}\" brings both back"
    )
}

/// What a waiting job says: the needs that have not ended yet as they must.
pub fn waits_for<'a>(needs: impl Iterator<Item = (&'a str, NeedOn)>) -> String {
    let needs: Vec<(&str, NeedOn)> = needs.collect();
    let parts = NeedOn::ALL.into_iter().filter_map(|on| {
        let names = needs.iter().filter(|(_, wanted)| *wanted == on);
        let names: Vec<String> = names.map(|(name, _)| format!("{name:?}")).collect();
        let names = listed(&names)?;
        Some(format!("{names} to {}", on.verb()))
    });
    let parts: Vec<String> = parts.collect();
    match parts.split_last() {
        None => "waits for its needs".into(),
        Some((last, [])) => format!("waits for {last}"),
        Some((last, others)) => format!("waits for {}, and for {last}", others.join(", for ")),
    }
}

/// `"a", "b" and "c"`.
fn listed(names: &[String]) -> Option<String> {
    match names.split_last()? {
        (last, []) => Some(last.clone()),
        (last, others) => Some(format!("{} and {last}", others.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_job_names_what_it_waits_for() {
        use NeedOn::{Failed, Finished, Succeeded};
        let words = |names: &[(&'static str, NeedOn)]| waits_for(names.iter().copied());
        assert_eq!(
            words(&[("fetch", Succeeded)]),
            "waits for \"fetch\" to succeed"
        );
        assert_eq!(
            words(&[("a", Succeeded), ("b", Succeeded), ("c", Succeeded)]),
            "waits for \"a\", \"b\" and \"c\" to succeed"
        );
        assert_eq!(words(&[("a", Finished)]), "waits for \"a\" to end");
        assert_eq!(
            words(&[("a", Failed), ("b", Succeeded), ("c", Finished)]),
            "waits for \"b\" to succeed, for \"c\" to end, and for \"a\" to fail"
        );
    }
}
