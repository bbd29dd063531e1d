use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder};
use jpeg_encoder::{ColorType, Encoder};
use marquee_catalogue::animation;

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
fn of_an_animation_the_first_frame_is_taken() {
    let frames = [[200, 90, 30], [0, 0, 0], [9, 200, 9]].map(|pixel| pixel.repeat(64 * 48));
    for file in [
        animation::gif(64, 48, &frames),
        animation::png(64, 48, &frames),
        animation::webp(64, 48, &frames),
        animation::gif(64, 48, &frames[..1]),
    ] {
        assert_is(&file, [200, 90, 30]);
        // A file that ends after its first frame may still be taken; one that ends within it is not.
        assert!(decode(&file[..file.len() / 8]).is_err());
    }
}

/// A GIF with one frame of `frame` (left, top, width, height) on a canvas of `canvas`, all of the
/// colour 1 of two; colour 0 is transparent.
fn small_gif(canvas: [u16; 2], frame: [u16; 4]) -> Vec<u8> {
    let mut file = b"GIF89a".to_vec();
    file.extend(canvas.iter().flat_map(|side| side.to_le_bytes()));
    file.extend([0x80, 0, 0, 0, 0, 0, 200, 90, 30]);
    file.extend([0x21, 0xf9, 4, 1, 0, 0, 0, 0, 0x2c]);
    file.extend(frame.iter().flat_map(|number| number.to_le_bytes()));
    // Codes of 3 bits: clear (4), then colour 1 and clear again and again, then the end (5).
    let pixels = usize::from(frame[2]) * usize::from(frame[3]);
    let codes = (0..pixels).flat_map(|_| [4, 1]).chain([5]);
    let mut bits = Vec::new();
    for code in codes {
        bits.extend((0..3).map(|bit| code >> bit & 1));
    }
    let bytes: Vec<u8> = bits
        .chunks(8)
        .map(|byte| byte.iter().rev().fold(0, |all, bit| all << 1 | bit))
        .collect();
    file.extend([0, 2]);
    for block in bytes.chunks(255) {
        file.push(block.len() as u8);
        file.extend(block);
    }
    file.extend([0, 0x3b]);
    file
}

#[test]
fn a_gifs_frame_stands_in_its_place_and_what_is_transparent_is_white() {
    let (picture, format) = decode(&small_gif([6, 4], [2, 1, 3, 2])).unwrap();
    assert_eq!((picture.width, picture.height, format), (6, 4, Format::Gif));
    for (at, pixel) in picture.bytes.chunks_exact(3).enumerate() {
        let (x, y) = (at % 6, at / 6);
        let is_frame = (2..5).contains(&x) && (1..3).contains(&y);
        assert_eq!(pixel, if is_frame { [200, 90, 30] } else { [255; 3] });
    }
}

#[test]
fn a_gif_that_promises_too_much_or_nothing_is_skipped() {
    let class = |file: &[u8]| decode(file).unwrap_err().class;
    // A canvas that is too large, one of nothing, and a huge frame on a small canvas.
    assert_eq!(
        class(&small_gif([60_000, 60_000], [0, 0, 1, 1])),
        "too_large"
    );
    assert_eq!(class(&small_gif([0, 9], [0, 0, 1, 1])), "undecodable");
    let mut huge = small_gif([6, 4], [0, 0, 2, 2]);
    let at = huge.iter().position(|byte| *byte == 0x2c).unwrap();
    huge[at + 5..at + 9].fill(0xff);
    assert_eq!(class(&huge), "too_large");
    // No frame at all.
    let mut none = small_gif([6, 4], [0, 0, 2, 2]);
    none.truncate(at);
    none.push(0x3b);
    assert_eq!(class(&none), "undecodable");
    let whole = small_gif([6, 4], [0, 0, 6, 4]);
    for length in 6..whole.len() - 4 {
        assert_eq!(class(&whole[..length]), "truncated", "{length}");
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
    assert_eq!(class(b"BM6\0\0\0"), "unknown_format");
    assert_eq!(class(b"GIF89a"), "truncated");
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
        small_gif([6, 4], [2, 1, 3, 2]),
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
