//! What chance does to a training picture beside mirroring it: a part of it at full size, other
//! colours.
//!
//! Invariant: a pure function of the picture's random bits, which follow from seed, epoch and row.
//! A part is smaller than the picture, so bringing it to size only ever enlarges, for which bilinear
//! interpolation needs no filter.

use marquee_domain::spec::{Colour, Crop};

use super::random::roll;

/// Fixed-point position: 8 bits of fraction, as fine as a byte can show.
const FRACTION_BITS: u32 = 8;
const ONE: u32 = 1 << FRACTION_BITS;
/// What the eye takes red, green and blue for in brightness (ITU-R BT.601), in 1/256.
const GREY: [u32; 3] = [77, 150, 29];

/// What may happen to pictures.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Augment {
    pub(crate) crop: Option<Crop>,
    pub(crate) colour: Option<Colour>,
}

impl Augment {
    /// Whether nothing may.
    pub(crate) fn is_none(&self) -> bool {
        self.crop.is_none() && self.colour.is_none()
    }

    /// Changes one RGB picture in place; `scratch` is memory to be used again.
    pub(crate) fn apply(
        &self,
        pixels: &mut [u8],
        (width, height): (usize, usize),
        dice: u64,
        scratch: &mut Vec<u8>,
    ) {
        if let Some(crop) = self.crop {
            scratch.clear();
            // A copy, since the part is read while the whole is written.
            scratch.extend_from_slice(pixels);
            let part = Part::draw(crop, width, height, dice);
            part.enlarge(scratch, pixels, width, height);
        }
        if let Some(colour) = self.colour {
            recolour(pixels, colour, dice);
        }
    }
}

/// A part of a picture, in 1/256 pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

impl Part {
    /// Draws area, shape and place.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sides are at most a few thousand pixels, and shares are from 0 to 1"
    )]
    fn draw(crop: Crop, width: usize, height: usize, dice: u64) -> Self {
        let area = crop.min_area + (1.0 - crop.min_area) * roll(dice, 0);
        // As likely narrower as wider: evenly over the logarithm.
        let stretch = ((2.0 * roll(dice, 1) - 1.0) * crop.max_stretch.ln()).exp();
        let share = |stretch: f64| (area * stretch).sqrt().min(1.0);
        let side = |pixels: usize, share: f64| (pixels as f64 * share * f64::from(ONE)) as u32;
        let (part_width, part_height) = (
            side(width, share(stretch)).max(ONE),
            side(height, share(1.0 / stretch)).max(ONE),
        );
        let place = |pixels: usize, part: u32, roll: f64| {
            let room = (pixels as u32 * ONE).saturating_sub(part);
            (f64::from(room) * roll) as u32
        };
        Self {
            left: place(width, part_width, roll(dice, 2)),
            top: place(height, part_height, roll(dice, 3)),
            width: part_width,
            height: part_height,
        }
    }

    /// Fills `to` with this part of `from`; both are of the given size.
    fn enlarge(self, from: &[u8], to: &mut [u8], width: usize, height: usize) {
        let columns = positions(self.left, self.width, width);
        let rows = positions(self.top, self.height, height);
        for (line, row) in to.chunks_exact_mut(width * 3).zip(&rows) {
            let (above, below) = (
                &from[row.first * width * 3..][..width * 3],
                &from[row.second * width * 3..][..width * 3],
            );
            for (pixel, column) in line.chunks_exact_mut(3).zip(&columns) {
                for (channel, value) in pixel.iter_mut().enumerate() {
                    let (left, right) = (column.first * 3 + channel, column.second * 3 + channel);
                    let mix = |a: u8, b: u8, weight: u32| {
                        u32::from(a) * (ONE - weight) + u32::from(b) * weight
                    };
                    let upper = mix(above[left], above[right], column.weight);
                    let lower = mix(below[left], below[right], column.weight);
                    let sum = upper * (ONE - row.weight) + lower * row.weight;
                    *value = byte((sum + (1 << (2 * FRACTION_BITS - 1))) >> (2 * FRACTION_BITS));
                }
            }
        }
    }
}

/// Between which two pixels a new one lies, and how near to the second.
#[derive(Debug, Clone, Copy)]
struct Between {
    first: usize,
    second: usize,
    weight: u32,
}

/// Where the centres of `count` new pixels lie, along one side of a part.
fn positions(start: u32, length: u32, count: usize) -> Vec<Between> {
    let last = count - 1;
    (0..count)
        .map(|index| {
            let centre = (2 * index as u64 + 1) * u64::from(length) / (2 * count as u64);
            let at = (u64::from(start) + centre).saturating_sub(u64::from(ONE / 2));
            let first = usize::try_from(at >> FRACTION_BITS)
                .unwrap_or(last)
                .min(last);
            Between {
                first,
                second: (first + 1).min(last),
                weight: u32::try_from(at % u64::from(ONE)).unwrap_or(0),
            }
        })
        .collect()
}

