//! Training pictures mixed with another one, and their targets with them: mixup (Zhang et al. 2018,
//! arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899).
//!
//! Invariant: a pure function of the two pictures and of random bits that follow from seed, epoch and
//! place in the epoch. How many ranks there are, and where a run was interrupted, changes nothing.
//! `mixing/vectors.py` writes the same down in Python.
//! Not here: which picture another is mixed with; [`super::StepPlan`] looks that up.

use marquee_domain::spec::{Learning, Mix};

use super::random::{roll, roll_below};

/// What each random number of a picture is used for.
const WHICH: u64 = 0;
const PARTNER: u64 = 1;
const CENTRE_X: u64 = 2;
const CENTRE_Y: u64 = 3;
const FIRST_OF_BETA: u64 = 4;
/// How many pairs of random numbers one draw from Beta may use up. At alpha = 4, the largest that a
/// job may ask for, one pair in 70 is accepted: that none of these is has a probability of 1e-25.
const BETA_TRIES: u64 = 4_096;
/// The share of a picture that is kept is counted in 1/65536, so that pixels are sums of integers: the
/// same on every processor.
const ONE: u32 = 1 << 16;

/// What may happen to pictures in pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Mixing {
    mixup: Option<Mix>,
    cutmix: Option<Mix>,
}

/// What happens to one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Each pixel is a weighted mean of both pictures; this is the weight of its own, in 1/65536.
    Blend(u32),
    /// This rectangle is replaced by the other picture's.
    Paste(Part),
}

/// A rectangle of pixels: the first, and the one behind the last, along each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    columns: (usize, usize),
    rows: (usize, usize),
}

impl Mixing {
    /// What `learning` asks for.
    pub(crate) fn of(learning: &Learning) -> Self {
        Self {
            mixup: learning.mixup,
            cutmix: learning.cutmix,
        }
    }

    /// Whether nothing may happen.
    pub(crate) fn is_none(&self) -> bool {
        self.mixup.is_none() && self.cutmix.is_none()
    }

    /// Whether anything happens to the picture with these bits.
    pub(crate) fn happens(&self, dice: u64) -> bool {
        roll(dice, WHICH) < share(self.mixup) + share(self.cutmix)
    }

    /// Mixes `other` into the RGB picture `pixels` and returns what is left of the latter, from 0 to 1.
    pub(crate) fn apply(
        &self,
        pixels: &mut [u8],
        other: &[u8],
        size: (usize, usize),
        dice: u64,
    ) -> f32 {
        match self.way(size, dice) {
            None => 1.0,
            Some(Way::Blend(kept)) => {
                blend(pixels, other, kept);
                kept as f32 / ONE as f32
            }
            Some(Way::Paste(part)) => {
                part.paste(pixels, other, size.0);
                1.0 - part.area() as f32 / (size.0 * size.1) as f32
            }
        }
    }

    fn way(&self, size: (usize, usize), dice: u64) -> Option<Way> {
        // One roll decides for both, so that their shares add up and no picture is mixed twice.
        let which = roll(dice, WHICH);
        if let Some(mixup) = self.mixup.filter(|mixup| which < mixup.share) {
            return Some(Way::Blend(parts_of_one(beta(mixup.alpha, dice))));
        }
        let cutmix = self
            .cutmix
            .filter(|cutmix| which < share(self.mixup) + cutmix.share)?;
        Some(Way::Paste(Part::draw(beta(cutmix.alpha, dice), size, dice)))
    }
}

fn share(mix: Option<Mix>) -> f64 {
    mix.map_or(0.0, |mix| mix.share)
}

/// The position, in an epoch of `rows` rows, of the picture that the one with these bits is mixed with.
pub(crate) fn partner(dice: u64, rows: u64) -> u64 {
    roll_below(dice, PARTNER, rows)
}

/// Targets of a picture of which `kept` is left, for labels of 0 and 1.
pub(crate) fn targets<'a>(
    own: &'a [u8],
    other: &'a [u8],
    kept: f32,
) -> impl Iterator<Item = f32> + use<'a> {
    own.iter()
        .zip(other)
        .map(move |(own, other)| kept * f32::from(*own) + (1.0 - kept) * f32::from(*other))
}

