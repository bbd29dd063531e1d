//! Summaries that children hand back with their last word, and the evaluation report. Shared by
//! those who write them and the CLI that shows them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

mod eval;
mod overlap;
mod provenance;
mod version;

pub use eval::{Baseline, Candidate, ClassScores, EvalReport, Headline, RuleScores, rule_words};
pub use overlap::Overlap;
pub use provenance::{NamedJob, Provenance, TrainedBy, iso_utc};
pub use version::{SUMMARY_VERSION, UnreadableSummary, read_summary, summary};

/// What a fetch job did. `fetched + gone + rejected + failed` is `asked`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FetchSummary {
    /// Ids (or rows) the source listed.
    pub asked: u64,
    pub fetched: u64,
    /// Listed, but no longer there.
    pub gone: u64,
    /// There, but not usable, by class ("no_poster", "no_labels", "adult", ...).
    pub rejected: BTreeMap<String, u64>,
    /// Not had in spite of retries, by class ("http_500", "timeout", ...).
    pub failed: BTreeMap<String, u64>,
    pub bytes: u64,
    #[serde(default)]
    pub seconds: f64,
    /// Of the fetched, those that came from an earlier dataset because the source said that
    /// nothing had changed.
    #[serde(default)]
    pub unchanged: u64,
    /// Of all, those that an earlier attempt at this job had settled.
    #[serde(default)]
    pub resumed: u64,
    /// Of the fetched, those with characters in their texts that could not be read; U+FFFD stands in
    /// their place.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replaced_text: u64,
    /// What the source says about itself, such as that its pictures are synthetic.
    pub source: SourceNote,
    /// What is worth knowing besides the counts.
    #[serde(default, skip_serializing_if = "Remarks::is_empty")]
    pub remarks: Remarks,
}

/// What a fetch says besides its counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Remarks {
    /// The source says of every picture which labels it does not have, as columns of 0 and 1 do: a picture
    /// without a label is then an example of none, not one that nobody has labelled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub zeros_stated: bool,
    /// Pictures that were fetched and have no label.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub without_label: u64,
    /// What lay among the pictures and was passed over, by kind ("hidden", "special_file", ...).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub passed_over: BTreeMap<String, u64>,
    /// How the source was read, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What may be wrong with the source, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Remarks {
    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds those of another share of the same source, which says much the same.
    fn add(&mut self, other: Self) {
        self.zeros_stated |= other.zeros_stated;
        self.without_label += other.without_label;
        for (kind, count) in other.passed_over {
            let most = self.passed_over.entry(kind).or_default();
            // The most and not the sum: each share went through the whole source, and saw all that
            // was passed over.
            *most = count.max(*most);
        }
        for (own, others) in [
            (&mut self.notes, other.notes),
            (&mut self.warnings, other.warnings),
        ] {
            for text in others {
                if !own.contains(&text) {
                    own.push(text);
                }
            }
        }
    }
}

impl FetchSummary {
    /// The books of two shares of one work, done side by side: counts add up, the slower one's time
    /// is the whole's.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.asked += other.asked;
        self.fetched += other.fetched;
        self.gone += other.gone;
        self.bytes += other.bytes;
        self.unchanged += other.unchanged;
        self.resumed += other.resumed;
        self.replaced_text += other.replaced_text;
        self.seconds = self.seconds.max(other.seconds);
        self.remarks.add(other.remarks);
        for (sum, classes) in [
            (&mut self.rejected, other.rejected),
            (&mut self.failed, other.failed),
        ] {
            for (class, count) in classes {
                *sum.entry(class).or_default() += count;
            }
        }
        self
    }
}

/// What travels with a dataset from its source into every report.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SourceNote {
    /// Generated pictures: figures on them are never set beside figures on real ones.
    pub synthetic: bool,
    /// Where the pictures are from, such as a host or a file's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Text that reports must show.
    pub attribution: Option<String>,
    /// The best micro F1 that any classifier can expect on the source, where it is known.
    pub f1_micro_ceiling: Option<f64>,
    /// Licence of the pictures, as the user stated it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// ISO date after which the data must not be used any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_until: Option<String>,
    /// Who granted the use, when and how, where the source asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rights: Option<crate::spec::Rights>,
}

/// What a preprocess job did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PreprocessSummary {
    /// Pictures of the dataset, the skipped ones included.
    pub pictures: u64,
    /// Pictures skipped, by class ("undecodable", "truncated", "too_large", ...).
    pub skipped: BTreeMap<String, u64>,
    /// Rows in each split.
    pub splits: BTreeMap<String, u64>,
    pub classes: Vec<String>,
    pub bytes: u64,
    pub seconds: f64,
    pub source: SourceNote,
    /// Pictures with each quality flag ("dark", "near_duplicate", ...).
    #[serde(default)]
    pub flags: BTreeMap<String, u64>,
    /// Version of the code that did it, as `marquee-prep code` says; empty from earlier versions.
    #[serde(default)]
    pub code: String,
    /// What may be wrong with the classes, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Where the time of one rank's steps went, in seconds over the whole run. The phases add up to
