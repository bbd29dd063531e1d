//! The lowest frequencies of a small square map, and hashes of them: of the map as it is, mirrored and
//! turned by quarters, and of windows of it.
//!
//! A mirror image changes the signs of a map's cosine coefficients, a transposition swaps them, and a window
//! is another linear map of the same numbers: so all hashes of a picture come from one small map,
//! without drawing any of its variants.

/// Numbers of a map's side.
pub(super) const SIDE: usize = 32;
/// Numbers of a map.
pub(super) const AREA: usize = SIDE * SIDE;
/// Frequencies that are kept in each direction.
const KEPT: usize = 8;
/// Coefficients of a map.
const COEFFICIENTS: usize = KEPT * KEPT;
/// The ways in which a square can be turned and mirrored.
pub(super) const TURNS: usize = 8;

/// A part of a side, in shares of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    pub(super) start: f32,
    pub(super) length: f32,
}

impl Span {
    pub(super) const WHOLE: Self = Self {
        start: 0.0,
        length: 1.0,
    };
}

/// How much each number of a row adds to each frequency of a span of it.
#[derive(Debug)]
pub(super) struct Basis([[f32; SIDE]; KEPT]);

impl Basis {
    /// That of a span, which is stretched to a whole side.
    pub(super) fn of(span: Span) -> Self {
        let mut weights = [[0.0; SIDE]; KEPT];
        for sample in 0..SIDE {
            let place = (sample as f32 + 0.5) / SIDE as f32;
            let (left, right, share) = between(span.start + place * span.length);
            for (frequency, weights) in weights.iter_mut().enumerate() {
                let angle = std::f32::consts::PI * place * frequency as f32;
                weights[left] += angle.cos() * (1.0 - share);
                weights[right] += angle.cos() * share;
            }
        }
        Self(weights)
    }

    /// The frequencies of each row of a map.
    pub(super) fn rows(&self, map: &[u8]) -> Rows {
        let mut rows = [[0.0; KEPT]; SIDE];
        for (row, found) in map.chunks_exact(SIDE).zip(&mut rows) {
            for (weights, found) in self.0.iter().zip(found) {
                *found = row
                    .iter()
                    .zip(weights)
                    .map(|(number, weight)| f32::from(*number) * weight)
                    .sum();
            }
        }
        Rows(rows)
    }

    /// The coefficients of a map whose rows have these frequencies.
    pub(super) fn columns(&self, rows: &Rows) -> Spectrum {
        let mut found = [0.0; COEFFICIENTS];
        for (weights, found) in self.0.iter().zip(found.chunks_exact_mut(KEPT)) {
            for (row, weight) in rows.0.iter().zip(weights) {
                for (found, number) in found.iter_mut().zip(row) {
                    *found += number * weight;
                }
            }
        }
        Spectrum(found)
    }
}

/// The frequencies of each row of a map.
#[derive(Debug)]
pub(super) struct Rows([[f32; KEPT]; SIDE]);

/// The two numbers of a row between which a place (a share of the side) lies, and how far it is from the
/// first to the second.
fn between(place: f32) -> (usize, usize, f32) {
    let at = (place * SIDE as f32 - 0.5).clamp(0.0, (SIDE - 1) as f32);
    let left = at.floor();
    let first = left as usize;
    (first, (first + 1).min(SIDE - 1), at - left)
}

/// A map's lowest coefficients, row by row.
#[derive(Debug, Clone)]
pub(super) struct Spectrum([f32; COEFFICIENTS]);

impl Spectrum {
    /// The hash of the map in one of its [`TURNS`]; 0 is as it is. Each bit says whether a coefficient is
    /// above the median of all. The first, which is the mean of the map, says nothing of its shapes.
    pub(super) fn hash(&self, turn: usize) -> u64 {
        let mut turned = [0.0; COEFFICIENTS];
        for (at, turned) in turned.iter_mut().enumerate() {
            let (v, u) = (at / KEPT, at % KEPT);
            let from = if is_transposed(turn) {
                u * KEPT + v
            } else {
                at
            };
            let odd = (is_mirrored(turn) && u % 2 == 1) != (is_upside_down(turn) && v % 2 == 1);
            *turned = if odd { -self.0[from] } else { self.0[from] };
        }
        let mut sorted = turned;
        let shapes = &mut sorted[1..];
        shapes.sort_by(f32::total_cmp);
        let median = shapes[shapes.len() / 2];
        let bits = turned.iter().enumerate();
        bits.fold(0, |hash, (at, value)| {
            hash << 1 | u64::from(at > 0 && *value > median)
        })
    }
}

fn is_mirrored(turn: usize) -> bool {
    turn & 1 != 0
}

fn is_upside_down(turn: usize) -> bool {
    turn & 2 != 0
}

fn is_transposed(turn: usize) -> bool {
    turn & 4 != 0
}

