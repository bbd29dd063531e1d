//! The messages that give ranks to a worker, made from the stored rows.

use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::spec::InputRef;
use marquee_proto::v1;
use marquee_store::ranks::{self, Assignment, RankKey};
use marquee_store::{Conn, StoreError, artifacts, checkpoints};

use crate::lifecycle::Result;

/// What to send for a rank, or why its attempt cannot go on.
pub(super) type Assigned = std::result::Result<v1::Assign, Failure>;

/// The assignments of ranks. Those that are no longer there are left out.
pub(super) async fn assignments(
    conn: &mut Conn,
    keys: &[RankKey],
    starts_by_assignment: bool,
) -> Result<Vec<(RankKey, Assigned)>> {
    let mut all = Vec::with_capacity(keys.len());
    for stored in ranks::list_assignments(conn, keys).await? {
        let key = stored.key;
        all.push((key, assignment(conn, stored, starts_by_assignment).await?));
    }
    Ok(all)
}

async fn assignment(
    conn: &mut Conn,
    stored: Assignment,
    starts_by_assignment: bool,
) -> Result<Assigned> {
    let key = stored.key;
    let bad = |message| Failure {
        class: FailureClass::BadInput,
        message,
    };
    let spec = match stored.spec {
        Ok(spec) => spec,
        Err(why) => {
            return Ok(Err(bad(format!(
                "what is stored of this job cannot be read by version {}: {why}; submit it again",
                env!("CARGO_PKG_VERSION")
            ))));
        }
    };
    let mut inputs = Vec::new();
    for (name, input) in &spec.inputs {
        let manifest = match input {
            InputRef::Job { job, .. } => {
                artifacts::find_manifest_by_name(conn, stored.pipeline, job).await
            }
            InputRef::Artifact(digest) => artifacts::find_manifest_by_digest(conn, digest).await,
        };
        let manifest = match manifest {
            Ok(Some(manifest)) => manifest,
            Ok(None) => {
                return Ok(Err(bad(format!(
                    "the artifact of its input {name:?} is not stored any more"
                ))));
            }
            // One job's rows must not end its worker's session, on which all others depend.
            Err(error @ StoreError::Unreadable { .. }) => {
                return Ok(Err(bad(format!(
                    "the artifact of its input {name:?} cannot be used: {error}"
                ))));
            }
            Err(error) => return Err(error.into()),
        };
        let manifest = Some((&manifest).into());
        inputs.push(v1::AssignedInput {
            name: name.clone(),
            manifest,
        });
    }
    // A gang that may go on without rank 0 must not lose its only place to meet with it.
    let is_standby = spec.resources.min_ranks.is_some() && stored.standby_rank == Some(key.rank);
    let resume = match stored.resume {
        None => None,
        Some(from) => {
            let manifest = checkpoints::find_checkpoint(conn, key.job, from).await?;
            manifest.map(|manifest| v1::AssignedCheckpoint {
                step: from.step,
                manifest: Some((&manifest).into()),
            })
        }
    };
    Ok(Ok(v1::Assign {
        job_id: key.job.0,
        attempt: key.attempt.0,
        rank: key.rank.0,
        world_size: stored.world_size,
        local_rank: stored.local_rank,
        spec_json: serde_json::json!(spec).to_string(),
        inputs,
        devices: stored.devices.iter().map(v1::Device::from).collect(),
        hosts_rendezvous: stored.world_size > 1 && (key.rank.0 == 0 || is_standby),
        resume,
        shares_rates: true,
        // A rank alone has nobody to wait for.
        start: starts_by_assignment && stored.world_size == 1,
    }))
}
