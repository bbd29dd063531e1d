//! Lines out of a file that grows, from an offset that is never lost.
//!
//! Invariant: reading a file in any steps, with any restarts in between, gives the same lines as
//! reading it at once. A line counts as read when its end was seen, or its length passed the limit;
//! what is left without an end counts when the writer is gone.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};

/// Bytes taken from a file in one step.
pub const STEP_BYTES: usize = 256 * 1024;

/// How far a file was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub offset: u64,
    /// The rest of a line that was too long is being passed over.
    pub skipping: bool,
}

/// One line, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub bytes: Vec<u8>,
    /// It was longer than the limit; the rest is gone.
    pub cut: bool,
}

/// What one step gave.
#[derive(Debug, Default)]
pub struct Step {
    pub lines: Vec<Line>,
    /// Nothing more to read until the file grows.
    pub at_end: bool,
}

/// Reads on from `position`, and moves it. `line_max` bounds a line's bytes; `writer_is_gone` ends
/// a last line that has no end of its own.
pub fn read(
    file: &File,
    position: &mut Position,
    line_max: usize,
    writer_is_gone: bool,
) -> io::Result<Step> {
    let mut buffer = vec![0; STEP_BYTES.max(line_max + 1)];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], position.offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let at_end = filled < buffer.len();
    let mut rest = &buffer[..filled];
    let mut lines = Vec::new();
    while let Some((line, taken)) = take(rest, position, line_max, at_end && writer_is_gone) {
        rest = &rest[taken..];
        position.offset += taken as u64;
        lines.extend(line);
    }
    Ok(Step { lines, at_end })
}

/// The next line at the start of `rest` and how many bytes it took. The line is None where bytes
/// were passed over only.
fn take(
    rest: &[u8],
    position: &mut Position,
    line_max: usize,
    all: bool,
) -> Option<(Option<Line>, usize)> {
    if rest.is_empty() {
        return None;
    }
    let end = rest.iter().position(|b| *b == b'\n');
    if position.skipping {
        position.skipping = end.is_none();
        return Some((None, end.map_or(rest.len(), |end| end + 1)));
    }
    match end {
        Some(end) if end <= line_max => Some((Some(whole(&rest[..end])), end + 1)),
        Some(_) | None if rest.len() > line_max => {
            position.skipping = true;
            Some((
                Some(Line {
                    bytes: rest[..line_max].to_vec(),
                    cut: true,
                }),
                line_max,
            ))
        }
        None if all => Some((Some(whole(rest)), rest.len())),
        Some(_) | None => None,
    }
}

fn whole(bytes: &[u8]) -> Line {
    Line {
        bytes: bytes.strip_suffix(b"\r").unwrap_or(bytes).to_vec(),
        cut: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn texts(step: &Step) -> Vec<(String, bool)> {
        let text = |line: &Line| (String::from_utf8(line.bytes.clone()).unwrap(), line.cut);
        step.lines.iter().map(text).collect()
    }

    #[test]
    fn a_line_counts_when_its_end_is_there_or_its_writer_is_gone() {
        let mut file = tempfile::tempfile().unwrap();
        let mut position = Position::default();
        file.write_all(b"one\r\ntw").unwrap();
        assert_eq!(
            texts(&read(&file, &mut position, 10, false).unwrap()),
            [("one".into(), false)]
        );
        assert_eq!(position.offset, 5);
        file.write_all(b"o\n\nlast").unwrap();
        let step = read(&file, &mut position, 10, false).unwrap();
        assert_eq!(
            texts(&step),
            [("two".into(), false), (String::new(), false)]
        );
        let step = read(&file, &mut position, 10, true).unwrap();
        assert_eq!(texts(&step), [("last".into(), false)]);
        assert!(
            read(&file, &mut position, 10, true)
                .unwrap()
                .lines
                .is_empty()
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_the_next_one_is_whole() {
        let mut file = tempfile::tempfile().unwrap();
        let mut position = Position::default();
        file.write_all(b"0123456789").unwrap();
        assert!(
            read(&file, &mut position, 10, false)
                .unwrap()
                .lines
                .is_empty(),
            "ten fit"
        );
        file.write_all(b"abc").unwrap();
        let step = read(&file, &mut position, 10, false).unwrap();
        assert_eq!(texts(&step), [("0123456789".into(), true)]);
        assert!(position.skipping);
        file.write_all(b"def\nnext\n").unwrap();
        let step = read(&file, &mut position, 10, false).unwrap();
        assert_eq!(texts(&step), [("next".into(), false)]);
    }

    #[test]
    fn steps_and_restarts_make_no_difference() {
        let mut file = tempfile::tempfile().unwrap();
        let text: String = (0..40_000).map(|n| format!("line {n}\n")).collect();
        file.write_all(text.as_bytes()).unwrap();
        let (mut position, mut lines) = (Position::default(), Vec::new());
        loop {
            let step = read(&file, &mut position, 100, true).unwrap();
            lines.extend(texts(&step).into_iter().map(|(text, _)| text));
            position = serde_json::from_str(&serde_json::to_string(&position).unwrap()).unwrap();
            if step.at_end {
                break;
            }
        }
        assert_eq!(lines.join("\n") + "\n", text);
    }
}
