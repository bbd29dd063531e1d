//! What several families are built of: convolution + batch-norm + activation, and pooling.

use tch::{TchError, Tensor};

use super::layers::{BatchNorm, Conv, ConvShape};
use super::pass::Pass;
use crate::error::RunError;
use crate::parameters::Scope;

/// What comes after a normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    Identity,
    Relu,
    /// ReLU up to 6.
    Relu6,
    /// x * sigmoid(x), also called Swish.
    Silu,
}

impl Activation {
    /// Applies it to a value that nobody else holds: a ReLU overwrites it, to save memory.
    pub(super) fn apply(self, mut x: Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Identity => Ok(x),
            Self::Relu => x.f_relu_(),
            Self::Relu6 => x.f_relu6(),
            Self::Silu => x.f_silu(),
        }
    }
}

/// Convolution, batch-norm, activation.
#[derive(Debug)]
pub(super) struct ConvNorm {
    conv: Conv,
    norm: BatchNorm,
    activation: Activation,
}

impl ConvNorm {
    pub(super) const fn new(conv: Conv, norm: BatchNorm, activation: Activation) -> Self {
        Self {
            conv,
            norm,
            activation,
        }
    }

    pub(super) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let x = self.norm.forward(&self.conv.forward(x)?, pass)?;
        self.activation.apply(x)
    }
}

/// `name.conv`, `name.bn` and a ReLU: the brick of both Inception families.
pub(super) fn conv_bn_relu(
    at: &mut Scope,
    name: &str,
    shape: ConvShape,
    channels: i64,
    eps: f64,
) -> Result<ConvNorm, RunError> {
    let mut at = at.at(name);
    let conv = at.conv("conv", shape)?;
    let norm = at.batch_norm("bn", channels, eps)?;
    Ok(ConvNorm::new(conv, norm, Activation::Relu))
}

/// Blocks one after the other.
pub(super) fn in_turn(blocks: &[ConvNorm], x: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
    let mut x = x.shallow_clone();
    for block in blocks {
        x = block.forward(&x, pass)?;
    }
    Ok(x)
}

/// The mean of each channel over the whole picture: `[N, C, H, W]` to `[N, C]`, whatever H and W.
pub(super) fn global_mean(x: &Tensor) -> Result<Tensor, TchError> {
    // Adaptive, so that pictures need not have the size that the published weights were trained
    // for.
    x.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)
}

/// The largest of each `side` x `side` window.
pub(super) fn max_pool(
    x: &Tensor,
    side: i64,
    stride: i64,
    padding: i64,
) -> Result<Tensor, TchError> {
    x.f_max_pool2d(
        [side, side],
        [stride, stride],
        [padding, padding],
        [1, 1],
        false,
    )
}

/// The mean of each 3 x 3 window, one value a pixel.
pub(super) fn mean_3x3(x: &Tensor, counts_padding: bool) -> Result<Tensor, TchError> {
    x.f_avg_pool2d([3, 3], [1, 1], [1, 1], false, counts_padding, None::<i64>)
}

/// The mean of each 2 x 2 window: half the size.
pub(super) fn mean_2x2(x: &Tensor) -> Result<Tensor, TchError> {
    // With a divisor of its own choosing (None): tch's `avg_pool2d_default` passes 1, which makes
    // it a sum and published DenseNet weights useless.
    x.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>)
}
