//! A picture in memory and the few shapes that posters are made of. Shapes are cut at the edges;
//! there is no smoothing, since JPEG and the later shrinking do it.

use marquee_datasets::dice::Dice;

/// A colour, 8 bits a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rgb(pub(super) u8, pub(super) u8, pub(super) u8);

impl Rgb {
    pub(super) const BLACK: Self = Self(10, 10, 12);
    pub(super) const WHITE: Self = Self(245, 245, 240);

    /// The colour of this hue (in turns), saturation and value, all in [0, 1].
    pub(super) fn from_hsv(hue: f64, saturation: f64, value: f64) -> Self {
        let channel = |offset: f64| {
            let k = (offset + hue * 6.0).rem_euclid(6.0);
            let dip = k.min(4.0 - k).clamp(0.0, 1.0);
            byte((value - value * saturation * dip) * 255.0)
        };
        Self(channel(5.0), channel(3.0), channel(1.0))
    }

    /// The colour between this and `other`; `share` of the latter.
    pub(super) fn towards(self, other: Self, share: f64) -> Self {
        let blend = |a: u8, b: u8| byte(f64::from(a) + (f64::from(b) - f64::from(a)) * share);
        Self(
            blend(self.0, other.0),
            blend(self.1, other.1),
            blend(self.2, other.2),
        )
    }
}

/// The nearest byte.
fn byte(value: f64) -> u8 {
    // `as` saturates, which is what is wanted of a colour.
    value.round() as u8
}

/// A picture, row by row.
#[derive(Debug, Clone)]
pub(super) struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            rgb: vec![0; width * height * 3],
        }
    }

    pub(super) fn width(&self) -> f64 {
        self.width as f64
    }

    pub(super) fn height(&self) -> f64 {
        self.height as f64
    }

    pub(super) fn into_rgb(self) -> Vec<u8> {
        self.rgb
    }

    /// Fills everything with colours that lead from the first of `stops` at the top to the last at
    /// the bottom.
    pub(super) fn gradient(&mut self, stops: &[Rgb]) {
        let last = stops.len() - 1;
        let rows = self.height;
        for (y, row) in self.rgb.chunks_exact_mut(self.width * 3).enumerate() {
            let place = y as f64 / rows as f64 * last as f64;
            let from = (place as usize).min(last);
            let to = (from + 1).min(last);
            let Rgb(r, g, b) = stops[from].towards(stops[to], place - from as f64);
            // The first pixel, then what there is doubled until the row is full: long copies are
            // many times faster than single pixels.
            row[..3].copy_from_slice(&[r, g, b]);
            let mut filled = 3;
            while filled < row.len() {
                let more = filled.min(row.len() - filled);
                row.copy_within(..more, filled);
                filled += more;
            }
        }
    }

    /// Colours the pixels of row `y` whose centres lie in [`left`, `right`); `opacity` in [0, 1].
    fn span(&mut self, y: usize, left: f64, right: f64, colour: Rgb, opacity: f64) {
        let from = (left.round().max(0.0) as usize).min(self.width);
        let to = (right.round().max(0.0) as usize).min(self.width);
        if from >= to || y >= self.height {
            return;
        }
        let start = y * self.width * 3;
        let pixels = &mut self.rgb[start + from * 3..start + to * 3];
        let new = [colour.0, colour.1, colour.2];
        // In 256ths, so that blending stays in integers.
        let new_share = (opacity * 256.0).round() as u32;
        for pixel in pixels.chunks_exact_mut(3) {
            for (old, new) in pixel.iter_mut().zip(new) {
                let blend = u32::from(*old) * (256 - new_share) + u32::from(new) * new_share;
                *old = (blend / 256) as u8;
            }
        }
    }

    /// The rows of the picture between two heights.
    fn rows(&self, top: f64, bottom: f64) -> std::ops::Range<usize> {
        let first = (top.round().max(0.0) as usize).min(self.height);
        first..(bottom.round().max(0.0) as usize).clamp(first, self.height)
    }

    pub(super) fn rectangle(&mut self, area: Area, colour: Rgb, opacity: f64) {
        for y in self.rows(area.top, area.bottom()) {
            self.span(y, area.left, area.right(), colour, opacity);
        }
    }

    pub(super) fn ellipse(
        &mut self,
        centre: (f64, f64),
        radii: (f64, f64),
        colour: Rgb,
        opacity: f64,
    ) {
        for y in self.rows(centre.1 - radii.1, centre.1 + radii.1) {
            let half = half_chord(y as f64 + 0.5 - centre.1, radii);
            self.span(y, centre.0 - half, centre.0 + half, colour, opacity);
        }
    }

    /// The upper or lower half, or all, of an elliptic ring of this thickness at its sides.
    pub(super) fn ring(
        &mut self,
        centre: (f64, f64),
        radii: (f64, f64),
        share: f64,
        part: Part,
        colour: Rgb,
    ) {
        let inner = (radii.0 * (1.0 - share), radii.1 * (1.0 - share));
        let (top, bottom) = match part {
            Part::Upper => (centre.1 - radii.1, centre.1),
            Part::Lower => (centre.1, centre.1 + radii.1),
        };
        for y in self.rows(top, bottom) {
            let dy = y as f64 + 0.5 - centre.1;
            let (outside, inside) = (half_chord(dy, radii), half_chord(dy, inner));
            self.span(y, centre.0 - outside, centre.0 - inside, colour, 1.0);
            self.span(y, centre.0 + inside, centre.0 + outside, colour, 1.0);
        }
    }

    /// A polygon of any shape; where it covers itself twice it is open.
    pub(super) fn polygon(&mut self, corners: &[(f64, f64)], colour: Rgb, opacity: f64) {
        let top = corners.iter().map(|c| c.1).fold(f64::INFINITY, f64::min);
        let bottom = corners
            .iter()
            .map(|c| c.1)
            .fold(f64::NEG_INFINITY, f64::max);
        let mut crossings = Vec::new();
        for y in self.rows(top, bottom) {
            let line = y as f64 + 0.5;
            crossings.clear();
            for (at, from) in corners.iter().enumerate() {
                let to = corners[(at + 1) % corners.len()];
                // One end counts and the other does not, so that a corner on the line is crossed
                // once.
                if (from.1 <= line) != (to.1 <= line) {
                    crossings.push(from.0 + (line - from.1) / (to.1 - from.1) * (to.0 - from.0));
                }
            }
            crossings.sort_by(f64::total_cmp);
            for pair in crossings.chunks_exact(2) {
                self.span(y, pair[0], pair[1], colour, opacity);
            }
        }
    }

    /// Multiplies every channel by its factor.
    pub(super) fn tint(&mut self, factors: (f64, f64, f64)) {
        let table =
            |factor: f64| -> [u8; 256] { std::array::from_fn(|value| byte(value as f64 * factor)) };
        let tables = [table(factors.0), table(factors.1), table(factors.2)];
        for pixel in self.rgb.chunks_exact_mut(3) {
            for (value, table) in pixel.iter_mut().zip(&tables) {
                *value = table[usize::from(*value)];
            }
        }
    }

    /// Makes every pixel as grey as it is bright (ITU-R BT.601 weights, in 256ths).
    pub(super) fn grey(&mut self) {
        for pixel in self.rgb.chunks_exact_mut(3) {
            let [r, g, b] = [
                u32::from(pixel[0]),
                u32::from(pixel[1]),
                u32::from(pixel[2]),
            ];
            pixel.fill(((77 * r + 150 * g + 29 * b) / 256) as u8);
        }
    }

    /// Film grain: each pixel becomes lighter or darker by up to about `amplitude`, in a
    /// triangular distribution.
    pub(super) fn grain(&mut self, amplitude: u8, dice: &mut Dice) {
        let span = u64::from(amplitude) + 1;
        for pixels in self.rgb.chunks_mut(4 * 3) {
            // One draw for four pixels: grain is on all of them, and most of a poster's time would
            // go into dice.
            let mut bits = dice.bits();
            for pixel in pixels.chunks_exact_mut(3) {
                let (a, b) = (bits & 0xff, (bits >> 8) & 0xff);
                bits >>= 16;
                let shift = ((a * span) >> 8) as i16 - ((b * span) >> 8) as i16;
                for value in pixel {
                    *value = (i16::from(*value) + shift).clamp(0, 255) as u8;
                }
            }
        }
    }
}

