//! Job arrays: a job whose work its elements do.
//!
//! An element is a job like any other: placed, tried again, cancelled and committed as such. The array
//! counts its elements as they end; with the last one it is committed, in that very transaction
//! (`dependents`), if no more of them missed than may. With one more it has failed, or is cancelled, at once. Its
//! artifact has the files of element `i` below `elements/<i>/`: blobs are shared, so that nothing is copied.
//!
//! Invariant: an array is never placed on a worker, and has an attempt only to hold its artifact. It ends with its
//! last element at the latest, however they end.

use chrono::{DateTime, Utc};
use marquee_domain::artifact::{InvalidManifest, Manifest};
use marquee_domain::child::ELEMENTS_FOLDER;
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;
use marquee_domain::spec::Ended;
use marquee_store::transitions::{self, ArrayEnds, JobHead, Missed, Success};
use marquee_store::{StoreError, Tx, artifacts, events};

/// Commits an array, whose elements have all ended and enough of them with success: waiting -> succeeded.
///
/// # Errors
/// Inside: why their files do not fit into one artifact; then nothing was changed.
pub(super) async fn commit(
    tx: &mut Tx,
    array: JobId,
    ends: ArrayEnds,
    now: DateTime<Utc>,
) -> Result<Result<(), Failure>, StoreError> {
    let mut elements = Vec::new();
    for (index, manifest) in artifacts::list_element_manifests(tx, array).await? {
        match manifest {
            Ok(manifest) => elements.push((index, manifest)),
            Err(error) => {
                return Ok(Err(Failure {
                    class: FailureClass::BadInput,
                    message: format!("the artifact of its element {index} cannot be used: {error}"),
                }));
            }
        }
    }
    let manifest = match union(elements) {
        Ok(manifest) => manifest,
        Err(error) => {
            return Ok(Err(Failure {
                class: FailureClass::UserError,
                message: format!("the artifacts of its elements do not fit into one: {error}"),
            }));
        }
    };
    let head = transitions::get_job_head(tx, array).await?;
    // Artifacts hang on attempts; the array's own has no ranks, so nothing of it can be lost or report.
    let number = transitions::mark_job_running_here(tx, array, head.attempt, now).await?;
    let name = head.kind.output();
    let digest = manifest.digest();
    let whole = match ends.missed {
        0 => "every element has succeeded".to_owned(),
        missed => format!(
            "{} of {} elements have succeeded; {missed} have not, and {} may",
            ends.succeeded, ends.size, ends.may_fail
        ),
    };
    let success = Success {
        at: (array, number),
        name,
        manifest: &manifest,
        code: "",
        text: &format!("{whole}; committed {name} {}", digest.short()),
    };
    transitions::mark_jobs_succeeded(tx, &[success], now).await?;
    tracing::info!(job = %array, artifact = digest.short(), missed = ends.missed, "job array succeeded");
    Ok(Ok(()))
}

/// Ends an array too many of whose elements ended without success: waiting -> failed where one of them failed, and
/// else cancelled, for its sake. Elements that are open go on; what they commit is kept for a retry.
pub(super) async fn give_up(
    tx: &mut Tx,
    head: &JobHead,
    ends: ArrayEnds,
    now: DateTime<Utc>,
) -> Result<Ended, StoreError> {
    let array = head.id;
    let missed = transitions::find_missed_element(tx, array)
        .await?
        .ok_or(StoreError::Vanished("element"))?;
    let how_many = match (ends.missed, ends.may_fail) {
        (1, 0) => String::new(),
        (missed, may_fail) => format!(
            "{missed} of its {} elements ended without success, and {may_fail} may; ",
            ends.size
        ),
    };
    let Missed { id, index, failure } = missed;
    let name = format!("{}[{index}]", head.display_name);
    match failure {
        Some(failure) => {
            let failure = Failure {
                class: failure.class,
                message: format!(
                    "{how_many}its element {name} (job {id}) failed: {}",
                    failure.message
                ),
            };
            fail(tx, array, head.attempt, &failure, now).await?;
            Ok(Ended::Failed)
        }
        None => {
            let reason = format!(
                "{how_many}its element {name} (job {id}) was cancelled; \"marquee retry {array}\" brings both back"
            );
            let at = [(array, head.attempt)];
            transitions::mark_jobs_cancelled(tx, &at, &reason, Some(id), "", now).await?;
            tracing::info!(job = %array, element = %id, "job array cancelled with its element");
            Ok(Ended::Cancelled)
        }
    }
}

/// waiting -> failed.
pub(super) async fn fail(
    tx: &mut Tx,
    array: JobId,
    attempt: u32,
    failure: &Failure,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let waiting = [JobStateName::Waiting];
    transitions::mark_job_failed(tx, array, attempt, &waiting, failure, now).await?;
    let (class, message) = (failure.class.as_str(), &failure.message);
    let text = format!("failed ({class}): {message}");
    events::insert_event(tx, array, attempt, &text, now).await?;
    tracing::warn!(job = %array, class, message, "job array failed");
    Ok(())
}

/// The artifact of an array from those of its elements.
fn union(elements: Vec<(u32, Manifest)>) -> Result<Manifest, InvalidManifest> {
    let below = |(index, manifest)| (format!("{ELEMENTS_FOLDER}/{index:04}"), manifest);
    Manifest::union(elements.into_iter().map(below).collect())
}

#[cfg(test)]
mod tests {
    use marquee_domain::artifact::{Digest, FileEntry};

    use super::*;

    #[test]
    fn the_files_of_an_element_stand_below_its_index() {
        let file = |path: &str| FileEntry {
            path: path.into(),
            size_bytes: 1,
            digest: Digest::of(path.as_bytes()),
        };
        let element = |index, path| (index, Manifest::new(vec![file(path)]).unwrap());
        let whole = union(vec![element(1, "b"), element(0, "a/c")]).unwrap();
        let paths: Vec<_> = whole.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["elements/0000/a/c", "elements/0001/b"]);
        assert_eq!(whole.files[0].digest, Digest::of(b"a/c"));
    }
}
