//! Draws pages as aligned text: tables, fields and lines, without frames, so that they can be read,
//! copied and grepped.

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, CellAlignment, Color, ContentArrangement};
use marquee_view::{Align, Block, Cell, Page, Table, Tone, harmless};

/// Spaces between two columns.
const GAP: u16 = 2;

/// The text of a page; it ends with a line end unless the page is empty. `width` is the terminal's,
/// None where nothing is wrapped.
pub(crate) fn draw(page: &Page, colour: bool, width: Option<u16>) -> String {
    let mut text = Text {
        text: String::new(),
        colour,
        width,
    };
    for block in page.blocks() {
        match block {
            Block::Heading(title) => text.heading(&harmless(title)),
            Block::Line(line) => text.line(&harmless(line)),
            Block::Gap => text.gap(),
            Block::Fields(fields) => text.fields(fields),
            Block::Table(table) => text.table(table),
        }
    }
    text.text
}

/// Text in the making.
struct Text {
    text: String,
    colour: bool,
    width: Option<u16>,
}

impl Text {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A title with an empty line above it, unless it is the first.
    fn heading(&mut self, title: &str) {
        self.gap();
        if self.colour {
            self.line(&format!("\x1b[1m{title}\x1b[0m"));
        } else {
            self.line(title);
        }
    }

    /// An empty line, unless there is no text yet.
    fn gap(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
    }

    fn table(&mut self, table: &Table) {
        let mut drawn = self.blank_table();
        drawn.set_header(table.columns.iter().map(|column| {
            let cell = comfy_table::Cell::new(&column.name);
            self.tone(cell.set_alignment(side(column.align)), Tone::Faint)
        }));
        for row in &table.rows {
            drawn.add_row(
                row.iter()
                    .zip(&table.columns)
                    .map(|(cell, column)| self.cell(cell).set_alignment(side(column.align))),
            );
        }
        self.push_table(drawn);
    }

    fn fields(&mut self, fields: &[(&'static str, Cell)]) {
        let mut drawn = self.blank_table();
        for (label, cell) in fields {
            let label = self.tone(comfy_table::Cell::new(label), Tone::Faint);
            drawn.add_row([label, self.cell(cell)]);
        }
        self.push_table(drawn);
    }

    fn blank_table(&self) -> comfy_table::Table {
        let mut table = comfy_table::Table::new();
        // The table would look at the terminal by itself; what it is like was decided above, for tests and pipes
        // too.
        table.load_style(NOTHING).force_no_tty();
        if let Some(width) = self.width {
            table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(width);
        }
        if self.colour {
            table.enforce_styling().style_text_only();
        }
        table
    }

    fn cell(&self, cell: &Cell) -> comfy_table::Cell {
        self.tone(comfy_table::Cell::new(harmless(&cell.text)), cell.tone)
    }

    fn tone(&self, cell: comfy_table::Cell, tone: Tone) -> comfy_table::Cell {
        // The "dark" ones are the terminal's own colours, readable on light and on black.
        match tone {
            Tone::Plain => cell,
            Tone::Good => cell.fg(Color::DarkGreen),
            Tone::Bad => cell.fg(Color::DarkRed),
            Tone::Busy => cell.fg(Color::DarkCyan),
            Tone::Warn => cell.fg(Color::DarkYellow),
            Tone::Faint => cell.add_attribute(Attribute::Dim),
            Tone::Strong => cell.add_attribute(Attribute::Bold),
        }
    }

    fn push_table(&mut self, mut table: comfy_table::Table) {
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        for line in table.lines() {
            // Spaces at the end would be copied with the line, and wrap where the terminal is just wide enough.
            self.line(line.trim_end());
        }
    }
}

fn side(align: Align) -> CellAlignment {
    match align {
        Align::Left => CellAlignment::Left,
        Align::Right => CellAlignment::Right,
    }
}

#[cfg(test)]
mod tests {
    use marquee_view::{left, right, toned};

    use super::*;

    fn page(colour: bool, width: Option<u16>) -> String {
        let mut page = Page::default();
        let rows = vec![
            vec![
                "9".into(),
                toned("failed", Tone::Bad),
                "the worker went away for good".into(),
            ],
            vec!["10".into(), toned("succeeded", Tone::Good), "".into()],
        ];
        page.table([right("ID"), left("STATE"), left("REASON")], rows);
        draw(&page, colour, width)
    }

    #[test]
    fn columns_align_and_lines_have_no_trailing_blanks() {
        insta::assert_snapshot!(page(false, None), @"
        ID  STATE      REASON
         9  failed     the worker went away for good
        10  succeeded
        ");
    }

    #[test]
    fn a_narrow_terminal_wraps_within_the_column() {
        insta::assert_snapshot!(page(false, Some(32)), @r#"
        ID  STATE      REASON
         9  failed     the worker went
                       away for good
        10  succeeded
        "#);
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let coloured = page(true, None);
        assert!(coloured.contains("\x1b["));
        let lines = |text: &str| {
            text.lines()
                .map(|line| line.trim_end().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            lines(&console::strip_ansi_codes(&coloured)),
            lines(&page(false, None))
        );
    }

    #[test]
    fn what_a_program_printed_cannot_steer_the_terminal() {
        let mut page = Page::default();
        page.heading("job \x1b[2J");
        page.line("failed: \x1b]0;title\x07 in two\nlines");
        page.fields(vec![("state", "\x1b[31mred\r".into())]);
        page.table([left("NAME")], vec![vec!["\u{9b}2J\u{8}".into()]]);
        let drawn = draw(&page, false, Some(40));
        assert!(
            !drawn.contains(|c: char| c.is_control() && c != '\n'),
            "{drawn:?}"
        );
        assert!(
            drawn.contains("in two\nlines") && drawn.contains("[31mred"),
            "{drawn}"
        );
    }
}
