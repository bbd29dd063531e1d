//! The message that gives a rank to a worker, made from the stored rows.

use marquee_domain::spec::{InputRef, JobSpec};
use marquee_proto::v1;
use marquee_store::ranks::{self, RankKey};
use marquee_store::{artifacts, checkpoints};
use sqlx::PgConnection;

use crate::lifecycle::Result;

/// The assignment of a rank. None when the rank is no longer there, or an input that its spec
/// names is not: that is logged, and the attempt stays where it is.
pub(super) async fn assignment(
    conn: &mut PgConnection,
    key: RankKey,
) -> Result<Option<v1::Assign>> {
    let Some(stored) = ranks::find_assignment(conn, key).await? else {
        return Ok(None);
    };
    let spec: JobSpec = match serde_json::from_value(stored.spec.clone()) {
        Ok(spec) => spec,
        Err(error) => {
            tracing::error!(job = %key.job, %error, "the stored spec cannot be read");
            return Ok(None);
        }
    };
    let mut inputs = Vec::new();
    for (name, input) in &spec.inputs {
        let manifest = match input {
            InputRef::Job { job, .. } => {
                artifacts::find_manifest_by_name(conn, stored.pipeline, job).await?
            }
            InputRef::Artifact(digest) => artifacts::find_manifest_by_digest(conn, digest).await?,
        };
        let Some(manifest) = manifest else {
            tracing::error!(job = %key.job, input = name, "an input's artifact is not committed");
            return Ok(None);
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
    Ok(Some(v1::Assign {
        job_id: key.job.0,
        attempt: key.attempt.0,
        rank: key.rank.0,
        world_size: stored.world_size,
        local_rank: stored.local_rank,
        spec_json: stored.spec.to_string(),
        inputs,
        devices: stored.devices.iter().map(v1::Device::from).collect(),
        hosts_rendezvous: stored.world_size > 1 && (key.rank.0 == 0 || is_standby),
        resume,
        shares_rates: true,
        start: false,
    }))
}
