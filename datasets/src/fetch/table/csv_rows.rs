//! The rows of a CSV table. What spreadsheets leave around a table (blank rows and columns, a byte order
//! mark, semicolons or tabs for commas) is read past; what could hide a mistake is a fault.

use std::io::Read;

use csv::ByteRecord;

use super::text::Text;
use super::{Cell, Fault, Row};

/// How to make UTF-8 of a table that is not.
const ENCODING_CURE: &str = "save the file as UTF-8 (in a spreadsheet: \"CSV UTF-8\"), or convert it: \
     iconv -f WINDOWS-1252 -t UTF-8 OLD.csv > NEW.csv";
/// Characters of a cell that a message shows.
const SHOWN_CHARS: usize = 40;

/// Rows of a CSV table, behind its header.
pub(super) struct CsvRows {
    reader: csv::Reader<Text<Box<dyn Read>>>,
    record: ByteRecord,
    pub(super) header: Vec<String>,
    /// Which cells are given out. None: all.
    pub(super) columns: Option<Vec<usize>>,
    is_over: bool,
}

impl CsvRows {
    /// The table that `input` is, or what is wrong with its beginning.
    pub(super) fn open(input: Box<dyn Read>) -> Result<Self, String> {
        let mut text = Text::new(input);
        let start = text
            .peek()
            .map_err(|error| format!("cannot be read: {error}"))?;
        // Asked first: read as text, such a file has a fault in every line, and none of them says
        // what is wrong.
        if let Some(kind) = other_kind(start) {
            return Err(format!(
                "is no CSV but {kind}; save it as CSV (in a spreadsheet: \"CSV UTF-8\")"
            ));
        }
        let delimiter = delimiter_of(start);
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            // A row of another width is a fault with its line (`row`), and not the end of the table.
            .flexible(true)
            .delimiter(delimiter)
            .from_reader(text);
        let mut rows = Self {
            reader,
            record: ByteRecord::new(),
            header: Vec::new(),
            columns: None,
            is_over: false,
        };
        let Some(line) = rows.read().map_err(|fault| fault.problem)? else {
            return Err("is empty".to_owned());
        };
        let mut header = Vec::new();
        for at in 0..rows.record.len() {
            let name = std::str::from_utf8(&rows.record[at]).map_err(|_| {
                let shown = latin1(&rows.record[at]);
                format!(
                    "line {line}: the name of column {} is not UTF-8 but looks like ISO-8859-1 or \
                     Windows-1252 ({shown:?}); {ENCODING_CURE}",
                    at + 1
                )
            })?;
            // What pandas calls a column that has no name.
            let name = name.trim();
            let is_named = !name.starts_with("Unnamed: ");
            header.push(if is_named { name } else { "" }.to_owned());
        }
        // Columns of blanks at the right edge, which spreadsheets leave. Rows may be as wide, as
        // long as nothing stands there (`row`).
        while header.last().is_some_and(String::is_empty) {
            header.pop();
        }
        rows.header = header;
        Ok(rows)
    }

    /// Reads the next record that is not blank, and gives its line.
    fn read(&mut self) -> Result<Option<u64>, Fault> {
        loop {
            let byte = self.reader.position().byte();
            let has_more = self
                .reader
                .read_byte_record(&mut self.record)
                .map_err(|error| Fault::of_row(0, format!("cannot be read: {error}")))?;
            if !has_more {
                return Ok(None);
            }
            // Asked for after the record was read: only then have all lines up to it gone through
            // the text.
            let line = self.reader.get_mut().line_at(byte);
            let is_blank = |field: &[u8]| field.iter().all(u8::is_ascii_whitespace);
            if !self.record.iter().all(is_blank) {
                return Ok(Some(line));
            }
        }
    }

    fn row(&self, line: u64) -> Result<Row, Fault> {
        let (width, wanted) = (self.record.len(), self.header.len());
        let has_more = (wanted..width).any(|at| !self.record[at].trim_ascii().is_empty());
        if width < wanted || has_more {
            let problem = format!(
                "there are {width} columns, the header has {wanted}; put fields with commas in quotes"
            );
            return Err(Fault::of_row(line, problem));
        }
        let cell = |at: usize| match std::str::from_utf8(&self.record[at]) {
            Ok(text) => Ok(Cell::of_text(text)),
            Err(_) => Err(Fault {
                cure: Some(ENCODING_CURE),
                ..Fault::of_cell(
                    line,
                    &self.header[at],
                    format!(
                        "is not UTF-8 but looks like ISO-8859-1 or Windows-1252 ({:?})",
                        latin1(&self.record[at])
                    ),
                )
            }),
        };
        let cells: Result<_, _> = match &self.columns {
            None => (0..wanted).map(cell).collect(),
            Some(columns) => columns.iter().map(|at| cell(*at)).collect(),
        };
        Ok(Row {
            number: line,
            cells: cells?,
        })
    }
}

