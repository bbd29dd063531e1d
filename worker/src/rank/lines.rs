//! Lines out of a file that grows, from an offset that is never lost.
//!
//! Invariant: reading a file in any steps, with any restarts in between, gives the same lines as
//! reading it at once. A line counts as read when its end was seen, or its length passed the limit;
//! what is left without an end counts when the writer is gone.
//!
//! The one exception is what a terminal would show: with [`Cut::Terminal`] a carriage return goes back to the
//! line's start, as progress bars do, so that only its last state is a line; and states on the way there are
//! lines of their own when the caller asks for one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};

/// Bytes taken from a file in one step.
pub const STEP_BYTES: usize = 256 * 1024;

/// How a file is cut into lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// At line feeds alone.
    LineFeeds,
    /// As a terminal shows it. With `show` the state of a line that is written again and again counts too.
    Terminal { show: bool },
}

/// How far a file was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub offset: u64,
    /// The rest of a line that was too long is being passed over.
    pub skipping: bool,
    /// What is being written replaces what stood in its line before.
    #[serde(default)]
    pub rewritten: bool,
    /// End of the last state that was shown; 0: none.
    #[serde(default)]
    pub shown: u64,
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
    cut: Cut,
) -> io::Result<Step> {
    // One byte more than a line may have: else a line of just that length could not be told from a longer
    // one.
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
    let all = at_end && writer_is_gone;
    let next = |rest: &[u8], position: &mut Position| match cut {
        Cut::LineFeeds => take(rest, position, line_max, all),
        Cut::Terminal { show } => take_state(rest, position, line_max, all, show),
    };
    while let Some((line, taken)) = next(rest, position) {
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

/// The same where carriage returns count.
fn take_state(
    rest: &[u8],
    position: &mut Position,
    line_max: usize,
    all: bool,
    show: bool,
) -> Option<(Option<Line>, usize)> {
    if rest.is_empty() {
        return None;
    }
    if position.skipping {
        return skip_state(rest, position, all);
    }
    let feed = rest.iter().position(|b| *b == b'\n');
    let (start, end) = newest_state(&rest[..feed.unwrap_or(rest.len())]);
    let state_end = position.offset + end as u64;
    if feed.is_some() || all {
        let was_shown = position.rewritten && position.shown == state_end;
        (position.rewritten, position.shown) = (false, 0);
        let line = (!was_shown).then(|| limited(&rest[start..end], line_max));
        return Some((line, feed.map_or(rest.len(), |feed| feed + 1)));
    }
    position.rewritten |= start > 0 || end < rest.len();
    if show && position.rewritten && start < end && position.shown != state_end {
        position.shown = state_end;
        return Some((Some(limited(&rest[start..end], line_max)), start));
    }
    if rest.len() <= line_max {
        return None;
    }
    if start > 0 {
        return Some((None, start));
    }
    // One state longer than a line may be, or nothing but carriage returns behind it.
    position.skipping = true;
    position.shown = 0;
    Some((Some(limited(&rest[..end], line_max)), end.min(line_max)))
}

/// Passes over the rest of a state that was too long: up to the end of its line, or to what replaces it.
fn skip_state(rest: &[u8], position: &mut Position, all: bool) -> Option<(Option<Line>, usize)> {
    let end = rest.iter().position(|b| matches!(b, b'\n' | b'\r'));
    let Some(end) = end else {
        return Some((None, rest.len()));
    };
    let taken = match (rest[end], rest.get(end + 1)) {
        (b'\n', _) => end + 1,
        // The usual end of a line elsewhere.
        (_, Some(b'\n')) => end + 2,
        // What comes next says which of both it is.
        (_, None) if !all => return (end > 0).then_some((None, end)),
        (_, _) => {
            position.rewritten = true;
            end + 1
        }
    };
    position.skipping = false;
    Some((None, taken))
}

/// Where the newest state of an unfinished line begins and ends: between the last carriage returns that have
/// something between them.
fn newest_state(line: &[u8]) -> (usize, usize) {
    let is_text = |b: &u8| *b != b'\r';
    let end = line.iter().rposition(is_text).map_or(0, |last| last + 1);
    let start = line[..end].iter().rposition(|b| *b == b'\r');
    (start.map_or(0, |at| at + 1), end)
}

fn limited(state: &[u8], line_max: usize) -> Line {
    Line {
        bytes: state[..state.len().min(line_max)].to_vec(),
        cut: state.len() > line_max,
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
            texts(&read(&file, &mut position, 10, false, Cut::LineFeeds).unwrap()),
            [("one".into(), false)]
        );
        assert_eq!(position.offset, 5);
        file.write_all(b"o\n\nlast").unwrap();
        let step = read(&file, &mut position, 10, false, Cut::LineFeeds).unwrap();
        assert_eq!(
            texts(&step),
            [("two".into(), false), (String::new(), false)]
        );
        let step = read(&file, &mut position, 10, true, Cut::LineFeeds).unwrap();
        assert_eq!(texts(&step), [("last".into(), false)]);
        assert!(
            read(&file, &mut position, 10, true, Cut::LineFeeds)
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
            read(&file, &mut position, 10, false, Cut::LineFeeds)
                .unwrap()
                .lines
                .is_empty(),
            "ten fit"
        );
        file.write_all(b"abc").unwrap();
        let step = read(&file, &mut position, 10, false, Cut::LineFeeds).unwrap();
        assert_eq!(texts(&step), [("0123456789".into(), true)]);
        assert!(position.skipping);
        file.write_all(b"def\nnext\n").unwrap();
        let step = read(&file, &mut position, 10, false, Cut::LineFeeds).unwrap();
        assert_eq!(texts(&step), [("next".into(), false)]);
    }

    #[test]
    fn steps_and_restarts_make_no_difference() {
        let mut file = tempfile::tempfile().unwrap();
        let text: String = (0..40_000).map(|n| format!("line {n}\n")).collect();
        file.write_all(text.as_bytes()).unwrap();
        let (mut position, mut lines) = (Position::default(), Vec::new());
        loop {
            let step = read(&file, &mut position, 100, true, Cut::LineFeeds).unwrap();
            lines.extend(texts(&step).into_iter().map(|(text, _)| text));
            position = serde_json::from_str(&serde_json::to_string(&position).unwrap()).unwrap();
            if step.at_end {
                break;
            }
        }
        assert_eq!(lines.join("\n") + "\n", text);
    }

    fn shown(file: &File, position: &mut Position, gone: bool, show: bool) -> Vec<(String, bool)> {
        let step = read(file, position, 20, gone, Cut::Terminal { show }).unwrap();
        *position = serde_json::from_str(&serde_json::to_string(position).unwrap()).unwrap();
        texts(&step)
    }

    #[test]
    fn of_a_bar_that_writes_over_itself_the_last_state_stays() {
        let mut file = tempfile::tempfile().unwrap();
        let mut position = Position::default();
        file.write_all(b"plain\r\n\r 10%\r 20%\r").unwrap();
        let none: [(String, bool); 0] = [];
        assert_eq!(
            shown(&file, &mut position, false, false),
            [("plain".into(), false)]
        );
        assert_eq!(
            shown(&file, &mut position, false, true),
            [(" 20%".into(), false)]
        );
        // Nothing new, and the same again, are no news.
        assert_eq!(shown(&file, &mut position, false, true), none);
        file.write_all(b"\r 30%\r 40%").unwrap();
        assert_eq!(shown(&file, &mut position, false, false), none);
        assert_eq!(
            shown(&file, &mut position, false, true),
            [(" 40%".into(), false)]
        );
        file.write_all(b"\nnext\n").unwrap();
        assert_eq!(
            shown(&file, &mut position, false, false),
            [("next".into(), false)]
        );
        file.write_all(b"\r50%\r100%\r").unwrap();
        assert_eq!(
            shown(&file, &mut position, true, false),
            [("100%".into(), false)]
        );
        assert_eq!(shown(&file, &mut position, true, true), none);
    }

    #[test]
    fn a_line_that_is_not_written_over_is_shown_when_it_is_whole() {
        let mut file = tempfile::tempfile().unwrap();
        let mut position = Position::default();
        file.write_all(b"downloading ...").unwrap();
        assert_eq!(shown(&file, &mut position, false, true), []);
        file.write_all(b" ok\n\n").unwrap();
        assert_eq!(
            shown(&file, &mut position, false, true),
            [("downloading ... ok".into(), false), (String::new(), false)]
        );
    }

    #[test]
    fn the_limit_holds_for_a_state_and_not_for_the_bar() {
        let mut file = tempfile::tempfile().unwrap();
        let mut position = Position::default();
        for percent in 0..1000 {
            write!(file, "\repoch 1: {percent}").unwrap();
            assert_eq!(shown(&file, &mut position, false, false), []);
        }
        file.write_all(b"\nnext\n").unwrap();
        assert_eq!(
            shown(&file, &mut position, false, false),
            [("epoch 1: 999".into(), false), ("next".into(), false)]
        );
        // A state that is too long is cut, and what replaces it is whole.
        let long = "x".repeat(70);
        write!(file, "{long}").unwrap();
        assert_eq!(
            shown(&file, &mut position, false, false),
            [("x".repeat(20), true)]
        );
        write!(file, "{long}\rshort\r\n{long}\r").unwrap();
        assert_eq!(
            shown(&file, &mut position, false, false),
            [("short".into(), false), ("x".repeat(20), true)]
        );
        file.write_all(b"\nend\n").unwrap();
        assert_eq!(
            shown(&file, &mut position, false, false),
            [("end".into(), false)]
        );
    }

    #[test]
    fn bytes_that_come_one_by_one_give_the_same_lines() {
        let text = b"a\r\n\r1\r22\r\n333\r\rb\n\n01234567890123456789012345\r\nend";
        let mut whole = tempfile::tempfile().unwrap();
        whole.write_all(text).unwrap();
        let expected = shown(&whole, &mut Position::default(), true, false);
        let (mut file, mut position) = (tempfile::tempfile().unwrap(), Position::default());
        let mut lines = Vec::new();
        for byte in text {
            file.write_all(&[*byte]).unwrap();
            lines.extend(shown(&file, &mut position, false, false));
        }
        lines.extend(shown(&file, &mut position, true, false));
        assert_eq!(lines, expected);
        let short: Vec<&str> = lines.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(short, ["a", "22", "b", "", "01234567890123456789", "end"]);
    }
}
