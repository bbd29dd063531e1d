//! The row that a training run writes for each epoch into the model's `history.json`, and that the
//! report's curves read back.

use serde::{Deserialize, Serialize};

/// One epoch of training. `history.json` is a JSON array of these, oldest first.
///
/// The validation figures are `None` where there was no validation split. A loss that is not finite
/// must not be written: JSON has no NaN.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochRow {
    /// From 1.
    pub epoch: u32,
    /// Optimizer steps done by the end of the epoch, over the whole run.
    pub step: u64,
    /// Mean over the epoch's training pictures.
    pub train_loss: f64,
    pub validation_loss: Option<f64>,
    /// Micro F1 on validation at threshold 0.5.
    pub validation_f1_micro: Option<f64>,
    /// Wall time of the epoch's training steps.
    pub seconds: f64,
    /// Training pictures of all ranks per second.
    pub images_per_second: f64,
    /// Whether steps read features of frozen networks, computed once before, in place of pictures. Their
    /// rate is then no rate of pictures.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_features: bool,
}
