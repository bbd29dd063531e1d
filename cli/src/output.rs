//! The three faces of every answer: a table for people, JSON for programs, ids for pipes.
//!
//! Invariant: stdout carries data only. What is shown is a [`View`], which has all three.

pub(crate) mod terminal;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal as _, Write as _};

use chrono::{DateTime, Utc};
use clap::ValueEnum;
use marquee_view::{Page, View, harmless, harmless_json};

/// What `--output` chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs: one JSON document; one a line where the answer is a stream
    Json,
    /// Ids alone, one a line
    Quiet,
}

/// Where answers go, and in which format.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub format: Format,
    colour: bool,
    /// Columns of the terminal. None: stdout is not a terminal, and nothing is wrapped.
    width: Option<u16>,
}

impl Output {
    /// Output to this process's stdout.
    pub(crate) fn stdout(format: Format) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let width = terminal.then(|| console::Term::stdout().size().1);
        Self {
            format,
            colour: colour_wanted(terminal),
            width,
        }
    }

    /// Shows one answer.
    pub(crate) fn show(&self, view: &impl View, now: DateTime<Utc>) -> std::io::Result<()> {
        match self.format {
            Format::Table => self.text(&self.page(view, now)),
            Format::Json => {
                let json = format!("{:#}\n", view.json(now));
                self.text(&harmless_json(&json))
            }
            // Cleaned like the rest: an id may be a path or a name that somebody else chose.
            Format::Quiet => view
                .ids()
                .iter()
                .try_for_each(|id| self.text(&format!("{}\n", harmless(id)))),
        }
    }

    /// The page for people, whatever the format.
    pub(crate) fn page(&self, view: &impl View, now: DateTime<Utc>) -> String {
        terminal::draw(&Page::of(view, now), self.colour, self.width)
    }

    /// Whether stdout is a terminal, which obeys what it is sent.
    pub(crate) fn is_terminal(&self) -> bool {
        self.width.is_some()
    }

    /// Columns of the terminal that stdout is.
    pub(crate) fn width(&self) -> Option<u16> {
        self.width
    }

    /// Writes text as it is.
    pub(crate) fn text(&self, text: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        // At once: `logs -f` into a pipe would otherwise be seen in blocks, long after its lines
        // were printed.
        out.flush()
    }

    /// Whether the answer is for a person, so that hints on stderr help.
    pub(crate) fn is_for_people(&self) -> bool {
        self.format == Format::Table
    }
}

/// Whether to write colour to a stream: it is a terminal that can, and the user did not say no
/// (<https://no-color.org>).
pub(crate) fn colour_wanted(is_terminal: bool) -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    is_terminal && !no_color && !dumb
}
