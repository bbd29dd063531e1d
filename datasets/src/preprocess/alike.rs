//! Pictures that show the same in spite of what was done to them: mirrored, turned by a quarter, coloured
//! anew, cropped, or put on a larger sheet. Found without comparing all with all.
//!
//! Hashes only say whom to compare: a picture's hashes in all its turns, and of many windows of it, are
//! looked up among the plain hashes of all others. Whether two show the same is then judged by their
//! sketches, so the hashes may be asked loosely.
//!
//! A crop that cuts through a drawing on one side keeps its plain border on the others, and shows what is in a
//! window of the sheet with the border. So windows of both are looked up.

use super::near::{Budget, Index, Reach};
use super::sketch::Sketch;
use super::spectrum::{Basis, SIDE, Span, Spectrum, TURNS, correlation, turned, window};

/// Bits in which the hashes of two pictures differ at most, for them to be compared as wholes.
const WHOLE_BITS: u32 = 15;
/// The same, for one to be compared with a window of the other.
const WINDOW_BITS: u32 = 14;
/// Sides of the windows that are looked up, in shares of the picture's, and in how many places along each
/// side: between two neighbours a crop is never far from one.
const WINDOWS: [(f32, usize); 4] = [(0.92, 2), (0.84, 3), (0.76, 4), (0.68, 5)];
/// The rule of [`Maps::is_same`].
const LIGHT_MIN: f32 = 0.90;
const EDGES_MIN: f32 = 0.72;
/// Of other colours, edges alone have to tell.
const EDGES_ALONE_MIN: f32 = 0.88;
/// The rule for crops, whose windows are found in steps.
const CROP_LIGHT_MIN: f32 = 0.92;
const CROP_EDGES_MIN: f32 = 0.70;
/// By how much width to height may be another one than the window's: some crops are brought to a square after.
const CROP_STRETCH_MAX: f32 = 1.4;
/// A window that is not at least this alike is not looked at more closely.
const CROP_FIRST_MIN: f32 = 0.60;
/// Numbers of a side in which windows are compared.
const WINDOW_SIDE: usize = 16;
/// By how much a window's edges are moved when it is looked at closely; then half of that, and so on.
const MOVE_FIRST: f32 = 0.05;
const MOVES: usize = 4;
/// Spread of a map's numbers from which on it can tell pictures apart.
const SPREAD_MIN: f32 = 8.0;
/// Share of a map's variance that is not its rows' and its columns', from which on it can: stripes, bars and
/// frames are like many others.
const SHAPES_MIN: f32 = 0.10;
/// A picture to be compared, with the frequencies of both its maps.
#[derive(Debug)]
struct Sight<'a> {
    /// Its place among all pictures.
    place: usize,
    sketch: &'a Sketch,
    light: Spectrum,
    edges: Spectrum,
}

/// Pairs of places in `sketches` that show the same, each once, the smaller place first. None: a picture of
/// which nothing can be said.
pub(super) fn pairs(sketches: &[Option<&Sketch>]) -> Vec<(usize, usize)> {
    let whole = Basis::of(Span::WHOLE);
    let sights: Vec<Sight<'_>> = sketches
        .iter()
        .enumerate()
        .filter_map(|(place, sketch)| Sight::of(place, (*sketch)?, &whole))
        .collect();
    let light = Index::new(sights.iter().map(|sight| sight.light.hash(0)).collect());
    let edges = Index::new(sights.iter().map(|sight| sight.edges.hash(0)).collect());
    let windows = Windows::new();
    let mut search = Search {
        sights: &sights,
        found: Vec::new(),
        asked: vec![0; sights.len()],
        question: 0,
    };
    for at in 0..sights.len() {
        search.turns_of(at, &light, &edges);
        search.windows_of(at, &light, &windows);
    }
    search.found.sort_unstable();
    search.found.dedup();
    search.found
}

/// A search under way.
struct Search<'a> {
    sights: &'a [Sight<'a>],
    found: Vec<(usize, usize)>,
    /// By sight: the question for which it came up last, so that it comes up once for each.
    asked: Vec<u64>,
    question: u64,
}

