//! Tables that say what is on pictures, CSV and Parquet alike: a header, and rows that know where in
//! their file they stand.
//!
//! A table is gone through once for each question (which columns hold labels, what each row says): it may
//! be larger than memory.

use std::collections::HashSet;
use std::fmt;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::csv_rows::CsvRows;
use self::parquet_rows::ParquetTable;
use super::files::open_plain;

pub(super) mod columns;
mod csv_rows;
pub(super) mod faults;
mod flags;
pub(super) mod joined;
pub(super) mod label_cell;
mod parquet_cell;
mod parquet_rows;
pub(super) mod repeats;
mod text;

/// Columns of a table, at most: more are a table that lies on its side.
const COLUMNS_MAX: usize = 20_000;

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    /// Nothing stands there.
    Empty,
    Text(String),
    List(Vec<String>),
    /// What can be read as none of these, as the name of its type.
    Odd(String),
}

impl Cell {
    fn of_text(text: &str) -> Self {
        match text.trim() {
            "" => Self::Empty,
            text => Self::Text(text.to_owned()),
        }
    }

    /// What stands there as one text; a list's texts joined by `|`.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Text(text) => text.clone(),
            Self::List(texts) => texts.join("|"),
            Self::Odd(kind) => format!("<{kind}>"),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

/// One row: a line of CSV, counted from 1 with the header's, or a row of Parquet, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) number: u64,
    /// The cells of the columns that were asked for, in that order.
    pub(super) cells: Vec<Cell>,
}

/// What is wrong at one place of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Line or row; 0 where it cannot be told.
    pub(super) number: u64,
    /// Name of the column, where it is one.
    pub(super) column: Option<String>,
    pub(super) problem: String,
    /// How to put it right, the same for all faults of the kind.
    pub(super) cure: Option<&'static str>,
}

impl Fault {
    pub(super) fn of_row(number: u64, problem: impl Into<String>) -> Self {
        Self {
            number,
            column: None,
            problem: problem.into(),
            cure: None,
        }
    }

    pub(super) fn of_cell(number: u64, column: &str, problem: impl Into<String>) -> Self {
        Self {
            column: Some(column.to_owned()),
            ..Self::of_row(number, problem)
        }
    }
}

/// Rows one by one. After a fault others may follow.
pub(super) type Rows = Box<dyn Iterator<Item = Result<Row, Fault>>>;

enum Content {
    CsvFile(PathBuf),
    CsvBytes(Arc<[u8]>),
    Parquet(ParquetTable),
}

/// A table whose header is known.
pub(super) struct Table {
    /// What messages call it.
    pub(super) name: String,
    pub(super) header: Vec<String>,
    content: Content,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("name", &self.name)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl Table {
    /// The CSV or, by its ending, Parquet file at `path`; or what is wrong with it.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let is_parquet = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"));
        if is_parquet {
            return Self::open_parquet(path);
        }
        let content = Content::CsvFile(path.to_owned());
        Self::of_csv(path.display().to_string(), content)?.with_checked_header()
    }

    /// The Parquet file at `path`.
    pub(super) fn open_parquet(path: &Path) -> Result<Self, String> {
        let name = path.display().to_string();
        let table = ParquetTable::open(path).map_err(|problem| format!("{name}: {problem}"))?;
        let table = Self {
            header: table.names(),
            name,
            content: Content::Parquet(table),
        };
        table.with_checked_header()
    }

    /// The CSV table that `bytes` are.
    pub(super) fn of_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, String> {
        Self::of_csv(name.to_owned(), Content::CsvBytes(bytes.into()))?.with_checked_header()
    }

    fn of_csv(name: String, content: Content) -> Result<Self, String> {
        let mut table = Self {
            name,
            header: Vec::new(),
            content,
        };
        table.header = table.csv_rows()?.header;
        Ok(table)
    }

    fn with_checked_header(self) -> Result<Self, String> {
        if self.header.len() > COLUMNS_MAX {
            return Err(format!(
                "{} has {} columns, and {COLUMNS_MAX} are the most; a row is a picture, a column a label",
                self.name,
                self.header.len()
            ));
        }
        let mut seen = HashSet::new();
        // Columns without a name can be asked for by nobody, so that several do no harm.
        let mut names = self.header.iter().filter(|name| !name.is_empty());
        let twice = names.find(|name| !seen.insert(name.as_str()));
        match twice {
            Some(name) => Err(format!(
                "{} has two columns of the name {name:?}; rename or remove one",
                self.name
            )),
            None => Ok(self),
        }
    }

    /// What a row's number counts.
    pub(super) fn unit(&self) -> &'static str {
        match self.content {
            Content::CsvFile(_) | Content::CsvBytes(_) => "line",
            Content::Parquet(_) => "row",
        }
    }

    /// The place of the column `name`, capitals or not; that of the exact name first.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        // A table may have both `Labels` and `labels`, since its names are told apart by capitals.
        let exact = self.header.iter().position(|column| column == name);
        exact.or_else(|| {
            let mut columns = self.header.iter();
            columns.position(|column| column.eq_ignore_ascii_case(name))
        })
    }

    /// The rows, with the cells of these columns.
    pub(super) fn rows(&self, columns: &[usize]) -> Result<Rows, String> {
        match &self.content {
            Content::CsvFile(_) | Content::CsvBytes(_) => {
                let mut rows = self.csv_rows()?;
                rows.columns = Some(columns.to_vec());
                Ok(Box::new(rows))
            }
            Content::Parquet(table) => table
                .rows(columns)
                .map(|rows| Box::new(rows) as Rows)
                .map_err(|problem| format!("{}: {problem}", self.name)),
        }
    }

    fn csv_rows(&self) -> Result<CsvRows, String> {
        let input: Box<dyn std::io::Read> = match &self.content {
            Content::CsvFile(path) => Box::new(
                open_plain(path)
                    .map_err(|error| format!("{} cannot be opened: {error}", self.name))?,
            ),
            Content::CsvBytes(bytes) => Box::new(Cursor::new(bytes.clone())),
            Content::Parquet(_) => Box::new(std::io::empty()),
        };
        CsvRows::open(input).map_err(|problem| format!("{} {problem}", self.name))
    }
}