fn byte(value: u32) -> u8 {
    u8::try_from(value.min(255)).unwrap_or(u8::MAX)
}

/// Brightness, then contrast around the mean grey, then saturation around each pixel's own grey.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "values are clamped to a byte, which `as` rounds to"
)]
fn recolour(pixels: &mut [u8], colour: Colour, dice: u64) {
    let factor = |strength: f64, index: u64| 1.0 + strength * (2.0 * roll(dice, index) - 1.0);
    let brightness = factor(colour.brightness, 4) as f32;
    let contrast = factor(colour.contrast, 5) as f32;
    let saturation = factor(colour.saturation, 6) as f32;
    let grey_of = |pixel: &[u8]| {
        pixel
            .iter()
            .zip(GREY)
            .map(|(value, weight)| u32::from(*value) * weight)
            .sum::<u32>() as f32
            / 256.0
    };
    let sum: f64 = pixels.chunks_exact(3).map(|p| f64::from(grey_of(p))).sum();
    // Summed in f64: the sum of a large picture's pixels has more digits than an f32 holds.
    let mean = (sum / (pixels.len() / 3).max(1) as f64) as f32 * brightness;
    for pixel in pixels.chunks_exact_mut(3) {
        let grey = (grey_of(pixel) * brightness - mean) * contrast + mean;
        for value in pixel {
            let lit = (f32::from(*value) * brightness - mean) * contrast + mean;
            let coloured = (lit - grey) * saturation + grey;
            *value = (coloured + 0.5).clamp(0.0, 255.0) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture whose red says the column, and whose green says the row.
    fn ramp(width: usize, height: usize) -> Vec<u8> {
        (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| [x * 8, y * 8, 100]))
            .map(|value| u8::try_from(value).unwrap())
            .collect()
    }

    const CROP: Crop = Crop {
        min_area: 0.3,
        max_stretch: 1.3,
    };

    #[test]
    fn a_part_that_is_the_whole_changes_nothing() {
        let (width, height) = (20, 30);
        let whole = Part {
            left: 0,
            top: 0,
            width: 20 * ONE,
            height: 30 * ONE,
        };
        let picture = ramp(width, height);
        let mut out = vec![0; picture.len()];
        whole.enlarge(&picture, &mut out, width, height);
        assert_eq!(out, picture);
    }

    #[test]
    fn parts_lie_within_the_picture_and_have_the_area_asked_for() {
        let mut areas = Vec::new();
        for dice in 0..2_000_u64 {
            let part = Part::draw(CROP, 40, 60, dice.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            assert!(part.left + part.width <= 40 * ONE && part.top + part.height <= 60 * ONE);
            let one = f64::from(ONE);
            areas.push(f64::from(part.width) / one * f64::from(part.height) / one / 2_400.0);
        }
        let mean = areas.iter().sum::<f64>() / 2_000.0;
        assert!(areas.iter().all(|area| (0.25..=1.0).contains(area)));
        assert!((0.58..0.68).contains(&mean), "{mean}");
    }

    #[test]
    fn an_enlarged_part_shows_that_part() {
        let (width, height) = (20, 30);
        let part = Part {
            left: 5 * ONE,
            top: 10 * ONE,
            width: 10 * ONE,
            height: 15 * ONE,
        };
        let picture = ramp(width, height);
        let mut out = vec![0; picture.len()];
        part.enlarge(&picture, &mut out, width, height);
        let pixel = |x: usize, y: usize| (out[(y * width + x) * 3], out[(y * width + x) * 3 + 1]);
        // The centre of the first new pixel lies a quarter pixel before the centre of pixel (5, 10).
        assert_eq!(pixel(0, 0), (38, 78));
        assert_eq!(pixel(19, 29), (114, 194));
    }

    #[test]
    fn the_same_bits_do_the_same_and_others_something_else() {
        let augment = Augment {
            crop: Some(CROP),
            colour: Some(Colour {
                brightness: 0.3,
                contrast: 0.3,
                saturation: 0.3,
            }),
        };
        let changed = |dice| {
            let mut picture = ramp(20, 30);
            augment.apply(&mut picture, (20, 30), dice, &mut Vec::new());
            picture
        };
        assert_eq!(changed(7), changed(7));
        assert_ne!(changed(7), changed(8));
    }

    #[test]
    fn strengths_of_nothing_change_nothing_and_no_saturation_is_grey() {
        let mut picture = ramp(20, 30);
        let still = Colour {
            brightness: 0.0,
            contrast: 0.0,
            saturation: 0.0,
        };
        recolour(&mut picture, still, 3);
        assert_eq!(picture, ramp(20, 30));
        let grey = Colour {
            saturation: 1.0,
            ..still
        };
        // Bits whose roll takes nearly all colour away.
        let dice = (0..).find(|dice| roll(*dice, 6) < 0.001).unwrap();
        recolour(&mut picture, grey, dice);
        assert!(
            picture
                .chunks(3)
                .all(|p| p.iter().max().unwrap() - p.iter().min().unwrap() <= 1)
        );
    }
}
