//! What attempts that failed over their inputs were given: looked at before any lock is taken, since it reads the blob
//! folder.

use marquee_domain::artifact::{Digest, Manifest};
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::JobId;
use marquee_domain::job::RankState;
use marquee_domain::spec::InputRef;
use marquee_store::live::Live;
use marquee_store::{Conn, StoreError, artifacts, jobs, transitions};

use super::Result;
use crate::app::App;
use crate::blobs::Wrong;

/// An input as it is stored here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) from: InputRef,
    /// None: it is not stored any more.
    pub(super) digest: Option<Digest>,
    /// Its files that are not here as they should be.
    pub(super) wrong: Vec<Wrong>,
}

/// Whether an attempt may have failed over its inputs. That it did is not a rank's to say, who may be wrong.
pub(super) fn are_suspect(live: &Live) -> bool {
    live.ranks.iter().any(|rank| {
        let failure = rank.failure.as_ref();
        // Only what a rank says makes it worth reading files: an attempt that ended in any other way costs nothing
        // here.
        rank.state == RankState::Failed
            && failure.is_some_and(|failure| failure.class == FailureClass::BadInput)
    })
}

/// Whether it is said to have failed over them. A job that needs nothing was given nothing; it is looked at all the
/// same, which costs a read.
pub(super) fn are_to_blame(live: &Live, failure: &Failure) -> bool {
    failure.class == FailureClass::BadInput && are_suspect(live)
}

/// Looks at a job's inputs.
pub(super) async fn look(app: &App, job: JobId) -> Result<Vec<Input>> {
    let mut conn = app.db.read().await?;
    let pipeline = transitions::get_pipeline_of_job(&mut conn, job).await?;
    let spec = match jobs::get_job_spec(&mut conn, job).await {
        Ok(spec) => spec,
        // It fails with what its ranks said.
        Err(StoreError::Unreadable { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found: Vec<(String, InputRef, Option<Manifest>)> = Vec::new();
    for (name, from) in spec.inputs {
        let stored = match &from {
            InputRef::Job { job, .. } => {
                artifacts::find_manifest_by_name(&mut conn, pipeline, job).await
            }
            InputRef::Artifact(digest) => {
                artifacts::find_manifest_by_digest(&mut conn, digest).await
            }
        };
        let manifest = match stored {
            // Its list of files was changed by hand, or is a later version's: that was said, and people have to look.
            Err(StoreError::Unreadable { .. }) => return Ok(Vec::new()),
            stored => stored?,
        };
        found.push((name, from, manifest));
    }
    // Hashing files takes minutes, for which no connection of the pool must wait.
    drop(conn);
    let mut inputs = Vec::with_capacity(found.len());
    for (name, from, manifest) in found {
        let wrong = match &manifest {
            Some(manifest) => app.blobs.check(manifest).await?.wrong,
            None => Vec::new(),
        };
        inputs.push(Input {
            name,
            from,
            digest: manifest.map(|manifest| manifest.digest()),
            wrong,
        });
    }
    Ok(inputs)
}

/// What is wrong with the artifact of a job that has succeeded; empty: nothing, or it has none.
pub(super) async fn damage(conn: &mut Conn, app: &App, job: JobId) -> Result<Vec<Wrong>> {
    let manifest = readable(artifacts::find_manifest_of_job(conn, job).await)?;
    match manifest {
        Some(manifest) => Ok(app.blobs.check(&manifest).await?.wrong),
        None => Ok(Vec::new()),
    }
}

/// A row that cannot be read says nothing of files.
fn readable(
    found: marquee_store::Result<Option<Manifest>>,
) -> marquee_store::Result<Option<Manifest>> {
    match found {
        Err(StoreError::Unreadable { .. }) => Ok(None),
        found => found,
    }
}
