//! Columns of 0 and 1, as pandas, spreadsheets and hands write them.

use super::Cell;

/// Characters of a cell that a sentence shows.
const SHOWN_CHARS: usize = 30;
/// A column of 0 and 1 with fewer cells of another kind than one in so many was meant as a label.
const ODD_SHARE: u64 = 10;

/// What a cell of a column of 0 and 1 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    One,
    Zero,
    Blank,
    MinusOne,
}

/// 0 and 1 as pandas, spreadsheets and hands write them. None: it is something else.
pub(super) fn flag_in(cell: &Cell) -> Option<Flag> {
    let text = match cell {
        Cell::Empty => return Some(Flag::Blank),
        Cell::Text(text) => text.to_ascii_lowercase(),
        Cell::List(_) | Cell::Odd(_) => return None,
    };
    match text.as_str() {
        "true" => Some(Flag::One),
        "false" => Some(Flag::Zero),
        "nan" | "na" | "n/a" | "<na>" | "null" | "none" => Some(Flag::Blank),
        // As floats: pandas writes 1.0 and 0.0 as soon as one cell of a column is missing.
        number => match number.parse::<f64>() {
            Ok(1.0) => Some(Flag::One),
            Ok(0.0) => Some(Flag::Zero),
            Ok(-1.0) => Some(Flag::MinusOne),
            Ok(_) | Err(_) => None,
        },
    }
}

/// What one column holds.
#[derive(Debug, Default, Clone)]
pub(super) struct Tally {
    pub(super) ones: u64,
    pub(super) zeros: u64,
    pub(super) blanks: u64,
    pub(super) minus_ones: u64,
    pub(super) odd: u64,
    first_odd: Option<(u64, String)>,
}

impl Tally {
    pub(super) fn add(&mut self, number: u64, cell: &Cell) {
        match flag_in(cell) {
            Some(Flag::One) => self.ones += 1,
            Some(Flag::Zero) => self.zeros += 1,
            Some(Flag::Blank) => self.blanks += 1,
            Some(Flag::MinusOne) => self.minus_ones += 1,
            None => {
                self.odd += 1;
                self.first_odd.get_or_insert_with(|| (number, shown(cell)));
            }
        }
    }

    pub(super) fn is_flags(&self) -> bool {
        self.odd == 0 && self.ones + self.zeros > 0
    }

    /// Whether -1 says that a label is not there, as in a column of -1 and 1 alone.
    pub(super) fn minus_is_no(&self) -> bool {
        self.zeros + self.blanks == 0
    }

    /// Whether it was meant as a column of 0 and 1, but for some cells.
    pub(super) fn is_nearly_flags(&self) -> bool {
        self.odd > 0 && self.ones > 0 && self.zeros > 0 && {
            let all = self.ones + self.zeros + self.blanks + self.minus_ones + self.odd;
            self.odd * ODD_SHARE <= all
        }
    }

    /// What speaks against it.
    pub(super) fn why_not(&self, unit: &str) -> String {
        match &self.first_odd {
            Some((number, text)) => format!("{unit} {number} holds {text:?}"),
            None if self.minus_ones > 0 => "it holds -1 alone".to_owned(),
            None => "it is empty".to_owned(),
        }
    }
}

fn shown(cell: &Cell) -> String {
    let text = cell.text();
    let mut short: String = text.chars().take(SHOWN_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
