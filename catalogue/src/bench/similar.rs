//! How well pictures that show the same are found: copies are planted among other pictures, by one kind of
//! change at a time, and what the quality report says of them is compared with what was planted.

use std::fs;
use std::io::Write;
use std::path::Path;

use fast_image_resize::Resizer;
use marquee_datasets::dice::Dice;
use marquee_datasets::picture::decoded;
use marquee_datasets::preprocess::{Found, examine};
use marquee_datasets::scale::{Rgb, scale};
use marquee_datasets::thumbnail::jpeg_of;
use serde::Serialize;

use crate::drawings;
use crate::film::{Fate, Films};
use crate::image_file::{Painter, Style};

/// Quality of the originals' files, and of copies.
const QUALITY: u8 = 88;
const COPY_QUALITY: u8 = 70;
/// Pixels that posters are wide.
const POSTER_WIDTH: u32 = 185;
/// A crop keeps at least this share of each side.
const CROP_MIN: f64 = 0.7;
const CROP_MAX: f64 = 0.95;

/// What was done to a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Size,
    Sheet,
    Mirror,
    Turn,
    MirrorAndTurn,
    Colours,
    Crop,
    SmallAngle,
}

impl Change {
    const ALL: [(&'static str, Self); 8] = [
        ("smaller, stored anew", Self::Size),
        ("on a larger sheet", Self::Sheet),
        ("mirror image", Self::Mirror),
        ("rotated by 90, 180, 270", Self::Turn),
        ("mirrored and rotated by 90", Self::MirrorAndTurn),
        ("recoloured", Self::Colours),
        ("cropped to 70-95 % a side", Self::Crop),
        ("rotated by 3 degrees", Self::SmallAngle),
    ];

    fn make(self, picture: &Rgb, dice: &mut Dice) -> Rgb {
        let smaller = |picture: &Rgb, share: f64| {
            let side = |pixels: u32| (f64::from(pixels) * share).round().max(1.0) as u32;
            resized(picture, side(picture.width), side(picture.height))
        };
        match self {
            Self::Size => smaller(picture, dice.between(0.45, 0.9)),
            Self::Sheet => on_a_sheet(picture, dice),
            Self::Mirror => smaller(&turned(picture, 1 + dice.below(2)), 0.9),
            Self::Turn => smaller(&turned(picture, *dice.pick(&[3, 5, 6])), 0.9),
            Self::MirrorAndTurn => smaller(&turned(picture, *dice.pick(&[4, 7])), 0.9),
            Self::Colours => recoloured(picture, dice),
            Self::Crop => cropped(picture, dice),
            Self::SmallAngle => rotated(picture, if dice.chance(0.5) { 3.0 } else { -3.0 }),
        }
    }
}

/// One line: copies of one kind among pictures of one kind.
#[derive(Debug, Serialize)]
struct Row {
    pictures: String,
    change: &'static str,
    copies: usize,
    /// Share of the copies that were found to show the same as their original.
    recall: f64,
    /// The same by the strict rule alone.
    strict_recall: f64,
    /// Pairs that were found, and the share of them that were planted.
    pairs: usize,
    precision: f64,
    /// Milliseconds of the search for one picture.
    search_ms: f64,
}

/// How many drawings look as if they showed hardly anything.
#[derive(Debug, Serialize)]
struct Flagged {
    pictures: String,
    count: usize,
    /// Share of those with few grey values, which had the flag in earlier versions, and of those that have it.
    few_greys: f64,
    low_information: f64,
}

/// Writes one JSON object a line: rows of copies among `count` drawings and as many posters, or among the
/// pictures below `folder`.
pub fn similar(count: usize, folder: Option<&Path>, out: &mut impl Write) -> anyhow::Result<()> {
    let numbered = |pictures: Vec<Rgb>| -> Vec<(String, Rgb)> {
        let numbers = (0..pictures.len()).map(|at| at.to_string());
        numbers.zip(pictures).collect()
    };
    let sets = match folder {
        Some(folder) => vec![(folder.display().to_string(), pictures_below(folder, count)?)],
        None => vec![
            (
                "drawings".to_owned(),
                numbered((0..count as u64).map(drawings::draw).collect()),
            ),
            ("posters".to_owned(), numbered(posters(count))),
        ],
    };
    let mut line = |value: serde_json::Value| writeln!(out, "{value}");
    for (kind, named) in sets {
        let (names, pictures): (Vec<String>, Vec<Rgb>) = named.into_iter().unzip();
        let originals: Vec<Vec<u8>> = pictures
            .iter()
            .map(|picture| file(picture, QUALITY))
            .collect();
        let alone = examine(&originals);
        line(serde_json::to_value(Flagged {
            pictures: kind.clone(),
            count: pictures.len(),
            few_greys: share(alone.few_greys.len(), pictures.len()),
            low_information: share(alone.low_information.len(), pictures.len()),
        })?)?;
        // Sets of pictures that were the same before anything was planted are no mistakes of what is tried. They
        // are named, so that somebody can look at them.
        let name = |set: &Vec<usize>| set.iter().map(|at| &names[*at]).collect::<Vec<_>>();
        let is_new = |set: &&Vec<usize>| !alone.strict_sets.contains(set);
        let sets: Vec<_> = alone.sets.iter().filter(is_new).map(name).collect();
        let strict_sets: Vec<_> = alone.strict_sets.iter().map(name).collect();
        line(serde_json::json!({"pictures": kind, "strict_sets": strict_sets, "sets": sets}))?;
        for (change, how) in Change::ALL {
            line(serde_json::to_value(row(
                &kind, &pictures, &originals, &alone, change, how,
            ))?)?;
        }
    }
    Ok(())
}

fn row(
    name: &str,
    pictures: &[Rgb],
    originals: &[Vec<u8>],
    alone: &Found,
    change: &'static str,
    how: Change,
) -> Row {
    let count = originals.len();
    let copies = pictures.iter().enumerate().map(|(at, picture)| {
        // By the picture and the change, so that one more picture or kind of change alters no other
        // copy.
        let mut dice = Dice::keyed(&[at as u64, how as u64, 5]);
        file(&how.make(picture, &mut dice), COPY_QUALITY)
    });
    let files: Vec<Vec<u8>> = originals.iter().cloned().chain(copies).collect();
    let found = examine(&files);
    // Which originals belong together already, so that to find one is to find the other.
    let mut family: Vec<usize> = (0..count).collect();
    for set in &alone.sets {
        for at in set {
            family[*at] = set[0];
        }
    }
    let recall = |sets: &[Vec<usize>]| {
        let mut set_of = vec![usize::MAX; files.len()];
        for (number, set) in sets.iter().enumerate() {
            set.iter().for_each(|at| set_of[*at] = number);
        }
        let is_found = |at: &usize| set_of[*at] != usize::MAX && set_of[*at] == set_of[at + count];
        share((0..count).filter(is_found).count(), count)
    };
    let (mut pairs, mut right) = (0, 0);
    for set in &found.sets {
        for (nth, a) in set.iter().enumerate() {
            for b in &set[..nth] {
                pairs += 1;
                // A copy stands `count` places behind its original.
                right += usize::from(family[a % count] == family[b % count]);
            }
        }
    }
    Row {
        pictures: name.to_owned(),
        change,
        copies: count,
        recall: recall(&found.sets),
        strict_recall: recall(&found.strict_sets),
        pairs,
        precision: share(right, pairs),
        search_ms: found.search_s * 1_000.0 / files.len() as f64,
    }
}

fn share(part: usize, whole: usize) -> f64 {
    (part as f64 / whole.max(1) as f64 * 10_000.0).round() / 10_000.0
}

fn file(picture: &Rgb, quality: u8) -> Vec<u8> {
    jpeg_of(&picture.bytes, picture.width, picture.height, quality)
}

fn posters(count: usize) -> Vec<Rgb> {
    let films = Films::new(1, count * 2);
    let painter = Painter {
        films: films.clone(),
        storm: None,
        style: Style::Full,
    };
    // Twice as many films as are wanted, since not each has a sound poster.
    (0..count * 2)
        .filter(|at| films.fate_at(*at) == Fate::Plain)
        .take(count)
        .map(|at| painter.picture(at, POSTER_WIDTH))
        .collect()
}

/// At most `count` of the pictures below `folder`, spread over all of them, by their paths.
fn pictures_below(folder: &Path, count: usize) -> anyhow::Result<Vec<(String, Rgb)>> {
    let (mut open, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path)
            } else {
                files.push(path)
            }
        }
    }
    files.sort();
    // Sorted and then shuffled by a fixed seed: a sample over all folders, and the same one each
    // time.
    Dice::keyed(&[1]).shuffle(&mut files);
    let pictures = files.iter().filter_map(|file| {
        let picture = decoded(&fs::read(file).ok()?).ok()?;
        Some((file.display().to_string(), picture))
    });
    Ok(pictures.take(count).collect())
}

