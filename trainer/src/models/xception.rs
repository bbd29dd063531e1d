//! Xception (Chollet 2017, "Xception: deep learning with depthwise separable convolutions",
//! arXiv:1610.02357), as timm's `legacy_xception` has it.
//!
//! | part      | size at 299 | separable 3x3 convolutions                  | shortcut     |
//! |-----------|-------------|---------------------------------------------|--------------|
//! | stem      | 147         | plain 3x3/2 32, plain 3x3 64                |              |
//! | block1    | 74          | 128, 128, max pool/2                        | 1x1/2 128    |
//! | block2    | 37          | 256, 256, max pool/2                        | 1x1/2 256    |
//! | block3    | 19          | 728, 728, max pool/2                        | 1x1/2 728    |
//! | block4-11 | 19          | 8 x [728, 728, 728]                         | identity     |
//! | block12   | 10          | 728, 1024, max pool/2                       | 1x1/2 1024   |
//! | exit      | 10          | 1536, 2048, each with norm and ReLU         |              |
//!
//! In the blocks a ReLU comes before each convolution but the very first, and a norm after each.

use tch::{TchError, Tensor};

use super::Backbone;
use super::blocks::{Activation, ConvNorm, global_mean, max_pool};
use super::layers::{BatchNorm, Conv};
use super::pass::Pass;
use crate::error::RunError;
use crate::parameters::Scope;

const EPS: f64 = 1e-5;
const WIDTH: i64 = 2048;

/// A block: channels of its convolutions, and its stride.
const BLOCKS: [(&[i64], i64); 12] = [
    (&[128, 128], 2),
    (&[256, 256], 2),
    (&[728, 728], 2),
    (&[728, 728, 728], 1),
    (&[728, 728, 728], 1),
    (&[728, 728, 728], 1),
    (&[728, 728, 728], 1),
    (&[728, 728, 728], 1),
    (&[728, 728, 728], 1),
    (&[728, 728, 728], 1),
    (&[728, 728, 728], 1),
    (&[728, 1024], 2),
];

/// Each channel by itself over 3x3, then a mix of channels; norm.
#[derive(Debug)]
struct Separable {
    depthwise: Conv,
    pointwise: Conv,
    norm: BatchNorm,
}

#[derive(Debug)]
struct Block {
    convs: Vec<Separable>,
    starts_with_relu: bool,
    stride: i64,
    shortcut: Option<ConvNorm>,
}

#[derive(Debug)]
pub(super) struct Xception {
    stem: [ConvNorm; 2],
    blocks: Vec<Block>,
    exit: [Separable; 2],
}

impl Separable {
    fn build(at: &mut Scope, conv: &str, norm: &str, from: i64, to: i64) -> Result<Self, RunError> {
        let shape = Conv::of(from, from, [3, 3]).padding([1, 1]).depthwise();
        Ok(Self {
            depthwise: at.conv(&format!("{conv}.conv1"), shape)?,
            pointwise: at.conv(&format!("{conv}.pointwise"), Conv::of(from, to, [1, 1]))?,
            norm: at.batch_norm(norm, to, EPS)?,
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let x = self.pointwise.forward(&self.depthwise.forward(x)?)?;
        self.norm.forward(&x, pass)
    }
}

impl Block {
    fn build(
        at: &mut Scope,
        from: i64,
        channels: &[i64],
        stride: i64,
        starts_with_relu: bool,
    ) -> Result<Self, RunError> {
        let mut convs = Vec::with_capacity(channels.len());
        let mut inner = from;
        // Names count ReLU, convolution, norm; the first block has no ReLU at its start.
        let mut place = usize::from(starts_with_relu);
        for &to in channels {
            let (conv, norm) = (format!("rep.{place}"), format!("rep.{}", place + 1));
            convs.push(Separable::build(at, &conv, &norm, inner, to)?);
            place += 3;
            inner = to;
        }
        let shortcut = if stride != 1 || from != inner {
            let conv = at.conv("skip", Conv::of(from, inner, [1, 1]).stride(stride))?;
            let norm = at.batch_norm("skipbn", inner, EPS)?;
            Some(ConvNorm::new(conv, norm, Activation::Identity))
        } else {
            None
        };
        Ok(Self {
            convs,
            starts_with_relu,
            stride,
            shortcut,
        })
    }

    fn forward(&self, input: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let mut x = input.shallow_clone();
        for (index, conv) in self.convs.iter().enumerate() {
            if index > 0 || self.starts_with_relu {
                // Not in place: the first one's input is also the shortcut's.
                x = x.f_relu()?;
            }
            x = conv.forward(&x, pass)?;
        }
        if self.stride != 1 {
            x = max_pool(&x, 3, self.stride, 1)?;
        }
        match &self.shortcut {
            Some(shortcut) => x.f_add(&shortcut.forward(input, pass)?),
            None => x.f_add(input),
        }
    }
}

impl Xception {
    pub(super) fn build(at: &mut Scope) -> Result<Self, RunError> {
        let conv1 = at.conv("conv1", Conv::of(3, 32, [3, 3]).stride(2))?;
        let bn1 = at.batch_norm("bn1", 32, EPS)?;
        let conv2 = at.conv("conv2", Conv::of(32, 64, [3, 3]))?;
        let bn2 = at.batch_norm("bn2", 64, EPS)?;
        let mut blocks = Vec::with_capacity(BLOCKS.len());
        let mut from = 64;
        for (number, (channels, stride)) in (1..).zip(BLOCKS) {
            let mut at = at.at(format!("block{number}"));
            blocks.push(Block::build(&mut at, from, channels, stride, number > 1)?);
            from = channels[channels.len() - 1];
        }
        Ok(Self {
            stem: [
                ConvNorm::new(conv1, bn1, Activation::Relu),
                ConvNorm::new(conv2, bn2, Activation::Relu),
            ],
            blocks,
            exit: [
                Separable::build(at, "conv3", "bn3", from, 1536)?,
                Separable::build(at, "conv4", "bn4", 1536, WIDTH)?,
            ],
        })
    }
}

impl Backbone for Xception {
    fn features(&self, pictures: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let mut x = pictures.shallow_clone();
        for conv in &self.stem {
            x = conv.forward(&x, pass)?;
        }
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
        }
        for conv in &self.exit {
            x = Activation::Relu.apply(conv.forward(&x, pass)?)?;
        }
        global_mean(&x)
    }

    fn width(&self) -> i64 {
        WIDTH
    }
}
