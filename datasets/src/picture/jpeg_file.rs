//! What a JPEG file says besides its pixels: how it is to be turned, and whether it is all there.
//!
//! Decoders do not tell these reliably: most paint over what is missing, and none heeds the note of a
//! camera that was held sideways. So the file's own segments are walked here, without decoding.

/// The orientation that a JPEG's EXIF note gives, 1 to 8; 1 if it has none that can be read.
pub(super) fn orientation_of(file: &[u8]) -> u8 {
    const START_OF_SCAN: u8 = 0xda;
    const APP1: u8 = 0xe1;
    let mut at = 2;
    while let Some([0xff, marker, high, low]) = file.get(at..at + 4) {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if *marker == START_OF_SCAN {
            break;
        }
        let segment = file.get(at + 4..at + 2 + length).unwrap_or_default();
        if *marker == APP1
            && let Some(note) = segment.strip_prefix(b"Exif\0\0")
        {
            return orientation_in(note).unwrap_or(1);
        }
        at += 2 + length.max(2);
    }
    1
}

/// The orientation in a TIFF structure: entry 0x0112 of its first directory.
fn orientation_in(note: &[u8]) -> Option<u8> {
    const ORIENTATION: u16 = 0x0112;
    const ENTRY_BYTES: usize = 12;
    let is_little = note.starts_with(b"II*\0");
    if !is_little && !note.starts_with(b"MM\0*") {
        return None;
    }
    let word = |at: usize| {
        let bytes = note.get(at..at + 2)?.try_into().ok()?;
        Some(if is_little {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        })
    };
    let long: [u8; 4] = note.get(4..8)?.try_into().ok()?;
    let start = if is_little {
        u32::from_le_bytes(long)
    } else {
        u32::from_be_bytes(long)
    };
    let start = usize::try_from(start).ok()?;
    let entries = usize::from(word(start)?);
    let entry = (0..entries)
        .map(|entry| start + 2 + entry * ENTRY_BYTES)
        .find(|at| word(*at) == Some(ORIENTATION))?;
    let value = u8::try_from(word(entry + 8)?).ok()?;
    (1..=8).contains(&value).then_some(value)
}

/// How a JPEG's data ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With its end marker.
    Whole,
    /// Before it.
    Cut,
    /// It is no sequence of segments.
    Unclear,
}

/// Looks for a JPEG's own end marker, after the start of its picture data. A thumbnail within the
/// headers has markers too, so the segments are walked instead of searched.
pub(super) fn end_of(file: &[u8]) -> End {
    const MARKERS_FROM: u8 = 0xc0;
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let mut at = 2;
    loop {
        match file.get(at..at + 2) {
            // A byte that fills up to the next marker.
            Some([0xff, 0xff]) => at += 1,
            // Within the data every 0xff is followed by 0 or a restart marker.
            Some([0xff, START_OF_SCAN]) => {
                // Most files end with it, so it is looked for from there.
                let has_end = file[at..].windows(2).rev().any(|pair| pair == END_OF_IMAGE);
                return if has_end { End::Whole } else { End::Cut };
            }
            Some([0xff, marker]) if *marker >= MARKERS_FROM => match file.get(at + 2..at + 4) {
                Some([high, low]) => at += 2 + usize::from(u16::from_be_bytes([*high, *low])),
                Some(_) | None => return End::Cut,
            },
            Some(_) => return End::Unclear,
            None => return End::Cut,
        }
    }
}

/// Whether text for people begins near the start.
pub(super) fn is_page(file: &[u8]) -> bool {
    const LOOKED_AT: usize = 64;
    let start = file[..file.len().min(LOOKED_AT)].to_ascii_lowercase();
    [&b"<html"[..], b"<!doctype", b"<?xml"]
        .iter()
        .any(|word| start.windows(word.len()).any(|part| part == *word))
}
