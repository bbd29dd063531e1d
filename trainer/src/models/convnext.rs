//! ConvNeXt-Tiny (Liu et al. 2022, "A ConvNet for the 2020s", arXiv:2201.03545).
//!
//! | part     | size | what                                                       |
//! |----------|------|------------------------------------------------------------|
//! | stem     | 1/4  | 4x4 96 stride 4, layer norm                                |
//! | stages.0 | 1/4  | 3 blocks of 96                                             |
//! | stages.1 | 1/8  | layer norm, 2x2 192 stride 2; 3 blocks                     |
//! | stages.2 | 1/16 | layer norm, 2x2 384 stride 2; 9 blocks                     |
//! | stages.3 | 1/32 | layer norm, 2x2 768 stride 2; 3 blocks                     |
//! | head     | 1    | mean, layer norm                                           |
//!
//! A block: 7x7 of each channel, layer norm over channels, four times as many channels, GELU, back,
//! times a learnt factor a channel, added to its input.

use tch::{TchError, Tensor};

use super::blocks::global_mean;
use super::layers::{Conv, LayerNorm, Linear};
use super::pass::{Pass, linear_rate};
use super::{Backbone, Rates};
use crate::error::RunError;
use crate::parameters::{Init, Scope};

const CHANNELS: [i64; 4] = [96, 192, 384, 768];
const DEPTHS: [usize; 4] = [3, 3, 9, 3];
/// Not PyTorch's 1e-5: the difference hides below 3e-5 in the logits.
const EPS: f64 = 1e-6;
const PATCH: i64 = 4;
const WIDENING: i64 = 4;
const INIT_STD: f64 = 0.02;
/// Blocks start as if they were hardly there.
const FIRST_SCALE: f64 = 1e-6;

#[derive(Debug)]
struct Block {
    depthwise: Conv,
    norm: LayerNorm,
    widen: Linear,
    narrow: Linear,
    /// One factor a channel.
    scale: Tensor,
    drop_path: f64,
}

impl Block {
    fn build(at: &mut Scope, channels: i64, drop_path: f64) -> Result<Self, RunError> {
        let shape = Conv::of(channels, channels, [7, 7]).padding([3, 3]);
        let shape = shape.depthwise().with_bias().normal(INIT_STD);
        let inner = channels * WIDENING;
        Ok(Self {
            scale: at.weight("gamma", &[channels], Init::Constant(FIRST_SCALE))?,
            depthwise: at.conv("conv_dw", shape)?,
            norm: at.layer_norm("norm", channels, EPS)?,
            widen: at.linear_normal("mlp.fc1", [channels, inner], INIT_STD)?,
            narrow: at.linear_normal("mlp.fc2", [inner, channels], INIT_STD)?,
            drop_path,
        })
    }

    fn forward(&self, input: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let x = self.depthwise.forward(input)?.f_permute([0, 2, 3, 1])?;
        let x = self.widen.forward(&self.norm.forward(&x)?)?;
        let x = self.narrow.forward(&x.f_gelu("none")?)?;
        let x = x.f_mul(&self.scale)?.f_permute([0, 3, 1, 2])?;
        pass.drop_path(&x, self.drop_path)?.f_add(input)
    }
}

#[derive(Debug)]
struct Stage {
    /// Halves the size; absent in the first stage.
    downsample: Option<(LayerNorm, Conv)>,
    blocks: Vec<Block>,
}

#[derive(Debug)]
pub(super) struct ConvNext {
    stem: (Conv, LayerNorm),
    stages: Vec<Stage>,
    last_norm: LayerNorm,
}

impl ConvNext {
    pub(super) fn build(at: &mut Scope, rates: Rates) -> Result<Self, RunError> {
        let patches = |from, to, side| {
            let shape = Conv::of(from, to, [side, side]).stride(side);
            shape.with_bias().normal(INIT_STD)
        };
        let stem = (
            at.conv("stem.0", patches(3, CHANNELS[0], PATCH))?,
            at.layer_norm("stem.1", CHANNELS[0], EPS)?,
        );
        let count = DEPTHS.iter().sum();
        let mut index = 0;
        let mut stages = Vec::with_capacity(DEPTHS.len());
        let mut from = CHANNELS[0];
        for (stage, (depth, channels)) in DEPTHS.into_iter().zip(CHANNELS).enumerate() {
            let mut at = at.at(format!("stages.{stage}"));
            let downsample = if stage == 0 {
                None
            } else {
                let norm = at.layer_norm("downsample.0", from, EPS)?;
                let conv = at.conv("downsample.1", patches(from, channels, 2))?;
                Some((norm, conv))
            };
            let mut blocks = Vec::with_capacity(depth);
            for block in 0..depth {
                let drop_path = linear_rate(rates.drop_path, index, count);
                let mut at = at.at(format!("blocks.{block}"));
                blocks.push(Block::build(&mut at, channels, drop_path)?);
                index += 1;
            }
            stages.push(Stage { downsample, blocks });
            from = channels;
        }
        Ok(Self {
            stem,
            stages,
            last_norm: at.layer_norm("head.norm", from, EPS)?,
        })
    }
}

impl Backbone for ConvNext {
    fn features(&self, pictures: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let (patches, norm) = &self.stem;
        let mut x = norm.over_channels(&patches.forward(pictures)?)?;
        for stage in &self.stages {
            if let Some((norm, conv)) = &stage.downsample {
                x = conv.forward(&norm.over_channels(&x)?)?;
            }
            for block in &stage.blocks {
                x = block.forward(&x, pass)?;
            }
        }
        self.last_norm.forward(&global_mean(&x)?)
    }

    fn width(&self) -> i64 {
        CHANNELS[CHANNELS.len() - 1]
    }
}
