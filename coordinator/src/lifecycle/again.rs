//! What is damaged is made again: the job that made it does its work once more, and who needs it waits for that.
//!
//! It begins with an attempt that failed over an input, and with what lies in the blob folder then: a damaged artifact
//! that nobody needs is left to its owner (`marquee retry`), since the work may take days. The attempt is not spent. A
//! job that runs with the damaged artifact, which its worker may have whole, goes on; if it has to be tried again, it
//! waits too.
//!
//! Invariant: a job is made again only while all that needs it is told to wait in the same transaction, and at most
//! [`MADE_AGAIN_MAX`] times by itself: a disk that breaks everything must not keep a cluster busy for ever.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::end::{AttemptEnd, Interruption};
use marquee_domain::failure::Failure;
use marquee_domain::ids::{JobId, JobName};
use marquee_domain::job::JobStateName;
use marquee_domain::limits::MADE_AGAIN_MAX;
use marquee_domain::spec::InputRef;
use marquee_store::again::{self, Made};
use marquee_store::live::Live;
use marquee_store::neighbours::Neighbour;
use marquee_store::transitions::{self, JobHead};
use marquee_store::{StoreError, Tx, jobs, neighbours};

use super::inputs::Input;
use crate::blobs::Wrong;

/// What a function here may have to say: why it cannot be done, to be read after a colon.
type OrWhyNot<T> = std::result::Result<T, String>;
type Result<T> = std::result::Result<T, StoreError>;

/// Who wants something made again.
pub(super) enum Asked<'a> {
    /// The attempt of a job, which needs it.
    By(JobId),
    /// A user, who may ask as often as he likes.
    ByUser(&'a str),
}

/// How an attempt ends that failed over its inputs, and the jobs that change with it. The caller holds the pipeline's
/// lock, and ends the attempt.
pub(super) async fn remedy(
    tx: &mut Tx,
    live: &Live,
    inputs: &[Input],
    failure: Failure,
    now: DateTime<Utc>,
) -> Result<(AttemptEnd, Vec<JobId>)> {
    let mut changed = Vec::new();
    let mut remedies = Vec::new();
    // Those first for which nothing can be done: then nothing is begun in vain.
    let is_named = |input: &&Input| matches!(input.from, InputRef::Artifact(_));
    let named = inputs.iter().filter(is_named);
    for input in named.chain(inputs.iter().filter(|input| !is_named(input))) {
        match seen_to(tx, live, input, &mut changed, now).await? {
            Ok(None) => {}
            Ok(Some(remedy)) => remedies.push(remedy),
            Err(why) => {
                // What was begun for other inputs goes on: it is damaged, too.
                let Failure { class, message } = failure;
                let message = format!("{message}; it is not made again by itself: {why}");
                return Ok((AttemptEnd::Failed(Failure { class, message }), changed));
            }
        }
    }
    if remedies.is_empty() {
        return Ok((AttemptEnd::Failed(failure), changed));
    }
    let interrupted = AttemptEnd::Interrupted {
        cause: Interruption::InputDamaged,
        message: remedies.join("; "),
    };
    Ok((interrupted, changed))
}

/// What becomes of an input, in words. None: nothing is wrong with it.
async fn seen_to(
    tx: &mut Tx,
    live: &Live,
    input: &Input,
    changed: &mut Vec<JobId>,
    now: DateTime<Utc>,
) -> Result<OrWhyNot<Option<String>>> {
    let name = &input.name;
    let of = match &input.from {
        InputRef::Job { job, .. } => job,
        InputRef::Artifact(digest) if input.wrong.is_empty() && input.digest.is_some() => {
            tracing::debug!(job = %live.job, input = name, digest = digest.short(), "the input is whole");
            return Ok(Ok(None));
        }
        InputRef::Artifact(digest) => return Ok(Err(not_ours(name, digest))),
    };
    let Some((head, made)) = maker(tx, live.job, of).await? else {
        let of = of.as_str();
        let why =
            format!("there is no job {of:?} in this pipeline any more; submit the pipeline again");
        return Ok(Err(why));
    };
    let began = live.attempt.created_at;
    let (job, maker) = (head.id, &head.display_name);
    match head.state {
        JobStateName::Waiting | JobStateName::Queued | JobStateName::Running => Ok(Ok(Some(
            format!("input {name:?} is being made again by job {job} ({maker:?})"),
        ))),
        // Looked at before the artifact itself: it may be whole by now, but this attempt read the one before it.
        JobStateName::Succeeded if made.committed_at.is_some_and(|at| at > began) => Ok(Ok(Some(
            format!("input {name:?} was made again by job {job} ({maker:?}) meanwhile"),
        ))),
        JobStateName::Failed | JobStateName::Cancelled if is_broken(input) => {
            let state = head.state.as_str();
            Ok(Err(format!(
                "job {job} ({maker:?}), which made it, is {state} now; \"marquee retry {job}\" makes it again, and then \"marquee retry {}\"",
                live.job
            )))
        }
        JobStateName::Succeeded if is_broken(input) => {
            let asked = Asked::By(live.job);
            let begun = make_again(tx, &head, &made, &input.wrong, asked, now).await?;
            Ok(begun.map(|opened| {
                changed.extend(opened);
                let what = describe(&input.wrong);
                Some(format!(
                    "input {name:?} is damaged at the coordinator ({what}); job {job} ({maker:?}) makes it again"
                ))
            }))
        }
        JobStateName::Succeeded | JobStateName::Failed | JobStateName::Cancelled => Ok(Ok(None)),
    }
}

