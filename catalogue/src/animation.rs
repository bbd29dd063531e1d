//! Animated files, of which whoever prepares pictures takes the first frame.
//!
//! Frames are RGB, 8 bits a channel, all of one size. Written out by hand where the encoders at hand
//! write still pictures alone.

use std::io::Cursor;

use image::codecs::gif::GifEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, Frame, ImageEncoder, RgbaImage};

/// Speed of the choice of a GIF's 256 colours, 1 to 30: nobody looks closely.
const GIF_SPEED: i32 = 30;
/// Each frame stays for so long.
const FRAME_MS: u16 = 100;

/// An animated GIF.
///
/// # Panics
/// When a frame has not `width` x `height` pixels.
#[must_use]
pub fn gif(width: u32, height: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut file, GIF_SPEED);
    for frame in frames {
        let opaque = frame
            .chunks_exact(3)
            .flat_map(|rgb| [rgb[0], rgb[1], rgb[2], 255])
            .collect();
        let picture = RgbaImage::from_raw(width, height, opaque).expect("a frame of this size");
        encoder
            .encode_frame(Frame::new(picture))
            .expect("a Vec takes every write");
    }
    drop(encoder);
    file
}

/// An animated PNG (APNG): its first frame is the picture that a reader of plain PNGs sees.
///
/// # Panics
/// When a frame has not `width` x `height` pixels.
#[must_use]
pub fn png(width: u32, height: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    const SIGNATURE_BYTES: usize = 8;
    let mut file = Vec::new();
    let mut sequence = 0_u32;
    for (at, frame) in frames.iter().enumerate() {
        let mut still = Vec::new();
        PngEncoder::new(Cursor::new(&mut still))
            .write_image(frame, width, height, ExtendedColorType::Rgb8)
            .expect("a frame of this size");
        let control = control_of_frame(sequence, width, height);
        sequence += 1;
        let chunks = chunks_of(&still[SIGNATURE_BYTES..]);
        if at == 0 {
            file.extend_from_slice(&still[..SIGNATURE_BYTES]);
            for (kind, data) in chunks.iter().filter(|(kind, _)| kind != b"IEND") {
                // The standard wants both before the first IDAT; behind it, readers take the file for a still
                // PNG.
                if kind == b"IDAT" && !file.windows(4).any(|word| word == b"acTL") {
                    let count = u32::try_from(frames.len()).expect("a few frames");
                    let endless = [count.to_be_bytes(), [0; 4]].concat();
                    push_chunk(&mut file, b"acTL", &endless);
                    push_chunk(&mut file, b"fcTL", &control);
                }
                push_chunk(&mut file, kind, data);
            }
            continue;
        }
        push_chunk(&mut file, b"fcTL", &control);
        for (_, data) in chunks.iter().filter(|(kind, _)| kind == b"IDAT") {
            // fcTL and fdAT count in one row: a reader refuses a number that is missing or comes twice.
            let data = [&sequence.to_be_bytes()[..], data].concat();
            sequence += 1;
            push_chunk(&mut file, b"fdAT", &data);
        }
    }
    push_chunk(&mut file, b"IEND", &[]);
    file
}

fn control_of_frame(sequence: u32, width: u32, height: u32) -> Vec<u8> {
    let mut control = Vec::new();
    for number in [sequence, width, height, 0, 0] {
        control.extend(number.to_be_bytes());
    }
    control.extend(FRAME_MS.to_be_bytes());
    control.extend(1_000_u16.to_be_bytes());
    // Nothing is disposed of, nothing blended.
    control.extend([0, 0]);
    control
}

fn chunks_of(mut rest: &[u8]) -> Vec<([u8; 4], Vec<u8>)> {
    let mut chunks = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (kind, after) = after
            .split_first_chunk::<4>()
            .expect("the encoder wrote it");
        chunks.push((*kind, after[..length].to_vec()));
        rest = &after[length + 4..];
    }
    chunks
}

fn push_chunk(file: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    let length = u32::try_from(data.len()).expect("a chunk is short");
    file.extend(length.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(data);
    file.extend_from_slice(kind);
    file.extend_from_slice(data);
    file.extend(crc.sum().to_be_bytes());
}

/// An animated WebP, without loss.
///
/// # Panics
/// When a frame has not `width` x `height` pixels.
#[must_use]
pub fn webp(width: u32, height: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    const RIFF_HEAD_BYTES: usize = 12;
    const ANIMATED: u8 = 0b10;
    let three = |number: u32| {
        let bytes = number.to_le_bytes();
        [bytes[0], bytes[1], bytes[2]]
    };
    let mut body = b"WEBP".to_vec();
    let mut head = vec![ANIMATED, 0, 0, 0];
    head.extend(three(width - 1));
    head.extend(three(height - 1));
    // Sides are stored less one, in three bytes: so the format has it, here and in each frame.
    push_riff(&mut body, b"VP8X", &head);
    // A white background, for ever.
    push_riff(&mut body, b"ANIM", &[255, 255, 255, 255, 0, 0]);
    for frame in frames {
        let mut still = Vec::new();
        WebPEncoder::new_lossless(&mut still)
            .write_image(frame, width, height, ExtendedColorType::Rgb8)
            .expect("a frame of this size");
        let mut part = Vec::new();
        for number in [0, 0, width - 1, height - 1, u32::from(FRAME_MS)] {
            part.extend(three(number));
        }
        part.push(0);
        // A frame holds the still file's chunks without its RIFF head.
        part.extend_from_slice(&still[RIFF_HEAD_BYTES..]);
        push_riff(&mut body, b"ANMF", &part);
    }
    let mut file = Vec::new();
    push_riff(&mut file, b"RIFF", &body);
    file
}

fn push_riff(file: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    let length = u32::try_from(data.len()).expect("a chunk is short");
    file.extend_from_slice(kind);
    file.extend(length.to_le_bytes());
    file.extend_from_slice(data);
    // Chunks begin at even places; the byte between is not in the length.
    if !data.len().is_multiple_of(2) {
        file.push(0);
    }
}
