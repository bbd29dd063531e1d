//! Inception v3 (Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision",
//! arXiv:1512.00567), without the auxiliary classifier, which serves training from scratch alone.
//!
//! | part        | size at 299 | branches, joined side by side                              | out  |
//! |-------------|-------------|------------------------------------------------------------|------|
//! | stem        | 35          | 3x3/2 32, 3x3 32, 3x3 64, pool/2, 1x1 80, 3x3 192, pool/2  | 192  |
//! | Mixed_5b-d  | 35          | 1x1, 5x5, two 3x3, mean pool                       | 256, 288, 288 |
//! | Mixed_6a    | 17          | 3x3/2, two 3x3 the last /2, max pool/2                     | 768  |
//! | Mixed_6b-e  | 17          | 1x1, 1x7 7x1, twice that, mean pool; 128, 160, 160, 192 inside | 768 |
//! | Mixed_7a    | 8           | 3x3/2, 1x7 7x1 3x3/2, max pool/2                           | 1280 |
//! | Mixed_7b-c  | 8           | 1x1, 3x3 in two halves, 3x3 and that, mean pool            | 2048 |
//!
//! Mean pools count the zeros of their padding, as in torchvision and timm. Pictures are taken as
//! they are: torchvision's option to turn one normalisation into another is not here, for timm's mean
//! and std (0.5) are what it turns them into.

use tch::{TchError, Tensor};

use super::Backbone;
use super::blocks::{ConvNorm, conv_bn_relu, global_mean, in_turn, max_pool, mean_3x3};
use super::layers::{Conv, ConvShape};
use super::pass::Pass;
use crate::error::RunError;
use crate::parameters::Scope;

/// TensorFlow's, not PyTorch's 1e-5.
const EPS: f64 = 1e-3;
const WIDTH: i64 = 2048;
/// Spread of the first weights.
const INIT_STD: f64 = 0.1;

