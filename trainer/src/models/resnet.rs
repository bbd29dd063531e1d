//! ResNet (He et al. 2016, "Deep residual learning for image recognition", arXiv:1512.03385), with
//! the stride in a bottleneck's 3x3 convolution, as all published weights have it.
//!
//! | stage   | size | ResNet-18        | ResNet-34        | ResNet-50                    |
//! |---------|------|------------------|------------------|------------------------------|
//! | stem    | 1/4  | 7x7 64 stride 2, max pool 3x3 stride 2 (all)                       |||
//! | layer1  | 1/4  | 2 x [3x3 64] x 2 | 3 x [3x3 64] x 2 | 3 x [1x1 64, 3x3 64, 1x1 256]   |
//! | layer2  | 1/8  | 2 x [128]        | 4 x [128]        | 4 x [128, 128, 512]          |
//! | layer3  | 1/16 | 2 x [256]        | 6 x [256]        | 6 x [256, 256, 1024]         |
//! | layer4  | 1/32 | 2 x [512]        | 3 x [512]        | 3 x [512, 512, 2048]         |

use tch::{TchError, Tensor};

use super::blocks::{Activation, ConvNorm, global_mean, in_turn, max_pool};
use super::layers::{Conv, ConvShape};
use super::pass::{Pass, linear_rate};
use super::{Backbone, Rates};
use crate::error::RunError;
use crate::parameters::Scope;

const EPS: f64 = 1e-5;
const STEM_CHANNELS: i64 = 64;
/// Channels of a block's 3x3 convolutions in each stage.
const STAGE_CHANNELS: [i64; 4] = [64, 128, 256, 512];

/// What a residual block is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3, and a 1x1 that widens by four.
    Bottleneck,
}

/// Depth of a ResNet: its block and how many in each stage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Depth {
    block: Block,
    depths: [usize; 4],
}

pub(super) const RESNET18: Depth = Depth {
    block: Block::Basic,
    depths: [2, 2, 2, 2],
};
pub(super) const RESNET34: Depth = Depth {
    block: Block::Basic,
    depths: [3, 4, 6, 3],
};
pub(super) const RESNET50: Depth = Depth {
    block: Block::Bottleneck,
    depths: [3, 4, 6, 3],
};

impl Block {
    /// Channels that come out for each of its 3x3 convolution.
    const fn expansion(self) -> i64 {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }

    /// The convolutions of one block, in order.
    fn convs(self, from: i64, channels: i64, stride: i64) -> Vec<ConvShape> {
        let three = |from, stride| {
            Conv::of(from, channels, [3, 3])
                .padding([1, 1])
                .stride(stride)
        };
        match self {
            Self::Basic => vec![three(from, stride), three(channels, 1)],
            Self::Bottleneck => vec![
                Conv::of(from, channels, [1, 1]),
                three(channels, stride),
                Conv::of(channels, channels * self.expansion(), [1, 1]),
            ],
        }
    }
}

#[derive(Debug)]
pub(super) struct ResNet {
    stem: ConvNorm,
    blocks: Vec<Residual>,
    width: i64,
}

#[derive(Debug)]
struct Residual {
    branch: Vec<ConvNorm>,
    /// Where the shape changes: a 1x1 convolution in place of the identity.
    shortcut: Option<ConvNorm>,
    drop_path: f64,
}

impl ResNet {
    pub(super) fn build(at: &mut Scope, plan: Depth, rates: Rates) -> Result<Self, RunError> {
        let shape = Conv::of(3, STEM_CHANNELS, [7, 7]).stride(2).padding([3, 3]);
        let conv = at.conv("conv1", shape)?;
        let norm = at.batch_norm("bn1", STEM_CHANNELS, EPS)?;
        let stem = ConvNorm::new(conv, norm, Activation::Relu);

        let count = plan.depths.iter().sum();
        let mut blocks = Vec::with_capacity(count);
        let mut from = STEM_CHANNELS;
        for (stage, (channels, depth)) in STAGE_CHANNELS.into_iter().zip(plan.depths).enumerate() {
            for index in 0..depth {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let drop_path = linear_rate(rates.drop_path, blocks.len(), count);
                let mut at = at.at(format!("layer{}.{index}", stage + 1));
                blocks.push(Residual::build(
                    &mut at, plan.block, from, channels, stride, drop_path,
                )?);
                from = channels * plan.block.expansion();
            }
        }
        Ok(Self {
            stem,
            blocks,
            width: from,
        })
    }
}

impl Residual {
    fn build(
        at: &mut Scope,
        block: Block,
        from: i64,
        channels: i64,
        stride: i64,
        drop_path: f64,
    ) -> Result<Self, RunError> {
        let to = channels * block.expansion();
        let shapes = block.convs(from, channels, stride);
        let last = shapes.len();
        let mut branch = Vec::with_capacity(last);
        for (index, shape) in (1..).zip(shapes) {
            let conv = at.conv(&format!("conv{index}"), shape)?;
            let name = format!("bn{index}");
            branch.push(if index == last {
                let norm = at.last_batch_norm(&name, to, EPS)?;
                ConvNorm::new(conv, norm, Activation::Identity)
            } else {
                let norm = at.batch_norm(&name, channels, EPS)?;
                ConvNorm::new(conv, norm, Activation::Relu)
            });
        }
        let shortcut = if stride != 1 || from != to {
            let conv = at.conv("downsample.0", Conv::of(from, to, [1, 1]).stride(stride))?;
            let norm = at.batch_norm("downsample.1", to, EPS)?;
            Some(ConvNorm::new(conv, norm, Activation::Identity))
        } else {
            None
        };
        Ok(Self {
            branch,
            shortcut,
            drop_path,
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let mut branch = pass.drop_path(&in_turn(&self.branch, x, pass)?, self.drop_path)?;
        let shortcut = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x, pass)?,
            None => x.shallow_clone(),
        };
        // Nobody else needs the branch's own values: they are overwritten, to save memory.
        Activation::Relu.apply(branch.f_add_(&shortcut)?)
    }
}

impl Backbone for ResNet {
    fn features(&self, pictures: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let mut x = max_pool(&self.stem.forward(pictures, pass)?, 3, 2, 1)?;
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
        }
        global_mean(&x)
    }

    fn width(&self) -> i64 {
        self.width
    }
}
