//! How a forward pass is made: to score or to learn, and with which chance.
//!
//! Invariant: what is dropped for a picture follows from the run's seed, the step, the layer and the
//! picture's place in the step over all ranks. So a run that goes on drops what an undisturbed one
//! would have dropped, two ranks drop what one would, and libtorch's own generator is never asked.

use std::cell::Cell;

use tch::{TchError, Tensor};

use crate::ffi;

/// How one forward pass is made.
#[derive(Debug)]
pub(crate) struct Pass {
    /// What decides who is dropped; None: nothing is.
    chance: Option<Chance>,
    /// Whether batch-norm goes by the batch and remembers it, or by what it remembers.
    norms_learn: bool,
}

impl Pass {
    /// To score: nothing is dropped, batch-norm goes by what it remembers. Gradients are fine: a
    /// rank without pictures takes part in a training step with such a pass.
    pub(crate) const fn eval() -> Self {
        Self {
            chance: None,
            norms_learn: false,
        }
    }

    /// To learn.
    pub(crate) const fn train(chance: Chance) -> Self {
        Self {
            chance: Some(chance),
            norms_learn: true,
        }
    }

    /// To learn, with batch-norm as it is: for fine-tuning on few pictures.
    #[must_use]
    pub(crate) const fn with_frozen_norms(mut self) -> Self {
        self.norms_learn = false;
        self
    }

    /// What a network that draws by itself is to draw from; None: it draws nothing.
    pub(crate) fn seed(&self) -> Option<i64> {
        let chance = self.chance.as_ref()?;
        Some(mix(chance.key ^ mix(chance.first_picture)).cast_signed())
    }

    pub(crate) const fn norms_learn(&self) -> bool {
        self.norms_learn
    }

    /// Zeroes a share of the values of `[N, features]`, each by itself, and makes up for it with
    /// the others (Srivastava et al. 2014).
    pub(crate) fn dropout(&self, x: &Tensor, rate: f64) -> Result<Tensor, TchError> {
        let columns: i64 = x.size().iter().skip(1).product();
        self.drop(x, rate, columns, &x.size())
    }

    /// Zeroes a share of the pictures' paths through a block, each as a whole, and makes up for it
    /// with the others (stochastic depth: Huang et al. 2016).
    pub(crate) fn drop_path(&self, x: &Tensor, rate: f64) -> Result<Tensor, TchError> {
        let mut shape = vec![1; x.dim()];
        if let (Some(first), Some(pictures)) = (shape.first_mut(), x.size().first()) {
            *first = *pictures;
        }
        self.drop(x, rate, 1, &shape)
    }

    fn drop(&self, x: &Tensor, rate: f64, columns: i64, shape: &[i64]) -> Result<Tensor, TchError> {
        match &self.chance {
            Some(chance) if rate > 0.0 => {
                let pictures = x.size().first().copied().unwrap_or(0);
                let mask = Tensor::f_from_slice(&chance.mask(pictures, columns, 1.0 - rate))?
                    .f_view(shape)?
                    .f_to_kind(x.f_kind()?)?;
                x.f_mul(&on_device_of(x, &mask)?)
            }
            Some(_) | None => Ok(x.shallow_clone()),
        }
    }
}

/// `mask` where `x` is. GPUs go on meanwhile: a plain copy would wait until they have done all they
/// were asked for.
fn on_device_of(x: &Tensor, mask: &Tensor) -> Result<Tensor, TchError> {
    ffi::upload(mask, x.device()).map_err(|error| TchError::Torch(error.to_string()))
}

/// The chance of one step on one rank.
#[derive(Debug)]
pub(crate) struct Chance {
    key: u64,
    /// Place of this rank's first picture in the step.
    first_picture: u64,
    /// Layers that have drawn so far.
    layers: Cell<u64>,
}

