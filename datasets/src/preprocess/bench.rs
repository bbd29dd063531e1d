//! What benchmarks need of a preprocess job.

use fast_image_resize::Resizer;

use super::decode::decode;
pub(crate) use super::ordered::in_order;
use crate::scale::scale;

/// Files into pixels of one size, one after the other, as a preprocess job does it.
#[derive(Debug)]
pub(crate) struct Shrinker {
    width: u32,
    height: u32,
    resizer: Resizer,
    pixels: Vec<u8>,
}

impl Shrinker {
    pub(crate) fn new(width: u32, height: u32) -> Self {
        Self {
            width,
            height,
            resizer: Resizer::new(),
            pixels: Vec::new(),
        }
    }

    /// The pixels of a picture file, at this size.
    pub(crate) fn pixels(&mut self, file: &[u8]) -> Result<&[u8], String> {
        let (picture, _) = decode(file).map_err(|skip| skip.detail)?;
        let scaled = scale(&mut self.resizer, picture, self.width, self.height)?;
        self.pixels = scaled.bytes;
        Ok(&self.pixels)
    }
}
