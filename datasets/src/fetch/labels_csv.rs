//! `labels.csv`: which pictures a folder has and what is on them. Every fault is reported with its
//! line and column, all of them at once.

use std::collections::HashSet;
use std::fmt::Write as _;

use csv::StringRecord;

/// Faults that are shown before the rest is only counted.
const FAULTS_SHOWN: usize = 20;

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LabelsRow {
    /// Relative to the file's own folder, joined by `/`.
    pub(super) path: String,
    pub(super) labels: Vec<String>,
    pub(super) group: Option<String>,
}

#[derive(Debug)]
struct Columns {
    path: usize,
    labels: usize,
    group: Option<usize>,
}

#[derive(Debug, Default)]
struct Faults {
    shown: Vec<String>,
    count: usize,
}

impl Faults {
    fn add(&mut self, line: u64, column: &str, problem: &str) {
        self.count += 1;
        if self.shown.len() < FAULTS_SHOWN {
            self.shown
                .push(format!("line {line}, column {column}: {problem}"));
        }
    }

    fn into_message(self, name: &str) -> String {
        let mut message = format!("{name} cannot be used:");
        for fault in &self.shown {
            let _ = write!(message, "\n  {fault}");
        }
        if self.count > self.shown.len() {
            let _ = write!(message, "\n  and {} more", self.count - self.shown.len());
        }
        message
    }
}

/// The rows of `text`, or what is wrong with it. `name` is what messages call it.
pub(super) fn parse(name: &str, text: &[u8]) -> Result<Vec<LabelsRow>, String> {
    // Spreadsheets like to put a byte order mark in front.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(text);
    let mut records = reader.records();
    let header = match records.next() {
        Some(Ok(header)) => header,
        Some(Err(error)) => return Err(format!("{name} cannot be used: {error}")),
        None => {
            return Err(format!(
                "{name} is empty; its first line must be path,labels"
            ));
        }
    };
    let columns = columns_of(&header).map_err(|problem| {
        let found: Vec<_> = header.iter().collect();
        format!(
            "{name} line 1: {problem}; write path,labels or path,labels,group instead of {:?}",
            found.join(",")
        )
    })?;
    let (mut rows, mut faults, mut seen) = (Vec::new(), Faults::default(), HashSet::new());
    for record in records {
        match record {
            Ok(record) => {
                let row = row_of(&record, &header, &columns, &mut faults);
                if !seen.insert(row.path.clone()) {
                    faults.add(
                        line_of(&record),
                        "path",
                        &format!("{:?} stands here twice", row.path),
                    );
                }
                rows.push(row);
            }
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                faults.add(line, "any", "is not valid UTF-8; save the file as UTF-8");
            }
        }
    }
    if faults.count > 0 {
        return Err(faults.into_message(name));
    }
    if rows.is_empty() {
        return Err(format!(
            "{name} names no picture; write one line a picture below the header"
        ));
    }
    Ok(rows)
}

/// The labels of a cell: texts joined by `|`, each once.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for label in text.split('|').map(str::trim) {
        if !label.is_empty() && !labels.iter().any(|known| known == label) {
            labels.push(label.to_owned());
        }
    }
    labels
}

fn columns_of(header: &StringRecord) -> Result<Columns, String> {
    let find = |wanted: &str| header.iter().position(|name| name.trim() == wanted);
    if let Some(unknown) = header
        .iter()
        .find(|name| !["path", "labels", "group"].contains(&name.trim()))
    {
        return Err(format!("column {unknown:?} is unknown"));
    }
    let (Some(path), Some(labels)) = (find("path"), find("labels")) else {
        return Err("the columns path and labels must both be there".to_owned());
    };
    let group = find("group");
    if header.len() != 2 + usize::from(group.is_some()) {
        return Err("a column stands there twice".to_owned());
    }
    Ok(Columns {
        path,
        labels,
        group,
    })
}

fn line_of(record: &StringRecord) -> u64 {
    record.position().map_or(0, csv::Position::line)
}