fn resized(picture: &Rgb, width: u32, height: u32) -> Rgb {
    scale(&mut Resizer::new(), picture, width, height).expect("it has three bytes for each pixel")
}

/// The pixel of a new picture, from where it lies in the old one.
fn from_places(
    picture: &Rgb,
    width: u32,
    height: u32,
    place: impl Fn(u32, u32) -> Option<(u32, u32)>,
) -> Rgb {
    let mut bytes = Vec::with_capacity((width * height * 3) as usize);
    for at in 0..width * height {
        match place(at % width, at / width) {
            Some((x, y)) => {
                let at = ((y * picture.width + x) * 3) as usize;
                bytes.extend_from_slice(&picture.bytes[at..at + 3]);
            }
            // The paper, which the first pixel is of.
            None => bytes.extend_from_slice(&picture.bytes[..3]),
        }
    }
    Rgb {
        width,
        height,
        bytes,
    }
}

/// Mirrored (1), upside down (2), transposed (4), or more than one of these.
fn turned(picture: &Rgb, turn: usize) -> Rgb {
    let (wide, high) = (picture.width, picture.height);
    let (width, height) = if turn & 4 == 0 {
        (wide, high)
    } else {
        (high, wide)
    };
    from_places(picture, width, height, |x, y| {
        let x = if turn & 1 == 0 { x } else { width - 1 - x };
        let y = if turn & 2 == 0 { y } else { height - 1 - y };
        Some(if turn & 4 == 0 { (x, y) } else { (y, x) })
    })
}

