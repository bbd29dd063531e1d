//! The child contract: what a worker gives to a child process, and what the child says back.
//!
//! A worker starts `marquee-prep run SPEC` (fetch, preprocess) or `marquee-trainer run SPEC`
//! (train, eval), one process a rank, in a process group of its own, with the path of a
//! [`ChildSpec`] as JSON. The child writes one [`ChildEvent`] a line to its event channel, the
//! descriptor that [`env::EVENTS_FD`] names, puts its results into `output`, and leaves with an
//! [`ExitCode`]. On SIGTERM it writes a checkpoint if it can and leaves with [`ExitCode::STOPPED`].
//!
//! What it writes to stdout and stderr is log, whatever it looks like: the child runs code of others
//! (a TorchScript module prints what it likes), and none of it may be taken for the child's own word.
//! Where no channel is named (a person started it, or a worker of version 0.1), events go to stdout.
//!
//! A command job's program gets neither spec nor channel: it has the environment alone, and all it prints
//! is log.
//! `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR` and `MASTER_PORT`, and all else that torchrun sets
//! (`LOCAL_WORLD_SIZE`, `GROUP_*`, `ROLE_*`, `TORCHELASTIC_*`), mean what torchrun means by them, for every kind
//! of job. A host is what torchrun calls a node.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::failure::FailureClass;
use crate::ids::{AttemptNumber, JobId, JobName, PipelineId};
use crate::resources::Device;
use crate::spec::{ArrayElement, Work};

pub mod env;

/// Folder in the artifact of a job array that holds one folder for each element, named by its
/// index in four digits.
pub const ELEMENTS_FOLDER: &str = "elements";

/// What a child is to do. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChildSpec {
    pub job: JobId,
    pub job_name: JobName,
    /// None: nobody said, as where the child was started by hand.
    #[serde(default)]
    pub pipeline: Option<PipelineId>,
    pub attempt: AttemptNumber,
    pub work: Work,
    /// The share of the work that is this child's. None: all of it.
    #[serde(default)]
    pub element: Option<ArrayElement>,
    /// Folder of each input artifact, by input name. Read-only.
    pub inputs: BTreeMap<String, PathBuf>,
    /// Empty folder for results.
    pub output: PathBuf,
    /// Folder for checkpoints; each is a folder of its own in it.
    pub checkpoints: PathBuf,
    /// Folder of the checkpoint to go on from.
    pub resume: Option<PathBuf>,
    /// Folder that later attempts of this job on this worker find as this one leaves it. None where
    /// the worker keeps none.
    #[serde(default)]
    pub scratch: Option<PathBuf>,
    /// Folder through which a fetch job is told its share of each host's rate, as
    /// [`crate::rate`] describes. None: the rate of its own settings holds.
    #[serde(default)]
    pub rate: Option<PathBuf>,
    pub devices: Vec<Device>,
    /// Threads this rank may keep busy.
    pub threads: u32,
}

/// One line of a child's event channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ChildEvent {
    /// How far the work is. `done` may stand still, never goes back within one `phase`.
    Progress {
        /// What is being done, such as "posters" or "epoch 2/6".
        phase: String,
        done: u64,
        /// None while unknown.
        total: Option<u64>,
        /// What is counted, plural: "pictures", "images", "steps".
        unit: String,
        /// Bytes brought in so far, where they tell something.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
        /// Of those done, how many did not go well, by class: "gone", "rejected_no_poster".
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        problems: BTreeMap<String, u64>,
    },
    /// Values measured at a step.
    Metrics {
        step: u64,
        /// Finite values by name, such as "train/loss", "validation/f1_micro", "phase/forward_s".
        values: BTreeMap<String, f64>,
    },
    /// A complete checkpoint lies in the folder `path`, a direct child of the spec's
    /// `checkpoints`. The child never touches it again.
    Checkpoint { step: u64, path: PathBuf },
    /// Other ranks were lost, and those that are left go on by themselves. Each of them says so,
    /// and from here on the first of `ranks` writes checkpoints and output.
    Regrouped {
        /// Steps done, from which they go on.
        step: u64,
        /// Those that go on, as they were numbered at the start, ascending.
        ranks: Vec<u32>,
        /// Steps that some rank had done and that are done again.
        steps_lost: u64,
        /// From the notice of the loss until training went on.
        seconds: f64,
    },
    /// The child's last word when all went well. `summary` is one of [`crate::report`]'s types.
    Finished { summary: serde_json::Value },
    /// The child's last word when it failed and knows why.
    Failed {
        class: FailureClass,
        message: String,
    },
}

/// A child's exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitCode(pub i32);

impl ExitCode {
    /// All done; a `Finished` line was written.
    pub const OK: Self = Self(0);
    /// Failed; a `Failed` line says why.
    pub const FAILED: Self = Self(1);
    /// The command line was wrong.
    pub const USAGE: Self = Self(2);
    /// Told to stop by SIGTERM, and left in order.
    // BSD's EX_TEMPFAIL: "try again later", and no status that a program gives by chance.
    pub const STOPPED: Self = Self(75);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_flat_json_lines() {
        let event = ChildEvent::Progress {
            phase: "posters".into(),
            done: 3,
            total: Some(10),
            unit: "images".into(),
            bytes: None,
            problems: BTreeMap::new(),
        };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(
            line,
            r#"{"event":"progress","phase":"posters","done":3,"total":10,"unit":"images"}"#
        );
        assert_eq!(serde_json::from_str::<ChildEvent>(&line).unwrap(), event);
    }
}
