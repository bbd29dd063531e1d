//! The files of posters that are not what one would wish: one maker for each [`Oddity`].

use std::io::Cursor;
use std::io::Write;

use fast_image_resize::Resizer;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder};
use jpeg_encoder::{ColorType, Encoder};
use marquee_datasets::scale::{Rgb, scale};
use marquee_datasets::thumbnail::jpeg_of;

use super::animation;
use super::storm::Oddity;

/// JPEG quality of the files.
const QUALITY: u8 = 88;
/// Sides of the bomb: few bytes as a file, 2.7 GB as pixels.
const BOMB_SIDE: u32 = 30_000;

/// The file of an odd poster, made of `picture`; `partner` is another film's file and picture.
pub(super) fn make(oddity: Oddity, picture: Rgb, partner: Option<(Vec<u8>, Rgb)>) -> Vec<u8> {
    let (width, height) = (picture.width, picture.height);
    let plain = |picture: &Rgb| jpeg_of(&picture.bytes, picture.width, picture.height, QUALITY);
    let flat = |colour: [u8; 3]| Rgb {
        width,
        height,
        bytes: colour.repeat(width as usize * height as usize),
    };
    match oddity {
        Oddity::Png => png(&picture.bytes, width, height, ExtendedColorType::Rgb8),
        Oddity::Png16 => {
            // x * 257: white stays white, as the 16-bit reading of an 8-bit picture has it.
            let wide: Vec<u8> = picture.bytes.iter().flat_map(|byte| [*byte; 2]).collect();
            png(&wide, width, height, ExtendedColorType::Rgb16)
        }
        Oddity::WebP => {
            let mut file = Vec::new();
            WebPEncoder::new_lossless(&mut file)
                .write_image(&picture.bytes, width, height, ExtendedColorType::Rgb8)
                .expect("the size is right and a Vec takes every write");
            file
        }
        // Without black: four channels are what matters, and black would only change the shade.
        Oddity::Cmyk => {
            let ink: Vec<u8> = picture
                .bytes
                .chunks_exact(3)
                .flat_map(|rgb| [255 - rgb[0], 255 - rgb[1], 255 - rgb[2], 0])
                .collect();
            jpeg(&ink, width, height, ColorType::Cmyk, |_| {})
        }
        Oddity::Grey => {
            let grey: Vec<u8> = picture.bytes.chunks_exact(3).map(luma).collect();
            jpeg(&grey, width, height, ColorType::Luma, |_| {})
        }
        Oddity::Progressive => jpeg(&picture.bytes, width, height, ColorType::Rgb, |encoder| {
            encoder.set_progressive(true);
        }),
        Oddity::Rotated => {
            let turned = turned_left(&picture);
            let (width, height) = (turned.width, turned.height);
            jpeg(&turned.bytes, width, height, ColorType::Rgb, |encoder| {
                let note = orientation_note(6);
                encoder.add_app_segment(1, note).expect("the note is short");
            })
        }
        // Archives are read from their end, pictures from their beginning: it is both, and the picture is good.
        Oddity::Polyglot => [plain(&picture), empty_archive()].concat(),
        Oddity::Gif => animation::gif(width, height, &frames(&picture)),
        Oddity::AnimatedPng => animation::png(width, height, &frames(&picture)),
        Oddity::AnimatedWebP => animation::webp(width, height, &frames(&picture)),
        Oddity::Bitmap => bitmap(),
        Oddity::PageAsJpeg => [
            &[0xff, 0xd8, 0xff, 0xe0][..],
            b"<html><title>404</title>",
            &[0xff, 0xd9],
        ]
        .concat(),
        Oddity::Truncated => {
            let mut file = plain(&picture);
            file.truncate(file.len() * 3 / 5);
            file
        }
        Oddity::Garbage => {
            let mut file = plain(&picture);
            let length = file.len();
            // The marks at both ends stay, so that only who decodes it learns that it is no picture.
            for (at, byte) in file[3..length - 2].iter_mut().enumerate() {
                *byte = (at * 7 % 251) as u8;
            }
            file
        }
        Oddity::HugeJpeg => {
            let mut file = plain(&picture);
            // The marker, two bytes of length and one of depth; then the height and the width.
            let frame = file.windows(2).position(|pair| pair == [0xff, 0xc0]);
            let at = frame.expect("a JPEG has a frame") + 5;
            // 40,000 by 40,000 in the head alone: who believes it before decoding asks for 4.8 GB.
            file[at..at + 4].copy_from_slice(&[0x9c, 0x40, 0x9c, 0x40]);
            file
        }
        Oddity::HugePng => bomb(),
        Oddity::OnePixel => jpeg_of(&picture.bytes[..3], 1, 1, QUALITY),
        Oddity::Tiny => plain(&resized(picture, 16, 24)),
        Oddity::Thin => plain(&resized(picture, 30.min(width), height * 2)),
        Oddity::Black => plain(&flat([3, 2, 4])),
        Oddity::White => plain(&flat([254, 254, 254])),
        Oddity::Flat => plain(&flat([120, 90, 160])),
        Oddity::Blurred => {
            // What an enlarged thumbnail looks like: enough pixels, and nothing in them.
            let small = resized(picture, 6, 9);
            plain(&resized(small, width, height))
        }
        Oddity::Placeholder => plain(&placeholder(width, height)),
        Oddity::SameFile => partner.map_or_else(|| plain(&picture), |(file, _)| file),
        Oddity::SamePicture => {
            let partner = partner.map_or(picture, |(_, partner)| partner);
            // Another size and quality, so that the bytes differ and only the look is the same.
            let (width, height) = (partner.width * 9 / 10, partner.height * 9 / 10);
            let small = resized(partner, width, height);
            jpeg_of(&small.bytes, width, height, 70)
        }
    }
}

