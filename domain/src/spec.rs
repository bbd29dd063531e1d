//! Job specs: what a user asks for, after validation. A value of these types is complete and
//! consistent; [`crate::pipeline`] is the only door from text to them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::artifact::Digest;
use crate::ids::JobName;
use crate::resources::Resources;

mod learning;
mod needs;
mod recipe;
mod settings;
mod sharing;
mod values;
mod watch;
pub use learning::{
    Activation, Backbone, HeadSettings, Learning, Loss, Mix, PartialWeights, Sampling,
    ScriptSettings, Shuffle, Transfer, matches,
};
pub use needs::{Ended, NeedOn};
pub use recipe::{Backend, Colour, Crop, GradientCompression, LrSchedule, Precision, Span};
pub use settings::{
    CommandSettings, EvalSettings, FetchSettings, FilmList, ImageEncoding, LEAVE_OUT_DEFAULT,
    LabelRules, OUTAGE_S_DEFAULT, Optimizer, PreprocessSettings, QUALITY_FLAGS, Rights, Source,
    Splits, TrainSettings, Uncertain, Unlabelled,
};
pub use sharing::{HostRules, OneGpu, Sharing};
pub use values::{ArrayValues, value_text, value_variable};
pub use watch::{OnDisconnect, Watch};

/// What a job does, without its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    Fetch,
    Preprocess,
    Train,
    Eval,
    Command,
}

impl JobKind {
    /// Every kind, in the order of a pipeline.
    pub const ALL: [Self; 5] = [
        Self::Fetch,
        Self::Preprocess,
        Self::Train,
        Self::Eval,
        Self::Command,
    ];

    /// The word used in files, SQL and on screen.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Preprocess => "preprocess",
            Self::Train => "train",
            Self::Eval => "eval",
            Self::Command => "command",
        }
    }

    /// The kind that a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The name of the one artifact that a job of this kind commits.
    #[must_use]
    pub fn output(self) -> &'static str {
        match self {
            Self::Fetch => "dataset",
            Self::Preprocess => "shards",
            Self::Train => "model",
            Self::Eval => "report",
            Self::Command => "output",
        }
    }

    /// The inputs that a job of this kind must have: each is named after the output it takes.
    #[must_use]
    pub fn required_inputs(self) -> &'static [&'static str] {
        match self {
            Self::Fetch | Self::Command => &[],
            Self::Preprocess => &["dataset"],
            Self::Train => &["shards"],
            Self::Eval => &["shards", "model"],
        }
    }
}

impl JobKind {
    /// Whether code, settings and inputs decide a job's artifact alone, so that an earlier one can
    /// stand for it. What a fetch finds changes outside; train and eval depend on devices and files
    /// of the host; a command may do anything.
    #[must_use]
    pub fn is_reusable(self) -> bool {
        match self {
            Self::Preprocess => true,
            Self::Fetch | Self::Train | Self::Eval | Self::Command => false,
        }
    }

    /// The inputs that a job of this kind may have besides.
    #[must_use]
    pub fn optional_inputs(self) -> &'static [&'static str] {
        match self {
            // An earlier dataset, which this one goes on from.
            Self::Fetch => &["previous"],
            // An earlier model, whose weights this one starts from; a TorchScript module to train.
            Self::Train => &["weights", "module"],
            Self::Preprocess | Self::Eval | Self::Command => &[],
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputRef {
    /// The artifact `output` of a job of the same pipeline, written `job.output`.
    Job { job: JobName, output: String },
    /// An artifact that is already there, written `artifact:<digest>`.
    Artifact(Digest),
}

/// A job's settings, by kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "settings", rename_all = "lowercase")]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one a job, and it is moved a few times in the job's life"
)]
pub enum Work {
    Fetch(FetchSettings),
    Preprocess(PreprocessSettings),
    Train(TrainSettings),
    Eval(EvalSettings),
    Command(CommandSettings),
}

impl Work {
    /// The kind of this work.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Fetch(_) => JobKind::Fetch,
            Self::Preprocess(_) => JobKind::Preprocess,
            Self::Train(_) => JobKind::Train,
            Self::Eval(_) => JobKind::Eval,
            Self::Command(_) => JobKind::Command,
        }
    }
}

/// Which part of a job array a job is: it does the share `index` of `size` equal ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayElement {
    /// From 0.
    pub index: u32,
    pub size: u32,
}

