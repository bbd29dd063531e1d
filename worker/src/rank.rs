//! One rank that this worker holds: from its assignment until its last report is acknowledged.
//!
//! Everything a rank is lies in its folder, so that a daemon that was killed goes on where it was: `rank.json`
//! (assignment and orders), `spool` (numbered reports, each batch with how far the child's output was read), `stdout`,
//! `stderr` and `events` (the child writes them itself), `work/`, `output/`, `tmp/` (its `TMPDIR`), `inputs/` and
//! `pulse/` (of a rank under another account), `checkpoints/`, `rate/` (shares of hosts' rates, of a fetch job), and `store/` (the
//! rendezvous store's own files, where it hosts one).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use marquee_domain::artifact::Manifest;
use marquee_domain::end::Interruption;
use marquee_domain::resources::Device;
use marquee_domain::{BootId, PipelineId, RankKey, Rendezvous};
use marquee_proto::convert::BadField;
use marquee_proto::v1;
use serde::{Deserialize, Serialize};

use crate::process::keeper::claim_path;

pub mod base_env;
mod checkpoints;
pub mod classify;
mod ending;
pub mod environment;
mod events;
mod follow;
mod furnish;
pub mod handed;
pub mod held;
pub mod life;
pub mod lines;
mod output;
pub(crate) mod prepare;
pub mod pump;
pub mod rate;
pub mod readers;
mod secrets;
pub mod spool;
pub mod stall;
pub mod stalled;
pub(crate) mod store;
pub mod task;
pub(crate) mod temporary;
mod tidying;
mod vigil;
pub mod walls;

/// A checkpoint to go on from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resume {
    pub step: u64,
    pub manifest: Manifest,
}

/// What the coordinator gave this worker to hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    pub key: RankKey,
    pub world_size: u32,
    pub local_rank: u32,
    /// A `JobSpec` as JSON, read when it is needed: one that this worker's version cannot read
    /// fails the rank with a report, like any other fault.
    pub spec_json: String,
    pub inputs: BTreeMap<String, Manifest>,
    pub devices: Vec<Device>,
    pub hosts_rendezvous: bool,
    pub resume: Option<Resume>,
    /// Why the message cannot be followed, where it cannot.
    pub problem: Option<String>,
    /// The coordinator shares the rates of hosts out.
    #[serde(default)]
    pub shares_rates: bool,
    /// The order to start came with the assignment. Never set where others have to be waited for.
    #[serde(default)]
    pub start: bool,
    #[serde(default)]
    pub group: Group,
    /// None: the coordinator did not say.
    #[serde(default)]
    pub pipeline: Option<PipelineId>,
}

/// Where the rank stands among its attempt's ranks on the same host, and that host among theirs. Of an older
/// coordinator nothing is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Devices of each of the attempt's ranks on this host, in the order of their local ranks.
    pub local_ranks: Vec<Vec<Device>>,
    pub rank: u32,
    pub world_size: u32,
}

impl Group {
    fn fill(&mut self, local_ranks: Vec<v1::LocalRank>) -> Result<(), BadField> {
        let devices =
            |rank: v1::LocalRank| rank.devices.into_iter().map(Device::try_from).collect();
        self.local_ranks = local_ranks
            .into_iter()
            .map(devices)
            .collect::<Result<_, _>>()?;
        Ok(())
    }
}

impl Assignment {
    /// The assignment of a message. One that makes no sense is held too, with its `problem`, so
    /// that the coordinator gets a failure to act on instead of silence.
    #[must_use]
    pub fn from_wire(wire: v1::Assign) -> Self {
        let key = RankKey::new(wire.job_id, wire.attempt, wire.rank);
        let mut assignment = Self {
            key,
            // A coordinator that says 0 says nothing: each rank is one of at least itself.
            world_size: wire.world_size.max(1),
            local_rank: wire.local_rank,
            spec_json: wire.spec_json,
            inputs: BTreeMap::new(),
            devices: Vec::new(),
            // A rank that is alone has nobody to meet, and needs no port for it.
            hosts_rendezvous: wire.hosts_rendezvous && wire.world_size > 1,
            resume: None,
            problem: None,
            shares_rates: wire.shares_rates,
            // A coordinator that sets it for a gang is wrong: no rank of one may start alone.
            start: wire.start && wire.world_size <= 1,
            group: Group {
                local_ranks: Vec::new(),
                rank: wire.group_rank,
                world_size: wire.group_world_size,
            },
            // 0 is how the wire leaves a number out.
            pipeline: Some(PipelineId(wire.pipeline_id)).filter(|id| id.0 > 0),
        };
        let filled = assignment
            .fill(wire.inputs, wire.devices, wire.resume)
            .and_then(|()| assignment.group.fill(wire.local_ranks));
        if let Err(bad) = filled {
            assignment.problem = Some(bad.to_string());
        }
        assignment
    }

