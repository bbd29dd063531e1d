//! Files from strangers into pixels: bounded in bytes and pixels, told by content, never by name.
//!
//! Invariant: a file is a whole RGB picture or a [`Skip`] with a class; a decoder that panics skips
//! the picture. Not here: a bound in time; a decoder's work grows with the pixels, which are bounded.

use std::error::Error;
use std::io::{self, Cursor};

use image::{DynamicImage, ImageError, ImageFormat, ImageReader, Limits, RgbaImage};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use super::jpeg_file::{End, end_of, is_page, orientation_of};
use super::skip::Skip;
use crate::scale::Rgb;
use crate::sniff::{Format, NO_PICTURE, format_of};

/// What the decoder of GIF says of a file that ends before its picture does.
const GIF_ENDS_EARLY: [&str; 2] = ["Unexpected End of File", "End-Code Not Found"];

#[cfg(test)]
mod tests;

/// Pixels of a side, at most.
const SIDE_MAX: u32 = 32_768;
/// Pixels of a picture, at most: 8000 x 8000. Posters of public services end near 6 million.
const PIXELS_MAX: u64 = 64_000_000;
/// Bytes that a decoder of PNG, WebP or GIF may allocate: four for each pixel, twice.
const ALLOCATION_MAX_BYTES: u64 = PIXELS_MAX * 8;

/// Decodes a file, upright.
pub(crate) fn decode(file: &[u8]) -> Result<(Rgb, Format), Skip> {
    decode_with(file, &mut Vec::new())
}

/// As [`decode`]. The picture may take the memory of `spare` instead of new memory.
pub(super) fn decode_with(file: &[u8], spare: &mut Vec<u8>) -> Result<(Rgb, Format), Skip> {
    match format_of(file) {
        Some(Format::Jpeg) => {
            let picture = decode_jpeg(file, spare)?;
            Ok((upright(picture, orientation_of(file)), Format::Jpeg))
        }
        Some(Format::Png) => Ok((decode_other(file, ImageFormat::Png)?, Format::Png)),
        Some(Format::WebP) => Ok((decode_other(file, ImageFormat::WebP)?, Format::WebP)),
        Some(Format::Gif) => Ok((decode_other(file, ImageFormat::Gif)?, Format::Gif)),
        None if file.is_empty() => Err(Skip::new("empty", "the file has no bytes")),
        None => Err(Skip::new("unknown_format", NO_PICTURE)),
    }
}

fn decode_jpeg(file: &[u8], spare: &mut Vec<u8>) -> Result<Rgb, Skip> {
    // Greyscale, CMYK and YCCK are turned into RGB by the decoder. In strict mode it refuses
    // damaged data instead of painting over it.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        // Sides are checked below, where a side that is too long gets its own class.
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder
        .decode_headers()
        .map_err(|error| skip_of_jpeg(&error, file))?;
    let (width, height) = decoder
        .info()
        .map(|info| (u32::from(info.width), u32::from(info.height)))
        .ok_or_else(|| Skip::new("undecodable", "it has no size"))?;
    // Sizes are checked before anything of that size is reserved.
    check_size(width, height)?;
    if end_of(file) == End::Cut {
        return Err(truncated());
    }
    let needed = width as usize * height as usize * 3;
    if decoder.output_buffer_size() != Some(needed) {
        return Err(Skip::new(
            "undecodable",
            "its colours cannot be turned into RGB",
        ));
    }
    let mut bytes = std::mem::take(spare);
    // Nothing of the picture before must show, whatever the decoder leaves out.
    bytes.clear();
    bytes.resize(needed, 0);
    decoder
        .decode_into(&mut bytes)
        .map_err(|error| skip_of_jpeg(&error, file))?;
    Ok(Rgb {
        width,
        height,
        bytes,
    })
}

fn skip_of_jpeg(error: &DecodeErrors, file: &[u8]) -> Skip {
    if is_page(file) {
        let detail = "it is a page behind the first bytes of a JPEG";
        return Skip::new("not_a_picture", detail);
    }
    match end_of(file) {
        End::Cut => truncated(),
        End::Whole | End::Unclear => Skip::new("undecodable", format!("{error:?}")),
    }
}