/// A number from Beta(alpha, alpha), by Jöhnk's method (Metrika 8, 1964). The powers are
/// compared by their logarithms: they themselves may be too small for an f64.
fn beta(alpha: f64, dice: u64) -> f64 {
    let power = |index| (1.0 - roll(dice, index)).ln() / alpha;
    (0..BETA_TRIES)
        .map(|attempt| FIRST_OF_BETA + 2 * attempt)
        .map(|index| (power(index), power(index + 1)))
        .find(|(x, y)| x.exp() + y.exp() <= 1.0)
        .map_or(0.5, |(x, y)| 1.0 / (1.0 + (y - x).exp()))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number is from 0 to 1"
)]
fn parts_of_one(number: f64) -> u32 {
    (number * f64::from(ONE) + 0.5) as u32
}

fn blend(pixels: &mut [u8], other: &[u8], kept: u32) {
    for (own, other) in pixels.iter_mut().zip(other) {
        let sum = u32::from(*own) * kept + u32::from(*other) * (ONE - kept);
        *own = u8::try_from((sum + ONE / 2) / ONE).unwrap_or(u8::MAX);
    }
}

impl Part {
    /// A part of the picture's own shape that leaves `kept` of it, around any of its points; what
    /// would lie beyond the picture's edge is cut off.
    fn draw(kept: f64, (width, height): (usize, usize), dice: u64) -> Self {
        let side = (1.0 - kept).sqrt();
        Self {
            columns: stretch(width, side, roll(dice, CENTRE_X)),
            rows: stretch(height, side, roll(dice, CENTRE_Y)),
        }
    }

    fn area(&self) -> usize {
        (self.columns.1 - self.columns.0) * (self.rows.1 - self.rows.0)
    }

    fn paste(&self, pixels: &mut [u8], other: &[u8], width: usize) {
        let (left, right) = self.columns;
        for row in self.rows.0..self.rows.1 {
            let cells = (row * width + left) * 3..(row * width + right) * 3;
            pixels[cells.clone()].copy_from_slice(&other[cells]);
        }
    }
}

