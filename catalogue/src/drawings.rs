//! Drawings as clip-art has them: a subject of a few parts in plain colours, outlined or not, on a plain sheet.
//!
//! Photographs and posters have hundreds of grey values and edges everywhere. Drawings have neither, and what
//! judges pictures has to know both.

use std::f64::consts::{PI, TAU};

use fast_image_resize::Resizer;
use marquee_datasets::dice::Dice;
use marquee_datasets::scale::{Rgb, scale};

/// Pixels of a drawing's side.
const SIDE: u32 = 240;
/// Drawn so many times larger, so that edges are smooth.
const FINER: u32 = 2;
/// Share of the drawings that are lines alone.
const SHARE_LINES: f64 = 0.25;
/// Share of the others that have no outlines.
const SHARE_FLAT: f64 = 0.3;

type Colour = [u8; 3];

/// A closed shape around a middle, in shares of the sheet.
#[derive(Debug, Clone)]
struct Blob {
    middle: [f64; 2],
    /// Half its length and half its width.
    radii: [f64; 2],
    /// In radians.
    angle: f64,
    /// How far waves of the border go in and out, by how many there are around.
    waves: Vec<(f64, f64, f64)>,
    fill: Colour,
    outline: Option<(Colour, f64)>,
}

/// A line of some width.
#[derive(Debug, Clone)]
struct Stroke {
    points: Vec<[f64; 2]>,
    width: f64,
    colour: Colour,
}

#[derive(Debug, Clone)]
enum Part {
    Blob(Blob),
    Stroke(Stroke),
}

/// The drawing number `number`: always the same.
pub(crate) fn draw(number: u64) -> Rgb {
    let mut dice = Dice::keyed(&[number, 77]);
    let paper = if dice.chance(0.75) {
        [255; 3]
    } else {
        colour(&mut dice, 200, 255)
    };
    let side = SIDE * FINER;
    let mut pixels = vec![paper; (side * side) as usize];
    for part in parts(&mut dice, paper) {
        paint(&mut pixels, side, &part);
    }
    let fine = Rgb {
        width: side,
        height: side,
        bytes: pixels.concat(),
    };
    scale(&mut Resizer::new(), &fine, SIDE, SIDE).expect("it has three bytes for each pixel")
}

fn colour(dice: &mut Dice, low: usize, high: usize) -> Colour {
    std::array::from_fn(|_| (low + dice.below(high - low + 1)) as u8)
}

/// A few large parts around the middle, small ones on them, and lines.
fn parts(dice: &mut Dice, paper: Colour) -> Vec<Part> {
    let is_lines = dice.chance(SHARE_LINES);
    let ink = if dice.chance(0.8) {
        [15, 12, 18]
    } else {
        colour(dice, 0, 90)
    };
    let width = dice.between(0.006, 0.016);
    let outline = (is_lines || !dice.chance(SHARE_FLAT)).then_some((ink, width));
    let palette: Vec<Colour> = (0..2 + dice.below(4))
        .map(|_| {
            if is_lines {
                paper
            } else {
                colour(dice, 20, 250)
            }
        })
        .collect();
    let mut parts = Vec::new();
    let mut blob = |dice: &mut Dice, size: [f64; 2], around: f64| {
        let waves = (0..dice.below(4))
            .map(|_| {
                let count = (2 + dice.below(8)) as f64;
                (
                    count,
                    dice.between(0.05, 0.35 / count.sqrt()),
                    dice.between(0.0, TAU),
                )
            })
            .collect();
        let blob = Blob {
            middle: std::array::from_fn(|_| 0.5 + dice.between(-around, around)),
            radii: std::array::from_fn(|_| dice.between(size[0], size[1])),
            angle: dice.between(0.0, PI),
            waves,
            fill: *dice.pick(&palette),
            outline,
        };
        parts.push(Part::Blob(blob));
    };
    for _ in 0..2 + dice.below(3) {
        blob(dice, [0.12, 0.36], 0.16);
    }
    for _ in 0..2 + dice.below(6) {
        blob(dice, [0.02, 0.09], 0.3);
    }
    for _ in 0..dice.below(5) {
        let mut at: [f64; 2] = std::array::from_fn(|_| dice.between(0.15, 0.85));
        let points = (0..3 + dice.below(5))
            .map(|_| {
                at = at.map(|place| (place + dice.between(-0.18, 0.18)).clamp(0.06, 0.94));
                at
            })
            .collect();
        parts.push(Part::Stroke(Stroke {
            points,
            width: dice.between(0.006, 0.03),
            colour: if is_lines {
                ink
            } else {
                *dice.pick(&[ink, palette[0]])
            },
        }));
    }
    parts
}

fn paint(pixels: &mut [Colour], side: u32, part: &Part) {
    for (at, pixel) in pixels.iter_mut().enumerate() {
        let place = |number: usize| (number as f64 + 0.5) / f64::from(side);
        let point = [place(at % side as usize), place(at / side as usize)];
        let found = match part {
            Part::Blob(blob) => blob.colour_at(point),
            Part::Stroke(stroke) => stroke.colour_at(point),
        };
        if let Some(colour) = found {
            *pixel = colour;
        }
    }
}

impl Blob {
    fn colour_at(&self, point: [f64; 2]) -> Option<Colour> {
        let (dx, dy) = (point[0] - self.middle[0], point[1] - self.middle[1]);
        let reach = self.radii[0].max(self.radii[1]) * 2.0;
        // Most of the sheet is far away.
        if dx.abs() > reach || dy.abs() > reach {
            return None;
        }
        let (sin, cos) = self.angle.sin_cos();
        let (x, y) = (
            (dx * cos + dy * sin) / self.radii[0],
            (dy * cos - dx * sin) / self.radii[1],
        );
        let direction = y.atan2(x);
        let wave =
            |(count, depth, start): &(f64, f64, f64)| depth * (count * direction + start).sin();
        let border = 1.0 + self.waves.iter().map(wave).sum::<f64>();
        let distance = x.hypot(y);
        let (ink, width) = self.outline.unwrap_or((self.fill, 0.0));
        // The width of an outline is that of the pen, whatever the size of the shape.
        let pen = width / self.radii[0].min(self.radii[1]);
        match distance {
            _ if distance > border => None,
            _ if distance > border - pen => Some(ink),
            _ => Some(self.fill),
        }
    }
}

impl Stroke {
    fn colour_at(&self, [x, y]: [f64; 2]) -> Option<Colour> {
        let is_near = |pair: &[[f64; 2]]| {
            let ([ax, ay], [bx, by]) = (pair[0], pair[1]);
            let (along, down) = (bx - ax, by - ay);
            let length = along * along + down * down;
            // The place on the line that is nearest to the point; two ends in one place have no
            // length to divide by.
            let share = ((x - ax) * along + (y - ay) * down) / length.max(1e-9);
            let share = share.clamp(0.0, 1.0);
            (x - ax - share * along).hypot(y - ay - share * down) <= self.width / 2.0
        };
        self.points.windows(2).any(is_near).then_some(self.colour)
    }
}