fn row_of(
    record: &StringRecord,
    header: &StringRecord,
    columns: &Columns,
    faults: &mut Faults,
) -> LabelsRow {
    let line = line_of(record);
    if record.len() != header.len() {
        let problem = format!(
            "there are {} columns, the header has {}",
            record.len(),
            header.len()
        );
        faults.add(line, "any", &problem);
    }
    let field = |at: usize| record.get(at).unwrap_or_default().trim();
    let path = field(columns.path).replace('\\', "/");
    let path = path.strip_prefix("./").unwrap_or(&path).to_owned();
    if path.is_empty() {
        faults.add(line, "path", "is empty");
    } else if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        let problem =
            format!("{path:?} leads out of the folder; paths start at the folder of labels.csv");
        faults.add(line, "path", &problem);
    }
    let text = field(columns.labels);
    let mut labels: Vec<String> = Vec::new();
    for label in text.split('|').map(str::trim).filter(|_| !text.is_empty()) {
        if label.is_empty() {
            faults.add(
                line,
                "labels",
                &format!("{text:?} has an empty label between its bars"),
            );
        } else if labels.iter().any(|known| known == label) {
            faults.add(line, "labels", &format!("{label:?} stands there twice"));
        } else {
            labels.push(label.to_owned());
        }
    }
    let group = columns
        .group
        .map(field)
        .filter(|group| !group.is_empty())
        .map(str::to_owned);
    LabelsRow {
        path,
        labels,
        group,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        parse("labels.csv", text.as_bytes()).unwrap_err()
    }

    #[test]
    fn rows_are_read_with_labels_and_groups() {
        let text = "\u{feff}path,labels,group\r\nimg/a.jpg,cat|dog,9\r\n\"b, c.png\", dog ,\r\nd.webp,,\r\n";
        let row = |path: &str, labels: &[&str], group: Option<&str>| LabelsRow {
            path: path.into(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            group: group.map(str::to_owned),
        };
        assert_eq!(
            parse("labels.csv", text.as_bytes()).unwrap(),
            [
                row("img/a.jpg", &["cat", "dog"], Some("9")),
                row("b, c.png", &["dog"], None),
                row("d.webp", &[], None),
            ]
        );
    }

    #[test]
    fn a_wrong_header_is_shown_with_the_right_one() {
        insta::assert_snapshot!(fault("file;labels\na.jpg;cat\n"), @r#"labels.csv line 1: column "file;labels" is unknown; write path,labels or path,labels,group instead of "file;labels""#);
        insta::assert_snapshot!(fault("path,group\na.jpg,1\n"), @r#"labels.csv line 1: the columns path and labels must both be there; write path,labels or path,labels,group instead of "path,group""#);
        insta::assert_snapshot!(fault(""), @"labels.csv is empty; its first line must be path,labels");
        insta::assert_snapshot!(fault("path,labels\n"), @"labels.csv names no picture; write one line a picture below the header");
    }

    #[test]
    fn every_fault_is_named_with_line_and_column() {
        let text =
            "path,labels\n,cat\n../x.jpg,cat\na.jpg,cat||dog\na.jpg,cat|cat\nb.jpg\n/etc/x,dog\n";
        insta::assert_snapshot!(fault(text), @r#"
        labels.csv cannot be used:
          line 2, column path: is empty
          line 3, column path: "../x.jpg" leads out of the folder; paths start at the folder of labels.csv
          line 4, column labels: "cat||dog" has an empty label between its bars
          line 5, column labels: "cat" stands there twice
          line 5, column path: "a.jpg" stands here twice
          line 6, column any: there are 1 columns, the header has 2
          line 7, column path: "/etc/x" leads out of the folder; paths start at the folder of labels.csv
        "#);
        let mut latin1 = b"path,labels\na.jpg,caf".to_vec();
        latin1.extend([0xe9, b'\n']);
        insta::assert_snapshot!(parse("labels.csv", &latin1).unwrap_err(), @r"
        labels.csv cannot be used:
          line 2, column any: is not valid UTF-8; save the file as UTF-8
        ");
    }
}