/// First and last pixel of a stretch, `share` of `length` pixels long, cut off at the picture's edges.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the numbers are from 0 to length"
)]
fn stretch(length: usize, share: f64, centre: f64) -> (usize, usize) {
    let whole = length as f64;
    let (centre, half) = (centre * whole, share * whole / 2.0);
    let nearest = |number: f64| (number + 0.5) as usize;
    (
        nearest((centre - half).max(0.0)),
        nearest((centre + half).min(whole)),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use marquee_datasets::shards::{Check, ShardLayout, ShardSet, ShardWriter};
    use marquee_domain::report::SourceNote;
    use marquee_domain::spec::ImageEncoding;
    use serde::Deserialize;
    use tch::Kind;

    use super::super::TRAIN;
    use super::super::random::mixing_dice;
    use super::super::reader::SplitReader;
    use super::super::request::{Picture, Request, View};
    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        width: usize,
        height: usize,
        own: Vec<u8>,
        other: Vec<u8>,
        labels: [Vec<u8>; 2],
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        seed: u64,
        epoch: u32,
        position: u64,
        rows: u64,
        mixup: Option<Mix>,
        cutmix: Option<Mix>,
        way: String,
        #[serde(default)]
        partner: u64,
        #[serde(default)]
        kept: f64,
        #[serde(default)]
        targets: Vec<f64>,
        #[serde(default)]
        pixels: Vec<u8>,
    }

    #[test]
    fn pictures_targets_and_partners_are_those_of_the_written_formulas() {
        let vectors: Vectors = serde_json::from_str(include_str!("mixing/vectors.json")).unwrap();
        let size = (vectors.width, vectors.height);
        for case in &vectors.cases {
            let mixing = Mixing {
                mixup: case.mixup,
                cutmix: case.cutmix,
            };
            let dice = mixing_dice(case.seed, case.epoch, case.position);
            let told = format!("{} of {} in {}", case.way, case.position, case.epoch);
            assert_eq!(mixing.happens(dice), case.way != "none", "{told}");
            let found = match mixing.way(size, dice) {
                None => "none",
                Some(Way::Blend(_)) => "mixup",
                Some(Way::Paste(_)) => "cutmix",
            };
            assert_eq!(found, case.way, "{told}");
            let mut pixels = vectors.own.clone();
            let kept = mixing.apply(&mut pixels, &vectors.other, size, dice);
            if case.way == "none" {
                assert_eq!((kept, pixels), (1.0, vectors.own.clone()));
                continue;
            }
            assert_eq!(partner(dice, case.rows), case.partner, "{told}");
            assert!((f64::from(kept) - case.kept).abs() < 1e-6, "{told}: {kept}");
            assert_eq!(pixels, case.pixels, "{told}");
            let [own, other] = &vectors.labels;
            for (found, expected) in targets(own, other, kept).zip(&case.targets) {
                assert!((f64::from(found) - expected).abs() < 1e-6, "{told}");
            }
        }
    }

    /// Mean and variance of what the distribution gives, with the margin of 40,000 draws.
    #[test]
    fn draws_are_those_of_the_beta_distribution() {
        for alpha in [0.05, 0.2, 1.0, 4.0] {
            let draws: Vec<f64> = (0..40_000)
                .map(|position| beta(alpha, mixing_dice(3, 0, position)))
                .collect();
            let count = draws.len() as f64;
            let mean = draws.iter().sum::<f64>() / count;
            let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!((mean - 0.5).abs() < 0.01, "alpha {alpha}: mean {mean}");
            assert!(
                (variance / expected - 1.0).abs() < 0.03,
                "alpha {alpha}: variance {variance} for {expected}"
            );
        }
    }

    #[test]
    fn each_way_happens_to_its_share_and_nothing_to_the_rest() {
        let mix = |share| Some(Mix { alpha: 1.0, share });
        let mixing = Mixing {
            mixup: mix(0.2),
            cutmix: mix(0.5),
        };
        let mut counts = [0; 3];
        for position in 0..10_000 {
            let dice = mixing_dice(5, 2, position);
            let place = match mixing.way((40, 60), dice) {
                Some(Way::Blend(_)) => 0,
                Some(Way::Paste(_)) => 1,
                None => 2,
            };
            counts[place] += 1;
        }
        for (count, share) in counts.into_iter().zip([0.2, 0.5, 0.3]) {
            let found = f64::from(count) / 10_000.0;
            assert!((found - share).abs() < 0.02, "{counts:?}");
        }
        assert!(!Mixing::default().happens(0) && Mixing::default().is_none());
    }

    /// Six pictures of 4 x 4 pixels, each of one value, with two labels.
    fn shards(folder: &std::path::Path) -> Arc<ShardSet> {
        let layout = ShardLayout {
            width: 4,
            height: 4,
            encoding: ImageEncoding::Raw,
            classes: vec!["odd".into(), "large".into()],
            source: SourceNote::default(),
            seed: 1,
            shard_bytes: 1 << 20,
            notes: std::collections::BTreeMap::new(),
        };
        let mut writer = ShardWriter::create(folder, layout).unwrap();
        for row in 0..6_u8 {
            let labels = [row % 2, u8::from(row > 2)];
            let name = format!("row-{row}");
            writer.push(TRAIN, &name, &labels, &[row * 40; 48]).unwrap();
        }
        writer.finish().unwrap();
        Arc::new(ShardSet::open_with(folder, Check::Layout).unwrap())
    }

    #[test]
    fn a_batch_holds_mixed_pictures_with_mixed_targets_beside_plain_ones() {
        let folder = tempfile::tempdir().unwrap();
        let mix = Some(Mix {
            alpha: 1.0,
            share: 1.0,
        });
        let mixing = Mixing {
            mixup: mix,
            cutmix: None,
        };
        let split = SplitReader::of(&shards(folder.path()), TRAIN)
            .unwrap()
            .mixed(mixing);
        let dice = mixing_dice(1, 0, 0);
        let view = |row| View {
            row,
            is_flipped: false,
            dice: 0,
        };
        let request = Request {
            pictures: vec![
                Picture {
                    view: view(5),
                    partner: Some((view(0), dice)),
                },
                Picture::plain(3, false),
            ],
            is_stand_in: false,
            global: 2,
            first: 0,
            ahead: Vec::new(),
        };
        let batch = split.read(&request).unwrap();
        let kept = beta(1.0, dice);
        assert!((0.05..0.95).contains(&kept), "{kept} shows nothing");
        let pixel = batch.pixels.double_value(&[0, 2, 1, 0]);
        assert!((pixel - 200.0 * kept).abs() < 0.51, "{pixel} for {kept}");
        assert_eq!(batch.pixels.double_value(&[1, 2, 1, 0]), 120.0);
        assert_eq!(batch.labels.kind(), Kind::Float);
        for (place, expected) in [([0, 0], kept), ([0, 1], kept), ([1, 0], 1.0), ([1, 1], 1.0)] {
            let found = batch.labels.double_value(&place);
            assert!((found - expected).abs() < 1e-4, "{place:?}: {found}");
        }
    }
}
