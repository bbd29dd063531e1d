//! Pictures that show the same in spite of what was done to them: mirrored, turned by a quarter, coloured
//! anew, cropped, or put on a larger sheet. Found without comparing all with all.
//!
//! Hashes only say whom to compare: a picture's hashes in all its turns, and of many windows of it, are
//! looked up among the plain hashes of all others. Whether two show the same is then judged by their
//! sketches, so the hashes may be asked loosely.

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
/// Hashes that one picture's are compared with, and sketches, at most: a set in which nearly all look alike
/// must not take all day. More than that show the same as so many others that they are found by those.
const LOOKED_AT_MAX: usize = 200_000;
const COMPARED_MAX: usize = 400;

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
        let mut budget = Budget::new();
        for (x, y, hash) in windows.hashes(&sight.sketch.light) {
            self.question += 1;
            // A picture has nearly 200 windows, so each is looked up less widely than a whole.
            for other in light.near(hash, Reach::One, WINDOW_BITS, &mut budget) {
                // Also those behind it: which of the two is the crop is not known.
                if other == at || !self.is_new(other) || !budget.compares() {
                    continue;
                }
                let other = &self.sights[other];
                if shows_window(sight.sketch, x, y, other.sketch) {
                    let (a, b) = (sight.place, other.place);
                    self.found.push((a.min(b), a.max(b)));
                }
            }
        }
    }

    fn is_new(&mut self, sight: usize) -> bool {
        std::mem::replace(&mut self.asked[sight], self.question) != self.question
    }
}

/// How much may still be looked at for one picture.
#[derive(Debug)]
struct Budget {
    hashes: usize,
    comparisons: usize,
}

impl Budget {
    fn new() -> Self {
        Self {
            hashes: LOOKED_AT_MAX,
            comparisons: COMPARED_MAX,
        }
    }

    fn compares(&mut self) -> bool {
        let may = self.comparisons > 0;
        self.comparisons = self.comparisons.saturating_sub(1);
        may
    }
}

