//! What a picture looks like, as a few numbers: the quality flags and the search for pictures that
//! look the same are made of them.
//!
//! The scores and their limits are CleanVision's (0.3.7), worked out anew; each is between 0 and 1,
//! and low is bad. The hashes are the perceptual hash (32x32 grey, two-dimensional DCT, the 8x8 lowest
//! frequencies against their median) and the difference hash (9x8 grey, each pixel against the next).

use fast_image_resize::Resizer;
use serde::{Deserialize, Serialize};

use super::sketch::Sketch;
use crate::scale::{Rgb, scale};
use crate::sniff::Format;

/// Longest side of the copy that brightness and entropy are measured on: more pixels change neither.
const COPY_SIDE: u32 = 256;
/// Longest side of the copy that sharpness is measured on: blur that is lost at this size is harmless.
const SHARPNESS_SIDE: u32 = 64;
/// Side of the copy whose colours tell pictures without detail apart.
const TILE_SIDE: u32 = 4;
const HASH_SIDE: usize = 32;
const HASH_KEPT: usize = 8;
/// Cells along the longer side, in each of which something may be seen.
const CELLS: usize = 32;
/// Difference of grey values within a cell from which on there is an edge in it.
const EDGE_MIN: u8 = 24;
/// How far colours may be apart in a grey picture: JPEG rounds.
const GREY_SPREAD_MAX: u8 = 6;
/// Share of the pixels that may be further apart.
const GREY_EXCEPT: f64 = 0.002;

/// Limits below which a score is a flag.
pub(super) mod limit {
    pub(in crate::preprocess) const DARK: f64 = 0.32;
    pub(in crate::preprocess) const LIGHT: f64 = 0.05;
    pub(in crate::preprocess) const LOW_INFORMATION: f64 = 0.3;
    /// Share of the picture in which something is to be seen. A drawing in a few plain colours has few grey
    /// values and shows much all the same.
    pub(in crate::preprocess) const STRUCTURE: f64 = 0.05;
    /// Difference of the lightest and the darkest value of a channel up to which there is one colour.
    pub(in crate::preprocess) const BLANK: u8 = 8;
    /// One or two plain colours: their hashes are alike whatever the colours.
    pub(in crate::preprocess) const NO_DETAIL: f64 = 0.15;
    pub(in crate::preprocess) const BLURRY: f64 = 0.29;
    pub(in crate::preprocess) const ODD_ASPECT: f64 = 0.35;
    /// Pixels of the shorter side.
    pub(in crate::preprocess) const TINY: u32 = 50;
}

/// What one picture looks like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Look {
    /// Pixels, upright.
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) format: Format,
    pub(super) is_grey: bool,
    /// The 99th percentile of brightness: of a dark picture even that is low.
    pub(super) brightest: f64,
    /// 1 minus the 5th percentile of brightness.
    pub(super) darkest: f64,
    /// Entropy of the grey values in bits, over 10.
    pub(super) information: f64,
    /// 1 - exp(-v / 100), with v the variance of the Laplacian.
    pub(super) sharpness: f64,
    pub(super) phash: u64,
    pub(super) dhash: u64,
    /// Of a picture with hardly any detail, whose hashes say nothing, its colours; else 0.
    pub(super) colours: u64,
    /// The largest difference of two values of one channel, in a small copy.
    pub(super) contrast: u8,
    /// Share of the parts of the picture in which there are edges.
    pub(super) structure: f64,
    /// What it shows; None for a picture of one plain colour.
    pub(super) sketch: Option<Sketch>,
}