fn is_broken(input: &Input) -> bool {
    !input.wrong.is_empty() || input.digest.is_none()
}

fn not_ours(name: &str, digest: &Digest) -> String {
    let short = digest.short();
    format!(
        "input {name:?} is named by its digest ({short}), which its job alone could make once more, if it makes the same bytes; \"marquee artifacts ls\" shows that job, \"marquee retry JOB\" lets it try, or submit this job with an artifact that is whole"
    )
}

/// The job of the same pipeline with this name, and what it made.
async fn maker(tx: &mut Tx, job: JobId, of: &JobName) -> Result<Option<(JobHead, Made)>> {
    let pipeline = transitions::get_pipeline_of_job(tx, job).await?;
    let Some(maker) = again::find_job_named(tx, pipeline, of).await? else {
        return Ok(None);
    };
    let head = transitions::get_job_head(tx, maker).await?;
    let made = again::get_made(tx, maker).await?;
    Ok(Some((head, made)))
}

/// succeeded -> queued, of the job that made what is `wrong`, or of the elements of an array that did; and those that
/// need it wait. Returns what changed.
pub(super) async fn make_again(
    tx: &mut Tx,
    head: &JobHead,
    made: &Made,
    wrong: &[Wrong],
    asked: Asked<'_>,
    now: DateTime<Utc>,
) -> Result<OrWhyNot<Vec<JobId>>> {
    let job = head.id;
    let is_by_itself = matches!(asked, Asked::By(_));
    // Everything that could refuse is asked before the first row is changed: a refusal leaves no half of it behind,
    // and the caller's transaction goes on.
    if let Err(refused) = head.life().make_again(false, now) {
        return Ok(Err(refused.to_string()));
    }
    if is_by_itself && made.again >= MADE_AGAIN_MAX {
        return Ok(Err(format!(
            "job {job} has made it again {} times already; look at the disk of the coordinator's artifacts, and then \"marquee retry {job}\"",
            made.again
        )));
    }
    if is_by_itself && made.is_rescued {
        return Ok(Err(format!(
            "it was rescued from an attempt of job {job} that had failed; \"marquee retry {job}\" does that work anew"
        )));
    }
    // A job that cannot be read fails as soon as it is queued, and would take what waits for it along.
    match jobs::get_job_spec(tx, job).await {
        Ok(_) => {}
        Err(StoreError::Unreadable { .. }) => {
            return Ok(Err(format!(
                "what is stored of job {job}, which made it, cannot be read; submit the pipeline again"
            )));
        }
        Err(error) => return Err(error),
    }
    for need in neighbours::list_needs(tx, job).await? {
        if need.is_missed() {
            return Ok(Err(format!(
                "job {job}, which made it, needs job {0} ({1:?}), which has not succeeded; \"marquee retry {0}\"",
                need.id,
                need.name.as_str()
            )));
        }
    }
    let dependents = neighbours::list_dependents(tx, job).await?;
    let is_at_work =
        |other: &&Neighbour| other.follows_at_work && other.state != JobStateName::Queued;
    if let Some(other) = dependents.iter().find(is_at_work) {
        return Ok(Err(format!(
            "job {}, which follows the end of job {job}, is at work, and must not be while that runs again; retry when it has ended",
            other.id
        )));
    }
    let mut opening = vec![(job, head.attempt)];
    if head.is_array {
        let elements = damaged_elements(tx, job, wrong).await?;
        if elements.is_empty() {
            return Ok(Err(format!(
                "no element of job array {job} has the files; \"marquee retry {job}\" looks again"
            )));
        }
        opening.extend(elements);
    }
    let (again, caller, why) = match asked {
        Asked::By(by) => {
            let again = made.again + 1;
            let why = format!("job {by} needs it; time {again} of at most {MADE_AGAIN_MAX}");
            (again, "", why)
        }
        // A person has looked: what was counted before says nothing any more.
        Asked::ByUser(caller) => (0, caller, "a user asked for it".to_owned()),
    };
    let what = describe(wrong);
    let text = format!("made again, since its artifact is damaged ({what}): {why}");
    let mut changed = again::mark_jobs_made_again(tx, &opening, again, &text, caller, now).await?;
    if !changed.contains(&job) {
        return Err(StoreError::StaleAttempt {
            job,
            attempt: head.attempt,
        });
    }
    // Only those that need it themselves: what waits for these waits already.
    let needing = again::list_needing(tx, job).await?;
    changed.extend(again::mark_waiting_again(tx, &needing, now).await?);
    tracing::warn!(%job, %what, %why, "a damaged artifact is made again");
    Ok(Ok(changed))
}

/// The elements of an array whose own artifacts have one of the files.
async fn damaged_elements(tx: &mut Tx, array: JobId, wrong: &[Wrong]) -> Result<Vec<(JobId, u32)>> {
    let digests: BTreeSet<&Digest> = wrong.iter().map(|wrong| &wrong.digest).collect();
    let elements = again::list_made_elements(tx, array).await?;
    let damaged = elements.into_iter().filter(|(_, _, manifest)| {
        let mut files = manifest.files.iter();
        files.any(|file| digests.contains(&file.digest))
    });
    Ok(damaged
        .map(|(element, attempt, _)| (element, attempt))
        .collect())
}

/// "2 files, among them \"model.bin\" (blob 1234567890ab), which is damaged here: ...".
fn describe(wrong: &[Wrong]) -> String {
    match wrong {
        [] => "it is not stored any more".to_owned(),
        [one] => one.to_string(),
        [first, ..] => format!("{} files, among them {first}", wrong.len()),
    }
}
