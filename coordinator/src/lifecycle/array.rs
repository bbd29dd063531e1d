//! Job arrays: a job whose work its elements do.
//!
//! An element is a job like any other: placed, tried again, cancelled and committed as such. The array
//! counts its elements as they succeed; with the last one it is committed, in that very transaction
//! (`release`). Its artifact has the files of element `i` below `elements/<i>/`: blobs are shared, so that
//! nothing is copied.
//!
//! Invariant: an array is never placed on a worker, and has an attempt only to hold its artifact.

use chrono::{DateTime, Utc};
use marquee_domain::artifact::{InvalidManifest, Manifest};
use marquee_domain::child::ELEMENTS_FOLDER;
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;
use marquee_store::transitions::{self, Success};
use marquee_store::{StoreError, Tx, artifacts, events};

/// Commits an array, all of whose elements have succeeded: waiting -> succeeded.
///
/// # Errors
/// Inside: why their files do not fit into one artifact; then nothing was changed.
pub(super) async fn commit(
    tx: &mut Tx,
    array: JobId,
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
    let success = Success {
        at: (array, number),
        name,
        manifest: &manifest,
        code: "",
        text: &format!(
            "every element has succeeded; committed {name} {}",
            digest.short()
        ),
    };
    transitions::mark_jobs_succeeded(tx, &[success], now).await?;
    tracing::info!(job = %array, artifact = digest.short(), "job array succeeded");
    Ok(Ok(()))
}

/// What the end of one element without success means for its array: waiting -> failed. Elements that
/// still run go on; what they commit is kept for a retry. True if it changed the array.
pub(super) async fn element_failed(
    tx: &mut Tx,
    array: JobId,
    element: JobId,
    failure: &Failure,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let head = transitions::get_job_head(tx, array).await?;
    // The first failure decides: with thousands of elements the last one to fail would hide what began it.
    if head.life().fail_unplaced().is_err() {
        // Another element was first, or a user cancelled it.
        return Ok(false);
    }
    let name = transitions::get_job_head(tx, element).await?.display_name;
    let failure = Failure {
        class: failure.class,
        message: format!(
            "its element {name} (job {element}) failed: {}",
            failure.message
        ),
    };
    fail(tx, array, head.attempt, &failure, now).await?;
    Ok(true)
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
