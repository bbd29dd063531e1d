//! One picture from its file to its bytes in a shard, and what it looks like.

use std::panic::{AssertUnwindSafe, catch_unwind};

use marquee_domain::spec::ImageEncoding;

use super::look::Look;
use crate::picture::{Shrinker, Skip};
use crate::shards::JPEG_QUALITY;
use crate::thumbnail::jpeg_of;

/// What became of a picture.
#[derive(Debug, PartialEq)]
pub(super) enum Prepared {
    /// Its bytes in a shard, and what it looks like.
    Image(Vec<u8>, Box<Look>),
    Skipped(Skip),
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
        // In a helper a panic would cost a new process, in this one the job. Decoders have panicked on
        // strangers' files before, and will again.
        let prepared = catch_unwind(AssertUnwindSafe(|| {
            let (pixels, look) = self.shrinker.shrink(file, Look::at)?;
            let image = match self.encoding {
                // Taken and not copied: raw pixels are the whole answer, and the next picture gets
                // new memory.
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
