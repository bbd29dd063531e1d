//! ViT-S/16 (Dosovitskiy et al. 2021, "An image is worth 16x16 words", arXiv:2010.11929; the small
//! one of Touvron et al. 2021, arXiv:2012.12877).
//!
//! | part        | what                                                             |
//! |-------------|------------------------------------------------------------------|
//! | patch_embed | 16x16 384 stride 16: one token a patch, and a class token before |
//! | pos_embed   | added: 1 + 14 x 14 places of 384                                 |
//! | blocks      | 12 x [norm, attention of 6 heads; norm, 1536 GELU 384]           |
//! | norm        | layer norm; the class token is the feature                       |
//!
//! Pictures of another size than 224 x 224 have another grid of patches: the places are resized to
//! it (bicubic, with antialiasing), as timm does with `dynamic_img_size`.

use tch::{TchError, Tensor};

use super::layers::{Conv, LayerNorm, Linear};
use super::pass::{Pass, linear_rate};
use super::{Backbone, Rates};
use crate::compat;
use crate::error::RunError;
use crate::parameters::{Init, Scope};

const WIDTH: i64 = 384;
const DEPTH: usize = 12;
const HEADS: i64 = 6;
const HEAD_WIDTH: i64 = WIDTH / HEADS;
const HIDDEN: i64 = 4 * WIDTH;
const PATCH: i64 = 16;
/// Patches along a side of the pictures that the places were learnt on.
const GRID: i64 = 14;
/// Not PyTorch's 1e-5: the difference hides below 3e-5 in the logits.
const EPS: f64 = 1e-6;
const INIT_STD: f64 = 0.02;
const CLASS_TOKEN_STD: f64 = 1e-6;

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    /// Queries, keys and values side by side.
    qkv: Linear,
    project: Linear,
    norm2: LayerNorm,
    widen: Linear,
    narrow: Linear,
    drop_path: f64,
}

impl Block {
    fn build(at: &mut Scope, drop_path: f64) -> Result<Self, RunError> {
        Ok(Self {
            norm1: at.layer_norm("norm1", WIDTH, EPS)?,
            qkv: at.linear_normal("attn.qkv", [WIDTH, 3 * WIDTH], INIT_STD)?,
            project: at.linear_normal("attn.proj", [WIDTH, WIDTH], INIT_STD)?,
            norm2: at.layer_norm("norm2", WIDTH, EPS)?,
            widen: at.linear_normal("mlp.fc1", [WIDTH, HIDDEN], INIT_STD)?,
            narrow: at.linear_normal("mlp.fc2", [HIDDEN, WIDTH], INIT_STD)?,
            drop_path,
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let attended = self.attend(&self.norm1.forward(x)?)?;
        let x = x.f_add(&pass.drop_path(&attended, self.drop_path)?)?;
        let inner = self.widen.forward(&self.norm2.forward(&x)?)?;
        let seen = self.narrow.forward(&inner.f_gelu("none")?)?;
        x.f_add(&pass.drop_path(&seen, self.drop_path)?)
    }

    /// Attention between all tokens, `[N, tokens, WIDTH]`.
    fn attend(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (pictures, tokens, _) = x.size3()?;
        let parts = self
            .qkv
            .forward(x)?
            .f_reshape([pictures, tokens, 3, HEADS, HEAD_WIDTH])?
            .f_permute([2, 0, 3, 1, 4])?;
        let [queries, keys, values] = [0, 1, 2].map(|part| parts.f_select(0, part));
        #[cfg(test)]
        super::flops::count(2 * x.numel() * x.numel(), pictures * WIDTH);
        let mixed = compat::attention(&queries?, &keys?, &values?)?
            .f_transpose(1, 2)?
            .f_reshape([pictures, tokens, WIDTH])?;
        self.project.forward(&mixed)
    }
}

#[derive(Debug)]
pub(super) struct Vit {
    class_token: Tensor,
    places: Tensor,
    patches: Conv,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Vit {
    pub(super) fn build(at: &mut Scope, rates: Rates) -> Result<Self, RunError> {
        let class_init = Init::Normal {
            std: CLASS_TOKEN_STD,
        };
        let class_token = at.weight("cls_token", &[1, 1, WIDTH], class_init)?;
        let place_init = Init::Normal { std: INIT_STD };
        let places = at.weight("pos_embed", &[1, 1 + GRID * GRID, WIDTH], place_init)?;
        let shape = Conv::of(3, WIDTH, [PATCH, PATCH]).stride(PATCH).with_bias();
        let patches = at.conv("patch_embed.proj", shape.torch_init())?;
        let mut blocks = Vec::with_capacity(DEPTH);
        for index in 0..DEPTH {
            let drop_path = linear_rate(rates.drop_path, index, DEPTH);
            blocks.push(Block::build(
                &mut at.at(format!("blocks.{index}")),
                drop_path,
            )?);
        }
        Ok(Self {
            class_token,
            places,
            patches,
            blocks,
            norm: at.layer_norm("norm", WIDTH, EPS)?,
        })
    }

    /// What is added to the tokens of a grid of `height` x `width` patches.
    fn places_for(&self, height: i64, width: i64) -> Result<Tensor, TchError> {
        if (height, width) == (GRID, GRID) {
            return Ok(self.places.shallow_clone());
        }
        let class_place = self.places.f_narrow(1, 0, 1)?;
        let grid = self
            .places
            .f_narrow(1, 1, GRID * GRID)?
            .f_reshape([1, GRID, GRID, WIDTH])?
            .f_permute([0, 3, 1, 2])?
            .f_internal_upsample_bicubic2d_aa([height, width], false, None::<f64>, None::<f64>)?
            .f_permute([0, 2, 3, 1])?
            .f_reshape([1, height * width, WIDTH])?;
        Tensor::f_cat(&[class_place, grid], 1)
    }
}

impl Backbone for Vit {
    fn features(&self, pictures: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let (count, _, height, width) = pictures.size4()?;
        if height % PATCH != 0 || width % PATCH != 0 {
            return Err(TchError::Shape(format!(
                "a picture of {width}x{height} does not divide into patches of {PATCH}x{PATCH}"
            )));
        }
        let patches = self.patches.forward(pictures)?;
        let (_, _, rows, columns) = patches.size4()?;
        let patches = patches.f_flatten(2, -1)?.f_transpose(1, 2)?;
        let class_tokens = self.class_token.f_expand([count, -1, -1], false)?;
        let mut x =
            Tensor::f_cat(&[class_tokens, patches], 1)?.f_add(&self.places_for(rows, columns)?)?;
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
        }
        self.norm.forward(&x)?.f_select(1, 0)
    }

    fn width(&self) -> i64 {
        WIDTH
    }
}
