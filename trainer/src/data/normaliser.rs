//! From stored pixels to what models take.

use tch::{Device, Kind, TchError, Tensor};

use crate::error::RunError;

/// Turns uint8 pixels into what models take, on the device and in the kind of the run.
#[derive(Debug)]
pub(crate) struct Normaliser {
    /// `[3, 1, 1]` each: pixel * scale + offset.
    scale: Tensor,
    offset: Tensor,
    kind: Kind,
    device: Device,
}

impl Normaliser {
    pub(crate) fn new(
        mean: [f64; 3],
        std: [f64; 3],
        kind: Kind,
        device: Device,
    ) -> Result<Self, RunError> {
        let per_channel = |values: [f64; 3]| -> Result<Tensor, TchError> {
            Tensor::f_from_slice(&values)?
                .f_to_kind(kind)?
                .f_to_device(device)?
                .f_view([3, 1, 1])
        };
        // Division by 255, mean and spread in one multiplication and one addition, computed in f64
        // before it is rounded to the kind of the run.
        let scale: [f64; 3] = std::array::from_fn(|channel| 1.0 / (255.0 * std[channel]));
        let offset: [f64; 3] = std::array::from_fn(|channel| -mean[channel] / std[channel]);
        Ok(Self {
            scale: per_channel(scale)?,
            offset: per_channel(offset)?,
            kind,
            device,
        })
    }

    /// `[N, 3, height, width]` of `[N, height, width, 3]`. The pixels stay where they are: seen as
    /// N x C x H x W they lie in the channels-last layout, which convolutions like best.
    pub(crate) fn apply(&self, pixels: &Tensor) -> Result<Tensor, TchError> {
        // Pinned memory is copied while we go on; the device keeps the order by itself.
        let mut pixels = pixels
            .f_to_device_(self.device, Kind::Uint8, true, false)?
            .f_permute([0, 3, 1, 2])?
            .f_to_kind(self.kind)?;
        // In place: the batch was just made here, and a second one of its size would be the largest
        // tensor of a small network.
        pixels.f_mul_(&self.scale)?.f_add_(&self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_pixels_have_the_mean_taken_off_and_the_spread_divided_out() {
        const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
        const STD: [f64; 3] = [0.229, 0.224, 0.225];
        let normaliser = Normaliser::new(MEAN, STD, Kind::Double, Device::Cpu).unwrap();
        let pixels = Tensor::from_slice(&[255_u8, 0, 51, 0, 0, 0]).view([1, 1, 2, 3]);
        let out = normaliser.apply(&pixels).unwrap();
        assert_eq!(out.size(), [1, 3, 1, 2]);
        let expected = [(1.0 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225];
        for (channel, expected) in expected.into_iter().enumerate() {
            let found = out.double_value(&[0, channel as i64, 0, 0]);
            assert!(
                (found - expected).abs() < 1e-12,
                "channel {channel}: {found} instead of {expected}"
            );
        }
    }
}
