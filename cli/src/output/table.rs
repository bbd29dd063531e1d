//! Pages of aligned text: tables, fields and lines, without frames, so that they can be read,
//! copied and grepped.
//!
//! Invariant: a tone only repeats what the words say; without colour nothing is lost.

use std::borrow::Cow;

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table};

/// How a word is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    Busy,
    Warn,
    Faint,
    Strong,
}

/// One value in a table.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    text: String,
    tone: Tone,
}

/// A value with a tone.
pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Entry {
    Entry {
        text: text.into(),
        tone,
    }
}

impl<T: Into<String>> From<T> for Entry {
    fn from(text: T) -> Self {
        toned(text, Tone::Plain)
    }
}

/// The head of a column.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    name: Cow<'static, str>,
    alignment: CellAlignment,
}

/// A column of words.
pub(crate) fn left(name: impl Into<Cow<'static, str>>) -> Head {
    Head {
        name: name.into(),
        alignment: CellAlignment::Left,
    }
}

/// A column of numbers.
pub(crate) fn right(name: impl Into<Cow<'static, str>>) -> Head {
    Head {
        name: name.into(),
        alignment: CellAlignment::Right,
    }
}

/// Text in the making.
#[derive(Debug)]
pub(crate) struct Page {
    text: String,
    colour: bool,
    width: Option<u16>,
}

/// Spaces between two columns.
const GAP: u16 = 2;

impl Page {
    pub(crate) fn new(colour: bool, width: Option<u16>) -> Self {
        Self {
            text: String::new(),
            colour,
            width,
        }
    }

    /// The finished text; it ends with a line end unless it is empty.
    pub(crate) fn finish(self) -> String {
        self.text
    }

    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    /// A title with an empty line above it, unless it is the first.
    pub(crate) fn heading(&mut self, title: &str) {
        self.gap();
        if self.colour {
            self.line(format!("\x1b[1m{title}\x1b[0m"));
        } else {
            self.line(title);
        }
    }

    /// An empty line, unless the page is empty.
    pub(crate) fn gap(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
    }

    /// Rows under a header.
    pub(crate) fn table(&mut self, heads: &[Head], rows: Vec<Vec<Entry>>) {
        let mut table = self.blank_table();
        table.set_header(heads.iter().map(|head| {
            let cell = Cell::new(&head.name).set_alignment(head.alignment);
            self.tone(cell, Tone::Faint)
        }));
        for row in rows {
            table.add_row(row.into_iter().zip(heads).map(|(entry, head)| {
                self.tone(Cell::new(entry.text), entry.tone)
                    .set_alignment(head.alignment)
            }));
        }
        self.push_table(table, 0);
    }

    /// Labels with their values below each other; empty values are left out.
    pub(crate) fn fields(&mut self, fields: Vec<(&str, Entry)>) {
        let mut table = self.blank_table();
        for (label, entry) in fields
            .into_iter()
            .filter(|(_, entry)| !entry.text.is_empty())
        {
            let label = self.tone(Cell::new(label), Tone::Faint);
            table.add_row([label, self.tone(Cell::new(entry.text), entry.tone)]);
        }
        self.push_table(table, 0);
    }

    fn blank_table(&self) -> Table {
        let mut table = Table::new();
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

    fn tone(&self, cell: Cell, tone: Tone) -> Cell {
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

    fn push_table(&mut self, mut table: Table, indent: usize) {
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        for line in table.lines() {
            let line = format!("{:indent$}{}", "", line.trim_end());
            self.line(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(colour: bool, width: Option<u16>) -> String {
        let mut page = Page::new(colour, width);
        let rows = vec![
            vec![
                "9".into(),
                toned("failed", Tone::Bad),
                "the worker went away for good".into(),
            ],
            vec!["10".into(), toned("succeeded", Tone::Good), "".into()],
        ];
        page.table(&[right("ID"), left("STATE"), left("REASON")], rows);
        page.finish()
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
}
