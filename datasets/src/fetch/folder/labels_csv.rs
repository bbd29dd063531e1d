//! `labels.csv` with the columns `path` and `labels`: which pictures a folder has and what is on them. Every
//! fault is reported with its line and column, all of them at once.

use std::collections::BTreeSet;

use marquee_domain::spec::LabelRules;

use super::described::{Collector, Described};
use crate::fetch::find::{Found, Index};
use crate::fetch::table::columns::{LabelColumns, Question};
use crate::fetch::table::{Cell, Fault, Table};

/// Whether the table is one of these; others are read as Kaggle's are.
pub(super) fn is_one(table: &Table) -> bool {
    table.find("path").is_some() && table.find("labels").is_some()
}

/// The rows of `table`, with paths among `files`, or what is wrong with it.
pub(super) fn rows(
    table: &Table,
    rules: &LabelRules,
    index: &Index<'_>,
    files: &[String],
) -> Result<Described, String> {
    let known = ["path", "labels", "group"];
    let is_known = |name: &&String| known.iter().any(|known| name.eq_ignore_ascii_case(known));
    // A name that is misspelt here would split what belongs together.
    if let Some(unknown) = table
        .header
        .iter()
        .find(|name| !name.is_empty() && !is_known(name))
    {
        return Err(format!(
            "{} line 1: column {unknown:?} is unknown; write path,labels or path,labels,group instead of {:?}",
            table.name,
            table.header.join(",")
        ));
    }
    let (Some(path), Some(labels)) = (table.find("path"), table.find("labels")) else {
        return Err(format!("{} has no columns path and labels", table.name));
    };
    let group = table.find("group");
    let taken: Vec<usize> = [Some(path), group].into_iter().flatten().collect();
    let columns = LabelColumns::of(
        table,
        &Question {
            taken: &taken,
            joined: Some(labels),
            separators: &['|'],
            confirms: false,
            rules,
        },
    )?;
    let asked: Vec<usize> = [path, labels].into_iter().chain(group).collect();
    let mut rows = Collector::new(table, index, files);
    for row in table.rows(&asked)? {
        let row = match row {
            Ok(row) => row,
            Err(fault) => {
                rows.faults.add(fault);
                continue;
            }
        };
        let written = row.cells[0].text();
        let cell = &row.cells[1];
        // With a separator of the user's own a bar is an ordinary character.
        if rules.separator.is_none() {
            faults_of(cell).for_each(|problem| {
                rows.faults
                    .add(Fault::of_cell(row.number, "labels", problem));
            });
        }
        let found = match leads_out(&written) {
            Some(problem) => {
                rows.faults.add(Fault::of_cell(row.number, "path", problem));
                continue;
            }
            None if written.is_empty() => Found::None,
            None => index.at_path(&written),
        };
        let group = row
            .cells
            .get(2)
            .filter(|cell| !cell.is_empty())
            .map(Cell::text);
        let said = columns.read(&row.cells[1..2]);
        rows.push(row.number, ("path", &written), found, said, group);
    }
    rows.finish(columns.known(), columns.remarks)
}

fn leads_out(path: &str) -> Option<String> {
    let path = path.replace('\\', "/");
    let is_out = path.starts_with('/') || path.split('/').any(|part| part == "..");
    is_out.then(|| {
        format!("{path:?} leads out of the folder; paths start at the folder of labels.csv")
    })
}