fn cropped(picture: &Rgb, dice: &mut Dice) -> Rgb {
    let mut part = |pixels: u32| {
        let kept = (f64::from(pixels) * dice.between(CROP_MIN, CROP_MAX)) as u32;
        (dice.below((pixels - kept) as usize + 1) as u32, kept)
    };
    let ((left, width), (top, height)) = (part(picture.width), part(picture.height));
    from_places(picture, width, height, |x, y| Some((left + x, top + y)))
}

fn on_a_sheet(picture: &Rgb, dice: &mut Dice) -> Rgb {
    let mut margin = |pixels: u32| dice.below(pixels as usize / 3) as u32;
    let (left, right) = (margin(picture.width), margin(picture.width));
    let (top, bottom) = (margin(picture.height), margin(picture.height));
    let (width, height) = (picture.width + left + right, picture.height + top + bottom);
    from_places(picture, width, height, |x, y| {
        let (x, y) = (x.wrapping_sub(left), y.wrapping_sub(top));
        (x < picture.width && y < picture.height).then_some((x, y))
    })
}

/// Other colours: channels change places, and lightness a little. What is white or black stays.
fn recoloured(picture: &Rgb, dice: &mut Dice) -> Rgb {
    let order = *dice.pick(&[[1, 2, 0], [2, 0, 1], [2, 1, 0], [0, 2, 1]]);
    let bend = dice.between(0.8, 1.25);
    let bent: Vec<u8> = (0..=255_u32)
        .map(|value| ((f64::from(value) / 255.0).powf(bend) * 255.0).round() as u8)
        .collect();
    let pixels = picture.bytes.chunks_exact(3);
    let bytes = pixels.flat_map(|rgb| order.map(|channel: usize| bent[usize::from(rgb[channel])]));
    Rgb {
        bytes: bytes.collect(),
        ..*picture
    }
}

/// Rotated about its middle, cut at the edges.
fn rotated(picture: &Rgb, degrees: f64) -> Rgb {
    let (width, height) = (picture.width, picture.height);
    let (sin, cos) = degrees.to_radians().sin_cos();
    let middle = [f64::from(width) / 2.0, f64::from(height) / 2.0];
    from_places(picture, width, height, |x, y| {
        let (dx, dy) = (
            f64::from(x) + 0.5 - middle[0],
            f64::from(y) + 0.5 - middle[1],
        );
        let (x, y) = (
            middle[0] + dx * cos + dy * sin,
            middle[1] + dy * cos - dx * sin,
        );
        let is_in = x >= 0.0 && y >= 0.0 && x < f64::from(width) && y < f64::from(height);
        is_in.then_some((x as u32, y as u32))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_promised_of_pictures_that_show_the_same_holds() {
        const PICTURES: usize = 60;
        let mut out = Vec::new();
        similar(PICTURES, None, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for line in text.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            if row["count"].is_number() {
                assert!(row["low_information"].as_f64() <= Some(0.05), "{row}");
                continue;
            }
            let Some(change) = row["change"].as_str() else {
                continue;
            };
            let least = match change {
                "cropped to 70-95 % a side" => 0.8,
                "smaller, stored anew" => 0.95,
                "rotated by 3 degrees" => 0.0,
                _ => 0.85,
            };
            assert!(row["recall"].as_f64() >= Some(least), "{row}");
            assert!(row["precision"].as_f64() >= Some(0.99), "{row}");
        }
    }
}
