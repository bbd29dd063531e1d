//! EfficientNet-B0 (Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural
//! networks", arXiv:1905.11946) and EfficientNet-Lite0, the same without squeeze-and-excitation and
//! with ReLU6, for small devices.
//!
//! | part      | size | blocks | kernel | widened by | channels |
//! |-----------|------|--------|--------|------------|----------|
//! | conv_stem | 1/2  |        | 3      |            | 32       |
//! | blocks.0  | 1/2  | 1      | 3      | 1          | 16       |
//! | blocks.1  | 1/4  | 2      | 3      | 6          | 24       |
//! | blocks.2  | 1/8  | 2      | 5      | 6          | 40       |
//! | blocks.3  | 1/16 | 3      | 3      | 6          | 80       |
//! | blocks.4  | 1/16 | 3      | 5      | 6          | 112      |
//! | blocks.5  | 1/32 | 4      | 5      | 6          | 192      |
//! | blocks.6  | 1/32 | 1      | 3      | 6          | 320      |
//! | conv_head | 1/32 |        | 1      |            | 1280     |
//!
//! Weights that were trained with TensorFlow want its padding, which is uneven for even sizes, and
//! its epsilon.

use tch::{TchError, Tensor};

use super::blocks::{Activation, ConvNorm, global_mean};
use super::layers::{Conv, ConvShape};
use super::pass::Pass;
use super::{Backbone, Rates};
use crate::error::RunError;
use crate::parameters::Scope;

/// Blocks, kernel side, stride of the first, widening, channels.
const STAGES: [(usize, i64, i64, i64, i64); 7] = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
];
const STEM_CHANNELS: i64 = 32;
const WIDTH: i64 = 1280;
/// A squeeze-and-excitation layer has a quarter of the channels that come into its block.
const SQUEEZE: i64 = 4;

/// What sets the members of the family apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    activation: Activation,
    squeezes: bool,
    pads_like_tensorflow: bool,
    eps: f64,
}

pub(super) const B0: Variant = Variant {
    activation: Activation::Silu,
    squeezes: true,
    pads_like_tensorflow: false,
    eps: 1e-5,
};
pub(super) const LITE0: Variant = Variant {
    activation: Activation::Relu6,
    squeezes: false,
    pads_like_tensorflow: false,
    eps: 1e-5,
};
pub(super) const TF_LITE0: Variant = Variant {
    pads_like_tensorflow: true,
    eps: 1e-3,
    ..LITE0
};

impl Variant {
    fn padded(self, shape: ConvShape, side: i64) -> ConvShape {
        if self.pads_like_tensorflow {
            shape.padding_like_tensorflow()
        } else {
            shape.padding([side / 2, side / 2])
        }
    }
}

/// Weighs the channels by what the whole picture has of each (Hu et al. 2018).
#[derive(Debug)]
struct SqueezeExcite {
    reduce: Conv,
    expand: Conv,
    activation: Activation,
}