/// What is wrong with labels that are joined by bars.
fn faults_of(cell: &Cell) -> impl Iterator<Item = String> {
    let text = cell.text();
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for label in text.split('|').map(str::trim).filter(|_| !text.is_empty()) {
        if label.is_empty() {
            problems.push(format!("{text:?} has an empty label between its bars"));
        } else if !seen.insert(label) {
            problems.push(format!("{label:?} stands there twice"));
        }
    }
    problems.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::table::label_cell::RowLabels;

    fn described(text: &[u8]) -> Result<Described, String> {
        let table = Table::of_bytes("labels.csv", text.to_vec())?;
        let files = ["img/a.jpg", "b, c.png", "x.jpg"].map(str::to_owned);
        rows(&table, &LabelRules::default(), &Index::of(&files), &files)
    }

    fn fault(text: &str) -> String {
        described(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn rows_are_read_with_labels_and_groups() {
        let text = "\u{feff}path,labels,group,\r\nimg\\A.jpg,cat|dog,9\r\n\"b, c.png\", dog ,,\r\nd.webp,,\r\ne.jpg,[],\r\n,,,\r\n";
        let described = described(text.as_bytes()).unwrap();
        let shown: Vec<String> = described
            .rows
            .iter()
            .map(|row| match &row.labels {
                RowLabels::Said(labels) => {
                    format!("{}: {} {:?}", row.path, labels.join("+"), row.group)
                }
                RowLabels::Unsaid | RowLabels::Uncertain { .. } => format!("{}: ?", row.path),
            })
            .collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        img/a.jpg: cat+dog Some("9")
        b, c.png: dog None
        d.webp: ?
        e.jpg:  None
        "#);
        insta::assert_snapshot!(described.remarks.warnings.join("\n"), @r#"2 of 4 pictures of the table are not there, the first is "d.webp" in line 4"#);
        insta::assert_snapshot!(described.remarks.notes.join("\n"), @r#"pictures that no row of the table names: 1, such as "x.jpg""#);
    }

    #[test]
    fn a_wrong_header_is_shown_with_the_right_one() {
        insta::assert_snapshot!(fault("path,labels,gruop\na.jpg,1,x\n"), @r#"labels.csv line 1: column "gruop" is unknown; write path,labels or path,labels,group instead of "path,labels,gruop""#);
        insta::assert_snapshot!(fault(""), @"labels.csv is empty");
        insta::assert_snapshot!(fault("path,labels\n,,\n"), @"labels.csv names no picture; write one line a picture below the header");
        insta::assert_snapshot!(fault("path,labels,labels\n"), @r#"labels.csv has two columns of the name "labels"; rename or remove one"#);
    }

    #[test]
    fn every_fault_is_named_with_line_and_column() {
        let text = "path,labels\n,cat\n../x.jpg,cat\n\na.jpg,cat||dog\na.jpg,cat|cat\nb.jpg\n/etc/x,dog\nc.jpg,dog\nc.jpg,dog\nc.jpg,cat\n\"d\n.jpg\",dog\n";
        insta::assert_snapshot!(fault(text), @r#"
        labels.csv cannot be used:
          line 2, column path: is empty
          line 3, column path: "../x.jpg" leads out of the folder; paths start at the folder of labels.csv
          line 5, column labels: "cat||dog" has an empty label between its bars
          line 6, column labels: "cat" stands there twice
          line 6, column path: "a.jpg" stands in line 5 already, with other labels or another group; write all labels of a picture in one row
          line 7: there are 1 columns, the header has 2; put fields with commas in quotes
          line 8, column path: "/etc/x" leads out of the folder; paths start at the folder of labels.csv
          line 11, column path: "c.jpg" stands in line 9 already, with other labels or another group; write all labels of a picture in one row
          line 12, column path: holds a line break; a quote before it is probably not closed
        "#);
        let mut latin1 = b"path,labels\na.jpg,caf".to_vec();
        latin1.extend([0xe9, b'\n']);
        insta::assert_snapshot!(described(&latin1).unwrap_err(), @r#"
        labels.csv cannot be used:
          line 2, column labels: is not UTF-8 but looks like ISO-8859-1 or Windows-1252 ("café")
        save the file as UTF-8 (in a spreadsheet: "CSV UTF-8"), or convert it: iconv -f WINDOWS-1252 -t UTF-8 OLD.csv > NEW.csv
        "#);
    }
}
