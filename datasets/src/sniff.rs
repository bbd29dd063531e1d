//! What a file is, by its first bytes. Names lie: many a poster's `.jpg` is a PNG.

use serde::{Deserialize, Serialize};

/// A format of pictures that can be prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
}

/// What is said of a file of no such format.
pub(crate) const NO_PICTURE: &str = "it is no JPEG, PNG, WebP or GIF";

impl Format {
    /// The word for it in tables.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
        }
    }

    /// The format that a file's name promises, if it promises one.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let (_, ending) = name.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "jpg" | "jpeg" => Some(Self::Jpeg),
            "png" => Some(Self::Png),
            "webp" => Some(Self::WebP),
            "gif" => Some(Self::Gif),
            _ => None,
        }
    }
}

/// The picture format of a file, if it is one of ours.
pub(crate) fn format_of(bytes: &[u8]) -> Option<Format> {
    if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        Some(Format::Jpeg)
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some(Format::Png)
    } else if bytes.len() >= 12 && bytes.starts_with(b"RIFF") && &bytes[8..12] == b"WEBP" {
        Some(Format::WebP)
    } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        Some(Format::Gif)
    } else {
        None
    }
}

/// Whether this is a page or a message for people or programs rather than any kind of picture.
pub(crate) fn is_text_answer(bytes: &[u8]) -> bool {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    // No picture begins with either byte: those of all formats above begin with 0xff, 0x89, R or G.
    matches!(first, Some(b'<' | b'{'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_content() {
        assert_eq!(format_of(b"\xff\xd8\xff\xe0JFIF"), Some(Format::Jpeg));
        assert_eq!(format_of(b"\x89PNG\r\n\x1a\nrest"), Some(Format::Png));
        assert_eq!(format_of(b"RIFF\x10\0\0\0WEBPVP8 "), Some(Format::WebP));
        assert_eq!(format_of(b"RIFF\x10\0\0\0WAVE"), None);
        assert_eq!(format_of(b"GIF87a rest"), Some(Format::Gif));
        assert_eq!(format_of(b"GIF88a rest"), None);
        assert_eq!(format_of(b""), None);
        assert!(is_text_answer(b"\n <!DOCTYPE html>") && is_text_answer(b"{\"success\":false}"));
        assert!(!is_text_answer(b"\xff\xd8\xff"));
    }
}