/// `step_s` but for the loop's own cost.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PhaseTimes {
    /// Wall time of all steps.
    pub step_s: f64,
    /// Waiting for the next batch.
    pub input_s: f64,
    pub forward_s: f64,
    pub backward_s: f64,
    /// All-reduce that backward did not hide.
    pub all_reduce_s: f64,
    pub optimizer_s: f64,
    pub checkpoint_s: f64,
    /// Validation at the ends of epochs; not part of `step_s`.
    pub validation_s: f64,
    /// Passes of frozen networks before the first step, or reading what an earlier job had kept of them;
    /// not part of `step_s`.
    #[serde(default)]
    pub features_s: f64,
}

/// What became of the weights that a train job was given for one network.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct WeightsReport {
    /// Path of the file on the worker.
    pub file: String,
    /// Name of the network within an ensemble; empty for a network alone.
    pub network: String,
    /// Tensors that were taken.
    pub loaded: u64,
    /// What became of the classifier, where it is not the file's.
    pub head: Vec<String>,
    /// Tensors of the file that were not taken, and why.
    pub skipped: Vec<String>,
    /// Tensors of the network that the file does not have.
    pub missing: Vec<String>,
}

/// Features of frozen networks that were computed once instead of in every epoch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FeaturesReport {
    /// Pictures of the training and validation splits.
    pub pictures: u64,
    /// Pictures that the networks were run on, over all ranks: each training picture twice where mirrored
    /// ones are trained on too. 0: an earlier job's were taken, or an earlier version did not count.
    #[serde(default)]
    pub passes: u64,
    /// Wall time of the passes, or of reading what was kept.
    #[serde(default)]
    pub seconds: f64,
    /// Features of one picture.
    pub width: u64,
    /// Whether an earlier job had left them in `feature_cache`.
    pub from_cache: bool,
    /// What one pass takes, over all ranks.
    pub seconds_per_picture: f64,
    /// How many times faster steps went than with the networks in them; the passes are not counted.
    pub speedup: f64,
}

/// What one rank of a train job did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TrainSummary {
    pub model: String,
    pub parameters: u64,
    pub world_size: u32,
    pub rank: u32,
    /// "gloo", "nccl", or "none" for one rank.
    pub backend: String,
    /// What the reader must know of the way it ran, such as that NCCL could not be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// "cpu" or "cuda".
    #[serde(default)]
    pub device: String,
    /// The most bytes that tensors held at once on the rank's GPU.
    #[serde(default)]
    pub peak_memory_bytes: Option<u64>,
    /// The most bytes that libtorch held of the GPU for them.
    #[serde(default)]
    pub peak_reserved_bytes: Option<u64>,
    pub epochs: u32,
    pub steps: u64,
    /// Step from which this attempt went on, 0 if it started anew.
    pub resumed_from_step: u64,
    /// Weights that it started from.
    #[serde(default)]
    pub weights: Vec<WeightsReport>,
    #[serde(default)]
    pub features: Option<FeaturesReport>,
    /// Weights that learnt at the end.
    #[serde(default)]
    pub learning: u64,
    /// Training pictures of all ranks per second of this attempt's steps. Where features were computed
    /// once, steps read those instead of pictures: see [`TrainSummary::whole_images_per_second`].
    pub images_per_second: f64,
    pub final_loss: f64,
    pub seconds: f64,
    pub phases: PhaseTimes,
    /// What it computed in, such as "fp32"; what `precision = "auto"` chose.
    #[serde(default)]
    pub precision: String,
    /// How its shards hold pictures: "raw" or "jpeg".
    #[serde(default)]
    pub encoding: String,
    /// How often it went on after other ranks were lost.
    #[serde(default)]
    pub regroups: u32,
    /// Each of these times, in order.
    #[serde(default)]
    pub went_on: Vec<WentOn>,
}

impl TrainSummary {
    /// Training pictures of all ranks per second of steps and feature passes together: what the job did
    /// for each picture, whenever it did it.
    #[must_use]
    pub fn whole_images_per_second(&self) -> f64 {
        let PhaseTimes {
            step_s, features_s, ..
        } = self.phases;
        if step_s + features_s > 0.0 {
            // The pictures of the steps over the time of both: passes over frozen networks are work
            // that steps were spared.
            self.images_per_second * step_s / (step_s + features_s)
        } else {
            self.images_per_second
        }
    }
}

/// How a gang went on after ranks were lost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WentOn {
    /// Steps done, from which it went on.
    pub step: u64,
    pub ranks: u32,
    /// Ranks before.
    pub of: u32,
    /// Steps that some rank had done and that were done again.
    pub steps_lost: u64,
    /// From the notice of the loss until training went on.
    pub seconds: f64,
}

impl WentOn {
    /// Such as "went on with 2 of 3 ranks from step 120 after 3.1 s; no step was lost".
    #[must_use]
    pub fn words(&self) -> String {
        let Self {
            step,
            ranks,
            of,
            steps_lost,
            seconds,
        } = *self;
        let lost = match steps_lost {
            0 => "no step was lost".to_owned(),
            1 => "1 step was lost".to_owned(),
            many => format!("{many} steps were lost"),
        };
        format!("went on with {ranks} of {of} ranks from step {step} after {seconds:.1} s; {lost}")
    }
}
