//! What a picture shows, drawn very small: how light it is where, and where its edges are. Two pictures are
//! compared by it when their hashes say that they may be the same.
//!
//! A plain border is cut away before: the same drawing on a larger sheet is the same drawing. The sheet as it
//! was is sketched as well, since a crop that cuts through the drawing on one side keeps the border on another.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fast_image_resize::Resizer;
use serde::{Deserialize, Serialize};

use super::spectrum::{AREA, SIDE};
use crate::scale::{Rgb, scale};

/// How far a colour may be from the border's and be the border.
const BORDER_SPREAD: u8 = 24;
/// Share of the outermost pixels that have one colour, where there is a plain border.
const BORDER_SHARE: f64 = 0.9;
/// Pixels of a side that are left, at least.
const LEFT_MIN_PX: usize = 8;
/// Differences of neighbours from which on an edge is an edge: stronger ones count alike, so that a drawing
/// in other colours has the same edges.
const EDGE_FULL: u32 = 40;

/// Sides that a picture may have to each other: longer ones no decoder gives.
const ASPECT_MAX: f32 = 65_536.0;
/// Bytes of a sketch without its sheet: the aspect, then both maps.
const BYTES: usize = 4 + 2 * AREA;

/// What a picture shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Sketch {
    /// Lightness, [`SIDE`] x [`SIDE`].
    pub(super) light: Vec<u8>,
    /// How much of an edge there is, alike.
    pub(super) edges: Vec<u8>,
    /// Width by height of what is drawn here as a square.
    pub(super) aspect: f32,
    /// The whole picture, where a border was cut away.
    pub(super) sheet: Option<Box<Sketch>>,
}

impl Sketch {
    pub(super) fn of(resizer: &mut Resizer, picture: &Rgb) -> Result<Self, String> {
        let sheet = Self::as_it_is(resizer, picture)?;
        let Some(inner) = without_border(picture) else {
            return Ok(sheet);
        };
        Ok(Self {
            sheet: Some(Box::new(sheet)),
            ..Self::as_it_is(resizer, &inner)?
        })
    }

    fn as_it_is(resizer: &mut Resizer, picture: &Rgb) -> Result<Self, String> {
        // Twice as fine as the maps: an edge lies between pixels.
        let side = SIDE as u32 * 2;
        let fine = scale(resizer, picture, side, side)?;
        Ok(Self {
            light: light_of(&fine),
            edges: edges_of(&fine),
            aspect: picture.width as f32 / picture.height as f32,
            sheet: None,
        })
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let (aspect, maps) = bytes.split_first_chunk().ok_or("a sketch is cut short")?;
        let aspect = f32::from_le_bytes(*aspect);
        if !(1.0 / ASPECT_MAX..=ASPECT_MAX).contains(&aspect) {
            return Err(format!("a sketch has sides of {aspect} to 1"));
        }
        let (light, edges) = maps.split_at(AREA);
        Ok(Self {
            light: light.to_vec(),
            edges: edges.to_vec(),
            aspect,
            sheet: None,
        })
    }
}

impl From<Sketch> for String {
    fn from(sketch: Sketch) -> Self {
        let mut bytes = Vec::with_capacity(2 * BYTES);
        for one in [Some(&sketch), sketch.sheet.as_deref()]
            .into_iter()
            .flatten()
        {
            bytes.extend(one.aspect.to_le_bytes());
            bytes.extend(&one.light);
            bytes.extend(&one.edges);
        }
        // As text: JSON takes up to four bytes for each number of a list, base64 four for each
        // three.
        STANDARD.encode(bytes)
    }
}

impl TryFrom<String> for Sketch {
    type Error = String;

    /// A helper that was taken over by a picture may say anything.
    fn try_from(text: String) -> Result<Self, String> {
        let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
        if bytes.len() != BYTES && bytes.len() != 2 * BYTES {
            let (whole, twice) = (BYTES, 2 * BYTES);
            return Err(format!(
                "a sketch has {} bytes, neither {whole} nor {twice}",
                bytes.len()
            ));
        }
        let (own, sheet) = bytes.split_at(BYTES);
        let sheet = (!sheet.is_empty()).then(|| Self::read(sheet)).transpose()?;
        Ok(Self {
            sheet: sheet.map(Box::new),
            ..Self::read(own)?
        })
    }
}

/// The picture without a border of one colour; None if it has none that is worth cutting.
fn without_border(picture: &Rgb) -> Option<Rgb> {
    let (width, height) = (picture.width as usize, picture.height as usize);
    if width < LEFT_MIN_PX || height < LEFT_MIN_PX {
        return None;
    }
    let pixel = |x: usize, y: usize| -> [u8; 3] {
        let at = (y * width + x) * 3;
        [
            picture.bytes[at],
            picture.bytes[at + 1],
            picture.bytes[at + 2],
        ]
    };
    let frame: Vec<[u8; 3]> = (0..width)
        .flat_map(|x| [pixel(x, 0), pixel(x, height - 1)])
        .chain((0..height).flat_map(|y| [pixel(0, y), pixel(width - 1, y)]))
        .collect();
    // The median: a mean would be moved by the tenth of the frame that may have another colour.
    let middle: [u8; 3] = std::array::from_fn(|channel| {
        let mut values: Vec<u8> = frame.iter().map(|pixel| pixel[channel]).collect();
        values.sort_unstable();
        values[values.len() / 2]
    });
    let is_border = |pixel: [u8; 3]| {
        let mut channels = pixel.iter().zip(middle);
        channels.all(|(value, border)| value.abs_diff(border) <= BORDER_SPREAD)
    };
    let plain = frame.iter().filter(|pixel| is_border(**pixel)).count();
    if (plain as f64) < frame.len() as f64 * BORDER_SHARE {
        return None;
    }
    let has_ink = |x: usize, y: usize| !is_border(pixel(x, y));
    let row_has = |y: &usize| (0..width).any(|x| has_ink(x, *y));
    let column_has = |x: &usize| (0..height).any(|y| has_ink(*x, y));
    let (top, bottom) = ((0..height).find(row_has)?, (0..height).rfind(row_has)?);
    let (left, right) = ((0..width).find(column_has)?, (0..width).rfind(column_has)?);
    let (inner_width, inner_height) = (right + 1 - left, bottom + 1 - top);
    if inner_width < LEFT_MIN_PX || inner_height < LEFT_MIN_PX {
        return None;
    }
    let rows = (top..=bottom).flat_map(|y| {
        let start = (y * width + left) * 3;
        &picture.bytes[start..start + inner_width * 3]
    });
    Some(Rgb {
        width: inner_width as u32,
        height: inner_height as u32,
        bytes: rows.copied().collect(),
    })
}

