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

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use marquee_domain::ids::{AttemptNumber, Rank, WorkerId};
    use marquee_domain::job::AttemptStateName;
    use marquee_domain::spec::JobKind;
    use marquee_store::attempts::Attempt;
    use marquee_store::ranks::{RankKey, RankRow};
    use uuid::Uuid;

    use super::*;

    fn live(ranks: &[(RankState, Option<FailureClass>)]) -> Live {
        let row = |(rank, (state, class)): (u32, &(RankState, Option<FailureClass>))| RankRow {
            key: RankKey {
                job: JobId(1),
                attempt: AttemptNumber(1),
                rank: Rank(rank),
            },
            worker: WorkerId(Uuid::nil()),
            worker_name: "w".into(),
            worker_online: true,
            devices: Vec::new(),
            state: *state,
            progress: None,
            summary: None,
            failure: class.map(failure),
            ended_at: None,
            lost_at: None,
        };
        Live {
            job: JobId(1),
            kind: JobKind::Train,
            array: None,
            cancel_requested: false,
            makes_room: None,
            deadline: None,
            last_attempt: 3,
            timeout_s: None,
            min_ranks: None,
            max_attempts: 3,
            is_needed: false,
            attempt: Attempt {
                number: AttemptNumber(1),
                state: AttemptStateName::Running,
                rendezvous: None,
                standby: None,
                resumed_from: None,
                failure: None,
                created_at: DateTime::UNIX_EPOCH,
                started_at: None,
                finished_at: None,
                waited_for: None,
            },
            ranks: (0..).zip(ranks).map(row).collect(),
            with_output: Vec::new(),
        }
    }

    fn failure(class: FailureClass) -> Failure {
        Failure {
            class,
            message: "shard 3 is damaged".into(),
        }
    }

    #[test]
    fn files_are_read_only_where_a_rank_that_failed_says_that_its_input_was_bad() {
        use FailureClass::{BadInput, Crash};
        use RankState::{Failed, Finished, Running, Stopped};
        type Ranks = &'static [(RankState, Option<FailureClass>)];
        let cases: [(Ranks, bool); 7] = [
            (&[(Failed, Some(BadInput))], true),
            (&[(Finished, None), (Failed, Some(BadInput))], true),
            (&[(Failed, Some(Crash))], false),
            (&[(Failed, None)], false),
            // Only a rank that has failed counts, whatever class it told before.
            (&[(Running, Some(BadInput))], false),
            (&[(Stopped, Some(BadInput))], false),
            (&[], false),
        ];
        for (ranks, expected) in cases {
            let live = live(ranks);
            assert_eq!(are_suspect(&live), expected, "{ranks:?}");
            assert_eq!(
                are_to_blame(&live, &failure(BadInput)),
                expected,
                "{ranks:?}"
            );
            // The attempt ends for something else: its inputs are not asked.
            assert!(!are_to_blame(&live, &failure(Crash)), "{ranks:?}");
        }
    }
}