impl SqueezeExcite {
    fn build(at: &mut Scope, channels: i64, inner: i64, v: Variant) -> Result<Self, RunError> {
        let reduce = Conv::of(channels, inner, [1, 1]).with_bias();
        let expand = Conv::of(inner, channels, [1, 1]).with_bias();
        Ok(Self {
            reduce: at.conv("se.conv_reduce", reduce)?,
            expand: at.conv("se.conv_expand", expand)?,
            activation: v.activation,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mean = x.f_mean_dim([2_i64, 3].as_slice(), true, None)?;
        let inner = self.activation.apply(self.reduce.forward(&mean)?)?;
        x.f_mul(&self.expand.forward(&inner)?.f_sigmoid()?)
    }
}

/// Widen, look at each channel, weigh the channels, narrow.
#[derive(Debug)]
struct Block {
    /// Absent in the first stage, which does not widen.
    widen: Option<ConvNorm>,
    depthwise: ConvNorm,
    squeeze: Option<SqueezeExcite>,
    narrow: ConvNorm,
    has_shortcut: bool,
    drop_path: f64,
}

impl Block {
    fn build(
        at: &mut Scope,
        (from, to): (i64, i64),
        (side, stride, widening): (i64, i64, i64),
        variant: Variant,
        drop_path: f64,
    ) -> Result<Self, RunError> {
        let inner = from * widening;
        // The names of the first stage's layers are one number behind.
        let (widen, norms, narrow) = if widening == 1 {
            (None, ["bn1", "bn2"], "conv_pw")
        } else {
            let conv = at.conv("conv_pw", Conv::of(from, inner, [1, 1]))?;
            let norm = at.batch_norm("bn1", inner, variant.eps)?;
            let widen = ConvNorm::new(conv, norm, variant.activation);
            (Some(widen), ["bn2", "bn3"], "conv_pwl")
        };
        let shape = Conv::of(inner, inner, [side, side]).depthwise();
        let conv = at.conv("conv_dw", variant.padded(shape.stride(stride), side))?;
        let norm = at.batch_norm(norms[0], inner, variant.eps)?;
        let depthwise = ConvNorm::new(conv, norm, variant.activation);
        let squeeze = if variant.squeezes {
            Some(SqueezeExcite::build(at, inner, from / SQUEEZE, variant)?)
        } else {
            None
        };
        let conv = at.conv(narrow, Conv::of(inner, to, [1, 1]))?;
        let norm = at.batch_norm(norms[1], to, variant.eps)?;
        Ok(Self {
            widen,
            depthwise,
            squeeze,
            narrow: ConvNorm::new(conv, norm, Activation::Identity),
            // A sum needs both sides of one shape.
            has_shortcut: stride == 1 && from == to,
            drop_path,
        })
    }

    fn forward(&self, input: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let mut x = match &self.widen {
            Some(widen) => widen.forward(input, pass)?,
            None => input.shallow_clone(),
        };
        x = self.depthwise.forward(&x, pass)?;
        if let Some(squeeze) = &self.squeeze {
            x = squeeze.forward(&x)?;
        }
        x = self.narrow.forward(&x, pass)?;
        if self.has_shortcut {
            x = pass.drop_path(&x, self.drop_path)?.f_add(input)?;
        }
        Ok(x)
    }
}

#[derive(Debug)]
pub(super) struct EfficientNet {
    stem: ConvNorm,
    blocks: Vec<Block>,
    head: ConvNorm,
}

impl EfficientNet {
    pub(super) fn build(at: &mut Scope, variant: Variant, rates: Rates) -> Result<Self, RunError> {
        let shape = Conv::of(3, STEM_CHANNELS, [3, 3]).stride(2);
        let conv = at.conv("conv_stem", variant.padded(shape, 3))?;
        let norm = at.batch_norm("bn1", STEM_CHANNELS, variant.eps)?;
        let stem = ConvNorm::new(conv, norm, variant.activation);
        let count: usize = STAGES.iter().map(|stage| stage.0).sum();
        let mut blocks = Vec::with_capacity(count);
        let mut from = STEM_CHANNELS;
        for (stage, (depth, side, first_stride, widening, to)) in STAGES.into_iter().enumerate() {
            for index in 0..depth {
                let stride = if index == 0 { first_stride } else { 1 };
                // As in timm the last block stays just below the full rate.
                let drop_path = rates.drop_path * blocks.len() as f64 / count as f64;
                let mut at = at.at(format!("blocks.{stage}.{index}"));
                let kernel = (side, stride, widening);
                blocks.push(Block::build(
                    &mut at,
                    (from, to),
                    kernel,
                    variant,
                    drop_path,
                )?);
                from = to;
            }
        }
        let conv = at.conv("conv_head", Conv::of(from, WIDTH, [1, 1]))?;
        let norm = at.batch_norm("bn2", WIDTH, variant.eps)?;
        Ok(Self {
            stem,
            blocks,
            head: ConvNorm::new(conv, norm, variant.activation),
        })
    }
}

impl Backbone for EfficientNet {
    fn features(&self, pictures: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let mut x = self.stem.forward(pictures, pass)?;
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
        }
        global_mean(&self.head.forward(&x, pass)?)
    }

    fn width(&self) -> i64 {
        WIDTH
    }
}
