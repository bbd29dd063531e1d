//! Tables that fit a terminal: columns shrink, and those that matter least go first.

use marquee_view::{Align, Block, Page, Table, Tone};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::ink::Ink;
use super::text::{clip, columns, fill, said, wrap};

/// Blanks between two columns.
const GAP: usize = 2;
/// A column that is wrapped is not made narrower.
const WRAPPED_MIN: usize = 8;
/// In a narrower column a sentence cannot be read.
const SENTENCE_MIN: usize = 24;
/// Columns before a sentence that stands below its row.
const INDENT: usize = 4;

/// A column of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Col {
    pub head: &'static str,
    /// Narrower it says nothing.
    pub min: usize,
    /// Wider it takes room from others.
    pub max: usize,
    pub right: bool,
    /// Where there is no room for all, columns of a lower number go first; the last column takes what is left over.
    pub keep: u8,
}

/// A list, one line a row.
#[derive(Debug)]
pub(super) struct Grid {
    pub cols: Vec<Col>,
    pub rows: Vec<Vec<Line<'static>>>,
}

impl Grid {
    /// The heads, and a line for each row, of `room` columns.
    pub(super) fn lines(mut self, room: usize, ink: Ink) -> (Line<'static>, Vec<Line<'static>>) {
        let widths = loop {
            match self.widths(room) {
                Some(widths) => break widths,
                None => self.drop_one(),
            }
        };
        let faint = ink.tone(Tone::Faint);
        let heads = self
            .cols
            .iter()
            .map(|col| Line::styled(col.head, faint))
            .collect();
        let head = join(heads, &self.cols, &widths, ink);
        let rows = std::mem::take(&mut self.rows);
        let rows = rows
            .into_iter()
            .map(|row| join(row, &self.cols, &widths, ink))
            .collect();
        (head, rows)
    }

    /// None where there are columns too many for the room.
    fn widths(&self, room: usize) -> Option<Vec<usize>> {
        let content = |place: usize, col: &Col| {
            let rows = self.rows.iter().filter_map(|row| row.get(place));
            let widest = rows.map(Line::width).max().unwrap_or(0);
            widest.max(columns(col.head)).clamp(col.min, col.max)
        };
        let mut widths: Vec<usize> = self
            .cols
            .iter()
            .enumerate()
            .map(|(place, col)| content(place, col))
            .collect();
        let room = room.saturating_sub(GAP * self.cols.len().saturating_sub(1));
        while widths.iter().sum::<usize>() > room {
            let shrinks = widths.iter_mut().zip(&self.cols);
            // Always the widest: names give way to each other before a short column loses anything.
            let widest = shrinks
                .filter(|(width, col)| **width > col.min)
                .map(|(width, _)| width)
                .max();
            match widest {
                Some(width) => *width -= 1,
                // The last one is cut and not left out: a list without columns would say nothing.
                None if self.cols.len() == 1 => return Some(vec![room]),
                None => return None,
            }
        }
        let used: usize = widths.iter().sum();
        if let Some(last) = widths.last_mut() {
            *last += room - used;
        }
        Some(widths)
    }

    fn drop_one(&mut self) {
        let least = self.cols.iter().enumerate().min_by_key(|(_, col)| col.keep);
        let Some((place, _)) = least else { return };
        self.cols.remove(place);
        for row in &mut self.rows {
            if place < row.len() {
                row.remove(place);
            }
        }
    }
}

fn join(row: Vec<Line<'static>>, cols: &[Col], widths: &[usize], ink: Ink) -> Line<'static> {
    let mut spans = Vec::new();
    for (place, ((cell, col), width)) in row.into_iter().zip(cols).zip(widths).enumerate() {
        if place > 0 {
            spans.push(Span::raw(" ".repeat(GAP)));
        }
        // The style of a line does not come along with its spans: it is laid under theirs.
        let style = cell.style;
        let cell = fill(cell, *width, col.right, ink);
        spans.extend(cell.spans.into_iter().map(|span| Span {
            style: style.patch(span.style),
            content: span.content,
        }));
    }
    Line::from(spans)
}

/// A page of `view` in lines of at most `room` columns; long cells are wrapped, so that nothing of them is lost.
pub(super) fn prose(page: &Page, room: usize, ink: Ink) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for block in page.blocks() {
        match block {
            Block::Heading(title) => {
                lines.push(Line::raw(""));
                lines.push(Line::styled(said(title), ink.tone(Tone::Strong)));
            }
            Block::Line(line) => {
                let parts = wrap(&marquee_view::harmless(line), room);
                lines.extend(parts.into_iter().map(Line::raw));
            }
            Block::Gap => lines.push(Line::raw("")),
            Block::Fields(fields) => {
                let label = fields.iter().map(|(label, _)| columns(label)).max();
                let label = label.unwrap_or(0);
                for (name, cell) in fields {
                    let cells = [
                        ((*name).to_owned(), ink.tone(Tone::Faint)),
                        (cell.text.clone(), ink.tone(cell.tone)),
                    ];
                    let widths = [label, room.saturating_sub(label + GAP).max(1)];
                    wrapped(&cells, &widths, &[false; 2], ink, &mut lines);
                }
            }
            Block::Table(table) => whole(table, room, ink, &mut lines),
        }
    }
    lines
}