fn truncated() -> Skip {
    Skip::new("truncated", "the file ends before the picture does")
}

fn too_large(detail: &str) -> Skip {
    Skip::new(
        "too_large",
        format!("{detail}; {PIXELS_MAX} pixels and {SIDE_MAX} a side are allowed"),
    )
}

fn check_size(width: u32, height: u32) -> Result<(), Skip> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(Skip::new("undecodable", "it has no pixels"));
    }
    if pixels > PIXELS_MAX || width > SIDE_MAX || height > SIDE_MAX {
        return Err(too_large(&format!("it has {width}x{height} pixels")));
    }
    Ok(())
}

/// The picture as its orientation says it is to be seen.
fn upright(picture: Rgb, orientation: u8) -> Rgb {
    if !(2..=8).contains(&orientation) {
        return picture;
    }
    let (width, height) = (picture.width as usize, picture.height as usize);
    let is_turned = orientation >= 5;
    let (new_width, new_height) = if is_turned {
        (height, width)
    } else {
        (width, height)
    };
    let mut bytes = Vec::with_capacity(picture.bytes.len());
    for y in 0..new_height {
        for x in 0..new_width {
            // Where the pixel at (x, y) of the upright picture is stored.
            let (column, row) = match orientation {
                2 => (width - 1 - x, y),
                3 => (width - 1 - x, height - 1 - y),
                4 => (x, height - 1 - y),
                5 => (y, x),
                6 => (y, height - 1 - x),
                7 => (width - 1 - y, height - 1 - x),
                _ => (width - 1 - y, x),
            };
            let at = (row * width + column) * 3;
            bytes.extend_from_slice(&picture.bytes[at..at + 3]);
        }
    }
    Rgb {
        width: new_width as u32,
        height: new_height as u32,
        bytes,
    }
}

/// Of an animation, the first frame on its canvas.
fn decode_other(file: &[u8], format: ImageFormat) -> Result<Rgb, Skip> {
    let reader = |file| {
        let mut reader = ImageReader::with_format(Cursor::new(file), format);
        let mut limits = Limits::default();
        limits.max_image_width = Some(SIDE_MAX);
        limits.max_image_height = Some(SIDE_MAX);
        limits.max_alloc = Some(ALLOCATION_MAX_BYTES);
        reader.limits(limits);
        reader
    };
    // The header first: a small file may promise 30,000 x 30,000 pixels.
    let (width, height) = reader(file)
        .into_dimensions()
        .map_err(|error| skip_of(&error))?;
    check_size(width, height)?;
    let picture = reader(file).decode().map_err(|error| skip_of(&error))?;
    // Without this, what is transparent would take whatever colour the file has there, mostly black.
    let bytes = if picture.color().has_alpha() {
        over_white(&picture.into_rgba8())
    } else {
        DynamicImage::into_rgb8(picture).into_raw()
    };
    Ok(Rgb {
        width,
        height,
        bytes,
    })
}

fn skip_of(error: &ImageError) -> Skip {
    if let ImageError::Limits(limits) = error {
        return too_large(&limits.to_string());
    }
    if ends_early(error) {
        return truncated();
    }
    Skip::new("undecodable", error.to_string())
}

/// Whether an error, or whatever caused it, is that the file ends.
fn ends_early(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        let is_end = io.is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof);
        // The decoder of GIF has errors of its own for it, and no way to tell them but their words.
        if is_end || GIF_ENDS_EARLY.contains(&error.to_string().as_str()) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Transparent pictures are drawn for light pages.
fn over_white(picture: &RgbaImage) -> Vec<u8> {
    let blend = |colour: u8, alpha: u8| {
        let (colour, alpha) = (u16::from(colour), u16::from(alpha));
        ((colour * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    picture
        .pixels()
        .flat_map(|pixel| {
            let [r, g, b, alpha] = pixel.0;
            [blend(r, alpha), blend(g, alpha), blend(b, alpha)]
        })
        .collect()
}
