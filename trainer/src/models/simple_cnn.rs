//! `simple-cnn`: four convolutions for small pictures, about 80,000 parameters. It learns the
//! generated posters at 48x72 within a minute on two cores, and takes any size of 16x16 or more.
//!
//! No batch-norm: each picture is normalised by itself, so that 2 ranks of half a batch compute
//! exactly what 1 rank of the whole batch does.

use tch::{TchError, Tensor};

use super::Model;
use crate::error::RunError;
use crate::parameters::{Conv, GroupNorm, Linear, Parameters};

/// Channels after each convolution.
const CHANNELS: [i64; 4] = [16, 32, 64, 96];
/// Channels that are normalised together.
const GROUP: i64 = 8;

#[derive(Debug)]
struct Block {
    conv: Conv,
    norm: GroupNorm,
}

#[derive(Debug)]
pub(super) struct SimpleCnn {
    blocks: Vec<Block>,
    head: Linear,
}

impl SimpleCnn {
    pub(super) fn build(parameters: &mut Parameters, classes: i64) -> Result<Self, RunError> {
        let mut blocks = Vec::with_capacity(CHANNELS.len());
        let mut from = 3;
        for (index, to) in CHANNELS.into_iter().enumerate() {
            blocks.push(Block {
                conv: parameters.conv(&format!("blocks.{index}.conv"), from, to, 3)?,
                norm: parameters.group_norm(&format!("blocks.{index}.norm"), to / GROUP, to)?,
            });
            from = to;
        }
        // Mean and maximum of each channel side by side: how much of a thing there is in the
        // picture, such as a colour, and whether it is there at all, such as a small figure.
        Ok(Self {
            blocks,
            head: parameters.linear("head", 2 * from, classes)?,
        })
    }
}

impl Model for SimpleCnn {
    fn forward(&self, pictures: &Tensor) -> Result<Tensor, TchError> {
        let mut x = pictures.shallow_clone();
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.norm.forward(&block.conv.forward(&x)?)?.f_relu()?;
            if index + 1 < self.blocks.len() {
                x = x.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?;
            }
        }
        let mean = x.f_mean_dim([2_i64, 3].as_slice(), false, None)?;
        let peak = x.f_amax([2_i64, 3], false)?;
        self.head.forward(&Tensor::f_cat(&[mean, peak], 1)?)
    }
}