impl Look {
    /// Looks at a decoded picture.
    pub(super) fn at(resizer: &mut Resizer, picture: &Rgb, format: Format) -> Result<Self, String> {
        // Everything but the size is measured on copies: it costs the same for a picture of any
        // size, and one that is stored at two sizes looks the same.
        let copy = shrunk(resizer, picture, COPY_SIDE)?;
        let (brightest, darkest) = brightness(&copy);
        let grey = grey_of(&copy);
        let small = shrunk(resizer, &copy, SHARPNESS_SIDE)?;
        let side = HASH_SIDE as u32;
        let square = grey_of(&scale(resizer, &copy, side, side)?);
        let strip = grey_of(&scale(resizer, &copy, 9, 8)?);
        let information = entropy(&grey) / 10.0;
        let colours = if information < limit::NO_DETAIL {
            let tile = scale(resizer, &copy, TILE_SIDE, TILE_SIDE)?;
            colours_of(&tile)
        } else {
            0
        };
        let contrast = contrast(&small);
        let sketch = match contrast {
            0..=limit::BLANK => None,
            _ => Some(Sketch::of(resizer, &copy)?),
        };
        Ok(Self {
            width: picture.width,
            height: picture.height,
            format,
            is_grey: is_grey(&copy),
            brightest: rounded(brightest),
            darkest: rounded(darkest),
            information: rounded(information),
            sharpness: rounded(sharpness(&grey_of(&small), small.width as usize)),
            phash: phash(&square),
            dhash: dhash(&strip),
            colours,
            contrast,
            structure: rounded(structure(&grey, copy.width as usize)),
            sketch,
        })
    }

    /// Whether hardly anything is to be seen: few grey values, and edges nearly nowhere.
    pub(super) fn is_of_low_information(&self) -> bool {
        self.information < limit::LOW_INFORMATION && self.structure < limit::STRUCTURE
    }

    /// Shorter over longer side.
    pub(super) fn aspect(&self) -> f64 {
        let (a, b) = (f64::from(self.width), f64::from(self.height));
        (a / b).min(b / a)
    }
}

/// A number of the colours of a tile, the same for what rounding alone has changed mostly.
fn colours_of(tile: &Rgb) -> u64 {
    const FINE_BITS: u32 = 2;
    // FNV-1a.
    tile.bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte >> FINE_BITS)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Four digits: what is compared and printed is then the same number everywhere.
fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

fn shrunk(resizer: &mut Resizer, picture: &Rgb, side: u32) -> Result<Rgb, String> {
    let longest = picture.width.max(picture.height);
    if longest <= side {
        return Ok(picture.clone());
    }
    let scaled =
        |pixels: u32| (u64::from(pixels) * u64::from(side) / u64::from(longest)).max(1) as u32;
    let (width, height) = (scaled(picture.width), scaled(picture.height));
    scale(resizer, picture, width, height)
}

fn grey_of(picture: &Rgb) -> Vec<u8> {
    picture
        .bytes
        .chunks_exact(3)
        .map(|rgb| {
            let sum = 299 * u32::from(rgb[0]) + 587 * u32::from(rgb[1]) + 114 * u32::from(rgb[2]);
            ((sum + 500) / 1_000) as u8
        })
        .collect()
}

fn is_grey(picture: &Rgb) -> bool {
    let pixels = picture.bytes.len() / 3;
    let coloured = picture
        .bytes
        .chunks_exact(3)
        .filter(|rgb| {
            let (low, high) = (rgb.iter().min(), rgb.iter().max());
            high.zip(low)
                .is_some_and(|(high, low)| high - low > GREY_SPREAD_MAX)
        })
        .count();
    coloured as f64 <= pixels as f64 * GREY_EXCEPT
}

/// The 99th percentile of brightness, and 1 minus the 5th. Brightness weighs the squares of the
/// colours, as eyes do.
fn brightness(picture: &Rgb) -> (f64, f64) {
    let mut counts = [0_u64; 256];
    for rgb in picture.bytes.chunks_exact(3) {
        let square = |value: u8| f64::from(value) * f64::from(value);
        let value =
            (0.241 * square(rgb[0]) + 0.691 * square(rgb[1]) + 0.068 * square(rgb[2])).sqrt();
        counts[(value.round() as usize).min(255)] += 1;
    }
    let total: u64 = counts.iter().sum();
    let percentile = |share: f64| {
        let wanted = total as f64 * share;
        let mut seen = 0;
        let at = counts.iter().position(|count| {
            seen += count;
            seen as f64 >= wanted
        });
        at.unwrap_or(255) as f64 / 255.0
    };
    (percentile(0.99), 1.0 - percentile(0.05))
}