/// Each number is the mean of four pixels.
fn light_of(fine: &Rgb) -> Vec<u8> {
    pooled(|x, y| {
        let at = (y * SIDE * 2 + x) * 3;
        let rgb = &fine.bytes[at..at + 3];
        (299 * u32::from(rgb[0]) + 587 * u32::from(rgb[1]) + 114 * u32::from(rgb[2]) + 500) / 1_000
    })
}

fn edges_of(fine: &Rgb) -> Vec<u8> {
    let wide = SIDE * 2;
    let channel = |x: usize, y: usize, channel: usize| fine.bytes[(y * wide + x) * 3 + channel];
    pooled(|x, y| {
        let (next, below) = ((x + 1).min(wide - 1), (y + 1).min(wide - 1));
        // The strongest of the three: a change of hue alone is an edge, too.
        let of_channel = |at: usize| {
            let here = channel(x, y, at);
            let along = u32::from(here.abs_diff(channel(next, y, at)));
            along.max(u32::from(here.abs_diff(channel(x, below, at))))
        };
        let strongest = (0..3).map(of_channel).max().unwrap_or(0);
        strongest.min(EDGE_FULL) * 255 / EDGE_FULL
    })
}

/// The means of squares of four.
fn pooled(number: impl Fn(usize, usize) -> u32) -> Vec<u8> {
    let mean = |at: usize| {
        let (x, y) = (at % SIDE * 2, at / SIDE * 2);
        let sum = number(x, y) + number(x + 1, y) + number(x, y + 1) + number(x + 1, y + 1);
        (sum / 4).min(255) as u8
    };
    (0..AREA).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dark cross with one red arm on a sheet of `width` x `height`, in a field of 80 x 60 at (left, top).
    fn cross(width: u32, height: u32, left: u32, top: u32) -> Rgb {
        let pixel = |x: u32, y: u32| {
            let (x, y) = (x.wrapping_sub(left), y.wrapping_sub(top));
            let is_in = x < 80 && y < 60;
            match is_in && ((30..50).contains(&x) || (20..35).contains(&y)) {
                true if x < 30 => [200, 20, 30],
                true => [10, 20, 30],
                false => [240, 240, 230],
            }
        };
        Rgb {
            width,
            height,
            bytes: (0..width * height)
                .flat_map(|at| pixel(at % width, at / width))
                .collect(),
        }
    }

    #[test]
    fn a_plain_border_is_no_part_of_what_is_shown_and_its_sheet_is_kept_beside() {
        let sketch = |picture: &Rgb| Sketch::of(&mut Resizer::new(), picture).unwrap();
        let tight = sketch(&cross(80, 60, 0, 0));
        assert_eq!((tight.aspect, &tight.sheet), (80.0 / 60.0, &None));
        for (picture, aspect) in [
            (cross(200, 160, 70, 20), 1.25),
            (cross(300, 100, 5, 30), 3.0),
        ] {
            let mut other = sketch(&picture);
            let sheet = other.sheet.take().unwrap();
            assert_eq!((sheet.aspect, &sheet.sheet), (aspect, &None));
            assert_ne!(sheet.light, tight.light);
            assert_eq!(other, tight);
        }
        // Nothing but border: there is nothing to cut down to.
        assert_eq!(without_border(&cross(90, 90, 500, 500)), None);
        assert_eq!(without_border(&cross(5, 5, 0, 0)), None);
    }

    #[test]
    fn a_sketch_survives_the_way_from_a_helper_and_nonsense_does_not() {
        for picture in [cross(80, 60, 0, 0), cross(200, 160, 70, 20)] {
            let sketch = Sketch::of(&mut Resizer::new(), &picture).unwrap();
            let text = serde_json::to_string(&sketch).unwrap();
            assert_eq!(serde_json::from_str::<Sketch>(&text).unwrap(), sketch);
        }
        let flat = |aspect: f32| {
            let bytes = [aspect.to_le_bytes().to_vec(), vec![7; 2 * AREA]].concat();
            format!("\"{}\"", STANDARD.encode(bytes))
        };
        assert!(serde_json::from_str::<Sketch>(&flat(1.5)).is_ok());
        for aspect in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e30] {
            assert!(
                serde_json::from_str::<Sketch>(&flat(aspect)).is_err(),
                "{aspect}"
            );
        }
        for nonsense in ["\"\"", "\"AAAA\"", "\"!\"", "7"] {
            assert!(
                serde_json::from_str::<Sketch>(nonsense).is_err(),
                "{nonsense}"
            );
        }
    }
}