/// The frames of an animation that begins with the picture and ends in black.
fn frames(picture: &Rgb) -> [Vec<u8>; 2] {
    [picture.bytes.clone(), vec![0; picture.bytes.len()]]
}

/// A BMP of one white pixel: a picture, of a format that nobody serves posters in.
fn bitmap() -> Vec<u8> {
    let mut file =
        b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0".to_vec();
    file.extend([0; 24]);
    file.extend([255, 255, 255, 0]);
    file
}

fn luma(rgb: &[u8]) -> u8 {
    let sum = 77 * u32::from(rgb[0]) + 150 * u32::from(rgb[1]) + 29 * u32::from(rgb[2]);
    (sum >> 8) as u8
}

fn resized(picture: Rgb, width: u32, height: u32) -> Rgb {
    scale(&mut Resizer::new(), &picture, width.max(1), height.max(1))
        .expect("a poster has three bytes for each of its pixels")
}

fn png(bytes: &[u8], width: u32, height: u32, kind: ExtendedColorType) -> Vec<u8> {
    let mut file = Vec::new();
    PngEncoder::new(Cursor::new(&mut file))
        .write_image(bytes, width, height, kind)
        .expect("the size is right and a Vec takes every write");
    file
}

fn jpeg(
    bytes: &[u8],
    width: u32,
    height: u32,
    kind: ColorType,
    set: impl FnOnce(&mut Encoder<&mut Vec<u8>>),
) -> Vec<u8> {
    let side = |pixels: u32| u16::try_from(pixels).expect("a poster is at most 1,500 pixels high");
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, QUALITY);
    set(&mut encoder);
    encoder
        .encode(bytes, side(width), side(height), kind)
        .expect("the size is right and a Vec takes every write");
    file
}

/// The picture a quarter turn to the left: a reader who heeds orientation 6 turns it back.
fn turned_left(picture: &Rgb) -> Rgb {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let mut bytes = Vec::with_capacity(picture.bytes.len());
    for column in (0..width).rev() {
        for row in 0..height {
            let at = (row * width + column) * 3;
            bytes.extend_from_slice(&picture.bytes[at..at + 3]);
        }
    }
    Rgb {
        width: picture.height,
        height: picture.width,
        bytes,
    }
}

/// The EXIF segment of a JPEG that says how to turn it.
fn orientation_note(orientation: u8) -> Vec<u8> {
    let mut note = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    note.extend([orientation, 0, 0, 0, 0, 0, 0]);
    note
}

/// A ZIP archive of nothing.
fn empty_archive() -> Vec<u8> {
    let mut archive = b"PK\x05\x06".to_vec();
    archive.extend([0; 18]);
    archive
}

/// A PNG of one bit a pixel, all 0.
fn bomb() -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        let length = u32::try_from(data.len()).expect("a chunk is short");
        file.extend(length.to_be_bytes());
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(data);
        file.extend_from_slice(kind);
        file.extend_from_slice(data);
        file.extend(crc.sum().to_be_bytes());
    };
    let side = BOMB_SIDE.to_be_bytes();
    chunk(b"IHDR", &[&side[..], &side[..], &[1, 0, 0, 0, 0]].concat());
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::best());
    // A tenth of the rows is enough: who reads on has been fooled already.
    packer
        .write_all(&vec![
            0;
            (BOMB_SIDE as usize / 8 + 1) * BOMB_SIDE as usize / 10
        ])
        .expect("a Vec takes every write");
    chunk(b"IDAT", &packer.finish().expect("a Vec takes every write"));
    chunk(b"IEND", &[]);
    file
}

/// A grey field with a frame and a cross: "no picture".
fn placeholder(width: u32, height: u32) -> Rgb {
    let mut bytes = Vec::with_capacity(width as usize * height as usize * 3);
    for y in 0..height {
        for x in 0..width {
            let is_frame = x < width / 12 || y < height / 12;
            let is_cross = (x * height).abs_diff(y * width) < width * height / 30;
            let shade =
                210 - u8::from(is_frame) * 90 - u8::from(is_cross) * 60 - (y * 30 / height) as u8;
            bytes.extend([shade; 3]);
        }
    }
    Rgb {
        width,
        height,
        bytes,
    }
}
