//! Picture files brought to one size, one after the other.

use fast_image_resize::Resizer;

use super::decode::decode_with;
use super::skip::Skip;
use crate::scale::{Rgb, scale_into};
use crate::sniff::Format;

/// Memory of a decoded picture that is kept for the next one: that of 2400x2400 pixels. A huge one's is
/// given back.
const SPARE_MAX_BYTES: usize = 2_400 * 2_400 * 3;

/// Brings pictures to one size, one after the other, in memory of its own.
#[derive(Debug)]
pub struct Shrinker {
    pub(crate) width: u32,
    pub(crate) height: u32,
    resizer: Resizer,
    decoded: Vec<u8>,
    scaled: Vec<u8>,
}

impl Shrinker {
    /// A shrinker to this size.
    #[must_use]
    pub fn new(width: u32, height: u32) -> Self {
        Self {
            width,
            height,
            resizer: Resizer::new(),
            decoded: Vec::new(),
            scaled: Vec::new(),
        }
    }

    /// The pixels of a picture file at this size, and what `look` makes of the whole picture.
    pub(crate) fn shrink<T>(
        &mut self,
        file: &[u8],
        look: impl FnOnce(&mut Resizer, &Rgb, Format) -> Result<T, String>,
    ) -> Result<(&mut Vec<u8>, T), Skip> {
        let unresizable = |problem| Skip::new("unresizable", problem);
        let (picture, format) = decode_with(file, &mut self.decoded)?;
        let seen = look(&mut self.resizer, &picture, format).map_err(unresizable)?;
        let (width, height) = (self.width, self.height);
        scale_into(&mut self.resizer, &picture, width, height, &mut self.scaled)
            .map_err(unresizable)?;
        // Decoding into the same memory again saves the system from clearing new pages for each picture.
        if picture.bytes.capacity() <= SPARE_MAX_BYTES {
            self.decoded = picture.bytes;
        }
        Ok((&mut self.scaled, seen))
    }

    /// The pixels of a picture file at this size. The error is for people.
    pub fn pixels(&mut self, file: &[u8]) -> Result<&[u8], String> {
        match self.shrink(file, |_, _, _| Ok(())) {
            Ok((pixels, ())) => Ok(pixels),
            Err(skip) => Err(skip.detail),
        }
    }
}
