//! The local cues: one small drawing a genre, of random size, place and colour.

use std::f64::consts::TAU;

use marquee_datasets::dice::Dice;

use super::canvas::{Area, Canvas, Part, Rgb};

/// Draws one cue.
pub(super) type Draw = fn(&mut Canvas, &mut Dice);

/// The drawings, in the order of the catalogue's genres.
pub(super) const LOCAL: [Draw; crate::genres::GENRES] = [
    skyline,
    blinds,
    contact_strip,
    drips,
    heart,
    ringed_planet,
    eyes,
    cactus,
];

/// A place for something of this half size that keeps it within the picture.
fn place(canvas: &Canvas, half: (f64, f64), dice: &mut Dice) -> (f64, f64) {
    (
        dice.between(half.0, (canvas.width() - half.0).max(half.0 + 1.0)),
        dice.between(half.1, (canvas.height() - half.1).max(half.1 + 1.0)),
    )
}

/// Action: towers with lit windows along the lower edge.
fn skyline(canvas: &mut Canvas, dice: &mut Dice) {
    let wall = Rgb::from_hsv(
        dice.unit(),
        dice.between(0.0, 0.3),
        dice.between(0.05, 0.22),
    );
    let light = Rgb::from_hsv(dice.between(0.1, 0.17), 0.6, 1.0);
    let base = canvas.height() * dice.between(0.86, 1.0);
    let (mut x, end) = (canvas.width() * dice.between(0.0, 0.3), canvas.width());
    while x < end {
        let (width, height) = (dice.between(38.0, 80.0), dice.between(110.0, 270.0));
        canvas.rectangle(Area::new(x, base - height, width, height), wall, 1.0);
        let mut y = base - height + 14.0;
        while y < base - 20.0 {
            let mut window = x + 8.0;
            while window + 10.0 < x + width {
                if dice.chance(0.55) {
                    canvas.rectangle(Area::new(window, y, 9.0, 13.0), light, 1.0);
                }
                window += 18.0;
            }
            y += 26.0;
        }
        x += width + dice.between(2.0, 10.0);
    }
}

/// Crime: light that falls through window blinds.
fn blinds(canvas: &mut Canvas, dice: &mut Dice) {
    let half = (dice.between(100.0, 150.0), dice.between(100.0, 140.0));
    let (x, y) = place(canvas, half, dice);
    let frame = Area::new(x - half.0, y - half.1, half.0 * 2.0, half.1 * 2.0);
    canvas.rectangle(frame, Rgb::BLACK, 0.95);
    let slat = Rgb::from_hsv(dice.between(0.09, 0.16), dice.between(0.1, 0.45), 0.95);
    let step = dice.between(36.0, 48.0);
    let mut top = frame.top + 10.0;
    while top + step * 0.5 < frame.bottom() {
        canvas.rectangle(
            Area::new(frame.left, top, frame.width, step * 0.5),
            slat,
            0.92,
        );
        top += step;
    }
}

/// Documentary: a strip of film with its holes and frames.
fn contact_strip(canvas: &mut Canvas, dice: &mut Dice) {
    let thickness = dice.between(84.0, 120.0);
    let is_upright = dice.chance(0.5);
    let (length, across) = if is_upright {
        (canvas.height(), canvas.width())
    } else {
        (canvas.width(), canvas.height())
    };
    let offset = dice.between(0.0, across - thickness);
    let turned = |along: f64, aside: f64, long: f64, wide: f64| {
        if is_upright {
            Area::new(offset + aside, along, wide, long)
        } else {
            Area::new(along, offset + aside, long, wide)
        }
    };
    canvas.rectangle(turned(0.0, 0.0, length, thickness), Rgb::BLACK, 1.0);
    let mut along = dice.between(4.0, 20.0);
    while along < length {
        for aside in [6.0, thickness - 18.0] {
            canvas.rectangle(turned(along, aside, 14.0, 12.0), Rgb::WHITE, 1.0);
        }
        along += 28.0;
    }
    let mut along = dice.between(-30.0, 10.0);
    while along < length {
        let shade = Rgb::from_hsv(dice.unit(), 0.15, dice.between(0.45, 0.85));
        canvas.rectangle(turned(along, 24.0, 78.0, thickness - 48.0), shade, 1.0);
        along += 92.0;
    }
}

