//! VGG-16 (Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image
//! recognition", arXiv:1409.1556, configuration D), plain and with batch-norm.
//!
//! | stage | size | 3x3 convolutions, each with ReLU |
//! |-------|------|----------------------------------|
//! | 1     | 1    | 64, 64, max pool 2x2             |
//! | 2     | 1/2  | 128, 128, max pool               |
//! | 3     | 1/4  | 256, 256, 256, max pool          |
//! | 4     | 1/8  | 512, 512, 512, max pool          |
//! | 5     | 1/16 | 512, 512, 512, max pool          |
//! | fc    | 1/32 | 7x7 4096, 1x1 4096, mean         |
//!
//! As in timm, the two hidden layers of the classifier are convolutions, and a map of less than 7x7
//! is first spread to 7x7, so that any picture of 32x32 or more will do.

use tch::{TchError, Tensor};

use super::blocks::{Activation, ConvNorm, global_mean, max_pool};
use super::layers::Conv;
use super::pass::Pass;
use super::{Backbone, Rates};
use crate::error::RunError;
use crate::parameters::Scope;

const STAGES: [&[i64]; 5] = [
    &[64, 64],
    &[128, 128],
    &[256, 256, 256],
    &[512, 512, 512],
    &[512, 512, 512],
];
const EPS: f64 = 1e-5;
const HIDDEN: i64 = 4096;
/// Sides of the map that the first hidden layer looks at.
const MAP_SIDE: i64 = 7;

/// Whether a batch-norm follows each convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Norm {
    None,
    Batch,
}

#[derive(Debug)]
enum Layer {
    Plain(Conv),
    Normed(ConvNorm),
}

#[derive(Debug)]
pub(super) struct Vgg {
    stages: Vec<Vec<Layer>>,
    fc1: Conv,
    fc2: Conv,
    dropout: f64,
}

impl Vgg {
    pub(super) fn build(at: &mut Scope, norm: Norm, rates: Rates) -> Result<Self, RunError> {
        let mut stages = Vec::with_capacity(STAGES.len());
        let mut from = 3;
        // Names count layers: convolution, norm if there is one, ReLU; and a pool a stage.
        let mut place = 0;
        for channels in STAGES {
            let mut layers = Vec::with_capacity(channels.len());
            for &to in channels {
                let shape = Conv::of(from, to, [3, 3]).padding([1, 1]).with_bias();
                let conv = at.conv(&format!("features.{place}"), shape)?;
                layers.push(match norm {
                    Norm::None => Layer::Plain(conv),
                    Norm::Batch => {
                        place += 1;
                        let norm = at.batch_norm(&format!("features.{place}"), to, EPS)?;
                        Layer::Normed(ConvNorm::new(conv, norm, Activation::Relu))
                    }
                });
                place += 2;
                from = to;
            }
            place += 1;
            stages.push(layers);
        }
        let fc1 = Conv::of(from, HIDDEN, [MAP_SIDE, MAP_SIDE]).with_bias();
        let fc2 = Conv::of(HIDDEN, HIDDEN, [1, 1]).with_bias();
        Ok(Self {
            stages,
            fc1: at.conv("pre_logits.fc1", fc1)?,
            fc2: at.conv("pre_logits.fc2", fc2)?,
            dropout: rates.dropout,
        })
    }
}

impl Layer {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        match self {
            Self::Plain(conv) => Activation::Relu.apply(conv.forward(x)?),
            Self::Normed(block) => block.forward(x, pass),
        }
    }
}

impl Backbone for Vgg {
    fn features(&self, pictures: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let mut x = pictures.shallow_clone();
        for stage in &self.stages {
            for layer in stage {
                x = layer.forward(&x, pass)?;
            }
            x = max_pool(&x, 2, 2, 0)?;
        }
        let (_, _, height, width) = x.size4()?;
        if height < MAP_SIDE || width < MAP_SIDE {
            x = x.f_adaptive_avg_pool2d([height.max(MAP_SIDE), width.max(MAP_SIDE)])?;
        }
        x = Activation::Relu.apply(self.fc1.forward(&x)?)?;
        x = pass.dropout(&x, self.dropout)?;
        x = Activation::Relu.apply(self.fc2.forward(&x)?)?;
        global_mean(&x)
    }

    fn width(&self) -> i64 {
        HIDDEN
    }
}
