//! What a train job learns from and towards: loss, sampling, given weights, own classifier layers.
//!
//! Every field has a default that means "as if there were none of this", so that specs stored
//! before a field existed still read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What training makes small. Targets are 0 or 1 for each class of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Loss {
    /// Binary cross-entropy.
    #[default]
    Bce,
    /// Binary cross-entropy whose positives weigh negatives / positives of their class in the
    /// training split, at most `cap`.
    WeightedBce { cap: f64 },
    /// Focal loss (Lin et al. 2017).
    Focal {
        gamma: f64,
        /// Weight of positives; negatives have 1 - alpha. None: both weigh 1.
        alpha: Option<f64>,
    },
    /// Asymmetric loss (Ridnik et al. 2021).
    Asl {
        gamma_pos: f64,
        gamma_neg: f64,
        /// Probability taken off negatives: easier ones count nothing.
        clip: f64,
    },
}

/// Which pictures an epoch visits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Each once, in an order of the epoch's own.
    #[default]
    Shuffle,
    /// As many draws as there are pictures, each class equally often.
    Balanced,
    /// As many draws as there are pictures; a picture is drawn the more often the rarer its rarest
    /// label is (by the square root of the rarity).
    Weighted,
}

/// How pictures are mixed with another one of the training split, and their targets with them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mix {
    /// What a picture keeps of itself is drawn from Beta(alpha, alpha): the smaller, the nearer to
    /// all or nothing.
    pub alpha: f64,
    /// Share of the pictures to which it happens.
    pub share: f64,
}

/// In which order an epoch visits pictures that each come once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "lowercase")]
pub enum Shuffle {
    /// Any picture may come anywhere.
    #[default]
    Global,
    /// Shards are read mostly from front to back, through a buffer that is shuffled.
    Shards {
        /// Pictures.
        buffer: u32,
    },
}

/// What happens when given weights do not fill the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartialWeights {
    /// Anything missing, left over or of another shape, but for the classifier, fails the job.
    #[default]
    Refuse,
    /// What fits is taken; the report names the rest.
    Allow,
}

/// Activation between own classifier layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    #[default]
    Relu,
    Gelu,
    Silu,
}

/// Own classifier layers in place of the network's single one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct HeadSettings {
    /// Sizes of the hidden layers, from the features on.
    pub hidden: Vec<u32>,
    /// Share of each hidden layer's values dropped while training.
    pub dropout: f64,
    pub activation: Activation,
}

/// One network of an ensemble.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backbone {
    /// A model of the zoo.
    pub model: String,
    /// Safetensors file on the worker. None: random weights.
    pub weights: Option<String>,
    /// Pixels to which pictures are brought for this network. None: as the shards have them.
    pub width: Option<u32>,
    /// Pixels.
    pub height: Option<u32>,
}

/// How targets and samples are made, and what is made small.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Learning {
    pub loss: Loss,
    /// Targets 0 and 1 become s/2 and 1 - s/2.
    pub label_smoothing: f64,
    pub sampling: Sampling,
    /// Two pictures laid over each other (Zhang et al. 2018).
    pub mixup: Option<Mix>,
    /// A part of one picture set into another (Yun et al. 2019).
    pub cutmix: Option<Mix>,
    pub shuffle: Shuffle,
}

/// What training starts from, and which of it learns.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Transfer {
    /// Safetensors file on the worker.
    pub weights: Option<String>,
    pub weights_partial: PartialWeights,
    pub head: HeadSettings,
    /// Patterns of weight names that do not learn; `*` stands for any text.
    pub freeze: Vec<String>,
    /// Patterns of weight names with the epoch, from 1, from which on they learn after all.
    pub unfreeze: BTreeMap<String, u32>,
    /// Whether batch-norm goes by what it remembers instead of by the batch.
    pub freeze_norms: bool,
    /// Patterns of weight names with the factor on their learning rate. The longest one counts.
    pub lr_scale: BTreeMap<String, f64>,
    /// The networks of an ensemble, by the name that their weights have in front.
    pub backbones: BTreeMap<String, Backbone>,
    /// Folder on the worker that keeps features of frozen networks between jobs.
    pub feature_cache: Option<String>,
    /// A TorchScript module that is trained instead of a network of the zoo.
    pub module: Option<ScriptSettings>,
}

/// A TorchScript module of the user's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScriptSettings {
    /// File within the input `module`; without that input, an absolute path on the worker.
    pub file: String,
    /// Pixels of the pictures that it is shown. None: as the shards have them.
    pub width: Option<u32>,
    /// Pixels.
    pub height: Option<u32>,
    /// Taken off each channel (red, green, blue) of pixels from 0 to 1.
    pub mean: [f64; 3],
    /// What each channel is then divided by.
    pub std: [f64; 3],
}

/// Whether `name` is what `pattern` stands for: `*` is any text, all else is itself.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            // The last piece is looked for at the end: the first hit of it may lie before.
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text_and_all_else_is_itself() {
        for (pattern, name) in [
            ("*", ""),
            ("*", "fc.weight"),
            ("blocks.*", "blocks.0.bn1.bias"),
            ("*.bias", "a.b.bias"),
            ("blocks.*.bn*.weight", "blocks.3.1.bn2.weight"),
            ("fc.weight", "fc.weight"),
            ("a*a", "aa"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("blocks.*", "block.0"),
            ("fc", "fc.weight"),
            ("", "fc"),
            ("*.bias", "a.weight"),
            ("a*a", "a"),
            ("blocks.*.bn*.weight", "blocks.3.1.conv.weight"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_spec_from_before_reads_as_none_of_it() {
        assert_eq!(
            serde_json::from_str::<Learning>("{}").unwrap(),
            Learning::default()
        );
        assert_eq!(
            serde_json::from_str::<Transfer>("{}").unwrap(),
            Transfer::default()
        );
    }
}
