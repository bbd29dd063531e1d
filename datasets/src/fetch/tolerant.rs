//! JSON from services that do not always write text: read as it is meant, with U+FFFD (�) in the place of
//! what is none.
//!
//! A title cut in the middle of an emoji ends in half of a surrogate pair, and some services send bytes of
//! older encodings. Neither is a reason to lose a film.

use serde::de::DeserializeOwned;

/// What stands in the place of what is no text.
pub(super) const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;
/// A byte order mark, which some put before JSON.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads JSON; where its texts hold what is no text, [`REPLACEMENT`] stands for it.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let bytes = bytes.strip_prefix(MARK).unwrap_or(bytes);
    // Nearly all answers are right: only one that is not costs a second look.
    serde_json::from_slice(bytes).or_else(|error| match mended(bytes) {
        Some(text) => serde_json::from_str(&text),
        None => Err(error),
    })
}

/// `bytes` with every half of a surrogate pair and all that is not UTF-8 replaced; None if there was
/// nothing of either.
fn mended(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut mended = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(at) = rest.find('\\') {
        let escape = &rest[at..];
        mended.push_str(&rest[..at]);
        let taken = match unit_of(escape) {
            Some(0xd800..0xdc00)
                if matches!(escape.get(6..).and_then(unit_of), Some(0xdc00..0xe000)) =>
            {
                12
            }
            Some(0xd800..0xe000) => {
                mended.push_str("\\ufffd");
                rest = &escape[6..];
                continue;
            }
            // Whatever is escaped, such as a backslash, begins no escape itself.
            Some(_) | None => 1 + escape.chars().nth(1).map_or(0, char::len_utf8),
        };
        mended.push_str(&escape[..taken]);
        rest = &escape[taken..];
    }
    mended.push_str(rest);
    // Unchanged text would fail in the same way again: then the first error is the one to tell.
    (mended.as_bytes() != bytes).then_some(mended)
}

/// The number of an escape of the form `\u0041` at the start of `text`.
fn unit_of(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(bytes: &[u8]) -> Option<String> {
        read(bytes).ok()
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced_and_a_whole_one_is_read() {
        for (json, text) in [
            (r#""The \ud83d End""#, "The \u{fffd} End"),
            (r#""\ude00""#, "\u{fffd}"),
            (r#""\ud83d\ude00 \ud83d""#, "\u{1f600} \u{fffd}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\ud83dé\n\"\\""#, "\u{fffd}é\n\"\\"),
            // A backslash and the letters ud83d.
            (r#""\ud83d\\ud83d""#, "\u{fffd}\\ud83d"),
            (r#""\\\ud83d""#, "\\\u{fffd}"),
            (r#""\uD83D\uDE00\uDE00""#, "\u{1f600}\u{fffd}"),
        ] {
            assert_eq!(read_text(json.as_bytes()).as_deref(), Some(text), "{json}");
        }
    }

    #[test]
    fn bytes_of_another_encoding_and_a_mark_at_the_start_are_no_reason_to_refuse() {
        assert_eq!(read_text(b"\"K\xf6nig\"").as_deref(), Some("K\u{fffd}nig"));
        assert_eq!(read_text(b"\xef\xbb\xbf\"a\"").as_deref(), Some("a"));
    }

    #[test]
    fn what_is_no_json_stays_none() {
        for bytes in [
            &b""[..],
            b"\"\\ud83d",
            b"\"\\",
            b"\"\\u12",
            b"\"\\ud8",
            b"\"\\uzzzz\"",
            b"\"\\u\xc3\xa9\xc3\xa9\"",
            b"<html>\xff",
            b"\\",
            b"\\\xff",
            b"\\\xc3\xa9",
        ] {
            assert_eq!(read_text(bytes), None, "{bytes:?}");
        }
    }
}
