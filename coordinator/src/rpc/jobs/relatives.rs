//! What belongs to a job beyond its own rows: checkpoints, and the jobs on the other sides of its artifacts.

use marquee_domain::ids::JobId;
use marquee_domain::spec::{InputRef, JobSpec};
use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use marquee_store::Conn;
use marquee_store::checkpoints::{self, CheckpointRow};
use marquee_store::relatives::{self, Relative};

use crate::caller::Caller;
use crate::lifecycle::LifecycleError;
use crate::rpc::scope;

/// Checkpoints that come with a job, those with the most steps.
const CHECKPOINTS_MAX: u32 = 100;
/// Relatives on each side.
const RELATIVES_MAX: u32 = 200;

pub(super) async fn checkpoints(
    conn: &mut Conn,
    job: JobId,
) -> Result<Vec<v1::Checkpoint>, LifecycleError> {
    let rows = checkpoints::list_checkpoint_rows(conn, job, CHECKPOINTS_MAX).await?;
    let encode = |row: CheckpointRow| v1::Checkpoint {
        attempt: row.key.attempt.0,
        step: row.key.step,
        size_bytes: row.size_bytes,
        created_at: Some(timestamp(row.created_at)),
    };
    Ok(rows.into_iter().map(encode).collect())
}

/// Those it takes from, then those that take from it, as far as the caller may look at them. A spec that cannot be
/// read names nobody.
pub(super) async fn both_sides(
    conn: &mut Conn,
    job: JobId,
    spec: Option<&JobSpec>,
    caller: &Caller,
) -> Result<(Vec<v1::Relative>, Vec<v1::Relative>), LifecycleError> {
    let inputs = spec.into_iter().flat_map(|spec| spec.inputs.values());
    let named: Vec<_> = inputs
        .filter_map(|input| match input {
            InputRef::Artifact(digest) => Some(digest.clone()),
            // Jobs that it needs are found by the table of needs (`list_sources`).
            InputRef::Job { .. } => None,
        })
        .collect();
    let sources = relatives::list_sources(conn, job, &named, RELATIVES_MAX).await?;
    let takers = relatives::list_takers(conn, job, RELATIVES_MAX).await?;
    let all: Vec<JobId> = sources.iter().chain(&takers).map(|one| one.job).collect();
    let seen = scope::visible(conn, caller, &all).await?;
    let encode = |all: Vec<Relative>| {
        let seen = all.into_iter().filter(|one| seen.contains(&one.job));
        seen.map(relative).collect()
    };
    Ok((encode(sources), encode(takers)))
}

fn relative(relative: Relative) -> v1::Relative {
    v1::Relative {
        job_id: relative.job.0,
        job_name: relative.job_name.to_string(),
        pipeline_id: relative.pipeline.0,
        pipeline_name: relative.pipeline_name.to_string(),
        kind: v1::JobKind::from(relative.kind).into(),
        state: v1::JobState::from(relative.state).into(),
        digest: relative.digest.map(String::from).unwrap_or_default(),
        is_reuse: relative.is_reuse,
    }
}
