//! The rows of a list, from CSV or Parquet, one by one: a list may be larger than memory.

use std::path::Path;

use marquee_domain::report::Remarks;
use marquee_domain::spec::LabelRules;

use crate::fetch::table::columns::{LabelColumns, Question};
use crate::fetch::table::faults::Faults;
use crate::fetch::table::label_cell::RowLabels;
use crate::fetch::table::{Cell, Fault, Row, Table};
use crate::job::JobError;

/// A row of the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListRow {
    /// Its line or row.
    pub(super) number: u64,
    pub(super) id: String,
    /// A URL, or a path below the list's folder.
    pub(super) location: String,
    pub(super) labels: RowLabels,
    pub(super) group: Option<String>,
}

/// A list whose columns are known.
#[derive(Debug)]
pub(super) struct List {
    table: Table,
    labels: LabelColumns,
    id: usize,
    url: usize,
    group: Option<usize>,
}

impl List {
    pub(super) fn open(path: &Path, rules: &LabelRules) -> Result<Self, JobError> {
        let list = Table::open(path).and_then(|table| Self::of(table, rules));
        list.map_err(JobError::bad_input)
    }

    pub(super) fn of(table: Table, rules: &LabelRules) -> Result<Self, String> {
        let (Some(id), Some(url)) = (table.find("id"), table.find("url")) else {
            return Err(format!(
                "{} line 1: its columns are {:?}; write id,url,labels or id,url,labels,group",
                table.name,
                table.header.join(",")
            ));
        };
        let group = table.find("group");
        let taken: Vec<usize> = [Some(id), Some(url), group].into_iter().flatten().collect();
        let question = Question {
            taken: &taken,
            joined: table.find("labels"),
            separators: &['|'],
            confirms: false,
            rules,
        };
        let labels = LabelColumns::of(&table, &question)?;
        Ok(Self {
            table,
            labels,
            id,
            url,
            group,
        })
    }

    /// What a row's number counts.
    pub(super) fn unit(&self) -> &'static str {
        self.table.unit()
    }

    /// The labels in the list's own order, where its columns name them.
    pub(super) fn known(&self) -> Vec<String> {
        self.labels.known()
    }

    pub(super) fn remarks(&self) -> Remarks {
        self.labels.remarks.clone()
    }

    /// Gives every row to `push`. Rows at fault are told all together, and then there is no list.
    pub(super) fn read(
        &self,
        push: &mut impl FnMut(ListRow) -> Result<(), JobError>,
    ) -> Result<(), JobError> {
        let first = [self.id, self.url].into_iter().chain(self.group);
        let asked: Vec<usize> = first.chain(self.labels.places.iter().copied()).collect();
        let rows = self.table.rows(&asked).map_err(JobError::bad_input)?;
        let mut faults = Faults::default();
        for row in rows {
            // Rows of nulls, which a spreadsheet leaves at the end of what was written from it.
            if row
                .as_ref()
                .is_ok_and(|row| row.cells.iter().all(Cell::is_empty))
            {
                continue;
            }
            match row.and_then(|row| self.row(&row, &asked)) {
                Ok(row) => push(row)?,
                Err(fault) => faults.add(fault),
            }
        }
        faults.into_result(&self.table).map_err(JobError::bad_input)
    }

    fn row(&self, row: &Row, asked: &[usize]) -> Result<ListRow, Fault> {
        let fault = |at: usize, problem: String| {
            Fault::of_cell(row.number, &self.table.header[asked[at]], problem)
        };
        for (at, cell) in row.cells.iter().enumerate() {
            if let Cell::Odd(kind) = cell {
                let problem = format!(
                    "is of type {kind}; make it text, a number, or for labels a list of texts"
                );
                return Err(fault(at, problem));
            }
        }
        let id = row.cells[0].text();
        if id.is_empty() {
            return Err(fault(0, "is empty".to_owned()));
        }
        if id.contains(['\n', '\r']) {
            let problem = "holds a line break; a quote before it is probably not closed";
            return Err(fault(0, problem.to_owned()));
        }
        let group = self.group.map(|_| &row.cells[2]);
        let labels = &row.cells[2 + usize::from(self.group.is_some())..];
        Ok(ListRow {
            number: row.number,
            id,
            location: row.cells[1].text(),
            labels: self.labels.read(labels),
            group: group.filter(|cell| !cell.is_empty()).map(Cell::text),
        })
    }
}
