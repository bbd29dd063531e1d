//! Inception-ResNet-v2 (Szegedy et al. 2017, "Inception-v4, Inception-ResNet and the impact of
//! residual connections on learning", arXiv:1602.07261).
//!
//! | part      | size at 299 | what                                                        | out  |
//! |-----------|-------------|-------------------------------------------------------------|------|
//! | stem      | 35          | 3x3/2 32, 3x3 32, 3x3 64, pool/2, 1x1 80, 3x3 192, pool/2   | 192  |
//! | mixed_5b  | 35          | 1x1 96; 1x1 5x5 64; 1x1 3x3 3x3 96; mean pool 64            | 320  |
//! | repeat    | 35          | 10 residual blocks of 1x1; 1x1 3x3; 1x1 3x3 3x3, times 0.17 | 320  |
//! | mixed_6a  | 17          | 3x3/2 384; 1x1 3x3 3x3/2 384; max pool/2                    | 1088 |
//! | repeat_1  | 17          | 20 residual blocks of 1x1; 1x1 1x7 7x1, times 0.10          | 1088 |
//! | mixed_7a  | 8           | 1x1 3x3/2 384; the same 288; 1x1 3x3 3x3/2 320; max pool/2  | 2080 |
//! | repeat_2  | 8           | 9 residual blocks of 1x1; 1x1 1x3 3x1, times 0.20           | 2080 |
//! | block8    | 8           | one more, whole and without a ReLU at its end               | 2080 |
//! | conv2d_7b | 8           | 1x1 1536                                                    | 1536 |
//!
//! The mean pool of mixed_5b does not count the zeros of its padding, unlike Inception v3's.

use tch::{TchError, Tensor};

use super::Backbone;
use super::blocks::{Activation, ConvNorm, conv_bn_relu, global_mean, in_turn, max_pool, mean_3x3};
use super::layers::Conv;
use super::pass::Pass;
use crate::error::RunError;
use crate::parameters::Scope;

/// TensorFlow's, not PyTorch's 1e-5.
const EPS: f64 = 1e-3;
const WIDTH: i64 = 1536;

/// One convolution of a branch: channels that come out, kernel, stride, padding.
type Spec = (i64, [i64; 2], i64, [i64; 2]);

const fn one(to: i64) -> Spec {
    (to, [1, 1], 1, [0, 0])
}

const fn three(to: i64) -> Spec {
    (to, [3, 3], 1, [1, 1])
}

/// Halves the size.
const fn three_half(to: i64) -> Spec {
    (to, [3, 3], 2, [0, 0])
}

/// `side` columns, one row.
const fn wide(to: i64, side: i64) -> Spec {
    (to, [1, side], 1, [0, side / 2])
}

/// `side` rows, one column.
const fn high(to: i64, side: i64) -> Spec {
    (to, [side, 1], 1, [side / 2, 0])
}

#[derive(Debug)]
enum Branch {
    Convs(Vec<ConvNorm>),
    /// A mean over 3x3 first.
    MeanThen(ConvNorm),
    MaxPool,
}

/// Branches joined, brought back to the input's channels, scaled and added to it.
#[derive(Debug)]
struct Residual {
    branches: Vec<Branch>,
    join: Conv,
    scale: f64,
    activation: Activation,
}

#[derive(Debug)]
enum Block {
    Mixed(Vec<Branch>),
    Residual(Residual),
}

#[derive(Debug)]
pub(super) struct InceptionResNetV2 {
    /// Up to the first pool, and up to the second.
    stem: [Vec<ConvNorm>; 2],
    blocks: Vec<Block>,
    last: ConvNorm,
}

fn conv(at: &mut Scope, name: &str, from: i64, spec: Spec) -> Result<ConvNorm, RunError> {
    let (to, kernel, stride, padding) = spec;
    let shape = Conv::of(from, to, kernel).stride(stride).padding(padding);
    conv_bn_relu(at, name, shape.torch_init(), to, EPS)
}

/// `branch{number}`, of which a single convolution has no number of its own.
fn branch(at: &mut Scope, number: usize, from: i64, specs: &[Spec]) -> Result<Branch, RunError> {
    let mut at = at.at(format!("branch{number}"));
    let mut from = from;
    let mut convs = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        convs.push(conv(&mut at, &index.to_string(), from, *spec)?);
        from = spec.0;
    }
    Ok(Branch::Convs(convs))
}

fn single(at: &mut Scope, number: usize, from: i64, spec: Spec) -> Result<Branch, RunError> {
    let name = format!("branch{number}");
    Ok(Branch::Convs(vec![conv(at, &name, from, spec)?]))
}

/// A residual block on `from` channels: a 1x1 convolution of `first` channels beside `others`.
fn residual(
    at: &mut Scope,
    from: i64,
    first: i64,
    others: &[&[Spec]],
    scale: f64,
    activation: Activation,
) -> Result<Block, RunError> {
    let mut branches = vec![single(at, 0, from, one(first))?];
    let mut joined = first;
    for (number, specs) in (1..).zip(others) {
        branches.push(branch(at, number, from, specs)?);
        joined += specs.last().map_or(0, |spec| spec.0);
    }
    let shape = Conv::of(joined, from, [1, 1]).with_bias().torch_init();
    Ok(Block::Residual(Residual {
        branches,
        join: at.conv("conv2d", shape)?,
        scale,
        activation,
    }))
}

