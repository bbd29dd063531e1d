//! Job arrays: a job whose work its elements do.
//!
//! An element is a job like any other: placed, tried again, cancelled and committed as such. The
//! array needs its elements, so it waits for them as for any need; when the last one has succeeded
//! it is committed here, in that very transaction. Its artifact has the files of element `i` below
//! `elements/<i>/`: blobs are shared, so that nothing is copied.
//!
//! Invariant: an array is never placed on a worker, and has an attempt only to hold its artifact.

use chrono::{DateTime, Utc};
use marquee_domain::artifact::{FileEntry, InvalidManifest, Manifest};
use marquee_domain::child::ELEMENTS_FOLDER;
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;
use marquee_store::Tx;
use marquee_store::artifacts::{self, NewArtifact};
use marquee_store::attempts::{self, AttemptEnd, NewAttempt};
use marquee_store::jobs::{self, Neighbour};
use marquee_store::{StoreError, events, transitions};

use super::dependents;

/// Commits an array, all of whose elements have succeeded: waiting -> succeeded. Returns all jobs
/// that changed.
pub(super) async fn commit(
    tx: &mut Tx,
    array: &Neighbour,
    now: DateTime<Utc>,
) -> Result<Vec<JobId>, StoreError> {
    let id = array.id;
    let elements = artifacts::list_element_manifests(tx, id).await?;
    let manifest = match union(elements) {
        Ok(manifest) => manifest,
        Err(error) => {
            let failure = Failure {
                class: FailureClass::UserError,
                message: format!("the artifacts of its elements do not fit into one: {error}"),
            };
            return fail(tx, id, &failure, now).await;
        }
    };
    transitions::mark_job_queued(tx, id, now).await?;
    let number = transitions::mark_job_running(tx, id, array.attempt, now).await?;
    let new = NewAttempt {
        job: id,
        number,
        resume: None,
        created_at: now,
    };
    attempts::insert_attempt(tx, &new).await?;
    transitions::mark_job_succeeded(tx, id, number, now).await?;
    attempts::mark_attempt_ended(tx, id, number, &AttemptEnd::Succeeded, now).await?;
    let name = jobs::get_job_spec(tx, id).await?.work.kind().output();
    let new = NewArtifact {
        job: id,
        attempt: number,
        name,
        manifest: &manifest,
        code: "",
        committed_at: now,
    };
    artifacts::insert_artifact(tx, &new).await?;
    let digest = manifest.digest();
    let text = format!(
        "every element has succeeded; committed {name} {}",
        digest.short()
    );
    events::insert_event(tx, id, number.0, &text, now).await?;
    tracing::info!(job = %id, artifact = digest.short(), "job array succeeded");
    // An array is no element, so this goes no deeper.
    let mut changed = Box::pin(dependents::release(tx, id, now)).await?;
    changed.push(id);
    Ok(changed)
}

/// What the end of one element without success means for its array: waiting -> failed. Elements
/// that still run go on; what they commit is kept for a retry.
pub(super) async fn element_failed(
    tx: &mut Tx,
    array: JobId,
    element: JobId,
    failure: &Failure,
    now: DateTime<Utc>,
) -> Result<Vec<JobId>, StoreError> {
    let head = transitions::get_job_head(tx, array).await?;
    if head.state != JobStateName::Waiting {
        // Another element was first, or a user cancelled it.
        return Ok(Vec::new());
    }
    let name = jobs::get_job_spec(tx, element).await?.display_name();
    let failure = Failure {
        class: failure.class,
        message: format!(
            "its element {name} (job {element}) failed: {}",
            failure.message
        ),
    };
    fail(tx, array, &failure, now).await
}

async fn fail(
    tx: &mut Tx,
    array: JobId,
    failure: &Failure,
    now: DateTime<Utc>,
) -> Result<Vec<JobId>, StoreError> {
    transitions::mark_array_failed(tx, array, failure, now).await?;
    let (class, message) = (failure.class.as_str(), &failure.message);
    let text = format!("failed ({class}): {message}");
    events::insert_event(tx, array, 0, &text, now).await?;
    tracing::warn!(job = %array, class, message, "job array failed");
    let mut changed = dependents::cancel(tx, array, "failed", now).await?;
    changed.push(array);
    Ok(changed)
}

/// What a waiting array says: how far its elements are. None when all have succeeded.
pub(super) fn waits_for_elements(needs: &[Neighbour], array: JobId) -> Option<String> {
    let elements = needs.iter().filter(|need| need.array_job == Some(array));
    let (mut all, mut done) = (0, 0);
    for element in elements {
        all += 1;
        done += u32::from(element.state == JobStateName::Succeeded);
    }
    (done < all).then(|| format!("{done} of {all} elements have succeeded"))
}

/// The artifact of an array from those of its elements.
fn union(elements: Vec<(u32, Manifest)>) -> Result<Manifest, InvalidManifest> {
    let files = elements.into_iter().flat_map(|(index, manifest)| {
        manifest.files.into_iter().map(move |file| FileEntry {
            path: format!("{ELEMENTS_FOLDER}/{index:04}/{}", file.path),
            ..file
        })
    });
    Manifest::new(files.collect())
}

#[cfg(test)]
mod tests {
    use marquee_domain::artifact::Digest;

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
