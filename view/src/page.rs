//! A page as its parts, before anybody draws it.
//!
//! Invariant: a tone only repeats what the words say; drawn without colour nothing is lost.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde_json::Value;

/// An answer in its three forms: for people, for programs, and as ids for pipes.
pub trait View {
    /// Puts it on a page for people. `now` is for ages and times left.
    fn page(&self, page: &mut Page, now: DateTime<Utc>);
    /// For programs: complete, in stable snake_case names.
    fn json(&self, now: DateTime<Utc>) -> Value;
    /// What identifies each thing shown.
    fn ids(&self) -> Vec<String>;
}

/// How a word is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    Busy,
    Warn,
    Faint,
    Strong,
}

/// One value in a table or beside a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    pub tone: Tone,
}

/// A value with a tone.
pub fn toned(text: impl Into<String>, tone: Tone) -> Cell {
    Cell {
        text: text.into(),
        tone,
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        toned(text, Tone::Plain)
    }
}

/// On which side of its column a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// The head of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: Cow<'static, str>,
    pub align: Align,
}

/// A column of words.
pub fn left(name: impl Into<Cow<'static, str>>) -> Column {
    Column {
        name: name.into(),
        align: Align::Left,
    }
}

/// A column of numbers.
pub fn right(name: impl Into<Cow<'static, str>>) -> Column {
    Column {
        name: name.into(),
        align: Align::Right,
    }
}

/// Rows under heads. A row may have fewer cells than there are columns: the rest is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
}

/// One part of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// A title, set apart from what stands above it.
    Heading(String),
    Line(String),
    /// Room between two parts.
    Gap,
    /// Labels with their values below each other.
    Fields(Vec<(&'static str, Cell)>),
    Table(Table),
}

/// The parts of a page, in the order in which they are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    blocks: Vec<Block>,
}

impl Page {
    /// The page of a view.
    #[must_use]
    pub fn of(view: &impl View, now: DateTime<Utc>) -> Self {
        let mut page = Self::default();
        view.page(&mut page, now);
        page
    }

    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    pub fn line(&mut self, line: impl Into<String>) {
        self.blocks.push(Block::Line(line.into()));
    }

    /// A title with room above it.
    pub fn heading(&mut self, title: impl Into<String>) {
        self.blocks.push(Block::Heading(title.into()));
    }

    /// Room between what stands above and what comes.
    pub fn gap(&mut self) {
        self.blocks.push(Block::Gap);
    }

    /// Rows under heads.
    pub fn table(&mut self, columns: impl Into<Vec<Column>>, rows: Vec<Vec<Cell>>) {
        self.blocks.push(Block::Table(Table {
            columns: columns.into(),
            rows,
        }));
    }

    /// Labels with their values; those without a value are left out.
    pub fn fields(&mut self, fields: Vec<(&'static str, Cell)>) {
        // Here and not at each caller, so that every page shows the same field in the same place,
        // or not at all.
        let said = fields.into_iter().filter(|(_, cell)| !cell.text.is_empty());
        self.blocks.push(Block::Fields(said.collect()));
    }
}
