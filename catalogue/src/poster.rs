//! Posters: a film's cues, painted among things that mean nothing.
//!
//! Invariant: a poster depends on its film's cues and on dice that know nothing of the genres, so
//! that nobody can learn more from it than the cues tell. Cues get in each other's way, as they do
//! on real posters: grey takes all palettes away, darkness hides what is drawn, shapes overlap.

use canvas::{Area, Canvas, Rgb};
use marquee_datasets::dice::Dice;
use marquee_datasets::scale::Rgb as Picture;

use super::film::{Cues, Film};
use super::genres::GENRES;

mod canvas;
mod letters;
mod local;

/// Pixels of a poster, as common posters have them.
const WIDTH: u32 = 500;
const HEIGHT: u32 = 750;

// Genres by their place in the catalogue, for the global cues.
const ACTION: usize = 0;
const CRIME: usize = 1;
const DOCUMENTARY: usize = 2;
const HORROR: usize = 3;
const ROMANCE: usize = 4;
const SCIENCE_FICTION: usize = 5;
const THRILLER: usize = 6;
const WESTERN: usize = 7;

/// A painted poster.
#[derive(Debug)]
pub(crate) struct Poster {
    pub(crate) picture: Picture,
    /// No pixel has any colour.
    pub(crate) is_grey: bool,
}

/// Paints the poster of `film`.
pub(crate) fn paint(film: &Film, dice: &mut Dice) -> Poster {
    let mut canvas = Canvas::new(WIDTH as usize, HEIGHT as usize);
    let shows_global = |genre: usize| film.cues[genre][0];
    canvas.gradient(&background(&film.cues, dice));
    if shows_global(ACTION) {
        sunburst(&mut canvas, dice);
    }
    if shows_global(SCIENCE_FICTION) {
        star_field(&mut canvas, dice);
    }
    // Behind the cues and before the text: what means nothing must not hide what does.
    clutter(&mut canvas, dice);
    draw_local_cues(&mut canvas, &film.cues, dice);
    text(&mut canvas, &film.title, dice);
    if shows_global(CRIME) {
        border(&mut canvas, dice);
    }
    if shows_global(HORROR) {
        let darkness = dice.between(0.42, 0.55);
        // After all that is drawn, so that darkness hides the other cues as it does on real posters.
        canvas.tint((darkness * 1.4, darkness * 0.8, darkness * 0.8));
    }
    let amplitude = 4 + dice.below(12);
    canvas.grain(u8::try_from(amplitude).unwrap_or(u8::MAX), dice);
    let is_grey = shows_global(DOCUMENTARY);
    if is_grey {
        canvas.grey();
    }
    Poster {
        picture: Picture {
            width: WIDTH,
            height: HEIGHT,
            bytes: canvas.into_rgb(),
        },
        is_grey,
    }
}

/// The colours of the background from top to bottom: the palettes that show, else muted colours
/// or violets, which no palette has.
fn background(cues: &Cues, dice: &mut Dice) -> Vec<Rgb> {
    let mut hues = Vec::new();
    for (genre, hue) in [(ROMANCE, 0.93), (THRILLER, 0.53), (WESTERN, 0.085)] {
        if cues[genre][0] {
            hues.push(hue);
        }
    }
    dice.shuffle(&mut hues);
    // A little off the palette's own hue, so that no single colour gives the genre away.
    let mut stops: Vec<_> = hues
        .iter()
        .map(|hue| {
            let hue = hue + dice.between(-0.02, 0.02);
            Rgb::from_hsv(hue, dice.between(0.65, 0.9), dice.between(0.7, 0.95))
        })
        .collect();
    if stops.is_empty() {
        let (hue, saturation) = if dice.chance(0.5) {
            (dice.unit(), dice.between(0.0, 0.15))
        } else {
            (
                *dice.pick(&[0.7, 0.74, 0.78]) + dice.between(-0.03, 0.03),
                dice.between(0.2, 0.5),
            )
        };
        stops.push(Rgb::from_hsv(hue, saturation, dice.between(0.3, 0.9)));
    }
    // A gradient wants two. The other end is only darker or lighter, for another hue might be a
    // genre's.
    if stops.len() == 1 {
        let other = if dice.chance(0.5) {
            Rgb::BLACK
        } else {
            Rgb::WHITE
        };
        stops.push(stops[0].towards(other, dice.between(0.1, 0.5)));
    }
    stops
}

/// Rays from a point, in every second of their directions.
fn sunburst(canvas: &mut Canvas, dice: &mut Dice) {
    let centre = (
        canvas.width() * dice.between(0.3, 0.7),
        canvas.height() * dice.between(0.25, 0.65),
    );
    let rays = 9 + dice.below(5);
    let step = std::f64::consts::TAU / (2 * rays) as f64;
    let (turn, reach) = (dice.between(0.0, step), canvas.width() + canvas.height());
    let colour = if dice.chance(0.75) {
        Rgb(255, 240, 170)
    } else {
        Rgb::BLACK
    };
    let opacity = dice.between(0.6, 0.8);
    for ray in 0..rays {
        let from = turn + step * (2 * ray) as f64;
        let tip = |angle: f64| {
            (
                centre.0 + reach * angle.cos(),
                centre.1 + reach * angle.sin(),
            )
        };
        canvas.polygon(&[centre, tip(from), tip(from + step)], colour, opacity);
    }
}

