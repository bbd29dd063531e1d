//! Files from strangers into pixels: bounded in bytes and pixels, told by content, never by name.
//!
//! Invariant: a file is a whole RGB picture or a [`Skip`] with a class; a decoder that panics skips
//! the picture. Not here: a bound in time; a decoder's work grows with the pixels, which are bounded.

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
use crate::sniff::{Format, format_of};

/// Pixels of a side, at most.
const SIDE_MAX: u32 = 32_768;
/// Pixels of a picture, at most: 8000 x 8000. Posters of public services end near 6 million.
const PIXELS_MAX: u64 = 64_000_000;
/// Bytes that a decoder of PNG or WebP may allocate: four for each pixel, twice.
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
        None if file.is_empty() => Err(Skip::new("empty", "the file has no bytes")),
        None => Err(Skip::new("unknown_format", "it is no JPEG, PNG or WebP")),
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
    match error {
        ImageError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => truncated(),
        ImageError::Decoding(_)
        | ImageError::Encoding(_)
        | ImageError::Parameter(_)
        | ImageError::Limits(_)
        | ImageError::Unsupported(_)
        | ImageError::IoError(_) => Skip::new("undecodable", error.to_string()),
    }
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

#[cfg(test)]
mod tests {
    use image::codecs::png::PngEncoder;
    use image::codecs::webp::WebPEncoder;
    use image::{ExtendedColorType, ImageEncoder};
    use jpeg_encoder::{ColorType, Encoder};

    use super::*;

