//! The bytes of a poster's file, as its server gives them: mostly JPEG, now and then something
//! else behind the same name, and some that are damaged.

use std::io::Cursor;

use fast_image_resize::Resizer;
use image::{ColorType as PngColour, ImageEncoder, codecs::png::PngEncoder};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use marquee_datasets::dice::Dice;
use marquee_datasets::scale::{Rgb, scale};
use marquee_datasets::thumbnail::jpeg_of;

use super::film::{Fate, Films};
use super::oddities;
use super::poster::{self, Poster};
use super::storm::{Oddity, Plant, Storm};

/// JPEG quality of a poster.
const QUALITY: u8 = 85;
/// Share of the JPEGs whose colours are stored at full size (4:4:4).
const SHARE_FULL_COLOUR: f64 = 0.1;
/// Share of the files that are PNGs behind a name that ends in `.jpg`.
const SHARE_PNG: f64 = 0.005;
/// Share of the grey posters that are stored as greyscale JPEGs.
const SHARE_ONE_CHANNEL: f64 = 0.5;

/// A file as it is served.
#[derive(Debug)]
pub(crate) struct ImageFile {
    pub(crate) bytes: Vec<u8>,
    pub(crate) content_type: &'static str,
}

/// How posters are painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// With all that a classifier can learn from.
    Full,
    /// 92 pixels wide whatever is asked for, coloured fields alone: for tests of many.
    Sketch,
}

/// What is served: films, the faults that befall them, and how posters are painted.
#[derive(Debug, Clone)]
pub(crate) struct Painter {
    pub(crate) films: Films,
    pub(crate) storm: Option<Storm>,
    pub(crate) style: Style,
}

impl Painter {
    /// The file of the poster at `position`, `width` pixels wide.
    pub(crate) fn file(&self, position: usize, width: u32) -> ImageFile {
        let plant = self
            .storm
            .as_ref()
            .and_then(|storm| storm.plant_at(position));
        // A broken poster stays broken: what must become of it has one answer.
        let is_sound = self.films.fate_at(position) != Fate::BrokenPoster;
        match plant {
            Some(Plant::Oddity(oddity)) if is_sound => self.odd_file(oddity, position, width),
            Some(_) | None => self.plain_file(position, width),
        }
    }

    fn plain_file(&self, position: usize, width: u32) -> ImageFile {
        match self.style {
            Style::Full => make(&self.films, position, width),
            Style::Sketch => {
                let picture = self.picture(position, width);
                let (width, height) = (picture.width, picture.height);
                let mut bytes = jpeg_of(&picture.bytes, width, height, QUALITY);
                if self.films.fate_at(position) == Fate::BrokenPoster {
                    bytes.truncate(bytes.len() * 3 / 5);
                }
                ImageFile {
                    bytes,
                    content_type: "image/jpeg",
                }
            }
        }
    }

    fn odd_file(&self, oddity: Oddity, position: usize, width: u32) -> ImageFile {
        let storm = self.storm.as_ref();
        let partner = storm.and_then(|storm| storm.partner_of(&self.films, position));
        let partner = partner.map(|at| (self.plain_file(at, width).bytes, self.picture(at, width)));
        // The server trusts the name, as servers do.
        ImageFile {
            bytes: oddities::make(oddity, self.picture(position, width), partner),
            content_type: "image/jpeg",
        }
    }

    /// The pixels of the poster at `position`, `width` wide.
    pub(crate) fn picture(&self, position: usize, width: u32) -> Rgb {
        let mut dice = self.films.poster_dice(position);
        match self.style {
            Style::Full => {
                let film = self.films.film_at(position);
                shrink(poster::paint(&film, &mut dice), width).picture
            }
            Style::Sketch => sketch(&mut dice),
        }
    }
}

