//! What training makes small: losses over logits and multi-hot targets, summed over all cells.
//!
//! Invariant: a sum, never a mean. Only the step knows how many pictures all ranks have together, over
//! which the mean is taken.
//! Values and gradients are those of `loss/vectors.py`, which writes the formulas down in f64, and
//! stay finite at any logit.

use marquee_domain::spec::{Learning, Loss as Settings};
use tch::{Device, Kind, Reduction, TchError, Tensor};

use crate::data::SplitReader;
use crate::error::RunError;

/// A loss with all it needs to know of the training split.
#[derive(Debug)]
pub(crate) struct Loss {
    settings: Settings,
    smoothing: f64,
    /// Of each class, for `weighted-bce`.
    pos_weight: Option<Tensor>,
}

impl Loss {
    /// Binary cross-entropy, and nothing else.
    pub(crate) fn plain() -> Self {
        Self {
            settings: Settings::Bce,
            smoothing: 0.0,
            pos_weight: None,
        }
    }

    /// The loss that `learning` asks for, in the kind and on the device of the logits to come.
    pub(crate) fn new(
        learning: &Learning,
        train: &SplitReader,
        kind: Kind,
        device: Device,
    ) -> Result<Self, RunError> {
        let pos_weight = match learning.loss {
            Settings::WeightedBce { cap } => {
                let weights = positive_weights(train, cap)?;
                tracing::info!(?weights, "weights of positives by class");
                Some(
                    Tensor::f_from_slice(&weights)?
                        .f_to_kind(kind)?
                        .f_to_device(device)?,
                )
            }
            Settings::Bce | Settings::Focal { .. } | Settings::Asl { .. } => None,
        };
        Ok(Self {
            settings: learning.loss,
            smoothing: learning.label_smoothing,
            pos_weight,
        })
    }

    /// The sum over all cells of `[N, classes]` logits; targets are from 0 to 1, of the same kind.
    pub(crate) fn sum(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor, TchError> {
        let smoothed;
        let targets = if self.smoothing > 0.0 {
            smoothed = targets
                .f_mul_scalar(1.0 - self.smoothing)?
                // Half of it: each label is a question of yes or no of its own, so that "cannot tell" is 0.5 and
                // not one in all classes.
                .f_add_scalar(self.smoothing / 2.0)?;
            &smoothed
        } else {
            targets
        };
        match self.settings {
            Settings::Bce | Settings::WeightedBce { .. } => logits
                .f_binary_cross_entropy_with_logits(
                    targets,
                    None::<&Tensor>,
                    self.pos_weight.as_ref(),
                    Reduction::Sum,
                ),
            Settings::Focal { gamma, alpha } => focal(logits, targets, gamma, alpha),
            Settings::Asl {
                gamma_pos,
                gamma_neg,
                clip,
            } => asymmetric(logits, targets, gamma_pos, gamma_neg, clip),
        }
    }
}

/// Negatives / positives of each class, at most `cap`; `cap` too where there are no positives.
fn positive_weights(train: &SplitReader, cap: f64) -> Result<Vec<f64>, RunError> {
    let counts = train.label_counts()?;
    let rows = train.rows() as f64;
    // Capped: a class with one picture in ten thousand would drown all others in its own gradient.
    let weight = |count: u64| ((rows - count as f64) / count.max(1) as f64).min(cap);
    Ok(counts.into_iter().map(weight).collect())
}

/// `base^exponent` for a base from 0; an exponent of 0 leaves the gradient alone.
fn power(base: &Tensor, exponent: f64) -> Result<Option<Tensor>, TchError> {
    if exponent == 0.0 {
        return Ok(None);
    }
    base.f_pow_tensor_scalar(exponent).map(Some)
}

fn times(x: Tensor, factor: Option<Tensor>) -> Result<Tensor, TchError> {
    match factor {
        Some(factor) => x.f_mul(&factor),
        None => Ok(x),
    }
}

/// 1 - t.
fn opposite(targets: &Tensor) -> Result<Tensor, TchError> {
    targets.f_neg()?.f_add_scalar(1.0)
}

/// Focal loss (Lin et al. 2017, arXiv:1708.02002, equation 5).
fn focal(x: &Tensor, t: &Tensor, gamma: f64, alpha: Option<f64>) -> Result<Tensor, TchError> {
    let cross_entropy =
        x.f_binary_cross_entropy_with_logits(t, None::<&Tensor>, None::<&Tensor>, Reduction::None)?;
    let negative = opposite(t)?;
    // What is missing to the truth: 1 - p of a positive, p of a negative; exact for small ones.
    let missing = x
        .f_neg()?
        .f_sigmoid()?
        .f_mul(t)?
        .f_add(&x.f_sigmoid()?.f_mul(&negative)?)?;
    let mut loss = times(cross_entropy, power(&missing, gamma)?)?;
    if let Some(alpha) = alpha {
        let weight = t
            .f_mul_scalar(alpha)?
            .f_add(&negative.f_mul_scalar(1.0 - alpha)?)?;
        loss = loss.f_mul(&weight)?;
    }
    loss.f_sum(x.f_kind()?)
}

/// Asymmetric loss (Ridnik et al. 2021, arXiv:2009.14119, equations 4 to 7).
fn asymmetric(
    x: &Tensor,
    t: &Tensor,
    gamma_pos: f64,
    gamma_neg: f64,
    clip: f64,
) -> Result<Tensor, TchError> {
    // sigmoid(-x) and not 1 - sigmoid(x), which is 0 for large logits while the true value is not.
    let missing = x.f_neg()?.f_sigmoid()?;
    let positive = times(x.f_log_sigmoid()?, power(&missing, gamma_pos)?)?;
    let shifted = x.f_sigmoid()?.f_add_scalar(-clip)?.f_clamp_min(0.0)?;
    // At a clip of 0 the logarithm of 1 - p would be that of 0 for large logits.
    let log_negative = if clip > 0.0 {
        opposite(&shifted)?.f_log()?
    } else {
        x.f_neg()?.f_log_sigmoid()?
    };
    let negative = times(log_negative, power(&shifted, gamma_neg)?)?;
    let cells = positive.f_mul(t)?.f_add(&negative.f_mul(&opposite(t)?)?)?;
    cells.f_sum(x.f_kind()?)?.f_neg()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        classes: i64,
        logits: Vec<f64>,
        targets: Vec<f64>,
        pos_weight: Vec<f64>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        loss: Settings,
        smoothing: f64,
        values: Vec<f64>,
        gradients: Vec<f64>,
    }

