//! Pictures to another size. One kind of pixels only: the resizer's own dispatch over all kinds
//! would be compiled into this crate several times over.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

/// An RGB picture, 8 bits a channel, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    pub width: u32,
    pub height: u32,
    pub bytes: Vec<u8>,
}

/// The whole of `picture` at the size `width` x `height`. Bilinear, with a filter as wide as the
/// scale asks for, so that shrinking does not drop pixels. The error is for people.
pub fn scale(resizer: &mut Resizer, picture: &Rgb, width: u32, height: u32) -> Result<Rgb, String> {
    let mut bytes = Vec::new();
    scale_into(resizer, picture, width, height, &mut bytes)?;
    Ok(Rgb {
        width,
        height,
        bytes,
    })
}

/// As [`scale`], into memory that is used again.
pub fn scale_into(
    resizer: &mut Resizer,
    picture: &Rgb,
    width: u32,
    height: u32,
    bytes: &mut Vec<u8>,
) -> Result<(), String> {
    if (picture.width, picture.height) == (width, height) {
        bytes.clone_from(&picture.bytes);
        return Ok(());
    }
    let source = TypedImageRef::<U8x3>::from_buffer(picture.width, picture.height, &picture.bytes)
        .map_err(|error| error.to_string())?;
    bytes.resize(width as usize * height as usize * 3, 0);
    let mut target =
        TypedImage::<U8x3>::from_buffer(width, height, bytes).map_err(|error| error.to_string())?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    resizer
        .resize_typed(&source, &mut target, &options)
        .map_err(|error| error.to_string())
}