fn whole(table: &Table, room: usize, ink: Ink, lines: &mut Vec<Line<'static>>) {
    let rights: Vec<bool> = table
        .columns
        .iter()
        .map(|column| column.align == Align::Right)
        .collect();
    let mut widths: Vec<usize> = table
        .columns
        .iter()
        .enumerate()
        .map(|(place, column)| {
            let cells = table.rows.iter().filter_map(|row| row.get(place));
            let widest = cells.map(|cell| columns(&cell.text)).max().unwrap_or(0);
            widest.max(columns(&column.name))
        })
        .collect();
    let gaps = GAP * widths.len().saturating_sub(1);
    // The last column mostly holds sentences: it takes what is left over, or stands below its row.
    let before: usize = widths.iter().rev().skip(1).sum();
    let rest = room.saturating_sub(before + gaps);
    let all_fits = widths.last().is_none_or(|last| *last <= rest);
    let is_below = !all_fits && rest < SENTENCE_MIN;
    if !all_fits && let Some(last) = widths.last_mut() {
        *last = rest;
    }
    if is_below {
        widths.pop();
        let room = room.saturating_sub(gaps.saturating_sub(GAP));
        while widths.iter().sum::<usize>() > room {
            match widths
                .iter_mut()
                .filter(|width| **width > WRAPPED_MIN)
                .max()
            {
                Some(width) => *width -= 1,
                None => break,
            }
        }
    }
    let heads: Vec<(String, Style)> = table
        .columns
        .iter()
        .map(|column| (column.name.to_string(), ink.tone(Tone::Faint)))
        .collect();
    wrapped(&heads, &widths, &rights, ink, lines);
    for row in &table.rows {
        let cells: Vec<(String, Style)> = row
            .iter()
            .map(|cell| (cell.text.clone(), ink.tone(cell.tone)))
            .collect();
        wrapped(&cells, &widths, &rights, ink, lines);
        if is_below
            && let Some((text, style)) = cells.get(widths.len())
            && !text.is_empty()
        {
            let parts = wrap(&said(text), room.saturating_sub(INDENT));
            lines.extend(
                parts
                    .into_iter()
                    .map(|part| Line::styled(format!("{}{part}", " ".repeat(INDENT)), *style)),
            );
        }
    }
}

fn wrapped(
    cells: &[(String, Style)],
    widths: &[usize],
    rights: &[bool],
    ink: Ink,
    lines: &mut Vec<Line<'static>>,
) {
    let parts: Vec<Vec<String>> = cells
        .iter()
        .zip(widths)
        .map(|((text, _), width)| wrap(&said(text), *width))
        .collect();
    let height = parts.iter().map(Vec::len).max().unwrap_or(0);
    for at in 0..height {
        let mut spans = Vec::new();
        for (place, part) in parts.iter().enumerate() {
            if place > 0 {
                spans.push(Span::raw(" ".repeat(GAP)));
            }
            let text = part.get(at).cloned().unwrap_or_default();
            let cell = Line::styled(text, cells[place].1);
            let style = cell.style;
            let filled = fill(cell, widths[place], rights[place], ink);
            spans.extend(filled.spans.into_iter().map(|span| Span {
                style: style.patch(span.style),
                content: span.content,
            }));
        }
        let total = widths.iter().sum::<usize>() + GAP * widths.len();
        lines.push(clip(Line::from(spans), total, ink));
    }
}

#[cfg(test)]
mod tests {
    use marquee_view::{left, right};

    use super::*;

    const INK: Ink = Ink {
        colour: false,
        unicode: true,
    };

    fn grid() -> Grid {
        let col = |head, min, max, right, keep| Col {
            head,
            min,
            max,
            right,
            keep,
        };
        let row = |id: &str, name: &str, detail: &str| {
            [id, name, detail]
                .map(|text| Line::raw(text.to_owned()))
                .to_vec()
        };
        Grid {
            cols: vec![
                col("ID", 2, 8, true, 9),
                col("PIPELINE", 6, 20, false, 1),
                col("DETAIL", 6, 40, false, 5),
            ],
            rows: vec![row("17", "posters", "epoch 2/6"), row("1204", "p", "")],
        }
    }

    fn text(room: usize) -> String {
        let (head, rows) = grid().lines(room, INK);
        let all = std::iter::once(head).chain(rows);
        all.map(|line| format!("{}|\n", line)).collect()
    }

    #[test]
    fn columns_shrink_and_then_go_by_what_they_are_worth() {
        insta::assert_snapshot!(text(30), @r"
          ID  PIPELINE  DETAIL        |
          17  posters   epoch 2/6     |
        1204  p                       |
        ");
        insta::assert_snapshot!(text(20), @r"
          ID  PIPEL…  DETAIL|
          17  poste…  epoch…|
        1204  p             |
        ");
        insta::assert_snapshot!(text(12), @r"
          ID  DETAIL|
          17  epoch…|
        1204        |
        ");
        insta::assert_snapshot!(text(3), @r"
         ID|
         17|
        12…|
        ");
        assert_eq!(text(0), "|\n|\n|\n");
    }

    #[test]
    fn a_page_is_wrapped_and_keeps_every_word() {
        let mut page = Page::default();
        page.fields(vec![("state", "failed for a long reason".into())]);
        page.heading("Attempts");
        let rows = vec![vec!["1".into(), "the worker went away for good".into()]];
        page.table([right("NO"), left("FAILURE")], rows);
        let drawn: Vec<String> = prose(&page, 24, INK)
            .iter()
            .map(|line| line.to_string().trim_end().to_owned())
            .collect();
        insta::assert_snapshot!(drawn.join("\n"), @r"
        state  failed for a long
               reason

        Attempts
        NO
         1
            the worker went away
            for good
        ");
    }
}