/// Horror: something red runs down from the upper edge.
fn drips(canvas: &mut Canvas, dice: &mut Dice) {
    let red = Rgb::from_hsv(dice.between(0.97, 1.02), 0.95, dice.between(0.6, 0.85));
    canvas.rectangle(
        Area::new(0.0, 0.0, canvas.width(), dice.between(16.0, 42.0)),
        red,
        1.0,
    );
    let mut x = dice.between(4.0, 30.0);
    while x < canvas.width() {
        let (half, length) = (dice.between(10.0, 19.0), dice.between(60.0, 230.0));
        canvas.rectangle(Area::new(x - half, 0.0, half * 2.0, length), red, 1.0);
        canvas.ellipse((x, length), (half, half * 1.5), red, 1.0);
        x += dice.between(42.0, 85.0);
    }
}

/// Romance: a heart.
fn heart(canvas: &mut Canvas, dice: &mut Dice) {
    let half = dice.between(85.0, 130.0);
    let (x, y) = place(canvas, (half, half), dice);
    let saturation = dice.between(0.7, 1.0);
    let colour = Rgb::from_hsv(
        dice.between(0.95, 1.01),
        saturation,
        dice.between(0.85, 1.0),
    );
    // The usual heart curve: x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t.
    let outline: Vec<_> = (0..48)
        .map(|step| {
            let t = f64::from(step) / 48.0 * TAU;
            let height =
                13.0 * t.cos() - 5.0 * (2.0 * t).cos() - 2.0 * (3.0 * t).cos() - (4.0 * t).cos();
            (x + half * t.sin().powi(3), y - half * height / 16.0)
        })
        .collect();
    canvas.polygon(&outline, colour, 1.0);
}

/// Science fiction: a planet with a ring.
fn ringed_planet(canvas: &mut Canvas, dice: &mut Dice) {
    let radius = dice.between(60.0, 90.0);
    let ring = (radius * 1.95, radius * dice.between(0.42, 0.62));
    let (x, y) = place(canvas, (ring.0 * 0.8, radius), dice);
    let planet = Rgb::from_hsv(dice.unit(), dice.between(0.3, 0.7), dice.between(0.6, 0.95));
    let band = planet.towards(Rgb::WHITE, 0.6);
    // The far half before the planet and the near half after it: so the ring goes around.
    canvas.ring((x, y), ring, 0.22, Part::Upper, band);
    canvas.ellipse((x, y), (radius, radius), planet, 1.0);
    let shade = planet.towards(Rgb::BLACK, 0.4);
    canvas.ellipse(
        (x + radius * 0.3, y + radius * 0.3),
        (radius * 0.6, radius * 0.6),
        shade,
        0.5,
    );
    canvas.ring((x, y), ring, 0.22, Part::Lower, band);
}

/// Thriller: a pair of eyes.
fn eyes(canvas: &mut Canvas, dice: &mut Dice) {
    let (wide, high) = (dice.between(62.0, 88.0), dice.between(32.0, 44.0));
    let (x, y) = place(canvas, (wide * 2.2, high * 1.5), dice);
    let iris = Rgb::from_hsv(dice.unit(), 0.6, 0.55);
    let glance = dice.between(-0.3, 0.3) * wide;
    for eye in [x - wide * 1.15, x + wide * 1.15] {
        canvas.ellipse((eye, y), (wide + 7.0, high + 7.0), Rgb::BLACK, 1.0);
        canvas.ellipse((eye, y), (wide, high), Rgb::WHITE, 1.0);
        canvas.ellipse((eye + glance, y), (high * 0.92, high * 0.92), iris, 1.0);
        canvas.ellipse((eye + glance, y), (high * 0.5, high * 0.5), Rgb::BLACK, 1.0);
    }
}

/// Western: a cactus with two arms.
fn cactus(canvas: &mut Canvas, dice: &mut Dice) {
    let size = dice.between(1.05, 1.4);
    let (x, y) = place(canvas, (100.0 * size, 150.0 * size), dice);
    let green = Rgb::from_hsv(
        dice.between(0.28, 0.4),
        dice.between(0.5, 0.9),
        dice.between(0.25, 0.5),
    );
    let mut limb = |dx: f64, top: f64, bottom: f64, half: f64| {
        let (top, bottom, half) = (y + top * size, y + bottom * size, half * size);
        let centre = x + dx * size;
        canvas.rectangle(
            Area::new(centre - half, top, half * 2.0, bottom - top),
            green,
            1.0,
        );
        canvas.ellipse((centre, top), (half, half), green, 1.0);
    };
    limb(0.0, -125.0, 150.0, 26.0);
    limb(-72.0, -50.0, 40.0, 17.0);
    limb(72.0, -80.0, 10.0, 17.0);
    canvas.rectangle(
        Area::new(x - 89.0 * size, y + 14.0 * size, 80.0 * size, 32.0 * size),
        green,
        1.0,
    );
    canvas.rectangle(
        Area::new(x + 9.0 * size, y - 16.0 * size, 80.0 * size, 32.0 * size),
        green,
        1.0,
    );
}