impl ArrayElement {
    /// Whether the thing called `id` belongs to this element's share. It depends on the id alone, so
    /// that elements agree even where the source's list changes between their looks at it.
    #[must_use]
    pub fn takes(self, id: &str) -> bool {
        // FNV-1a, then the finaliser of SplitMix64: each bit of the id reaches each bit of the result.
        let mut mixed = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // Numbers in a row must not fall to elements in a pattern, as FNV alone would leave it in
        // its low bits.
        mixed % u64::from(self.size.max(1)) == u64::from(self.index)
    }

    /// This element's share of a rate or limit that is the whole array's, at least 1.
    #[must_use]
    pub fn share_of(self, whole: u32) -> u32 {
        // Down, so that all shares together stay within the whole; the document was refused where
        // that gives 0.
        (whole / self.size.max(1)).max(1)
    }
}

/// One job as submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    pub name: JobName,
    pub work: Work,
    /// Jobs of the same pipeline that must end first; those that `inputs` name are included.
    pub needs: Vec<JobName>,
    /// How those of them must end of which it is not their success that is waited for. Beside `needs`, so that older
    /// versions read both.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub needs_on: BTreeMap<JobName, NeedOn>,
    pub inputs: BTreeMap<String, InputRef>,
    pub resources: Resources,
    /// Higher runs first. Default 0.
    pub priority: i32,
    /// How often the job may be tried, the first attempt included. Default 3.
    pub max_attempts: u32,
    /// Seconds an attempt may run. None: no limit.
    pub timeout_s: Option<u32>,
    /// Whether the artifact of an identical step that succeeded before may stand for this one's.
    #[serde(default = "yes")]
    pub reuse: bool,
    /// Elements that do this job's work, each a job of its own; their artifacts together are this
    /// job's. None: the job does its work itself.
    #[serde(default)]
    pub array: Option<u32>,
    /// Of an array: how many of its elements may end without success; the artifacts of the others are its own then.
    /// The store reads it in SQL.
    #[serde(default, skip_serializing_if = "is_default")]
    pub may_fail: u32,
    /// Set where this job is an element of an array.
    #[serde(default)]
    pub element: Option<ArrayElement>,
    /// What the elements of an array go through, and what an element has of it.
    #[serde(default, skip_serializing_if = "ArrayValues::is_empty")]
    pub values: ArrayValues,
    /// For whom, when and where it runs, and what may interrupt it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sharing: Sharing,
    #[serde(default)]
    pub watch: Watch,
}

fn yes() -> bool {
    true
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl JobSpec {
    /// The name with the element's index, as people read it: `fetch[3]`.
    #[must_use]
    pub fn display_name(&self) -> String {
        match self.element {
            Some(ArrayElement { index, .. }) => format!("{}[{index}]", self.name),
            None => self.name.to_string(),
        }
    }

    /// Whether it tests one GPU that is in quarantine: the trainer does that, under the name of a command.
    #[must_use]
    pub fn is_burn_in(&self) -> bool {
        self.sharing.hosts.gpu.is_some()
    }

    /// How the job `name`, which this one needs, must end.
    #[must_use]
    pub fn needs_of(&self, name: &JobName) -> NeedOn {
        self.needs_on.get(name).copied().unwrap_or_default()
    }

    /// The spec of element `index` of this array, with its values filled in.
    #[must_use]
    pub fn element_at(&self, index: u32) -> Self {
        let size = self.array.unwrap_or(1);
        let here = self.values.at(index);
        let mut element = self.clone();
        if let Work::Command(command) = &mut element.work
            && !here.is_empty()
        {
            *command = command.with_values(&here);
        }
        Self {
            // Nothing of the array stays in it: read again as an array it would have elements of
            // its own.
            array: None,
            may_fail: 0,
            element: Some(ArrayElement { index, size }),
            values: ArrayValues {
                over: BTreeMap::new(),
                here,
            },
            ..element
        }
    }
}

/// A validated pipeline: its jobs in an order in which each comes after what it needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipelineSpec {
    pub name: JobName,
    pub jobs: Vec<JobSpec>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_elements_of_an_array_share_everything_out_evenly() {
        let size = 7;
        let mut shares = [0u32; 7];
        for number in 0..70_000 {
            let id = number.to_string();
            let takers: Vec<u32> = (0..size)
                .filter(|index| {
                    ArrayElement {
                        index: *index,
                        size,
                    }
                    .takes(&id)
                })
                .collect();
            assert_eq!(takers.len(), 1, "{id}: {takers:?}");
            shares[takers[0] as usize] += 1;
        }
        assert!(
            shares.iter().all(|share| (9_500..10_500).contains(share)),
            "{shares:?}"
        );
    }
}
