//! The text of a table as UTF-8, whatever its byte order mark says it is written in, and where its lines
//! are.
//!
//! The lines are counted here, since the CSV reader counts those that end in CR LF one late and gives a
//! row the number of the blank lines before it.

use std::collections::VecDeque;
use std::io::{self, Read};

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Utf16 { is_little: bool },
}

/// Reads `R` as UTF-8.
pub(super) struct Text<R> {
    inner: R,
    encoding: Option<Encoding>,
    /// Bytes of the file that make no whole character yet.
    rest: Vec<u8>,
    /// Text that was not given out yet.
    ready: Vec<u8>,
    given: usize,
    lines: Lines,
}

impl<R: Read> Text<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            encoding: None,
            rest: Vec::new(),
            ready: Vec::new(),
            given: 0,
            lines: Lines::default(),
        }
    }

    /// The beginning of the text, as much as one look shows; empty at its end.
    pub(super) fn peek(&mut self) -> io::Result<&[u8]> {
        if self.given == self.ready.len() {
            self.fill()?;
        }
        Ok(&self.ready[self.given..])
    }

    /// The line, from 1, of the record that the CSV reader says begins at `byte`.
    pub(super) fn line_at(&mut self, byte: u64) -> u64 {
        self.lines.at(byte)
    }

    fn fill(&mut self) -> io::Result<()> {
        self.ready.clear();
        self.given = 0;
        let mut chunk = vec![0; CHUNK_BYTES];
        // Until there is something to give or nothing to come: half a character is neither.
        while self.ready.is_empty() {
            let read = self.inner.read(&mut chunk)?;
            self.rest.extend_from_slice(&chunk[..read]);
            // A byte order mark takes three bytes to tell, UTF-16 without one takes four.
            if self.encoding.is_none() && (self.rest.len() >= 4 || read == 0) {
                self.encoding = Some(self.take_mark());
            }
            match self.encoding {
                Some(Encoding::Utf8) => std::mem::swap(&mut self.ready, &mut self.rest),
                Some(Encoding::Utf16 { is_little }) => self.decode_utf16(is_little, read == 0),
                None => {}
            }
            if read == 0 {
                break;
            }
        }
        self.lines.see(&self.ready);
        Ok(())
    }

    /// What the first bytes say; the mark itself is taken away.
    fn take_mark(&mut self) -> Encoding {
        let (mark, encoding) = match self.rest.as_slice() {
            [0xef, 0xbb, 0xbf, ..] => (3, Encoding::Utf8),
            [0xff, 0xfe, ..] => (2, Encoding::Utf16 { is_little: true }),
            [0xfe, 0xff, ..] => (2, Encoding::Utf16 { is_little: false }),
            // Without a mark a header of plain letters still tells: every other byte is 0.
            [a, 0, b, 0, ..] if *a > 0 && *b > 0 => (0, Encoding::Utf16 { is_little: true }),
            [0, a, 0, b, ..] if *a > 0 && *b > 0 => (0, Encoding::Utf16 { is_little: false }),
            _ => (0, Encoding::Utf8),
        };
        self.rest.drain(..mark);
        encoding
    }

    fn decode_utf16(&mut self, is_little: bool, is_end: bool) {
        let unit = |pair: &[u8]| {
            let pair = [pair[0], pair[1]];
            if is_little {
                u16::from_le_bytes(pair)
            } else {
                u16::from_be_bytes(pair)
            }
        };
        let mut units: Vec<u16> = self.rest.chunks_exact(2).map(unit).collect();
        // The first half of a character waits for the second.
        let waits = !is_end
            && units
                .last()
                .is_some_and(|unit| (0xd800..0xdc00).contains(unit));
        if waits {
            units.pop();
        }
        self.rest.drain(..units.len() * 2);
        let mut text = String::with_capacity(units.len());
        text.extend(
            char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)),
        );
        self.ready = text.into_bytes();
    }
}

impl<R: Read> Read for Text<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.given == self.ready.len() {
            self.fill()?;
        }
        let count = out.len().min(self.ready.len() - self.given);
        out[..count].copy_from_slice(&self.ready[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

/// Where the lines that are not blank begin.
#[derive(Debug, Default)]
struct Lines {
    /// First byte and number of each, those before the last record left out.
    starts: VecDeque<(u64, u64)>,
    seen_bytes: u64,
    ended: u64,
    is_within: bool,
    is_after_cr: bool,
}

impl Lines {
    fn see(&mut self, text: &[u8]) {
        for byte in text {
            match byte {
                b'\n' if self.is_after_cr => self.is_after_cr = false,
                b'\n' | b'\r' => {
                    self.ended += 1;
                    self.is_within = false;
                    self.is_after_cr = *byte == b'\r';
                }
                _ => {
                    self.is_after_cr = false;
                    if !self.is_within {
                        self.is_within = true;
                        self.starts.push_back((self.seen_bytes, self.ended + 1));
                    }
                }
            }
            self.seen_bytes += 1;
        }
    }

    fn at(&mut self, byte: u64) -> u64 {
        while self.starts.front().is_some_and(|(start, _)| *start < byte) {
            self.starts.pop_front();
        }
        self.starts.front().map_or(self.ended, |(_, line)| *line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, as a slow pipe does.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = out.len().min(self.0.len()).min(1);
            out[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn every_marked_encoding_is_read_as_the_same_text_however_it_comes() {
        let text = "path,labels\r\n\u{1f63a}.jpg,chat|été\n";
        let le: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let be: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let marked = |mark: &[u8], rest: &[u8]| [mark, rest].concat();
        for bytes in [
            text.as_bytes().to_vec(),
            marked(b"\xef\xbb\xbf", text.as_bytes()),
            marked(b"\xff\xfe", &le),
            marked(b"\xfe\xff", &be),
            le,
            be,
        ] {
            let mut read = String::new();
            Text::new(bytes.as_slice())
                .read_to_string(&mut read)
                .unwrap();
            assert_eq!(read, text);
            let mut read = String::new();
            Text::new(Drip(&bytes)).read_to_string(&mut read).unwrap();
            assert_eq!(read, text);
        }
    }

    #[test]
    fn short_and_torn_files_end() {
        for bytes in [
            &b""[..],
            b"a",
            b"\xff",
            b"\xff\xfe",
            b"\xff\xfea",
            b"\xff\xfe\x3d\xd8",
        ] {
            let mut read = Vec::new();
            Text::new(bytes).read_to_end(&mut read).unwrap();
            assert!(read.len() <= 3, "{bytes:?}: {read:?}");
        }
    }

    #[test]
    fn lines_are_those_that_an_editor_shows() {
        for (end, blank) in [("\n", "\n\n"), ("\r\n", "\r\n\r\n"), ("\r", "\r\r")] {
            let text = format!("a,b{end}{blank}c,d{end}\"x{end}y\",z{end}e,f");
            let mut reader = Text::new(text.as_bytes());
            let mut all = String::new();
            reader.read_to_string(&mut all).unwrap();
            let line = |part: &str| text.find(part).unwrap() as u64;
            assert_eq!(reader.line_at(0), 1);
            // The CSV reader names the place behind the last record, before what is blank.
            assert_eq!(reader.line_at(3), 4, "{end:?}");
            assert_eq!(reader.line_at(line("\"x")), 5, "{end:?}");
            assert_eq!(reader.line_at(line("e,f")), 7, "{end:?}");
        }
    }
}
