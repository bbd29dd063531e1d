//! The messages that give ranks to a worker, made from the stored rows.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::{AttemptNumber, JobId, WorkerId};
use marquee_domain::spec::{InputRef, JobSpec};
use marquee_proto::v1;
use marquee_store::ranks::{self, Assignment, RankKey, RankRow};
use marquee_store::{Conn, StoreError, artifacts, checkpoints};

use crate::lifecycle::Result;

/// What the worker of a session understands beyond the first version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Knows {
    /// It starts a rank of its own accord where its assignment says so.
    pub(super) start: bool,
    /// It asks for the secrets that a rank's spec names.
    pub(super) secrets: bool,
    /// It starts burn-ins with the trainer that lies beside it.
    pub(super) burn_in: bool,
}

/// What to send for a rank, or why its attempt cannot go on.
pub(super) type Assigned = std::result::Result<v1::Assign, Failure>;

/// The assignments of ranks. Those that are no longer there are left out.
pub(super) async fn assignments(
    conn: &mut Conn,
    keys: &[RankKey],
    knows: Knows,
) -> Result<Vec<(RankKey, Assigned)>> {
    let mut all = Vec::with_capacity(keys.len());
    let mut gangs: BTreeMap<(JobId, AttemptNumber), Vec<RankRow>> = BTreeMap::new();
    for stored in ranks::list_assignments(conn, keys).await? {
        let key = stored.key;
        let group = if stored.world_size == 1 {
            alone(&stored)
        } else {
            let gang = (key.job, key.attempt);
            // Read once for a gang, however many of its ranks this worker has.
            if let Entry::Vacant(new) = gangs.entry(gang) {
                new.insert(ranks::list_ranks(conn, key.job, Some(key.attempt)).await?);
            }
            let found = gangs.get(&gang).and_then(|ranks| group(ranks, key));
            // It was there a moment ago.
            found.unwrap_or_else(|| alone(&stored))
        };
        let assign = assignment(conn, stored, knows, group).await?;
        all.push((key, assign));
    }
    Ok(all)
}

/// Where a rank stands among the ranks of its attempt on the same host, and its host among theirs.
struct Group {
    local_ranks: Vec<v1::LocalRank>,
    rank: u32,
    size: u32,
}

fn alone(stored: &Assignment) -> Group {
    Group {
        local_ranks: vec![v1::LocalRank {
            devices: stored.devices.iter().map(v1::Device::from).collect(),
        }],
        rank: 0,
        size: 1,
    }
}

/// Hosts are counted in the order of their first ranks, and the ranks of one in their own order, as local
/// ranks are. None where the rank is not among them.
fn group(ranks: &[RankRow], key: RankKey) -> Option<Group> {
    let mut hosts: Vec<WorkerId> = Vec::new();
    for rank in ranks {
        if !hosts.contains(&rank.worker) {
            hosts.push(rank.worker);
        }
    }
    let own = ranks.iter().find(|rank| rank.key == key)?.worker;
    let local = ranks.iter().filter(|rank| rank.worker == own);
    Some(Group {
        local_ranks: local
            .map(|rank| v1::LocalRank {
                devices: rank.devices.iter().map(v1::Device::from).collect(),
            })
            .collect(),
        rank: u32::try_from(hosts.iter().position(|host| *host == own)?).ok()?,
        size: u32::try_from(hosts.len()).ok()?,
    })
}

/// The assignment of a rank of which nothing has to be read: alone, without inputs and without a checkpoint.
pub(super) fn at_once(stored: &Assignment, knows: Knows) -> Assigned {
    let spec = readable(stored)?;
    startable(spec, knows)?;
    let read = Read::default();
    Ok(message(stored, spec, read, knows, alone(stored)))
}

/// What an assignment names besides its own row.
#[derive(Debug, Default)]
struct Read {
    inputs: Vec<v1::AssignedInput>,
    resume: Option<v1::AssignedCheckpoint>,
}

fn bad(message: String) -> Failure {
    Failure {
        class: FailureClass::BadInput,
        message,
    }
}

fn readable(stored: &Assignment) -> std::result::Result<&JobSpec, Failure> {
    stored.spec.as_ref().map_err(|why| {
        bad(format!(
            "what is stored of this job cannot be read by version {}: {why}; submit it again",
            env!("CARGO_PKG_VERSION")
        ))
    })
}

/// A worker of before would look for the trainer of a burn-in where PATH leads. One that does not know of secrets would start the job without them. Another one may have it.
fn startable(spec: &JobSpec, knows: Knows) -> std::result::Result<(), Failure> {
    if spec.is_burn_in() && !knows.burn_in {
        // No other worker has the GPU, so that another try would end the same way.
        return Err(Failure {
            class: FailureClass::UserError,
            message:
                "this worker's version knows nothing of burn-ins: upgrade the worker, and ask again"
                    .to_owned(),
        });
    }
    if knows.secrets || spec.sharing.secrets.is_empty() {
        return Ok(());
    }
    Err(Failure {
        class: FailureClass::Crash,
        message: "the job names secrets, of which this worker's version knows nothing; it was not started there: upgrade the worker".to_owned(),
    })
}

async fn assignment(
    conn: &mut Conn,
    stored: Assignment,
    knows: Knows,
    group: Group,
) -> Result<Assigned> {
    let key = stored.key;
    let spec = match readable(&stored) {
        Ok(spec) => spec,
        Err(failure) => return Ok(Err(failure)),
    };
    if let Err(failure) = startable(spec, knows) {
        return Ok(Err(failure));
    }
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
                    "the artifact of its input {name:?} is not stored any more; retry the job that made it, or submit with another one"
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
    let read = Read { inputs, resume };
    Ok(Ok(message(&stored, spec, read, knows, group)))
}

fn message(
    stored: &Assignment,
    spec: &JobSpec,
    read: Read,
    knows: Knows,
    group: Group,
) -> v1::Assign {
    let key = stored.key;
    // A gang that may go on without rank 0 must not lose its only place to meet with it.
    let is_standby = spec.resources.min_ranks.is_some() && stored.standby_rank == Some(key.rank);
    v1::Assign {
        job_id: key.job.0,
        attempt: key.attempt.0,
        rank: key.rank.0,
        world_size: stored.world_size,
        local_rank: stored.local_rank,
        spec_json: serde_json::json!(spec).to_string(),
        inputs: read.inputs,
        devices: stored.devices.iter().map(v1::Device::from).collect(),
        hosts_rendezvous: stored.world_size > 1 && (key.rank.0 == 0 || is_standby),
        resume: read.resume,
        // By this a fetch job waits for shares; one that an older coordinator gave out keeps to the
        // rate of its own settings.
        shares_rates: true,
        // A rank alone has nobody to wait for.
        start: knows.start && stored.world_size == 1,
        local_ranks: group.local_ranks,
        group_rank: group.rank,
        group_world_size: group.size,
        pipeline_id: stored.pipeline.0,
    }
}

#[cfg(test)]
mod tests;