/// Half the width of an ellipse at a height above or below its centre.
fn half_chord(dy: f64, radii: (f64, f64)) -> f64 {
    let share = dy / radii.1;
    radii.0 * (1.0 - share * share).max(0.0).sqrt()
}

/// Half of a ring.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Upper,
    Lower,
}

/// A rectangle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Area {
    pub(super) fn new(left: f64, top: f64, width: f64, height: f64) -> Self {
        Self {
            left,
            top,
            width,
            height,
        }
    }

    pub(super) fn right(self) -> f64 {
        self.left + self.width
    }

    pub(super) fn bottom(self) -> f64 {
        self.top + self.height
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hues_go_round_from_red_over_green_to_blue() {
        assert_eq!(Rgb::from_hsv(0.0, 1.0, 1.0), Rgb(255, 0, 0));
        assert_eq!(Rgb::from_hsv(1.0 / 3.0, 1.0, 1.0), Rgb(0, 255, 0));
        assert_eq!(Rgb::from_hsv(2.0 / 3.0, 1.0, 1.0), Rgb(0, 0, 255));
        assert_eq!(Rgb::from_hsv(0.4, 0.0, 0.5), Rgb(128, 128, 128));
    }

    #[test]
    fn shapes_beyond_the_edge_are_cut() {
        let mut canvas = Canvas::new(10, 10);
        canvas.rectangle(Area::new(-5.0, -5.0, 100.0, 7.0), Rgb(255, 255, 255), 1.0);
        canvas.ellipse((10.0, 10.0), (4.0, 4.0), Rgb(255, 255, 255), 1.0);
        canvas.polygon(
            &[(-9.0, 20.0), (4.0, 30.0), (-2.0, -8.0)],
            Rgb(255, 0, 0),
            0.5,
        );
        let rgb = canvas.into_rgb();
        assert_eq!(rgb[..60], [255; 60]);
        assert_eq!(rgb[rgb.len() - 3..], [255; 3]);
    }
}