fn mixed_5b(at: &mut Scope) -> Result<Block, RunError> {
    Ok(Block::Mixed(vec![
        single(at, 0, 192, one(96))?,
        branch(at, 1, 192, &[one(48), (64, [5, 5], 1, [2, 2])])?,
        branch(at, 2, 192, &[one(64), three(96), three(96)])?,
        // Place 0 of this branch is the pool.
        Branch::MeanThen(conv(at, "branch3.1", 192, one(64))?),
    ]))
}

fn mixed_6a(at: &mut Scope) -> Result<Block, RunError> {
    Ok(Block::Mixed(vec![
        single(at, 0, 320, three_half(384))?,
        branch(at, 1, 320, &[one(256), three(256), three_half(384)])?,
        Branch::MaxPool,
    ]))
}

fn mixed_7a(at: &mut Scope) -> Result<Block, RunError> {
    Ok(Block::Mixed(vec![
        branch(at, 0, 1088, &[one(256), three_half(384)])?,
        branch(at, 1, 1088, &[one(256), three_half(288)])?,
        branch(at, 2, 1088, &[one(256), three(288), three_half(320)])?,
        Branch::MaxPool,
    ]))
}

fn block35(at: &mut Scope) -> Result<Block, RunError> {
    let others: [&[Spec]; 2] = [&[one(32), three(32)], &[one(32), three(48), three(64)]];
    residual(at, 320, 32, &others, 0.17, Activation::Relu)
}

fn block17(at: &mut Scope) -> Result<Block, RunError> {
    let others: [&[Spec]; 1] = [&[one(128), wide(160, 7), high(192, 7)]];
    residual(at, 1088, 192, &others, 0.10, Activation::Relu)
}

fn block8(at: &mut Scope, scale: f64, activation: Activation) -> Result<Block, RunError> {
    let others: [&[Spec]; 1] = [&[one(192), wide(224, 3), high(256, 3)]];
    residual(at, 2080, 192, &others, scale, activation)
}

impl InceptionResNetV2 {
    pub(super) fn build(at: &mut Scope) -> Result<Self, RunError> {
        let first = vec![
            conv(at, "conv2d_1a", 3, three_half(32))?,
            conv(at, "conv2d_2a", 32, (32, [3, 3], 1, [0, 0]))?,
            conv(at, "conv2d_2b", 32, three(64))?,
        ];
        let second = vec![
            conv(at, "conv2d_3b", 64, one(80))?,
            conv(at, "conv2d_4a", 80, (192, [3, 3], 1, [0, 0]))?,
        ];
        let mut blocks = vec![mixed_5b(&mut at.at("mixed_5b"))?];
        for index in 0..10 {
            blocks.push(block35(&mut at.at(format!("repeat.{index}")))?);
        }
        blocks.push(mixed_6a(&mut at.at("mixed_6a"))?);
        for index in 0..20 {
            blocks.push(block17(&mut at.at(format!("repeat_1.{index}")))?);
        }
        blocks.push(mixed_7a(&mut at.at("mixed_7a"))?);
        for index in 0..9 {
            let mut at = at.at(format!("repeat_2.{index}"));
            blocks.push(block8(&mut at, 0.20, Activation::Relu)?);
        }
        blocks.push(block8(&mut at.at("block8"), 1.0, Activation::Identity)?);
        Ok(Self {
            stem: [first, second],
            blocks,
            last: conv(at, "conv2d_7b", 2080, one(WIDTH))?,
        })
    }
}

impl Branch {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        match self {
            Self::Convs(convs) => in_turn(convs, x, pass),
            Self::MeanThen(conv) => conv.forward(&mean_3x3(x, false)?, pass),
            Self::MaxPool => max_pool(x, 3, 2, 0),
        }
    }
}

fn joined(branches: &[Branch], x: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
    let parts = branches
        .iter()
        .map(|branch| branch.forward(x, pass))
        .collect::<Result<Vec<_>, _>>()?;
    Tensor::f_cat(&parts, 1)
}

impl Block {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        match self {
            Self::Mixed(branches) => joined(branches, x, pass),
            Self::Residual(block) => {
                let y = block.join.forward(&joined(&block.branches, x, pass)?)?;
                // Scaled down as in the paper (section 3.3): with as many channels, training became
                // unstable without.
                let y = y.f_mul_scalar(block.scale)?.f_add(x)?;
                block.activation.apply(y)
            }
        }
    }
}

impl Backbone for InceptionResNetV2 {
    fn features(&self, pictures: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let mut x = pictures.shallow_clone();
        for convs in &self.stem {
            x = max_pool(&in_turn(convs, &x, pass)?, 3, 2, 0)?;
        }
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
        }
        global_mean(&self.last.forward(&x, pass)?)
    }

    fn width(&self) -> i64 {
        WIDTH
    }
}