impl Search<'_> {
    /// Those before the sight at `at` that show the same as one of its turns.
    fn turns_of(&mut self, at: usize, light: &Index, edges: &Index) {
        let sight = &self.sights[at];
        let mut budget = Budget::new();
        for turn in 0..TURNS {
            let near = [
                light.near(sight.light.hash(turn), Reach::Two, WHOLE_BITS, &mut budget),
                edges.near(sight.edges.hash(turn), Reach::Two, WHOLE_BITS, &mut budget),
            ];
            self.question += 1;
            let mut own = None;
            for other in near.into_iter().flatten() {
                // Each pair is met from both sides.
                if other >= at || !self.is_new(other) || !budget.compares() {
                    continue;
                }
                // Only once a hash asks for it: hardly any turn of a picture has a neighbour.
                let own = own.get_or_insert_with(|| {
                    Maps::of(
                        &turned(&sight.sketch.light, turn),
                        &turned(&sight.sketch.edges, turn),
                    )
                });
                let other = &self.sights[other];
                if own.is_same(&Maps::of(&other.sketch.light, &other.sketch.edges)) {
                    self.found.push((other.place, sight.place));
                }
            }
        }
    }

    /// Those that show the same as a window of the sight at `at`.
    fn windows_of(&mut self, at: usize, light: &Index, windows: &Windows) {
        let sight = &self.sights[at];
        let sheet = sight.sketch.sheet.as_deref().filter(|sheet| tells(sheet));
        for whole in [Some(sight.sketch), sheet].into_iter().flatten() {
            self.windows_in(whole, at, light, windows);
        }
    }

    /// Those that show the same as a window of `whole`, which the sight at `at` shows.
    fn windows_in(&mut self, whole: &Sketch, at: usize, light: &Index, windows: &Windows) {
        let place = self.sights[at].place;
        let mut budget = Budget::new();
        for (x, y, hash) in windows.hashes(&whole.light) {
            self.question += 1;
            // A picture has nearly 200 windows, so each is looked up less widely than a whole.
            for other in light.near(hash, Reach::One, WINDOW_BITS, &mut budget) {
                // Also those behind it: which of the two is the crop is not known.
                if other == at || !self.is_new(other) || !budget.compares() {
                    continue;
                }
                let other = &self.sights[other];
                if shows_window(whole, x, y, other.sketch) {
                    let (a, b) = (place, other.place);
                    self.found.push((a.min(b), a.max(b)));
                }
            }
        }
    }

    fn is_new(&mut self, sight: usize) -> bool {
        std::mem::replace(&mut self.asked[sight], self.question) != self.question
    }
}

impl<'a> Sight<'a> {
    fn of(place: usize, sketch: &'a Sketch, whole: &Basis) -> Option<Self> {
        if !tells(sketch) {
            return None;
        }
        let spectrum = |map: &[u8]| whole.columns(&whole.rows(map));
        Some(Self {
            place,
            sketch,
            light: spectrum(&sketch.light),
            edges: spectrum(&sketch.edges),
        })
    }
}

/// Whether a picture can be told from others by its sketch.
fn tells(sketch: &Sketch) -> bool {
    let light = numbers(&sketch.light);
    tells_by(&light, SIDE) && spread(&numbers(&sketch.edges)) >= SPREAD_MIN
}

/// The same by its lightness alone. A map that is nearly flat is like any other that is.
fn tells_by(light: &[f32], side: usize) -> bool {
    spread(light) >= SPREAD_MIN && shapes(light, side) >= SHAPES_MIN
}

fn numbers(map: &[u8]) -> Vec<f32> {
    map.iter().map(|number| f32::from(*number)).collect()
}

/// Standard deviation of a map's numbers.
fn spread(map: &[f32]) -> f32 {
    let count = map.len() as f32;
    let mean = map.iter().sum::<f32>() / count;
    let squares = map.iter().map(|number| (number - mean).powi(2));
    (squares.sum::<f32>() / count).sqrt()
}

/// Share of the variance of a map of `side` x `side` that is left when the means of its rows and of its columns
/// are taken off.
fn shapes(map: &[f32], side: usize) -> f32 {
    let length = side as f32;
    let (mut rows, mut columns) = (vec![0.0; side], vec![0.0; side]);
    for (at, number) in map.iter().enumerate() {
        rows[at / side] += number / length;
        columns[at % side] += number / length;
    }
    let mean = rows.iter().sum::<f32>() / length;
    let (mut left, mut all) = (0.0, 0.0);
    for (at, number) in map.iter().enumerate() {
        left += (number - rows[at / side] - columns[at % side] + mean).powi(2);
        all += (number - mean).powi(2);
    }
    if all == 0.0 { 0.0 } else { left / all }
}

/// Both maps of a picture, to be compared with others.
struct Maps {
    light: Vec<f32>,
    edges: Vec<f32>,
}

impl Maps {
    fn of(light: &[u8], edges: &[u8]) -> Self {
        Self {
            light: numbers(light),
            edges: numbers(edges),
        }
    }

    /// Whether two pictures show the same: the same lightness and edges in the same places; or, in other
    /// colours, the very same edges.
    fn is_same(&self, other: &Self) -> bool {
        let edges = correlation(&self.edges, &other.edges);
        edges >= EDGES_ALONE_MIN
            || (edges >= EDGES_MIN && correlation(&self.light, &other.light) >= LIGHT_MIN)
    }
}

