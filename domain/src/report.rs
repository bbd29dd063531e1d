//! Summaries that children hand back with their last word, and the evaluation report. Shared by
//! those who write them and the CLI that shows them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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

fn is_zero(count: &u64) -> bool {
    *count == 0
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
    pub pictures: u64,
    /// Features of one picture.
    pub width: u64,
    /// Whether an earlier job had left them in `feature_cache`.
    pub from_cache: bool,
    /// What the networks take for one picture, over all ranks.
    pub seconds_per_picture: f64,
    /// How many times faster training went than with the networks in every step.
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
    /// Training pictures of all ranks per second of this attempt's steps.
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

/// F1 of one threshold rule on the test split.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RuleScores {
    /// "0.5", "0.25", "per_class" or "fixed".
    pub rule: String,
    pub f1_micro: f64,
    pub f1_macro: f64,
    pub f1_weighted: f64,
    pub f1_samples: f64,
    pub precision_micro: f64,
    pub recall_micro: f64,
    pub subset_accuracy: f64,
    pub hamming_loss: f64,
    /// 95 % bootstrap interval, where it was asked for.
    pub f1_micro_interval: Option<(f64, f64)>,
    pub f1_weighted_interval: Option<(f64, f64)>,
}

/// A classifier that looks at no picture.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Baseline {
    /// "all", "none", "coin" or "prevalence".
    pub name: String,
    pub f1_micro: f64,
    pub f1_weighted: f64,
}

/// Figures of one class on the test split. None where the definition has no value.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ClassScores {
    pub class: String,
    pub support: u64,
    pub prevalence: f64,
    pub roc_auc: Option<f64>,
    pub average_precision: Option<f64>,
    /// Tuned on validation.
    pub threshold: f64,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    /// F1 at 0.5, for comparison.
    pub f1_at_half: f64,
}

/// `report.json` of an eval job.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EvalReport {
    /// Version of this layout.
    pub format: u32,
    pub model: String,
    pub classes: Vec<String>,
    pub source: SourceNote,
    /// Pictures scored in each split.
    pub pictures: BTreeMap<String, u64>,
    /// Digest of the validation rows on which thresholds were tuned.
    pub thresholds_from: String,
    pub rules: Vec<RuleScores>,
    pub baselines: Vec<Baseline>,
    /// Mean over classes that have a value, and how many those are.
    pub map: Option<f64>,
    pub map_classes: u32,
    /// Mean over classes that have a value, and how many those are.
    pub roc_auc_macro: Option<f64>,
    #[serde(default)]
    pub roc_auc_classes: u32,
    pub per_class: Vec<ClassScores>,
    pub images_per_second: f64,
    pub seconds: f64,
    /// Reasons to doubt these figures (a leak, a class that was never tested), the gravest first.
    #[serde(default)]
    pub warnings: Vec<String>,
}