fn entropy(grey: &[u8]) -> f64 {
    let mut counts = [0_u64; 256];
    for value in grey {
        counts[usize::from(*value)] += 1;
    }
    let total = grey.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = *count as f64 / total;
            -share * share.log2()
        })
        .sum()
}

/// The largest difference of two values of one channel.
fn contrast(picture: &Rgb) -> u8 {
    let of_channel = |channel: usize| {
        let values = picture.bytes.iter().skip(channel).step_by(3);
        let (low, high) = values.fold((u8::MAX, u8::MIN), |(low, high), value| {
            (low.min(*value), high.max(*value))
        });
        high.saturating_sub(low)
    };
    (0..3).map(of_channel).max().unwrap_or(0)
}

/// Share of the cells of a picture whose values differ by more than what compression and shading do.
fn structure(grey: &[u8], width: usize) -> f64 {
    let height = grey.len() / width.max(1);
    let cell = width.max(height).div_ceil(CELLS).max(2);
    let (mut all, mut with_edges) = (0_u32, 0_u32);
    for top in (0..height).step_by(cell) {
        for left in (0..width).step_by(cell) {
            let right = (left + cell).min(width);
            let rows = grey.chunks_exact(width).skip(top).take(cell);
            let values = rows.flat_map(|row| &row[left..right]);
            let (low, high) = values.fold((u8::MAX, u8::MIN), |(low, high), value| {
                (low.min(*value), high.max(*value))
            });
            all += 1;
            with_edges += u32::from(high.saturating_sub(low) >= EDGE_MIN);
        }
    }
    f64::from(with_edges) / f64::from(all.max(1))
}

fn sharpness(grey: &[u8], width: usize) -> f64 {
    let height = grey.len() / width.max(1);
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for y in 1..height.saturating_sub(1) {
        for x in 1..width - 1 {
            let at = |dx: usize, dy: usize| i32::from(grey[(y + dy - 1) * width + x + dx - 1]);
            let around: i32 = (0..9)
                .filter(|place| *place != 4)
                .map(|place| at(place % 3, place / 3))
                .sum();
            // Clamped as a filter of 8-bit pictures does.
            let edge = f64::from((8 * at(1, 1) - around).clamp(0, 255));
            count += 1.0;
            sum += edge;
            squares += edge * edge;
        }
    }
    if count == 0.0 {
        return 1.0;
    }
    let mean = sum / count;
    1.0 - (-(squares / count - mean * mean) / 100.0).exp()
}

fn phash(grey: &[u8]) -> u64 {
    let cosine = |frequency: usize, place: usize| {
        let angle = std::f64::consts::PI * (2 * place + 1) as f64 * frequency as f64;
        (angle / (2 * HASH_SIDE) as f64).cos()
    };
    let table: Vec<f64> = (0..HASH_KEPT * HASH_SIDE)
        .map(|at| cosine(at / HASH_SIDE, at % HASH_SIDE))
        .collect();
    // Along rows, then along columns; only the lowest frequencies are needed.
    let mut rows = vec![0.0; HASH_SIDE * HASH_KEPT];
    for y in 0..HASH_SIDE {
        for u in 0..HASH_KEPT {
            rows[y * HASH_KEPT + u] = (0..HASH_SIDE)
                .map(|x| f64::from(grey[y * HASH_SIDE + x]) * table[u * HASH_SIDE + x])
                .sum();
        }
    }
    let mut kept = [0.0; HASH_KEPT * HASH_KEPT];
    for v in 0..HASH_KEPT {
        for u in 0..HASH_KEPT {
            let sum: f64 = (0..HASH_SIDE)
                .map(|y| rows[y * HASH_KEPT + u] * table[v * HASH_SIDE + y])
                .sum();
            // A flat picture's frequencies are nothing but rounding: make them nothing.
            kept[v * HASH_KEPT + u] = sum.round();
        }
    }
    let mut sorted = kept;
    sorted.sort_by(f64::total_cmp);
    let median = (sorted[31] + sorted[32]) / 2.0;
    bits(kept.iter().map(|value| *value > median))
}