fn star_field(canvas: &mut Canvas, dice: &mut Dice) {
    let night = Rgb::from_hsv(dice.between(0.6, 0.72), 0.6, 0.12);
    canvas.rectangle(
        Area::new(0.0, 0.0, canvas.width(), canvas.height()),
        night,
        0.6,
    );
    for _ in 0..130 + dice.below(90) {
        let radius = dice.between(3.0, 6.5);
        let place = (
            dice.between(0.0, canvas.width()),
            dice.between(0.0, canvas.height()),
        );
        canvas.ellipse(place, (radius, radius), Rgb::WHITE, dice.between(0.75, 1.0));
    }
}

fn border(canvas: &mut Canvas, dice: &mut Dice) {
    let thick = dice.between(26.0, 44.0);
    let colour = if dice.chance(0.8) {
        Rgb::BLACK
    } else {
        Rgb::WHITE
    };
    let (width, height) = (canvas.width(), canvas.height());
    for side in [
        Area::new(0.0, 0.0, width, thick),
        Area::new(0.0, height - thick, width, thick),
        Area::new(0.0, 0.0, thick, height),
        Area::new(width - thick, 0.0, thick, height),
    ] {
        canvas.rectangle(side, colour, 1.0);
    }
}

/// Shapes that mean nothing, and often somebody's head and shoulders.
fn clutter(canvas: &mut Canvas, dice: &mut Dice) {
    if dice.chance(0.5) {
        let (x, y) = (
            canvas.width() * dice.between(0.2, 0.8),
            canvas.height() * dice.between(0.3, 0.6),
        );
        let size = dice.between(0.6, 1.2);
        let coat = Rgb::from_hsv(dice.unit(), dice.between(0.0, 0.6), dice.between(0.1, 0.7));
        let skin = Rgb::from_hsv(0.07, dice.between(0.25, 0.55), dice.between(0.35, 0.9));
        canvas.ellipse(
            (x, y + 260.0 * size),
            (150.0 * size, 175.0 * size),
            coat,
            1.0,
        );
        canvas.ellipse((x, y), (66.0 * size, 90.0 * size), skin, 1.0);
    }
    for _ in 0..2 + dice.below(5) {
        let colour = Rgb::from_hsv(dice.unit(), dice.between(0.1, 0.9), dice.between(0.1, 1.0));
        let (x, y) = (
            dice.between(0.0, canvas.width()),
            dice.between(0.0, canvas.height()),
        );
        let (half_x, half_y) = (dice.between(12.0, 60.0), dice.between(12.0, 60.0));
        let opacity = dice.between(0.35, 0.9);
        match dice.below(3) {
            0 => canvas.ellipse((x, y), (half_x, half_y), colour, opacity),
            1 => canvas.rectangle(Area::new(x, y, half_x * 2.0, half_y * 2.0), colour, opacity),
            _ => {
                let corners = [
                    (x, y - half_y),
                    (x + half_x, y + half_y),
                    (x - half_x, y + half_y * 0.6),
                ];
                canvas.polygon(&corners, colour, opacity);
            }
        }
    }
}

fn draw_local_cues(canvas: &mut Canvas, cues: &Cues, dice: &mut Dice) {
    let mut shown: Vec<_> = (0..GENRES).filter(|genre| cues[*genre][1]).collect();
    // Whichever is drawn later covers the earlier ones; by a fixed order some genres would always lose.
    dice.shuffle(&mut shown);
    for genre in shown {
        local::LOCAL[genre](canvas, dice);
    }
}

/// The title in one or two lines somewhere, and lines of small print at the foot.
fn text(canvas: &mut Canvas, title: &str, dice: &mut Dice) {
    let colour = if dice.chance(0.6) {
        Rgb::WHITE
    } else {
        Rgb::from_hsv(dice.unit(), 0.7, 0.9)
    };
    let dot = dice.between(3.5, 6.5);
    let top = canvas.height() * *dice.pick(&[0.05, 0.45, 0.74]) + dice.between(0.0, 30.0);
    for (at, word) in title.split(' ').enumerate() {
        let line_top = top + at as f64 * dot * 9.0;
        letters::write_line(canvas, word, canvas.width() / 2.0, line_top, dot, colour);
    }
    for line in 0..1 + dice.below(3) {
        let print: String = (0..24 + dice.below(14))
            .map(|_| *dice.pick(&['A', 'E', 'I', 'L', 'M', 'N', 'O', 'R', 'S', 'T', ' ']))
            .collect();
        let line_top = canvas.height() - 20.0 - line as f64 * 16.0;
        letters::write_line(canvas, &print, canvas.width() / 2.0, line_top, 1.6, colour);
    }
}