    fn fill(
        &mut self,
        inputs: Vec<v1::AssignedInput>,
        devices: Vec<v1::Device>,
        resume: Option<v1::AssignedCheckpoint>,
    ) -> Result<(), BadField> {
        for input in inputs {
            let manifest = input
                .manifest
                .ok_or_else(|| BadField::missing("inputs.manifest"))?;
            self.inputs.insert(input.name, manifest.try_into()?);
        }
        self.devices = devices
            .into_iter()
            .map(Device::try_from)
            .collect::<Result<_, _>>()?;
        if let Some(resume) = resume {
            let manifest = resume
                .manifest
                .ok_or_else(|| BadField::missing("resume.manifest"))?;
            self.resume = Some(Resume {
                step: resume.step,
                manifest: manifest.try_into()?,
            });
        }
        Ok(())
    }

    /// Every artifact that must be in the cache.
    pub fn artifacts(&self) -> impl Iterator<Item = &Manifest> {
        self.inputs
            .values()
            .chain(self.resume.as_ref().map(|resume| &resume.manifest))
    }
}

/// What a rank was told since its assignment. Orders are never taken back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Orders {
    pub start: Option<StartOrder>,
    pub stop: Option<StopOrder>,
}

impl Orders {
    /// What comes with an assignment: one that starts by itself is under the order to start from
    /// its first moment, and everything after is as if Start had been sent.
    #[must_use]
    pub fn with(assignment: &Assignment) -> Self {
        Self {
            start: assignment.start.then(StartOrder::default),
            stop: None,
        }
    }
}

/// Start the child.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartOrder {
    /// Set where the attempt has several ranks.
    pub rendezvous: Option<Rendezvous>,
    /// The same once the first is lost.
    #[serde(default)]
    pub standby: Option<Rendezvous>,
}

/// Stop the child, or do not start it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopOrder {
    pub grace_ms: u32,
    pub reason: String,
    pub cause: StopCause,
}

/// Who wants a rank to stop, which decides its last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// The coordinator, which waits for `RankStopped`.
    Coordinator,
    /// The coordinator, which wants to hear no more of it.
    Forget,
    /// The daemon is being stopped, and hands the rank back.
    Shutdown,
    /// Nothing was heard of the coordinator for a whole lease, and the job is one that then stops.
    Disconnected,
    /// The host was stopped in order, and booted again since.
    HostUpgraded,
}

impl StopCause {
    /// Of two reasons to stop, the one that decides: what the coordinator wants goes before what
    /// this host wants.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        match (self, other) {
            (Self::Forget, _) | (_, Self::Forget) => Self::Forget,
            (Self::Coordinator, _) | (_, Self::Coordinator) => Self::Coordinator,
            (Self::Disconnected, _) | (_, Self::Disconnected) => Self::Disconnected,
            (Self::HostUpgraded, _) | (_, Self::HostUpgraded) => Self::HostUpgraded,
            (Self::Shutdown, Self::Shutdown) => Self::Shutdown,
        }
    }

    /// The interruption that it is for the job. None: the coordinator asked for it, and knows why.
    #[must_use]
    pub fn interruption(self) -> Option<Interruption> {
        match self {
            Self::Coordinator | Self::Forget => None,
            Self::Shutdown => Some(Interruption::Drained),
            Self::Disconnected => Some(Interruption::Disconnected),
            Self::HostUpgraded => Some(Interruption::HostUpgraded),
        }
    }
}

