//! DenseNet-121 (Huang et al. 2017, "Densely connected convolutional networks", arXiv:1608.06993,
//! DenseNet-BC with growth rate 32): each layer sees the outputs of all before it in its block.
//!
//! | part         | size | what                                       | channels out |
//! |--------------|------|--------------------------------------------|--------------|
//! | stem         | 1/4  | 7x7 64 stride 2, max pool 3x3 stride 2     | 64           |
//! | denseblock1  | 1/4  | 6 x [1x1 128, 3x3 32]                      | 256          |
//! | transition1  | 1/8  | 1x1 to half the channels, mean pool 2x2    | 128          |
//! | denseblock2  | 1/8  | 12 x [..]                                  | 512          |
//! | transition2  | 1/16 |                                            | 256          |
//! | denseblock3  | 1/16 | 24 x [..]                                  | 1024         |
//! | transition3  | 1/32 |                                            | 512          |
//! | denseblock4  | 1/32 | 16 x [..]                                  | 1024         |
//!
//! Norm and ReLU come before each convolution, and once more at the end.

use tch::{TchError, Tensor};

use super::Backbone;
use super::blocks::{Activation, ConvNorm, global_mean, max_pool, mean_2x2};
use super::layers::{BatchNorm, Conv};
use super::pass::Pass;
use crate::error::RunError;
use crate::parameters::Scope;

const EPS: f64 = 1e-5;
const GROWTH: i64 = 32;
const STEM_CHANNELS: i64 = 64;
/// Channels of a layer's 1x1 convolution.
const BOTTLENECK: i64 = 4 * GROWTH;
/// Layers of each block.
const DEPTHS: [usize; 4] = [6, 12, 24, 16];

/// Norm, ReLU, convolution.
#[derive(Debug)]
struct NormConv {
    norm: BatchNorm,
    conv: Conv,
}

impl NormConv {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let x = Activation::Relu.apply(self.norm.forward(x, pass)?)?;
        self.conv.forward(&x)
    }
}

#[derive(Debug)]
struct DenseBlock {
    layers: Vec<[NormConv; 2]>,
    /// Absent after the last block.
    transition: Option<NormConv>,
}

#[derive(Debug)]
pub(super) struct DenseNet {
    stem: ConvNorm,
    blocks: Vec<DenseBlock>,
    last_norm: BatchNorm,
    width: i64,
}

impl DenseNet {
    pub(super) fn build(at: &mut Scope) -> Result<Self, RunError> {
        let mut at = at.at("features");
        let shape = Conv::of(3, STEM_CHANNELS, [7, 7]).stride(2).padding([3, 3]);
        let conv = at.conv("conv0", shape.he_in_normal())?;
        let norm = at.batch_norm("norm0", STEM_CHANNELS, EPS)?;
        let stem = ConvNorm::new(conv, norm, Activation::Relu);
        let mut blocks = Vec::with_capacity(DEPTHS.len());
        let mut channels = STEM_CHANNELS;
        for (number, depth) in (1..).zip(DEPTHS) {
            let mut layers = Vec::with_capacity(depth);
            for layer in 1..=depth {
                let mut at = at.at(format!("denseblock{number}.denselayer{layer}"));
                layers.push(dense_layer(&mut at, channels)?);
                channels += GROWTH;
            }
            let transition = if number < DEPTHS.len() {
                let mut at = at.at(format!("transition{number}"));
                let norm = at.batch_norm("norm", channels, EPS)?;
                let shape = Conv::of(channels, channels / 2, [1, 1]).he_in_normal();
                let conv = at.conv("conv", shape)?;
                channels /= 2;
                Some(NormConv { norm, conv })
            } else {
                None
            };
            blocks.push(DenseBlock { layers, transition });
        }
        Ok(Self {
            stem,
            blocks,
            last_norm: at.batch_norm("norm5", channels, EPS)?,
            width: channels,
        })
    }
}

fn dense_layer(at: &mut Scope, channels: i64) -> Result<[NormConv; 2], RunError> {
    let narrow = NormConv {
        norm: at.batch_norm("norm1", channels, EPS)?,
        conv: at.conv(
            "conv1",
            Conv::of(channels, BOTTLENECK, [1, 1]).he_in_normal(),
        )?,
    };
    let grow = NormConv {
        norm: at.batch_norm("norm2", BOTTLENECK, EPS)?,
        conv: at.conv(
            "conv2",
            Conv::of(BOTTLENECK, GROWTH, [3, 3])
                .padding([1, 1])
                .he_in_normal(),
        )?,
    };
    Ok([narrow, grow])
}

impl DenseBlock {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let mut seen = vec![x.shallow_clone()];
        for [narrow, grow] in &self.layers {
            let all = Tensor::f_cat(&seen, 1)?;
            seen.push(grow.forward(&narrow.forward(&all, pass)?, pass)?);
        }
        let x = Tensor::f_cat(&seen, 1)?;
        match &self.transition {
            Some(transition) => mean_2x2(&transition.forward(&x, pass)?),
            None => Ok(x),
        }
    }
}

impl Backbone for DenseNet {
    fn features(&self, pictures: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let mut x = max_pool(&self.stem.forward(pictures, pass)?, 3, 2, 1)?;
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
        }
        let x = self.last_norm.forward(&x, pass)?;
        global_mean(&Activation::Relu.apply(x)?)
    }

    fn width(&self) -> i64 {
        self.width
    }
}
