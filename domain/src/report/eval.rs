//! The report of an eval job.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Overlap, SourceNote};

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
    /// What of these pictures the model had learned from before. None: a report of an earlier version,
    /// which did not look.
    #[serde(default)]
    pub overlap: Option<Overlap>,
}