/// Whether `part` shows what is in about this window of `whole`. Windows come in steps, so the best one near
/// it is looked for.
fn shows_window(whole: &Sketch, x: Span, y: Span, part: &Sketch) -> bool {
    let all = |map: &[u8]| window(map, Span::WHOLE, Span::WHOLE, WINDOW_SIDE);
    let light = all(&part.light);
    let fit = |[left, top, right, bottom]: [f32; 4]| {
        let (x, y) = (between(left, right), between(top, bottom));
        correlation(&window(&whole.light, x, y, WINDOW_SIDE), &light)
    };
    let mut best = [x.start, y.start, x.start + x.length, y.start + y.length];
    let mut found = fit(best);
    // The closer look costs up to 32 windows more: most candidates that the loose hashes bring end
    // here.
    if found < CROP_FIRST_MIN {
        return false;
    }
    let mut step = MOVE_FIRST;
    for _ in 0..MOVES {
        for edge in 0..4 {
            for by in [-step, step] {
                let mut moved = best;
                moved[edge] = (moved[edge] + by).clamp(0.0, 1.0);
                let fits = fit(moved);
                if fits > found {
                    (best, found) = (moved, fits);
                }
            }
        }
        step /= 2.0;
    }
    let [left, top, right, bottom] = best;
    let stretch = (right - left) / (bottom - top) * whole.aspect / part.aspect;
    if found < CROP_LIGHT_MIN || stretch.max(stretch.recip()) > CROP_STRETCH_MAX {
        return false;
    }
    let (x, y) = (between(left, right), between(top, bottom));
    let window = |map: &[u8]| window(map, x, y, WINDOW_SIDE);
    tells_by(&window(&whole.light), WINDOW_SIDE)
        && correlation(&window(&whole.edges), &all(&part.edges)) >= CROP_EDGES_MIN
}

fn between(start: f32, end: f32) -> Span {
    Span {
        start,
        length: end - start,
    }
}

/// The windows of a picture that are looked up: every span along with every span down.
struct Windows(Vec<(Span, Basis)>);

impl Windows {
    fn new() -> Self {
        let spans = |side: f32, places: usize| {
            let start = move |place: usize| (1.0 - side) * place as f32 / (places - 1) as f32;
            let span = move |place: usize| between(start(place), start(place) + side);
            (0..places).map(move |place| (span(place), Basis::of(span(place))))
        };
        let all = WINDOWS.iter();
        Self(
            all.flat_map(|(side, places)| spans(*side, *places))
                .collect(),
        )
    }

    /// The hash of each window of a map: its spans along and down, and the hash.
    fn hashes(&self, map: &[u8]) -> Vec<(Span, Span, u64)> {
        let mut hashes = Vec::with_capacity(self.0.len() * self.0.len());
        for (x, along) in &self.0 {
            let rows = along.rows(map);
            for (y, down) in &self.0 {
                hashes.push((*x, *y, down.columns(&rows).hash(0)));
            }
        }
        hashes
    }
}

#[cfg(test)]
mod tests {
    use super::super::near::COMPARED_MAX;
    use super::*;
    use crate::dice::Dice;
    use crate::scale::Rgb;

    const DRAWN_PX: usize = 200;

    /// Some rectangles; `colours` gives their lightness.
    fn drawing(seed: u64, colours: u64) -> Rgb {
        let (mut dice, mut colour) = (Dice::keyed(&[seed]), Dice::keyed(&[seed, colours]));
        let mut pixels = vec![[255_u8; 3]; DRAWN_PX * DRAWN_PX];
        for _ in 0..14 {
            let (left, top) = (dice.below(170), dice.below(170));
            let (right, bottom) = (left + 12 + dice.below(60), top + 12 + dice.below(60));
            let rgb = std::array::from_fn(|_| (colour.bits() & 0xff) as u8);
            for y in top..bottom.min(DRAWN_PX) {
                pixels[y * DRAWN_PX + left..y * DRAWN_PX + right.min(DRAWN_PX)].fill(rgb);
            }
        }
        Rgb {
            width: DRAWN_PX as u32,
            height: DRAWN_PX as u32,
            bytes: pixels.concat(),
        }
    }

    fn sketch_of(picture: &Rgb) -> Sketch {
        Sketch::of(&mut fast_image_resize::Resizer::new(), picture).unwrap()
    }

    fn sketch(seed: u64, colours: u64) -> Sketch {
        sketch_of(&drawing(seed, colours))
    }

