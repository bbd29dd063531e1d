//! What a folder's table says of its pictures, row by row, each with the file that it means.

use std::collections::HashSet;

use marquee_domain::report::Remarks;

use crate::fetch::find::{Found, Index, is_picture};
use crate::fetch::table::faults::Faults;
use crate::fetch::table::label_cell::RowLabels;
use crate::fetch::table::repeats::{Repeat, Repeats};
use crate::fetch::table::{Fault, Table};

/// Missing files for which the nearest is looked for.
const NEAREST_MAX: usize = 5;

/// A picture and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PictureRow {
    /// Below the folder, joined by `/`.
    pub(super) path: String,
    pub(super) labels: RowLabels,
    pub(super) group: Option<String>,
    /// Where there is no such file: the one that is called most like it, if it was looked for.
    pub(super) nearest: Option<String>,
}

/// All that is said.
#[derive(Debug, Default)]
pub(super) struct Described {
    pub(super) rows: Vec<PictureRow>,
    /// Labels in the source's own order, where it has one.
    pub(super) known: Vec<String>,
    pub(super) remarks: Remarks,
}

/// Gathers the rows of a table.
pub(super) struct Collector<'a> {
    table: &'a Table,
    index: &'a Index<'a>,
    files: &'a [String],
    pub(super) faults: Faults,
    repeats: Repeats,
    rows: Vec<PictureRow>,
    missing: Vec<(u64, String, Option<String>)>,
    missing_count: u64,
}

impl<'a> Collector<'a> {
    pub(super) fn new(table: &'a Table, index: &'a Index<'a>, files: &'a [String]) -> Self {
        Self {
            table,
            index,
            files,
            faults: Faults::default(),
            repeats: Repeats::default(),
            rows: Vec::new(),
            missing: Vec::new(),
            missing_count: 0,
        }
    }

    /// Takes the row `number`, in which `written` stands in `column` and means the file that was `found`.
    pub(super) fn push(
        &mut self,
        number: u64,
        (column, written): (&str, &str),
        found: Found,
        labels: RowLabels,
        group: Option<String>,
    ) {
        let fault = |problem: String| Fault::of_cell(number, column, problem);
        if written.is_empty() {
            return self.faults.add(fault("is empty".to_owned()));
        }
        if written.contains(['\n', '\r']) {
            let problem = "holds a line break; a quote before it is probably not closed";
            return self.faults.add(fault(problem.to_owned()));
        }
        // A picture that is not there stays a row, so that the books name it as gone.
        let (path, is_there) = match found {
            Found::One(path) => (path, true),
            Found::None => (written.replace('\\', "/"), false),
            Found::Several(paths) => {
                let shown: Vec<String> = paths
                    .iter()
                    .take(4)
                    .map(|path| format!("{path:?}"))
                    .collect();
                return self.faults.add(fault(format!(
                    "{written:?} fits {} files: {}; write the one that is meant, with its folder and ending",
                    paths.len(),
                    shown.join(" and ")
                )));
            }
        };
        match self
            .repeats
            .see(number, &path, &format!("{labels:?} {group:?}"))
        {
            Repeat::No => {}
            Repeat::Same => return,
            Repeat::Other { earlier } => {
                return self.faults.add(fault(format!(
                    "{written:?} stands in {} {earlier} already, with other labels or another group; write \
                     all labels of a picture in one row",
                    self.table.unit()
                )));
            }
        }
        let mut nearest = None;
        if !is_there {
            self.missing_count += 1;
            // To look for the nearest takes a look at each file; a few are enough to show what is
            // wrong.
            if self.missing.len() < NEAREST_MAX {
                nearest = self.index.nearest(&path).map(str::to_owned);
                self.missing
                    .push((number, written.to_owned(), nearest.clone()));
            }
        }
        self.rows.push(PictureRow {
            path,
            labels,
            group,
            nearest,
        });
    }

    /// All rows, unless some are at fault.
    pub(super) fn finish(
        self,
        known: Vec<String>,
        mut remarks: Remarks,
    ) -> Result<Described, String> {
        self.faults.into_result(self.table)?;
        if self.rows.is_empty() {
            return Err(format!(
                "{} names no picture; write one line a picture below the header",
                self.table.name
            ));
        }
        remarks.notes.extend(self.repeats.note(self.table.unit()));
        if let Some((number, written, nearest)) = self.missing.first() {
            let nearest = nearest
                .as_ref()
                .map(|path| format!(" (the nearest file is {path:?})"));
            remarks.warnings.push(format!(
                "{} of {} pictures of the table are not there, the first is {written:?} in {} {number}{}",
                self.missing_count,
                self.rows.len(),
                self.table.unit(),
                nearest.unwrap_or_default()
            ));
        }
        let named: HashSet<&str> = self.rows.iter().map(|row| row.path.as_str()).collect();
        let others = self
            .files
            .iter()
            .filter(|file| is_picture(file) && !named.contains(file.as_str()));
        let others: Vec<&String> = others.collect();
        if let Some(first) = others.first() {
            remarks.notes.push(format!(
                "pictures that no row of the table names: {}, such as {first:?}",
                others.len()
            ));
        }
        Ok(Described {
            rows: self.rows,
            known,
            remarks,
        })
    }
}