/// One convolution of a branch: name, channels that come out, kernel, stride, padding.
type Spec = (&'static str, i64, [i64; 2], i64, [i64; 2]);

/// What becomes of the input of a mixed block, branch by branch.
#[derive(Debug)]
enum Branch {
    Convs(Vec<ConvNorm>),
    /// A mean over 3x3 first.
    MeanThen(ConvNorm),
    MaxPool,
    /// Convolutions, and then two more on the same input, side by side.
    Split(Vec<ConvNorm>, [ConvNorm; 2]),
}

#[derive(Debug)]
pub(super) struct InceptionV3 {
    /// Up to the first pool, and up to the second.
    stem: [Vec<ConvNorm>; 2],
    mixed: Vec<Vec<Branch>>,
}

/// Adds blocks below a scope, and knows how many channels there are.
struct Builder<'a, 'b> {
    at: &'a mut Scope<'b>,
    from: i64,
}

impl Builder<'_, '_> {
    /// Convolutions one after the other on the block's input.
    fn convs(&mut self, specs: &[Spec]) -> Result<Vec<ConvNorm>, RunError> {
        let mut from = self.from;
        let mut convs = Vec::with_capacity(specs.len());
        for spec in specs {
            convs.push(self.conv(from, *spec)?);
            from = spec.1;
        }
        Ok(convs)
    }

    fn conv(&mut self, from: i64, spec: Spec) -> Result<ConvNorm, RunError> {
        let (name, to, kernel, stride, padding) = spec;
        let shape: ConvShape = Conv::of(from, to, kernel).stride(stride).padding(padding);
        conv_bn_relu(self.at, name, shape.normal(INIT_STD), to, EPS)
    }

    fn branch(&mut self, specs: &[Spec]) -> Result<Branch, RunError> {
        Ok(Branch::Convs(self.convs(specs)?))
    }

    fn mean_branch(&mut self, channels: i64) -> Result<Branch, RunError> {
        let spec = ("branch_pool", channels, [1, 1], 1, [0, 0]);
        Ok(Branch::MeanThen(self.conv(self.from, spec)?))
    }

    fn split(&mut self, specs: &[Spec], halves: [Spec; 2]) -> Result<Branch, RunError> {
        let convs = self.convs(specs)?;
        let from = specs.last().map_or(self.from, |spec| spec.1);
        let [first, second] = halves;
        Ok(Branch::Split(
            convs,
            [self.conv(from, first)?, self.conv(from, second)?],
        ))
    }
}

/// 35x35.
fn mixed_5(b: &mut Builder, pool: i64) -> Result<Vec<Branch>, RunError> {
    Ok(vec![
        b.branch(&[("branch1x1", 64, [1, 1], 1, [0, 0])])?,
        b.branch(&[
            ("branch5x5_1", 48, [1, 1], 1, [0, 0]),
            ("branch5x5_2", 64, [5, 5], 1, [2, 2]),
        ])?,
        b.branch(&[
            ("branch3x3dbl_1", 64, [1, 1], 1, [0, 0]),
            ("branch3x3dbl_2", 96, [3, 3], 1, [1, 1]),
            ("branch3x3dbl_3", 96, [3, 3], 1, [1, 1]),
        ])?,
        b.mean_branch(pool)?,
    ])
}

/// 35x35 to 17x17.
fn mixed_6a(b: &mut Builder) -> Result<Vec<Branch>, RunError> {
    Ok(vec![
        b.branch(&[("branch3x3", 384, [3, 3], 2, [0, 0])])?,
        b.branch(&[
            ("branch3x3dbl_1", 64, [1, 1], 1, [0, 0]),
            ("branch3x3dbl_2", 96, [3, 3], 1, [1, 1]),
            ("branch3x3dbl_3", 96, [3, 3], 2, [0, 0]),
        ])?,
        Branch::MaxPool,
    ])
}

/// 17x17, with `inner` channels between the long convolutions.
fn mixed_6(b: &mut Builder, inner: i64) -> Result<Vec<Branch>, RunError> {
    let wide = |name, to| (name, to, [1, 7], 1, [0, 3]);
    let high = |name, to| (name, to, [7, 1], 1, [3, 0]);
    Ok(vec![
        b.branch(&[("branch1x1", 192, [1, 1], 1, [0, 0])])?,
        b.branch(&[
            ("branch7x7_1", inner, [1, 1], 1, [0, 0]),
            wide("branch7x7_2", inner),
            high("branch7x7_3", 192),
        ])?,
        b.branch(&[
            ("branch7x7dbl_1", inner, [1, 1], 1, [0, 0]),
            high("branch7x7dbl_2", inner),
            wide("branch7x7dbl_3", inner),
            high("branch7x7dbl_4", inner),
            wide("branch7x7dbl_5", 192),
        ])?,
        b.mean_branch(192)?,
    ])
}

/// 17x17 to 8x8.
fn mixed_7a(b: &mut Builder) -> Result<Vec<Branch>, RunError> {
    Ok(vec![
        b.branch(&[
            ("branch3x3_1", 192, [1, 1], 1, [0, 0]),
            ("branch3x3_2", 320, [3, 3], 2, [0, 0]),
        ])?,
        b.branch(&[
            ("branch7x7x3_1", 192, [1, 1], 1, [0, 0]),
            ("branch7x7x3_2", 192, [1, 7], 1, [0, 3]),
            ("branch7x7x3_3", 192, [7, 1], 1, [3, 0]),
            ("branch7x7x3_4", 192, [3, 3], 2, [0, 0]),
        ])?,
        Branch::MaxPool,
    ])
}

/// 8x8.
fn mixed_7(b: &mut Builder) -> Result<Vec<Branch>, RunError> {
    let halves = |names: [&'static str; 2]| {
        [
            (names[0], 384, [1, 3], 1, [0, 1]),
            (names[1], 384, [3, 1], 1, [1, 0]),
        ]
    };
    Ok(vec![
        b.branch(&[("branch1x1", 320, [1, 1], 1, [0, 0])])?,
        b.split(
            &[("branch3x3_1", 384, [1, 1], 1, [0, 0])],
            halves(["branch3x3_2a", "branch3x3_2b"]),
        )?,
        b.split(
            &[
                ("branch3x3dbl_1", 448, [1, 1], 1, [0, 0]),
                ("branch3x3dbl_2", 384, [3, 3], 1, [1, 1]),
            ],
            halves(["branch3x3dbl_3a", "branch3x3dbl_3b"]),
        )?,
        b.mean_branch(192)?,
    ])
}

impl InceptionV3 {
    pub(super) fn build(at: &mut Scope) -> Result<Self, RunError> {
        let mut stem = Builder {
            at: &mut *at,
            from: 3,
        };
        let first = stem.convs(&[
            ("Conv2d_1a_3x3", 32, [3, 3], 2, [0, 0]),
            ("Conv2d_2a_3x3", 32, [3, 3], 1, [0, 0]),
            ("Conv2d_2b_3x3", 64, [3, 3], 1, [1, 1]),
        ])?;
        stem.from = 64;
        let second = stem.convs(&[
            ("Conv2d_3b_1x1", 80, [1, 1], 1, [0, 0]),
            ("Conv2d_4a_3x3", 192, [3, 3], 1, [0, 0]),
        ])?;
        let mut mixed = Vec::new();
        let mut add = |name: &str,
                       from: i64,
                       make: &dyn Fn(&mut Builder) -> Result<Vec<Branch>, RunError>|
         -> Result<(), RunError> {
            let mut at = at.at(name);
            mixed.push(make(&mut Builder { at: &mut at, from })?);
            Ok(())
        };
        add("Mixed_5b", 192, &|b| mixed_5(b, 32))?;
        add("Mixed_5c", 256, &|b| mixed_5(b, 64))?;
        add("Mixed_5d", 288, &|b| mixed_5(b, 64))?;
        add("Mixed_6a", 288, &mixed_6a)?;
        add("Mixed_6b", 768, &|b| mixed_6(b, 128))?;
        add("Mixed_6c", 768, &|b| mixed_6(b, 160))?;
        add("Mixed_6d", 768, &|b| mixed_6(b, 160))?;
        add("Mixed_6e", 768, &|b| mixed_6(b, 192))?;
        add("Mixed_7a", 768, &mixed_7a)?;
        add("Mixed_7b", 1280, &mixed_7)?;
        add("Mixed_7c", 2048, &mixed_7)?;
        Ok(Self {
            stem: [first, second],
            mixed,
        })
    }
}

impl Branch {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        match self {
            Self::Convs(convs) => in_turn(convs, x, pass),
            Self::MeanThen(conv) => conv.forward(&mean_3x3(x, true)?, pass),
            Self::MaxPool => max_pool(x, 3, 2, 0),
            Self::Split(convs, [first, second]) => {
                let x = in_turn(convs, x, pass)?;
                let halves = [first.forward(&x, pass)?, second.forward(&x, pass)?];
                Tensor::f_cat(&halves, 1)
            }
        }
    }
}

impl Backbone for InceptionV3 {
    fn features(&self, pictures: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let mut x = pictures.shallow_clone();
        for convs in &self.stem {
            x = max_pool(&in_turn(convs, &x, pass)?, 3, 2, 0)?;
        }
        for branches in &self.mixed {
            let parts = branches
                .iter()
                .map(|branch| branch.forward(&x, pass))
                .collect::<Result<Vec<_>, _>>()?;
            x = Tensor::f_cat(&parts, 1)?;
        }
        global_mean(&x)
    }

    fn width(&self) -> i64 {
        WIDTH
    }
}
