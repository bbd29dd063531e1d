//! The loss scale of fp16: gradients too small for 16 bits are computed from a larger loss.
//!
//! The scale doubles after many good steps and halves when a gradient overflows; that step's
//! gradients are thrown away. The constants are those of `torch.amp.GradScaler`. bf16, with the
//! range of f32, needs none of it.

use tch::{Device, Kind, Tensor};

use crate::error::RunError;
use crate::ffi;
use crate::tensors::Tensors;

const INITIAL: f64 = 65_536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_EVERY_STEPS: i64 = 2_000;

/// Names in the saved state.
const SCALE: &str = "scaler.scale";
const GOOD_STEPS: &str = "scaler.good_steps";

/// The loss scale of a run.
#[derive(Debug)]
pub(crate) struct Scaler {
    scale: Tensor,
    good_steps: Tensor,
}

impl Scaler {
    pub(crate) fn new(device: Device) -> Result<Self, RunError> {
        Ok(Self {
            scale: Tensor::f_full([1], INITIAL, (Kind::Float, device))?,
            good_steps: Tensor::f_zeros([1], (Kind::Int, device))?,
        })
    }

    /// The loss to go backward from.
    pub(crate) fn scaled(&self, loss: &Tensor) -> Result<Tensor, RunError> {
        Ok(loss.f_mul(&self.scale)?.f_sum(Kind::Float)?)
    }

    /// Divides gradients by the scale. The returned tensor holds 1 if they overflowed and must not be
    /// used. The host does not read it, for it would have to wait for the GPU: the optimizer's kernels do.
    pub(crate) fn unscale(&self, parameters: &[Tensor]) -> Result<Tensor, RunError> {
        let found = Tensor::f_zeros([1], (Kind::Float, self.scale.device()))?;
        let inverse = self.scale.f_reciprocal()?;
        ffi::unscale_gradients(parameters, &inverse, &found)?;
        let _ = self.scale.shallow_clone().f_internal_amp_update_scale_(
            &self.good_steps,
            &found,
            GROWTH,
            BACKOFF,
            GROWTH_EVERY_STEPS,
        )?;
        Ok(found)
    }

    /// Adds the state to what the optimizer saves.
    pub(crate) fn save(&self, into: &mut Tensors) {
        into.insert(SCALE.to_owned(), self.scale.shallow_clone());
        // Files hold no whole numbers of 32 bits (`SAVED` in tensors.rs).
        into.insert(GOOD_STEPS.to_owned(), self.good_steps.to_kind(Kind::Int64));
    }

    /// Goes on from a saved state, where there is one.
    pub(crate) fn restore(&mut self, saved: &Tensors) -> Result<(), RunError> {
        if let (Some(scale), Some(steps)) = (saved.get(SCALE), saved.get(GOOD_STEPS)) {
            self.scale.f_copy_(scale)?;
            self.good_steps.f_copy_(steps)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// libtorch has these kernels for CPUs too, which shows the arithmetic without a GPU.
    #[test]
    #[cfg_attr(libtorch_2_0, ignore = "libtorch 2.0 has these kernels for GPUs alone")]
    fn gradients_come_back_to_size_and_an_overflow_halves_the_scale() {
        let scaler = Scaler::new(Device::Cpu).unwrap();
        let found = |weight: &Tensor| {
            let found = scaler.unscale(std::slice::from_ref(weight)).unwrap();
            found.double_value(&[0])
        };
        let weight = Tensor::from_slice(&[1.0_f32, 2.0]).set_requires_grad(true);
        scaler
            .scaled(&(&weight * 3.0).sum(Kind::Float))
            .unwrap()
            .backward();
        assert_eq!(found(&weight), 0.0);
        assert_eq!(Vec::<f32>::try_from(weight.grad()).unwrap(), [3.0, 3.0]);

        (&weight * f64::INFINITY).sum(Kind::Float).backward();
        assert_eq!(found(&weight), 1.0);
        assert_eq!(
            scaler.scale.double_value(&[0]).to_bits(),
            (INITIAL / 2.0).to_bits()
        );

        let mut saved = Tensors::new();
        scaler.save(&mut saved);
        let mut other = Scaler::new(Device::Cpu).unwrap();
        other.restore(&saved).unwrap();
        assert_eq!(
            other.scale.double_value(&[0]).to_bits(),
            (INITIAL / 2.0).to_bits()
        );
    }
}
