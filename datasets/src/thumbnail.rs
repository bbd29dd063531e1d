//! Small JPEGs: the `jpeg` encoding of shards, and the pictures of reports.

use jpeg_encoder::{ColorType, Encoder};

/// The JPEG of an RGB picture of 8 bits a channel, row by row.
///
/// # Panics
/// If `rgb` is not `width * height * 3` bytes, or a side is 0 or above 65,535, which JPEG cannot
/// say. Pictures of shards never are.
#[must_use]
pub fn jpeg_of(rgb: &[u8], width: u32, height: u32, quality: u8) -> Vec<u8> {
    let needed = width as usize * height as usize * 3;
    assert_eq!(
        rgb.len(),
        needed,
        "an RGB picture of {width}x{height} has {needed} bytes"
    );
    let side = |pixels: u32| u16::try_from(pixels).expect("JPEG allows 65,535 pixels a side");
    let mut jpeg = Vec::new();
    Encoder::new(&mut jpeg, quality)
        .encode(rgb, side(width), side(height), ColorType::Rgb)
        .expect("the size was checked and a Vec takes every write");
    jpeg
}