    fn jpeg(pixel: &[u8], kind: ColorType, progressive: bool) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, 95);
        encoder.set_progressive(progressive);
        encoder
            .encode(&pixel.repeat(64 * 48), 64, 48, kind)
            .unwrap();
        file
    }

    fn png(pixel: &[u8], kind: ExtendedColorType) -> Vec<u8> {
        let mut file = Vec::new();
        PngEncoder::new(&mut file)
            .write_image(&pixel.repeat(64 * 48), 64, 48, kind)
            .unwrap();
        file
    }

    fn webp(pixel: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        WebPEncoder::new_lossless(&mut file)
            .write_image(&pixel.repeat(64 * 48), 64, 48, ExtendedColorType::Rgb8)
            .unwrap();
        file
    }

    #[track_caller]
    fn assert_is(file: &[u8], wanted: [u8; 3]) {
        let (pixels, _) = decode(file).unwrap();
        assert_eq!((pixels.width, pixels.height), (64, 48));
        for pixel in pixels.bytes.chunks_exact(3) {
            let near = pixel
                .iter()
                .zip(wanted)
                .all(|(got, want)| got.abs_diff(want) <= 4);
            assert!(near, "{pixel:?} is not {wanted:?}");
        }
    }

    #[test]
    fn every_kind_of_file_becomes_rgb() {
        assert_is(&jpeg(&[200, 90, 30], ColorType::Rgb, false), [200, 90, 30]);
        assert_is(&jpeg(&[200, 90, 30], ColorType::Rgb, true), [200, 90, 30]);
        assert_is(&jpeg(&[140], ColorType::Luma, false), [140; 3]);
        // No cyan, half magenta, all yellow, no black.
        assert_is(
            &jpeg(&[0, 128, 255, 0], ColorType::Cmyk, false),
            [255, 127, 0],
        );
        assert_is(
            &jpeg(&[0, 128, 255, 0], ColorType::CmykAsYcck, false),
            [255, 127, 0],
        );
        assert_is(&png(&[200, 90, 30], ExtendedColorType::Rgb8), [200, 90, 30]);
        assert_is(&png(&[140], ExtendedColorType::L8), [140; 3]);
        assert_is(&png(&[0, 0, 0, 0], ExtendedColorType::Rgba8), [255; 3]);
        assert_is(&png(&[0, 0, 0, 128], ExtendedColorType::Rgba8), [127; 3]);
        assert_is(
            &png(
                &[0xc8, 0xc8, 0x5a, 0x5a, 0x1e, 0x1e],
                ExtendedColorType::Rgb16,
            ),
            [200, 90, 30],
        );
        assert_is(&webp(&[200, 90, 30]), [200, 90, 30]);
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_skipped_and_mostly_known_as_truncated() {
        let mut dice = crate::dice::Dice::keyed(&[3]);
        let noise: Vec<u8> = (0..64 * 48 * 3)
            .map(|_| (dice.bits() & 0xff) as u8)
            .collect();
        for progressive in [false, true] {
            let mut file = Vec::new();
            let mut encoder = Encoder::new(&mut file, 85);
            encoder.set_progressive(progressive);
            encoder.encode(&noise, 64, 48, ColorType::Rgb).unwrap();
            for length in (4..file.len()).step_by(37) {
                let skip = decode(&file[..length]).unwrap_err();
                assert_eq!(skip.class, "truncated", "{length} of {}", file.len());
            }
            assert!(decode(&file).is_ok());
        }
        let file = png(&[1, 2, 3], ExtendedColorType::Rgb8);
        assert!(decode(&file[..file.len() / 2]).is_err());
    }

    #[test]
    fn a_picture_that_is_stored_turned_is_set_upright() {
        // A picture with four different corners, as each orientation stores it.
        let upright_corners = [[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0]];
        let corner = |x: u32, y: u32| upright_corners[((y / 32) * 2 + x / 32) as usize];
        for orientation in 1..=8_u8 {
            let stored: Vec<u8> = (0..64 * 64_u32)
                .map(|at| (at % 64, at / 64))
                .flat_map(|(column, row)| match orientation {
                    2 => corner(63 - column, row),
                    3 => corner(63 - column, 63 - row),
                    4 => corner(column, 63 - row),
                    5 => corner(row, column),
                    6 => corner(63 - row, column),
                    7 => corner(63 - row, 63 - column),
                    8 => corner(row, 63 - column),
                    _ => corner(column, row),
                })
                .collect();
            let mut file = Vec::new();
            let mut encoder = Encoder::new(&mut file, 95);
            // A TIFF structure with one entry, as cameras write it.
            let mut note = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
            note.extend([orientation, 0, 0, 0, 0, 0, 0]);
            encoder.add_app_segment(1, note).unwrap();
            encoder.encode(&stored, 64, 64, ColorType::Rgb).unwrap();
            let (picture, _) = decode(&file).unwrap();
            for (place, wanted) in [(8, 8), (56, 8), (8, 56), (56, 56)]
                .iter()
                .zip(upright_corners)
            {
                let at = (place.1 * 64 + place.0) * 3;
                let found = &picture.bytes[at..at + 3];
                let is_near = found.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) < 20);
                assert!(
                    is_near,
                    "orientation {orientation}: {found:?} is not {wanted:?}"
                );
            }
        }
    }

    #[test]
    fn a_thumbnails_end_is_not_the_pictures() {
        let thumbnail = jpeg(&[9, 9, 9], ColorType::Rgb, false);
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, 85);
        encoder.add_app_segment(1, thumbnail).unwrap();
        encoder
            .encode(&[200, 90, 30].repeat(64 * 48), 64, 48, ColorType::Rgb)
            .unwrap();
        assert_is(&file, [200, 90, 30]);
        let skip = decode(&file[..file.len() - 40]).unwrap_err();
        assert_eq!(skip.class, "truncated");
    }

    #[test]
    fn what_is_no_picture_or_too_much_of_one_has_its_class() {
        let class = |file: &[u8]| decode(file).unwrap_err().class;
        assert_eq!(class(b""), "empty");
        assert_eq!(class(b"GIF89a"), "unknown_format");
        let mut garbage = jpeg(&[1, 2, 3], ColorType::Rgb, false);
        for byte in garbage.iter_mut().skip(3) {
            *byte = 0x5a;
        }
        garbage.extend([0xff, 0xd9]);
        assert_eq!(class(&garbage), "undecodable");
        // A header that promises 40,000 x 40,000 pixels.
        let mut bomb = jpeg(&[1, 2, 3], ColorType::Rgb, false);
        let frame = bomb
            .windows(2)
            .position(|pair| pair == [0xff, 0xc0])
            .unwrap();
        bomb[frame + 5..frame + 9].copy_from_slice(&[0x9c, 0x40, 0x9c, 0x40]);
        assert_eq!(class(&bomb), "too_large");
        bomb[frame + 5..frame + 9].copy_from_slice(&[0x7d, 0x00, 0x7d, 0x00]);
        assert_eq!(class(&bomb), "too_large");
    }

    #[test]
    fn no_flipped_byte_brings_the_program_down() {
        for file in [
            jpeg(&[200, 90, 30], ColorType::Rgb, true),
            png(&[200, 90, 30], ExtendedColorType::Rgb8),
            webp(&[200, 90, 30]),
        ] {
            for at in 0..file.len() {
                for flip in [0x01, 0x80, 0xff] {
                    let mut bad = file.clone();
                    bad[at] ^= flip;
                    // Whether it still decodes is the decoder's business.
                    let _ = std::panic::catch_unwind(|| decode(&bad).map(|_| ()));
                }
            }
        }
    }
}