impl Chance {
    pub(crate) const fn new(seed: u64, step: u64, first_picture: u64) -> Self {
        Self {
            // The seed is mixed first: with a plain `seed ^ step`, seed 1 would draw in step 0 what
            // seed 0 draws in step 1.
            key: mix(mix(seed) ^ step),
            first_picture,
            layers: Cell::new(0),
        }
    }

    /// For each picture `columns` numbers: 0, or with probability `keep` the 1 / `keep` that keeps the
    /// mean as it was.
    fn mask(&self, pictures: i64, columns: i64, keep: f64) -> Vec<f32> {
        let layer = self.layers.get();
        self.layers.set(layer + 1);
        let layer_key = mix(self.key ^ mix(layer));
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the rates are few digits; f32 is what most weights are"
        )]
        let kept = (1.0 / keep) as f32;
        let mut mask = Vec::new();
        for picture in 0..pictures.unsigned_abs() {
            let row_key = mix(layer_key ^ mix(self.first_picture + picture));
            for column in 0..columns.unsigned_abs() {
                let is_kept = unit(mix(row_key ^ column)) < keep;
                mask.push(if is_kept { kept } else { 0.0 });
            }
        }
        mask
    }
}

/// A good hash of 64 bits: the finaliser of SplitMix64 (Steele et al. 2014).
const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The upper 53 bits as a number from 0 to below 1.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// Rate of block `index` of `count`: none at the first, all of `rate` at the last.
pub(super) fn linear_rate(rate: f64, index: usize, count: usize) -> f64 {
    rate * index as f64 / (count.max(2) - 1) as f64
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn ones(shape: &[i64]) -> Tensor {
        Tensor::ones(shape, (Kind::Float, Device::Cpu))
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor.flatten(0, -1)).unwrap()
    }

    #[test]
    fn two_ranks_drop_what_one_would_and_each_layer_and_step_something_else() {
        let x = ones(&[6, 40]);
        let dropped = |step, first, rows: i64| {
            let pass = Pass::train(Chance::new(3, step, first));
            let a = pass.dropout(&x.narrow(0, 0, rows), 0.4).unwrap();
            let b = pass.dropout(&x.narrow(0, 0, rows), 0.4).unwrap();
            [values(&a), values(&b)]
        };
        let alone = dropped(7, 0, 6);
        let ranks = [dropped(7, 0, 2), dropped(7, 2, 4)];
        for layer in 0..2 {
            assert_eq!(
                alone[layer],
                [&ranks[0][layer][..], &ranks[1][layer][..]].concat()
            );
        }
        assert_ne!(alone[0], alone[1]);
        assert_ne!(alone, dropped(8, 0, 6));
    }

    #[test]
    fn the_share_that_is_dropped_is_the_rate_and_the_mean_stays() {
        let pass = Pass::train(Chance::new(1, 2, 0));
        let kept = values(&pass.dropout(&ones(&[100, 200]), 0.3).unwrap());
        let zeros = kept.iter().filter(|value| **value == 0.0).count();
        assert!((zeros as f64 / 20_000.0 - 0.3).abs() < 0.02, "{zeros}");
        assert!(
            kept.iter()
                .all(|v| *v == 0.0 || (v - 1.0 / 0.7).abs() < 1e-6)
        );
        let paths = pass.drop_path(&ones(&[50, 2, 3, 3]), 0.5).unwrap();
        let whole: Vec<f32> = values(&paths.sum_dim_intlist([1_i64, 2, 3].as_slice(), false, None));
        assert!(whole.iter().all(|v| *v == 0.0 || (v - 36.0).abs() < 1e-4));
        assert!(whole.contains(&0.0) && whole.iter().any(|v| *v > 0.0));
    }

    #[test]
    fn scoring_drops_nothing() {
        let x = ones(&[3, 4]);
        assert!(Pass::eval().dropout(&x, 0.9).unwrap().equal(&x));
        assert!(Pass::eval().drop_path(&x, 0.9).unwrap().equal(&x));
    }
}