/// What `rank.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankFile {
    /// The boot in which the rank was assigned: after another one no child of it lives.
    pub boot: BootId,
    pub assignment: Assignment,
    pub orders: Orders,
}

/// Paths within a rank's folder.
#[derive(Debug, Clone)]
pub struct RankDir(PathBuf);

impl RankDir {
    /// The folder of `key` under the worker's data directory.
    #[must_use]
    pub fn new(attempts: &Path, key: RankKey) -> Self {
        Self(attempts.join(key.to_string()))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    #[must_use]
    pub fn rank_file(&self) -> PathBuf {
        self.0.join("rank.json")
    }

    /// Whether a child was launched here, or a launch fenced off.
    pub fn has_launched(&self) -> io::Result<bool> {
        claim_path(&self.0, 1).try_exists()
    }

    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.0.join("spool")
    }

    #[must_use]
    pub fn spec(&self) -> PathBuf {
        self.0.join("spec.json")
    }

    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.0.join("output")
    }

    /// Its temporary files.
    #[must_use]
    pub fn tmp(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// The inputs of a rank under another account.
    #[must_use]
    pub fn inputs(&self) -> PathBuf {
        self.0.join("inputs")
    }

    /// Under which account its child runs, where that is not the worker's.
    #[must_use]
    pub fn cage(&self) -> PathBuf {
        self.0.join("cage.json")
    }

    /// Where what a killed rank left to the worker is opened to it.
    #[must_use]
    pub fn tidying(&self) -> PathBuf {
        self.0.join("tidying")
    }

    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    /// Where a fetch job's child says how it stands with its requests, and is told its share.
    #[must_use]
    pub fn rate(&self) -> PathBuf {
        self.0.join("rate")
    }

    /// Which ranks the coordinator has given up; absent while there are none.
    #[must_use]
    pub fn lost_ranks(&self) -> PathBuf {
        self.0.join("lost-ranks.json")
    }

    /// Where the trainer's rank writes down where it stands: beside the others, or in [`RankDir::pulse`] where it can make
    /// no files beside them.
    #[must_use]
    pub fn standing(&self) -> PathBuf {
        let own = self.pulse();
        let folder = if own.is_dir() { &own } else { &self.0 };
        folder.join("standing")
    }

    /// The folder for that, of a rank under another account.
    #[must_use]
    pub fn pulse(&self) -> PathBuf {
        self.0.join("pulse")
    }

    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// Where all attempts at a job on this worker leave what the next one can go on from: beside
    /// the attempts, since it outlives them.
    #[must_use]
    pub fn scratch(&self, key: RankKey) -> PathBuf {
        let data = self.0.parent().and_then(Path::parent);
        data.unwrap_or(&self.0)
            .join("scratch")
            .join(format!("{}-{}", key.job, key.rank))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_that_makes_no_sense_is_held_with_its_problem() {
        let wire = v1::Assign {
            job_id: 3,
            attempt: 1,
            inputs: vec![v1::AssignedInput {
                name: "shards".into(),
                manifest: None,
            }],
            ..v1::Assign::default()
        };
        let assignment = Assignment::from_wire(wire);
        assert_eq!(assignment.key, RankKey::new(3, 1, 0));
        assert!(assignment.problem.unwrap().contains("inputs.manifest"));
    }

    #[test]
    fn a_rank_of_a_gang_waits_for_its_start_whatever_the_message_says() {
        let starts = |world_size| {
            let wire = v1::Assign {
                world_size,
                start: true,
                ..v1::Assign::default()
            };
            Orders::with(&Assignment::from_wire(wire)).start.is_some()
        };
        assert!(starts(0) && starts(1) && !starts(2));
    }

    #[test]
    fn an_assignment_that_an_older_daemon_wrote_waits_for_its_start() {
        let assignment = Assignment::from_wire(v1::Assign {
            start: true,
            ..v1::Assign::default()
        });
        let mut stored = serde_json::to_value(&assignment).unwrap();
        stored.as_object_mut().unwrap().remove("start").unwrap();
        let read: Assignment = serde_json::from_value(stored).unwrap();
        assert!(!read.start);
    }
}
