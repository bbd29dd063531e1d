//! What attempts put forward as their jobs' artifacts, and what those that failed over their inputs were given: looked
//! at before any lock is taken, since it reads the blob folder.

use std::collections::BTreeMap;

use marquee_domain::artifact::Manifest;
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::{AttemptNumber, JobId};
use marquee_domain::job::RankState;
use marquee_domain::spec::JobKind;
use marquee_store::live::{self, Live};
use marquee_store::ranks::RankKey;

use super::inputs::{self, Input};
use super::{LifecycleError, Result};
use crate::app::App;
use crate::blobs::{BlobError, Checked, Vouch, Wrong};

/// Outputs that were looked at, by job. Their files stay until this is dropped, which is after the commit.
#[derive(Debug, Default)]
pub struct Outputs {
    looked_at: BTreeMap<JobId, (AttemptNumber, std::result::Result<Manifest, Failure>)>,
    vouches: BTreeMap<JobId, Vouch>,
    inputs: BTreeMap<JobId, (AttemptNumber, Vec<Input>)>,
}

impl Outputs {
    /// The output of a finished attempt, or why it cannot be committed. None: nobody has looked.
    pub(super) fn of(&self, live: &Live) -> Option<std::result::Result<Manifest, Failure>> {
        let key = committing_rank(live)?;
        if leaves_nothing(live, key) {
            return Some(Ok(Manifest::default()));
        }
        let (attempt, files) = self.looked_at.get(&live.job)?;
        // What was looked at for another attempt says nothing of this one.
        (*attempt == live.attempt.number).then(|| files.clone())
    }

    /// The inputs of an attempt that may have failed over them. None: nobody has looked.
    pub(super) fn inputs_of(&self, live: &Live) -> Option<&[Input]> {
        let (attempt, inputs) = self.inputs.get(&live.job)?;
        (*attempt == live.attempt.number).then_some(inputs)
    }

    /// The artifacts of these jobs are committed.
    pub(super) fn are_named(mut self, jobs: &[JobId]) {
        for vouch in jobs.iter().filter_map(|job| self.vouches.remove(job)) {
            vouch.named();
        }
    }
}

/// A rank's manifest, or why it cannot be used.
type PutForward = std::result::Result<Manifest, String>;

/// Reads the outputs of those among `jobs` whose ranks have all finished, and makes sure that each of
/// their files is here; and so the inputs of those that may have failed over them.
pub(super) async fn checked(app: &App, jobs: &[JobId]) -> Result<Outputs> {
    let mut conn = app.db.read().await?;
    let readable = live::list_live(&mut conn, jobs).await?.into_iter();
    let readable: Vec<Live> = readable.filter_map(std::result::Result::ok).collect();
    let mut looked = Outputs::default();
    for live in readable.iter().filter(|live| inputs::are_suspect(live)) {
        let found = match inputs::look(app, live.job).await {
            Err(LifecycleError::Blobs(error)) if is_of_objects(&error) => {
                later(live.job, &error);
                continue;
            }
            found => found?,
        };
        let number = live.attempt.number;
        looked.inputs.insert(live.job, (number, found));
    }
    let finished: Vec<(Live, RankKey)> = readable
        .into_iter()
        .filter_map(|live| {
            let key = committing_rank(&live)?;
            (!leaves_nothing(&live, key)).then_some((live, key))
        })
        .collect();
    if finished.is_empty() {
        return Ok(looked);
    }
    let keys: Vec<RankKey> = finished.iter().map(|(_, key)| *key).collect();
    let mut outputs: BTreeMap<JobId, PutForward> = live::list_outputs(&mut conn, &keys)
        .await?
        .into_iter()
        .collect();
    // Files are read next, which takes as long as it takes: no connection is held meanwhile.
    drop(conn);
    for (live, key) in finished {
        let number = live.attempt.number;
        let files = match put_forward(&live, key, outputs.remove(&live.job)) {
            Ok(manifest) => {
                let Checked { wrong, vouch } = match app.blobs.check(&manifest).await {
                    Err(error) if is_of_objects(&error) => {
                        later(live.job, &error);
                        continue;
                    }
                    checked => checked?,
                };
                looked.vouches.insert(live.job, vouch);
                all_here(key, manifest, &wrong)
            }
            Err(failure) => Err(failure),
        };
        looked.looked_at.insert(live.job, (number, files));
    }
    Ok(looked)
}

/// Whether it is an object store that does not answer: whoever needs no file of it goes on.
pub(super) fn is_of_objects(error: &BlobError) -> bool {
    matches!(error, BlobError::Objects { .. })
}

/// Said of a job that is looked at again.
fn later(job: JobId, error: &BlobError) {
    tracing::warn!(%job, %error, "what its ranks left is looked at again when the object store answers");
}

/// What a rank put forward, whether its files are here or not.
fn put_forward(
    live: &Live,
    key: RankKey,
    output: Option<PutForward>,
) -> std::result::Result<Manifest, Failure> {
    let first = key.rank;
    match output {
        Some(Ok(manifest)) => Ok(manifest),
        Some(Err(why)) => Err(broken(format!(
            "what rank {first} put forward cannot be stored: {why}"
        ))),
        None => match live.kind {
            JobKind::Command => Ok(Manifest::default()),
            JobKind::Fetch | JobKind::Preprocess | JobKind::Train | JobKind::Eval => {
                Err(lost_with_output(live).unwrap_or_else(|| {
                    broken(format!(
                        "rank {first} finished without putting forward its output"
                    ))
                }))
            }
        },
    }
}

fn all_here(
    key: RankKey,
    manifest: Manifest,
    wrong: &[Wrong],
) -> std::result::Result<Manifest, Failure> {
    match wrong.first() {
        None => Ok(manifest),
        Some(first_wrong) => Err(broken(format!(
            "rank {} put forward {} files, but {} of them are not here as it says, among them {first_wrong}",
            key.rank,
            manifest.files.len(),
            wrong.len(),
        ))),
    }
}

fn broken(message: String) -> Failure {
    Failure {
        class: FailureClass::Crash,
        message,
    }
}

/// A rank was lost so late that the others had finished, and none of them has a copy of the output.
fn lost_with_output(live: &Live) -> Option<Failure> {
    let lost = live.ranks.iter().find(|rank| rank.lost_at.is_some())?;
    let failure = lost.failure.as_ref()?;
    Some(Failure {
        class: failure.class,
        message: format!(
            "rank {} was lost before its output was stored: {}",
            lost.key.rank, failure.message
        ),
    })
}

/// The rank whose output is the job's: of those that went on the first wrote what all have in common.
fn committing_rank(live: &Live) -> Option<RankKey> {
    let mut members = live.ranks.iter().filter(|rank| rank.lost_at.is_none());
    let is_through = members
        .clone()
        .all(|rank| rank.state == RankState::Finished);
    let first = members.next()?;
    is_through.then_some(first.key)
}

/// Whether a job's output needs no look at files: a program that leaves none has done its work all the same.
fn leaves_nothing(live: &Live, key: RankKey) -> bool {
    live.kind == JobKind::Command && !live.with_output.contains(&key.rank)
}

#[cfg(test)]
mod tests;