impl Iterator for CsvRows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        match self.read() {
            Ok(Some(line)) => Some(self.row(line)),
            Ok(None) => None,
            Err(fault) => {
                // What follows an error of the disk is nothing that was read.
                self.is_over = true;
                Some(Err(fault))
            }
        }
    }
}

/// What stands between fields: a comma wherever the header has one, else what spreadsheets of other
/// languages write.
fn delimiter_of(start: &[u8]) -> u8 {
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let header = start
        .split(is_end)
        .find(|line| !line.trim_ascii().is_empty())
        .unwrap_or_default();
    [b',', b';', b'\t']
        .into_iter()
        .find(|delimiter| header.contains(delimiter))
        .unwrap_or(b',')
}

/// What a file that is called a table is instead.
fn other_kind(start: &[u8]) -> Option<&'static str> {
    match start {
        [b'P', b'K', 3, 4, ..] => Some("a ZIP archive, as .xlsx and .ods files are"),
        [0xd0, 0xcf, 0x11, 0xe0, ..] => Some("an .xls file"),
        [b'P', b'A', b'R', b'1', ..] => {
            Some("Parquet (a list of type \"list\" may be, when it is called .parquet)")
        }
        [0x1f, 0x8b, ..] => Some("packed with gzip"),
        _ => None,
    }
}

/// The beginning of bytes as the text that they are in ISO-8859-1.
fn latin1(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(SHOWN_CHARS)
        .map(|byte| char::from(*byte))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn open(text: &[u8]) -> Result<CsvRows, String> {
        CsvRows::open(Box::new(Cursor::new(text.to_vec())))
    }

    fn shown(text: &[u8]) -> Vec<String> {
        let rows = open(text).unwrap();
        rows.map(|row| match row {
            Ok(row) => {
                let cells: Vec<String> = row.cells.iter().map(Cell::text).collect();
                format!("{}: {}", row.number, cells.join("/"))
            }
            Err(fault) => format!("{}: {:?} {}", fault.number, fault.column, fault.problem),
        })
        .collect()
    }

    #[test]
    fn blank_rows_and_columns_are_passed_over_and_lines_stay_those_of_the_file() {
        let text = b"\n,,\npath,labels,,Unnamed: 3\r\n\r\na.jpg,cat,,\r\n , ,\r\nb.jpg,\"dog\r\nlarge\"\r\nc.jpg,dog\r\n,,,,\r\n\r\n";
        assert_eq!(
            shown(text),
            ["5: a.jpg/cat", "7: b.jpg/dog\r\nlarge", "9: c.jpg/dog"]
        );
    }

    #[test]
    fn semicolons_and_tabs_are_read_where_the_header_has_no_comma() {
        assert_eq!(shown(b"path;labels\na.jpg;cat,dog\n"), ["2: a.jpg/cat,dog"]);
        assert_eq!(
            shown(b"path\tlabels\na.jpg\tcat;dog\n"),
            ["2: a.jpg/cat;dog"]
        );
        assert_eq!(shown(b"path,a;b\na.jpg,cat\n"), ["2: a.jpg/cat"]);
    }

    #[test]
    fn rows_that_do_not_fit_their_header_are_faults() {
        insta::assert_snapshot!(shown(b"a,b\n1\n2,3,4\n5,6,\n").join("\n"), @r"
        2: None there are 1 columns, the header has 2; put fields with commas in quotes
        3: None there are 3 columns, the header has 2; put fields with commas in quotes
        4: 5/6
        ");
    }

    #[test]
    fn another_encoding_or_format_is_named() {
        assert_eq!(
            shown(b"path,labels\nb.jpg,dog\na.jpg,caf\xe9\n")[1],
            "3: Some(\"labels\") is not UTF-8 but looks like ISO-8859-1 or Windows-1252 (\"caf\u{e9}\")"
        );
        for (bytes, word) in [
            (&b"PK\x03\x04rest"[..], "ZIP archive"),
            (b"PAR1....", "Parquet"),
            (b"path,caf\xe9\na.jpg,1\n", "ISO-8859-1"),
            (b"", "is empty"),
            (b"\n\n", "is empty"),
        ] {
            let problem = open(bytes).err().unwrap();
            assert!(problem.contains(word), "{problem}");
        }
    }
}