/// Coloured fields with sharp edges and a little noise.
fn sketch(dice: &mut Dice) -> Rgb {
    const WIDTH: u32 = 92;
    const HEIGHT: u32 = 138;
    const FIELDS: usize = 14;
    let mut bytes = vec![0; (WIDTH * HEIGHT * 3) as usize];
    for field in 0..FIELDS {
        let colour: [u8; 3] = std::array::from_fn(|_| (30 + dice.below(220)) as u8);
        let (left, top) = (dice.below(80), dice.below(120));
        let (right, bottom) = match field {
            0 => (WIDTH as usize, HEIGHT as usize),
            _ => (left + 6 + dice.below(40), top + 6 + dice.below(60)),
        };
        let (left, top) = if field == 0 { (0, 0) } else { (left, top) };
        for y in top..bottom.min(HEIGHT as usize) {
            for x in left..right.min(WIDTH as usize) {
                let noise = (dice.bits() & 15) as u8;
                let at = (y * WIDTH as usize + x) * 3;
                for (byte, value) in bytes[at..at + 3].iter_mut().zip(colour) {
                    *byte = value.saturating_add(noise);
                }
            }
        }
    }
    Rgb {
        width: WIDTH,
        height: HEIGHT,
        bytes,
    }
}

/// The file of the poster at `position`, `width` pixels wide.
fn make(films: &Films, position: usize, width: u32) -> ImageFile {
    let film = films.film_at(position);
    // Painted and stored with one row of dice, so that the file at another width has the same
    // oddities.
    let mut dice = films.poster_dice(position);
    let poster = poster::paint(&film, &mut dice);
    let mut file = encode(&shrink(poster, width), &mut dice);
    if film.fate == Fate::BrokenPoster {
        damage(&mut file.bytes, &mut dice);
    }
    file
}

/// The poster at most `width` pixels wide.
fn shrink(poster: Poster, width: u32) -> Poster {
    let Rgb {
        width: full_width,
        height: full_height,
        ..
    } = poster.picture;
    let width = width.min(full_width);
    let height = width * full_height / full_width;
    let picture = scale(&mut Resizer::new(), &poster.picture, width, height)
        .expect("a poster has three bytes for each of its pixels");
    Poster { picture, ..poster }
}

fn encode(poster: &Poster, dice: &mut Dice) -> ImageFile {
    let Rgb {
        width,
        height,
        bytes: rgb,
    } = &poster.picture;
    let (width, height) = (*width, *height);
    let mut bytes = Vec::new();
    if dice.chance(SHARE_PNG) {
        PngEncoder::new(Cursor::new(&mut bytes))
            .write_image(rgb, width, height, PngColour::Rgb8.into())
            .expect("the size is right and a Vec takes every write");
        // The server trusts the name, as servers do.
        return ImageFile {
            bytes,
            content_type: "image/jpeg",
        };
    }
    let mut encoder = Encoder::new(&mut bytes, QUALITY);
    let is_full = dice.chance(SHARE_FULL_COLOUR);
    encoder.set_sampling_factor(if is_full {
        SamplingFactor::F_1_1
    } else {
        SamplingFactor::F_2_2
    });
    let side = |pixels: u32| u16::try_from(pixels).expect("a poster is at most 750 pixels high");
    let (width, height) = (side(width), side(height));
    let encoded = if poster.is_grey && dice.chance(SHARE_ONE_CHANNEL) {
        // All three channels are the same in a grey poster.
        let grey: Vec<u8> = rgb.iter().copied().step_by(3).collect();
        encoder.encode(&grey, width, height, ColorType::Luma)
    } else {
        encoder.encode(rgb, width, height, ColorType::Rgb)
    };
    encoded.expect("the size is right and a Vec takes every write");
    ImageFile {
        bytes,
        content_type: "image/jpeg",
    }
}

/// Cuts the file short, early or late.
fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) {
    match dice.below(3) {
        0 => bytes.truncate(bytes.len() * 3 / 5),
        1 => bytes.truncate(200),
        _ => bytes.truncate(bytes.len() - bytes.len() / 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poster_is_the_same_whenever_it_is_made_and_another_for_another_seed() {
        let (films, others) = (Films::new(1, 100), Films::new(2, 100));
        assert_eq!(make(&films, 17, 500).bytes, make(&films, 17, 500).bytes);
        assert_ne!(make(&films, 17, 500).bytes, make(&others, 17, 500).bytes);
    }

    #[test]
    fn smaller_sizes_keep_the_proportions() {
        let films = Films::new(1, 100);
        let position = (0..100)
            .find(|at| films.fate_at(*at) == Fate::Plain)
            .unwrap();
        let file = make(&films, position, 92);
        let mut decoder =
            zune_jpeg::JpegDecoder::new(zune_core::bytestream::ZCursor::new(&file.bytes));
        decoder.decode_headers().unwrap();
        let info = decoder.info().unwrap();
        assert_eq!((info.width, info.height), (92, 138));
    }
}