    fn vectors() -> Vectors {
        serde_json::from_str(include_str!("loss/vectors.json")).unwrap()
    }

    fn loss_of(case: &Case, vectors: &Vectors, kind: Kind) -> Loss {
        let weighted = matches!(case.loss, Settings::WeightedBce { .. });
        Loss {
            settings: case.loss,
            smoothing: case.smoothing,
            pos_weight: weighted.then(|| Tensor::from_slice(&vectors.pos_weight).to_kind(kind)),
        }
    }

    #[test]
    fn values_and_gradients_are_those_of_the_written_formulas() {
        let vectors = vectors();
        for case in &vectors.cases {
            for (kind, allowed) in [(Kind::Double, 1e-9), (Kind::Float, 1e-6)] {
                let view = |values: &[f64]| {
                    Tensor::from_slice(values)
                        .to_kind(kind)
                        .view([-1, vectors.classes])
                };
                let logits = view(&vectors.logits).set_requires_grad(true);
                let sum = loss_of(case, &vectors, kind)
                    .sum(&logits, &view(&vectors.targets))
                    .unwrap();
                sum.backward();
                let expected: f64 = case.values.iter().sum();
                let scale = expected.abs().max(1.0);
                let found = sum.double_value(&[]);
                assert!(
                    (found - expected).abs() <= allowed * scale,
                    "{:?} {kind:?}: {found} for {expected}",
                    case.loss
                );
                let apart = (logits.grad().to_kind(Kind::Double).view(-1)
                    - Tensor::from_slice(&case.gradients))
                .abs()
                .max()
                .double_value(&[]);
                assert!(apart <= allowed, "{:?} {kind:?}: {apart:e}", case.loss);
            }
        }
    }

    #[test]
    fn no_logit_makes_a_loss_or_a_gradient_that_is_no_number() {
        let vectors = vectors();
        for case in &vectors.cases {
            for target in [0.0_f32, 1.0] {
                let logits = Tensor::from_slice(&[-200.0_f32, -90.0, 90.0, 200.0])
                    .view([1, 4])
                    .set_requires_grad(true);
                let targets = Tensor::full_like(&logits.detach(), f64::from(target));
                let sum = loss_of(case, &vectors, Kind::Float)
                    .sum(&logits, &targets)
                    .unwrap();
                sum.backward();
                assert!(sum.double_value(&[]).is_finite(), "{:?}", case.loss);
                let grad = logits.grad().isfinite().all().int64_value(&[]);
                assert_eq!(grad, 1, "{:?}: {:?}", case.loss, logits.grad());
            }
        }
    }
}
