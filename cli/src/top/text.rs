//! Lines of text that fit.
//!
//! Invariant: what comes from elsewhere passes [`said`] before it is put on the screen.

use marquee_view::harmless;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::ink::Ink;

/// Text from elsewhere as one line that steers nothing.
pub(super) fn said(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], " ")
}

/// Columns that a text takes.
pub(super) fn columns(text: &str) -> usize {
    Span::raw(text).width()
}

fn columns_of(c: char) -> usize {
    columns(c.encode_utf8(&mut [0; 4]))
}

/// A line of at most `room` columns; a mark says where it was cut.
pub(super) fn clip(line: Line<'static>, room: usize, ink: Ink) -> Line<'static> {
    if line.width() <= room {
        return line;
    }
    // One column is the mark's.
    let mut left = room.saturating_sub(1);
    let mut spans = Vec::new();
    for span in line.spans {
        let mut text = String::new();
        let mut is_full = false;
        for c in span.content.chars() {
            let wide = columns_of(c);
            if wide > left {
                is_full = true;
                break;
            }
            left -= wide;
            text.push(c);
        }
        spans.push(Span::styled(text, span.style));
        if is_full {
            break;
        }
    }
    if room > 0 {
        spans.push(Span::raw(ink.mark("…", "~")));
    }
    Line::from(spans)
}

/// A line of exactly `room` columns, filled up with blanks on one side.
pub(super) fn fill(line: Line<'static>, room: usize, right: bool, ink: Ink) -> Line<'static> {
    let mut line = clip(line, room, ink);
    let blanks = Span::raw(" ".repeat(room.saturating_sub(line.width())));
    if right {
        line.spans.insert(0, blanks);
    } else {
        line.spans.push(blanks);
    }
    line
}

/// A text in lines of at most `room` columns, broken between words where it can be.
pub(super) fn wrap(text: &str, room: usize) -> Vec<String> {
    let room = room.max(1);
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        let mut used = 0;
        for word in paragraph.split(' ') {
            let wide = columns(word);
            if used > 0 && used + 1 + wide > room {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            if wide <= room {
                line.push_str(word);
                used += wide;
                continue;
            }
            for c in word.chars() {
                let wide = columns_of(c);
                // A word longer than a line, such as a path or a digest, is cut wherever the line
                // ends.
                if used + wide > room && used > 0 {
                    lines.push(std::mem::take(&mut line));
                    used = 0;
                }
                line.push(c);
                used += wide;
            }
        }
        lines.push(line);
    }
    lines
}

/// Puts a line over the whole width of `area` at row `y`; below its end, nowhere.
pub(super) fn put(buf: &mut Buffer, area: Rect, y: u16, line: Line<'static>) {
    if y < area.bottom() {
        buf.set_line(area.x, y, &line, area.width);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INK: Ink = Ink {
        colour: false,
        unicode: true,
    };

    fn clipped(text: &str, room: usize) -> String {
        clip(Line::raw(text.to_owned()), room, INK).to_string()
    }

    #[test]
    fn a_line_that_is_too_long_ends_with_a_mark() {
        assert_eq!(clipped("posters", 7), "posters");
        assert_eq!(clipped("posters", 5), "post…");
        assert_eq!(clipped("posters", 1), "…");
        assert_eq!(clipped("posters", 0), "");
        // A wide character that would stand half outside is left out.
        assert_eq!(clipped("表表表", 4), "表…");
    }

    #[test]
    fn a_text_is_broken_between_words_and_long_words_anywhere() {
        assert_eq!(wrap("waits for gpus", 9), ["waits for", "gpus"]);
        assert_eq!(wrap("a\nbcdefg h", 4), ["a", "bcde", "fg h"]);
        assert_eq!(wrap("", 4), [""]);
        assert_eq!(wrap("x", 0), ["x"]);
    }

    #[test]
    fn filled_lines_have_the_width_of_their_column() {
        let filled =
            |text: &str, right| fill(Line::raw(text.to_owned()), 4, right, INK).to_string();
        assert_eq!(filled("ab", false), "ab  ");
        assert_eq!(filled("ab", true), "  ab");
        assert_eq!(filled("abcdef", true), "abc…");
    }
}