    /// What is seen of a picture from (left, top) on; white beyond its edges.
    fn part(picture: &Rgb, left: isize, top: isize, width: usize, height: usize) -> Rgb {
        let pixel = |x: isize, y: isize| -> [u8; 3] {
            let is_in = (0..picture.width as isize).contains(&x)
                && (0..picture.height as isize).contains(&y);
            let at = is_in.then(|| (y * picture.width as isize + x) as usize * 3);
            at.map_or([255; 3], |at| {
                std::array::from_fn(|c| picture.bytes[at + c])
            })
        };
        let pixels = (0..width * height)
            .flat_map(|at| pixel(left + (at % width) as isize, top + (at / width) as isize));
        Rgb {
            width: width as u32,
            height: height as u32,
            bytes: pixels.collect(),
        }
    }

    fn found(sketches: &[Sketch]) -> Vec<(usize, usize)> {
        pairs(&sketches.iter().map(Some).collect::<Vec<_>>())
    }

    #[test]
    fn turns_and_other_colours_are_the_same_and_other_pictures_are_not() {
        for seed in 0..10 {
            let own = sketch(seed, 1);
            let turn = (seed % 7 + 1) as usize;
            let turned = Sketch {
                light: turned(&own.light, turn),
                edges: turned(&own.edges, turn),
                ..own.clone()
            };
            let all = [own, sketch(seed + 100, 1), turned, sketch(seed + 200, 1)];
            assert_eq!(found(&all), [(0, 2)], "{seed}");
        }
    }

    #[test]
    fn crops_are_found_whether_they_lie_within_what_is_drawn_or_keep_a_border_on_some_sides() {
        let (mut within, mut with_border) = (0, 0);
        for seed in 0..10 {
            let own = drawing(seed, 1);
            let sheet = part(&own, -40, -30, 290, 270);
            let all = [
                sketch_of(&sheet),
                sketch(seed + 100, 1),
                sketch_of(&part(&own, 20, 15, 160, 165)),
                // Cut through what is drawn on two sides, with the sheet on the others.
                sketch_of(&part(&sheet, 0, 0, 220, 210)),
                sketch(seed + 200, 1),
            ];
            let pairs = found(&all);
            within += usize::from(pairs.contains(&(0, 2)));
            with_border += usize::from(pairs.contains(&(0, 3)));
            let is_other = |at: &usize| [1, 4].contains(at);
            let others = pairs.iter().any(|(a, b)| is_other(a) || is_other(b));
            assert!(!others, "{seed}: {pairs:?}");
        }
        assert!(within >= 8 && with_border == 10, "{within} {with_border}");
    }

    #[test]
    fn a_crop_that_is_stretched_far_is_another_picture() {
        let own = drawing(3, 1);
        let crop = part(&own, 20, 15, 160, 160);
        let stretched = |share: f32| {
            let whole = sketch_of(&crop);
            let aspect = whole.aspect * share;
            [sketch_of(&own), Sketch { aspect, ..whole }]
        };
        for share in [1.0, 1.3, 0.77] {
            assert_eq!(found(&stretched(share)), [(0, 1)], "{share}");
        }
        for share in [4.0, 0.25] {
            assert_eq!(found(&stretched(share)), [], "{share}");
        }
    }

    #[test]
    fn pictures_that_say_nothing_are_like_none() {
        let flat = Sketch {
            light: vec![200; 1_024],
            edges: vec![0; 1_024],
            aspect: 1.0,
            sheet: None,
        };
        assert_eq!(found(&[flat.clone(), flat]), []);
        // A striped flag, and another in other colours.
        let flag = |shift: usize| Sketch {
            light: (0..1_024)
                .map(|at| ((at / 352 + shift) % 3 * 100) as u8)
                .collect(),
            edges: (0..1_024)
                .map(|at| if at / 32 % 11 == 10 { 255 } else { 0 })
                .collect(),
            aspect: 1.5,
            sheet: None,
        };
        assert_eq!(found(&[flag(0), flag(1)]), []);
        assert_eq!(pairs(&[None, None]), []);
    }

    #[test]
    fn a_crowd_costs_no_more_than_its_budget_for_each() {
        let one = sketch(3, 1);
        let crowd: Vec<_> = (0..COMPARED_MAX + 20).map(|_| one.clone()).collect();
        let pairs = found(&crowd);
        assert!(
            pairs.len() <= crowd.len() * COMPARED_MAX * 2,
            "{}",
            pairs.len()
        );
        // All the same they belong together.
        let mut sets = super::super::similar::DisjointSets::new(crowd.len());
        for (a, b) in pairs {
            sets.join(a, b);
        }
        assert!((0..crowd.len()).all(|at| sets.root(at) == 0));
    }
}