fn dhash(grey: &[u8]) -> u64 {
    bits((0..64).map(|at| {
        let place = at / 8 * 9 + at % 8;
        grey[place] > grey[place + 1]
    }))
}

fn bits(flags: impl Iterator<Item = bool>) -> u64 {
    flags.fold(0, |hash, flag| hash << 1 | u64::from(flag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;

    fn look(picture: &Rgb) -> Look {
        Look::at(&mut Resizer::new(), picture, Format::Jpeg).unwrap()
    }

    fn picture(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Rgb {
        let bytes = (0..width * height)
            .flat_map(|at| pixel(at % width, at / width))
            .collect();
        Rgb {
            width,
            height,
            bytes,
        }
    }

    /// Fields with sharp edges.
    fn patches(seed: u64) -> Rgb {
        let mut dice = Dice::keyed(&[seed]);
        let colours: Vec<[u8; 3]> = (0..48)
            .map(|_| std::array::from_fn(|_| (dice.bits() & 0xff) as u8))
            .collect();
        picture(200, 300, |x, y| colours[(y / 38 * 6 + x / 34) as usize])
    }

    #[test]
    fn plain_faults_have_low_scores_and_a_good_picture_has_none() {
        let good = look(&patches(1));
        assert!(good.brightest > limit::DARK && good.darkest > limit::LIGHT);
        assert!(good.information > limit::LOW_INFORMATION, "{good:?}");
        assert!(good.sharpness > limit::BLURRY && !good.is_grey, "{good:?}");
        assert!(look(&picture(90, 140, |_, _| [9, 8, 10])).brightest < limit::DARK);
        let white = look(&picture(90, 140, |_, _| [253; 3]));
        assert!(white.darkest < limit::LIGHT && white.information < limit::LOW_INFORMATION);
        assert!(white.contrast <= limit::BLANK && white.structure < limit::STRUCTURE);
        assert!(white.sketch.is_none() && good.sketch.is_some());
        // A drawing of thin lines: nearly all of it is paper, and nothing is missing.
        let lines = look(&picture(200, 200, |x, y| match (x % 40, y % 50) {
            (0 | 1, _) | (_, 0 | 1) => [0; 3],
            _ => [255; 3],
        }));
        assert!(lines.information < limit::LOW_INFORMATION && lines.structure > limit::STRUCTURE);
        assert!(lines.contrast > limit::BLANK);
        let smooth = look(&picture(200, 300, |x, y| {
            [(x / 2) as u8, (y / 3) as u8, ((x + y) / 4) as u8]
        }));
        assert!(smooth.sharpness < limit::BLURRY, "{smooth:?}");
        assert!(look(&picture(90, 140, |x, y| [((x * y) % 251) as u8; 3])).is_grey);
        assert!(look(&picture(30, 300, |_, _| [0; 3])).aspect() < limit::ODD_ASPECT);
    }

    #[test]
    fn hashes_hold_for_the_same_picture_at_another_size_and_differ_for_others() {
        for seed in 0..20 {
            let original = patches(seed);
            let smaller = scale(&mut Resizer::new(), &original, 120, 180).unwrap();
            let (a, b) = (look(&original), look(&smaller));
            assert!((a.phash ^ b.phash).count_ones() <= 4);
            assert!((a.dhash ^ b.dhash).count_ones() <= 4);
            let other = look(&patches(seed + 100));
            assert!((a.phash ^ other.phash).count_ones() > 12);
        }
    }
}
