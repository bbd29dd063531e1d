//! One picture from its file to its bytes in a shard.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fast_image_resize::Resizer;
use marquee_domain::spec::ImageEncoding;

use super::decode::decode_with;
use super::look::Look;
use crate::scale::{Rgb, scale_into};
use crate::shards::JPEG_QUALITY;
use crate::sniff::Format;
use crate::thumbnail::jpeg_of;

/// Why a picture is not in the shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Skip {
    pub(super) class: String,
    pub(super) detail: String,
}

impl Skip {
    pub(super) fn new(class: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            class: class.into(),
            detail: detail.into(),
        }
    }
}

/// What became of a picture.
#[derive(Debug, PartialEq)]
pub(super) enum Prepared {
    /// Its bytes in a shard, and what it looks like.
    Image(Vec<u8>, Box<Look>),
    Skipped(Skip),
}

/// Memory of a decoded picture that is kept for the next one: that of 2400x2400 pixels. A huge one's is
/// given back.
const SPARE_MAX_BYTES: usize = 2_400 * 2_400 * 3;

/// Brings pictures to one size, one after the other, in memory of its own.
#[derive(Debug)]
pub struct Shrinker {
    width: u32,
    height: u32,
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
    pub(super) fn shrink<T>(
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

/// Prepares pictures, one after the other, with buffers of its own.
#[derive(Debug)]
pub(super) struct Preparer {
    encoding: ImageEncoding,
    shrinker: Shrinker,
}

impl Preparer {
    pub(super) fn new(width: u32, height: u32, encoding: ImageEncoding) -> Self {
        Self {
            encoding,
            shrinker: Shrinker::new(width, height),
        }
    }

    /// Never panics, whatever the decoders do.
    pub(super) fn prepare(&mut self, file: &[u8]) -> Prepared {
        let (width, height) = (self.shrinker.width, self.shrinker.height);
        let prepared = catch_unwind(AssertUnwindSafe(|| {
            let (pixels, look) = self.shrinker.shrink(file, Look::at)?;
            let image = match self.encoding {
                ImageEncoding::Raw => std::mem::take(pixels),
                ImageEncoding::Jpeg => jpeg_of(pixels, width, height, JPEG_QUALITY),
                ImageEncoding::Original => file.to_vec(),
            };
            Ok((image, Box::new(look)))
        }));
        match prepared {
            Ok(Ok((image, look))) => Prepared::Image(image, look),
            Ok(Err(skip)) => Prepared::Skipped(skip),
            Err(_) => {
                // Its buffers may be in any state.
                self.shrinker = Shrinker::new(width, height);
                let detail = "a decoder gave up on it; its message is in the log";
                Prepared::Skipped(Skip::new("decoder_panic", detail))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_scaled_whole_and_smoothly() {
        // Left half black, right half white, in columns of one pixel each in the middle.
        let row: Vec<u8> = (0..100)
            .flat_map(|x| [if x < 50 { 0 } else { 255 }; 3])
            .collect();
        let file = jpeg_of(&row.repeat(60), 100, 60, 95);
        let mut preparer = Preparer::new(10, 4, ImageEncoding::Raw);
        let Prepared::Image(image, _) = preparer.prepare(&file) else {
            panic!("it is a good picture");
        };
        assert_eq!(image.len(), 10 * 4 * 3);
        assert!(
            image[..9].iter().all(|value| *value < 8),
            "{:?}",
            &image[..30]
        );
        assert!(
            image[21..30].iter().all(|value| *value > 247),
            "{:?}",
            &image[..30]
        );
    }
}