/// A map in one of its [`TURNS`].
pub(super) fn turned(map: &[u8], turn: usize) -> Vec<u8> {
    let from = |x: usize, y: usize| {
        let x = if is_mirrored(turn) { SIDE - 1 - x } else { x };
        let y = if is_upside_down(turn) {
            SIDE - 1 - y
        } else {
            y
        };
        if is_transposed(turn) {
            x * SIDE + y
        } else {
            y * SIDE + x
        }
    };
    (0..AREA)
        .map(|at| map[from(at % SIDE, at / SIDE)])
        .collect()
}

/// A window of a map, stretched to `side` x `side` numbers.
pub(super) fn window(map: &[u8], x: Span, y: Span, side: usize) -> Vec<f32> {
    let places = |span: Span| -> Vec<_> {
        let place = |at: usize| span.start + (at as f32 + 0.5) / side as f32 * span.length;
        (0..side).map(|at| between(place(at))).collect()
    };
    let (columns, rows) = (places(x), places(y));
    let mut found = Vec::with_capacity(side * side);
    for (top, bottom, down) in &rows {
        for (left, right, along) in &columns {
            let row = |row: usize| {
                let number = |column: usize| f32::from(map[row * SIDE + column]);
                number(*left) * (1.0 - along) + number(*right) * along
            };
            found.push(row(*top) * (1.0 - down) + row(*bottom) * down);
        }
    }
    found
}

/// How alike two maps are, whatever their means and contrasts: Pearson's correlation, from -1 to 1; 0 if one
/// is flat.
pub(super) fn correlation(a: &[f32], b: &[f32]) -> f32 {
    let count = a.len() as f32;
    let (mean_a, mean_b) = (a.iter().sum::<f32>() / count, b.iter().sum::<f32>() / count);
    let (mut both, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a - mean_a, b - mean_b);
        both += a * b;
        of_a += a * a;
        of_b += b * b;
    }
    let spread = (of_a * of_b).sqrt();
    // Of flat maps rounding alone would be compared, and divided by next to nothing.
    if spread < f32::EPSILON * count {
        0.0
    } else {
        both / spread
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;

    /// A map of some smooth hills.
    fn hills(seed: u64) -> Vec<u8> {
        let mut dice = Dice::keyed(&[seed]);
        let hills: Vec<[f64; 4]> = (0..9)
            .map(|_| {
                [
                    dice.unit() * 32.0,
                    dice.unit() * 32.0,
                    2.0 + dice.unit() * 5.0,
                    dice.unit(),
                ]
            })
            .collect();
        let height = |x: f64, y: f64| -> f64 {
            let of = |[a, b, wide, high]: &[f64; 4]| {
                high * (-((x - a).powi(2) + (y - b).powi(2)) / (wide * wide)).exp()
            };
            hills.iter().map(of).sum::<f64>() * 120.0
        };
        (0..AREA)
            .map(|at| height((at % SIDE) as f64, (at / SIDE) as f64).min(255.0) as u8)
            .collect()
    }

    fn spectrum(map: &[u8], x: Span, y: Span) -> Spectrum {
        Basis::of(y).columns(&Basis::of(x).rows(map))
    }

    #[test]
    fn the_hash_of_a_turn_is_that_of_the_turned_map() {
        for seed in 0..20 {
            let map = hills(seed);
            let own = spectrum(&map, Span::WHOLE, Span::WHOLE);
            for turn in 0..TURNS {
                let drawn = spectrum(&turned(&map, turn), Span::WHOLE, Span::WHOLE);
                // Sums in another order may differ in their last digit.
                let apart = (own.hash(turn) ^ drawn.hash(0)).count_ones();
                assert!(apart <= 2, "{seed} {turn}: {apart}");
                assert!(turn == 0 || (own.hash(turn) ^ own.hash(0)).count_ones() > 2);
            }
        }
    }

    #[test]
    fn the_hash_of_a_window_is_that_of_the_part_alone() {
        for seed in 0..20 {
            let map = hills(seed);
            let (x, y) = (
                Span {
                    start: 0.125,
                    length: 0.75,
                },
                Span {
                    start: 0.0,
                    length: 0.75,
                },
            );
            let part = window(&map, x, y, SIDE);
            let part: Vec<u8> = part.iter().map(|number| number.round() as u8).collect();
            let (own, alone) = (
                spectrum(&map, x, y),
                spectrum(&part, Span::WHOLE, Span::WHOLE),
            );
            let apart = (own.hash(0) ^ alone.hash(0)).count_ones();
            assert!(apart <= 3, "{seed}: {apart}");
        }
    }

    #[test]
    fn correlation_heeds_neither_mean_nor_contrast_and_a_flat_map_is_like_none() {
        let a = [1.0, 2.0, 3.0, 9.0];
        let b = [12.0, 14.0, 16.0, 28.0];
        assert!((correlation(&a, &b) - 1.0).abs() < 1e-6);
        assert!((correlation(&a, &b.map(|number| -number)) + 1.0).abs() < 1e-6);
        assert!(correlation(&a, &[5.0; 4]).abs() < 1e-6);
    }
}