impl<'a> Sight<'a> {
    fn of(place: usize, sketch: &'a Sketch, whole: &Basis) -> Option<Self> {
        // A map that is nearly flat is like any other that is.
        let says = |map: &[u8]| spread(map) >= SPREAD_MIN;
        if !says(&sketch.light) || !says(&sketch.edges) || shapes(&sketch.light) < SHAPES_MIN {
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

/// Standard deviation of a map's numbers.
fn spread(map: &[u8]) -> f32 {
    let count = map.len() as f32;
    let mean = map.iter().map(|number| f32::from(*number)).sum::<f32>() / count;
    let squares = map.iter().map(|number| (f32::from(*number) - mean).powi(2));
    (squares.sum::<f32>() / count).sqrt()
}

/// Share of the variance of a map that is left when the means of its rows and of its columns are taken off.
fn shapes(map: &[u8]) -> f32 {
    let side = SIDE as f32;
    let (mut rows, mut columns) = ([0.0; SIDE], [0.0; SIDE]);
    for (at, number) in map.iter().enumerate() {
        rows[at / SIDE] += f32::from(*number) / side;
        columns[at % SIDE] += f32::from(*number) / side;
    }
    let mean = rows.iter().sum::<f32>() / side;
    let (mut left, mut all) = (0.0, 0.0);
    for (at, number) in map.iter().enumerate() {
        let number = f32::from(*number);
        left += (number - rows[at / SIDE] - columns[at % SIDE] + mean).powi(2);
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
        let numbers = |map: &[u8]| map.iter().map(|number| f32::from(*number)).collect();
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
    let (x, y) = (between(left, right), between(top, bottom));
    let edges = window(&whole.edges, x, y, WINDOW_SIDE);
    found >= CROP_LIGHT_MIN && correlation(&edges, &all(&part.edges)) >= CROP_EDGES_MIN
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

/// In how many bits a part of a hash may differ from that of a hash that it is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Finds all hashes that differ in 7 bits at most, and many of those that differ in a few more.
    One,
    /// Finds all that differ in 11 bits at most, and most of those that differ in a few more.
    Two,
}

/// Hashes by each of their four parts of 16 bits: hashes that differ in few bits have a part in which they
/// hardly differ.
#[derive(Debug)]
struct Index {
    hashes: Vec<u64>,
    /// By part: where the places begin of those with this value, and all places in that order.
    parts: Vec<(Vec<u32>, Vec<u32>)>,
}

impl Index {
    const PARTS: usize = 4;
    const PART_BITS: u32 = 16;
    const VALUES: usize = 1 << Self::PART_BITS;

    fn new(hashes: Vec<u64>) -> Self {
        let parts = (0..Self::PARTS).map(|part| {
            let mut starts = vec![0_u32; Self::VALUES + 1];
            for hash in &hashes {
                starts[Self::value(*hash, part) + 1] += 1;
            }
            for value in 0..Self::VALUES {
                starts[value + 1] += starts[value];
            }
            let mut next = starts.clone();
            let mut places = vec![0; hashes.len()];
            for (at, hash) in (0_u32..).zip(&hashes) {
                let slot = &mut next[Self::value(*hash, part)];
                places[*slot as usize] = at;
                *slot += 1;
            }
            (starts, places)
        });
        let parts = parts.collect();
        Self { hashes, parts }
    }

    fn value(hash: u64, part: usize) -> usize {
        (hash >> (part as u32 * Self::PART_BITS)) as usize & (Self::VALUES - 1)
    }

    /// The places of hashes that differ from this one in so many bits at most; some more than once.
    fn near(&self, hash: u64, reach: Reach, bits: u32, budget: &mut Budget) -> Vec<usize> {
        let mut near = Vec::new();
        for (part, (starts, places)) in self.parts.iter().enumerate() {
            let own = Self::value(hash, part);
            let mut look = |value: usize| {
                let range = starts[value] as usize..starts[value + 1] as usize;
                for place in &places[range] {
                    if budget.hashes == 0 {
                        return;
                    }
                    budget.hashes -= 1;
                    let place = *place as usize;
                    if (self.hashes[place] ^ hash).count_ones() <= bits {
                        near.push(place);
                    }
                }
            };
            look(own);
            for first in 0..Self::PART_BITS {
                look(own ^ 1 << first);
                if reach == Reach::Two {
                    for second in 0..first {
                        look(own ^ 1 << first ^ 1 << second);
                    }
                }
            }
        }
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;

    #[test]
    fn an_index_finds_all_that_are_near_enough_and_none_that_are_not() {
        let mut dice = Dice::keyed(&[1]);
        let asked = dice.bits();
        let mut hashes = Vec::new();
        for bits in 0..20 {
            let mut places: Vec<u32> = (0..64).collect();
            dice.shuffle(&mut places);
            hashes.push(
                places[..bits]
                    .iter()
                    .fold(asked, |hash, bit| hash ^ 1 << bit),
            );
        }
        let index = Index::new(hashes);
        let found = |reach, bits| {
            let mut near = index.near(asked, reach, bits, &mut Budget::new());
            near.sort_unstable();
            near.dedup();
            near
        };
        assert_eq!(found(Reach::Two, 11), (0..=11).collect::<Vec<_>>());
        assert_eq!(found(Reach::One, 7), (0..=7).collect::<Vec<_>>());
        assert!(
            Index::new(Vec::new())
                .near(asked, Reach::Two, 11, &mut Budget::new())
                .is_empty()
        );
    }

    /// A sketch of some rectangles; `colours` gives their lightness.
    fn sketch(seed: u64, colours: u64) -> Sketch {
        use crate::scale::Rgb;
        let (mut dice, mut colour) = (Dice::keyed(&[seed]), Dice::keyed(&[seed, colours]));
        let mut pixels = vec![[255_u8; 3]; 200 * 200];
        for _ in 0..14 {
            let (left, top) = (dice.below(170), dice.below(170));
            let (right, bottom) = (left + 12 + dice.below(60), top + 12 + dice.below(60));
            let rgb = std::array::from_fn(|_| (colour.bits() & 0xff) as u8);
            for y in top..bottom.min(200) {
                pixels[y * 200 + left..y * 200 + right.min(200)].fill(rgb);
            }
        }
        let picture = Rgb {
            width: 200,
            height: 200,
            bytes: pixels.concat(),
        };
        let sketch = Sketch::of(&mut fast_image_resize::Resizer::new(), &picture).unwrap();
        assert_eq!(sketch.light.len(), SIDE * SIDE);
        sketch
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
            };
            let all = [own, sketch(seed + 100, 1), turned, sketch(seed + 200, 1)];
            assert_eq!(found(&all), [(0, 2)], "{seed}");
        }
    }

    #[test]
    fn pictures_that_say_nothing_are_like_none() {
        let flat = Sketch {
            light: vec![200; 1_024],
            edges: vec![0; 1_024],
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
        };
        assert_eq!(found(&[flag(0), flag(1)]), []);
        assert_eq!(pairs(&[None, None]), []);
    }

    #[test]
    fn a_crowd_costs_no_more_than_its_budget_for_each() {
        let one = sketch(3, 1);
        let crowd: Vec<_> = (0..600).map(|_| one.clone()).collect();
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
