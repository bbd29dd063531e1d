//! The report of an eval job.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Overlap, Provenance, SourceNote};

/// F1 of one threshold rule on the test split.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RuleScores {
    /// "0.5", "0.25", "global", "shrunk", "per_class" or "fixed".
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
    /// Of the rule that validation chose, as are the three figures that follow.
    pub threshold: f64,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    /// F1 at 0.5, for comparison.
    pub f1_at_half: f64,
}

/// How a threshold rule did on validation pictures that it was not tuned on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Candidate {
    pub rule: String,
    /// Over the pictures left out of all resamples, added up.
    pub f1_micro: f64,
    /// Share of the resamples in which it did best, of equals the plainer rule.
    pub best_share: f64,
}

/// The rule whose figures stand for the model, and why.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Headline {
    /// Its name in `rules`. Figures of classes and the gallery are by this rule too.
    pub rule: String,
    /// Whether its figures may stand for the model. Not where the model has learned from these pictures.
    pub stands: bool,
    /// In words.
    pub why: String,
    /// Resamples of validation by which it was chosen. 0: there was nothing to choose by.
    pub resamples: u32,
    /// The rules that were compared, the plainest first.
    pub candidates: Vec<Candidate>,
}

/// A threshold rule in words that fit behind a figure and into a table.
#[must_use]
pub fn rule_words(rule: &str) -> String {
    match rule {
        "global" => "with one threshold tuned for all classes".to_owned(),
        "shrunk" => "with shrunk thresholds per class".to_owned(),
        "per_class" => "with thresholds tuned per class".to_owned(),
        "fixed" => "with the thresholds of the job".to_owned(),
        value => format!("with threshold {value}"),
    }
}

/// The rule of reports from before rules were chosen.
const EARLIER_HEADLINE: &str = "per_class";

/// `report.json` of an eval job.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EvalReport {
    /// Version of this layout.
    pub format: u32,
    pub model: String,
    /// Which run this is of. None: a report of an earlier version.
    #[serde(default)]
    pub provenance: Option<Provenance>,
    pub classes: Vec<String>,
    pub source: SourceNote,
    /// Pictures scored in each split.
    pub pictures: BTreeMap<String, u64>,
    /// Digest of the validation rows on which thresholds were tuned.
    pub thresholds_from: String,
    /// The same of the test rows: reports with the same digest are of the same pictures. Empty in reports of
    /// earlier versions.
    #[serde(default)]
    pub test_from: String,
    pub rules: Vec<RuleScores>,
    /// None: a report of an earlier version, whose headline is the rule "per_class".
    #[serde(default)]
    pub headline: Option<Headline>,
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

impl EvalReport {
    /// The rule by which classes and pictures are shown.
    #[must_use]
    pub fn chosen_rule(&self) -> &str {
        self.headline
            .as_ref()
            .map_or(EARLIER_HEADLINE, |headline| &headline.rule)
    }

    /// The figures that stand for the model. None where none may: the model has learned from these
    /// pictures.
    #[must_use]
    pub fn headline_scores(&self) -> Option<&RuleScores> {
        let stands = self
            .headline
            .as_ref()
            .is_none_or(|headline| headline.stands);
        let rule = self.chosen_rule();
        self.rules
            .iter()
            .find(|scores| scores.rule == rule)
            // A headline that does not stand has no figures at all: shown with a warning, they
            // would be quoted without it.
            .filter(|_| stands)
    }
}
