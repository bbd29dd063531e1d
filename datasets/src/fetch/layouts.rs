//! What a folder of pictures is laid out like, when it has no `labels.csv`: the way of Kaggle's data
//! sets (a table with a column of ids and either a column of labels or one column of 0 and 1 for
//! each), or one folder a label.

use std::collections::{BTreeMap, BTreeSet};

use super::labels_csv::LabelsRow;

/// Names of the column that says which picture a row is about, in order of preference.
const ID_COLUMNS: [&str; 9] = [
    "path",
    "filename",
    "file_name",
    "image_path",
    "image",
    "image_id",
    "img_id",
    "id",
    "imdbid",
];
/// Names of the column that holds the labels.
const LABEL_COLUMNS: [&str; 7] = [
    "labels", "label", "genres", "genre", "tags", "class", "category",
];
/// Endings of the names of pictures.
const ENDINGS: [&str; 4] = [".jpg", ".jpeg", ".png", ".webp"];
/// Rows that a column of flags is told by.
const FLAGS_SEEN: usize = 1_000;

/// The table of a set in Kaggle's layout: `train.csv`, or the one table at the top.
pub(super) fn table_of(files: &[String]) -> Option<&str> {
    let tables: Vec<&String> = files
        .iter()
        .filter(|name| !name.contains('/') && name.to_ascii_lowercase().ends_with(".csv"))
        .collect();
    let train = tables
        .iter()
        .find(|name| name.eq_ignore_ascii_case("train.csv"));
    match (train, tables.as_slice()) {
        (Some(train), _) => Some(train),
        (None, [only]) => Some(only),
        (None, _) => None,
    }
}

/// The rows of a table in Kaggle's layout, with paths among `files`. A row whose picture is not
/// there keeps its id as its path, so that the books name it.
pub(super) fn rows_of_table(
    name: &str,
    text: &[u8],
    files: &[String],
) -> Result<Vec<LabelsRow>, String> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text);
    let fault = |error: csv::Error| format!("{name} cannot be used: {error}");
    let header: Vec<String> = reader
        .headers()
        .map_err(fault)?
        .iter()
        .map(|column| column.trim().to_owned())
        .collect();
    let records: Vec<csv::StringRecord> =
        reader.records().collect::<Result<_, _>>().map_err(fault)?;
    let find = |names: &[&str]| {
        names.iter().find_map(|name| {
            header
                .iter()
                .position(|column| column.eq_ignore_ascii_case(name))
        })
    };
    let id = find(&ID_COLUMNS).ok_or_else(|| {
        format!("{name} has no column for the picture; call one of its columns Id")
    })?;
    let labels = find(&LABEL_COLUMNS);
    let flags: Vec<usize> = match labels {
        Some(_) => Vec::new(),
        None => (0..header.len())
            .filter(|column| *column != id && is_flags(&records, *column))
            .collect(),
    };
    if labels.is_none() && flags.is_empty() {
        return Err(format!(
            "{name} has neither a column Genre nor columns of 0 and 1, one a label"
        ));
    }
    let pictures = Pictures::of(files);
    let mut seen = BTreeSet::new();
    let mut rows = Vec::new();
    for record in &records {
        let field = |column: usize| record.get(column).unwrap_or_default().trim();
        let path = pictures.find(field(id));
        if !seen.insert(path.clone()) {
            return Err(format!("{name} has {:?} twice", field(id)));
        }
        let labels = match labels {
            Some(column) => texts_of(field(column)),
            None => flags
                .iter()
                .filter(|column| is_set(field(**column)))
                .map(|column| header[*column].clone())
                .collect(),
        };
        rows.push(LabelsRow {
            path,
            labels,
            group: None,
        });
    }
    Ok(rows)
}

/// The rows of a set with one folder a label; empty if it is none.
pub(super) fn rows_of_folders(files: &[String]) -> Vec<LabelsRow> {
    files
        .iter()
        .filter(|name| is_picture(name))
        .filter_map(|path| {
            let (folder, _) = path.rsplit_once('/')?;
            let label = folder.rsplit('/').next()?;
            Some(LabelsRow {
                path: path.clone(),
                labels: vec![label.to_owned()],
                group: None,
            })
        })
        .collect()
}

fn is_picture(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn is_flags(records: &[csv::StringRecord], column: usize) -> bool {
    let mut seen = records
        .iter()
        .take(FLAGS_SEEN)
        .filter_map(|record| record.get(column));
    !records.is_empty() && seen.all(|text| matches!(text.trim(), "0" | "1" | "0.0" | "1.0"))
}

fn is_set(text: &str) -> bool {
    matches!(text, "1" | "1.0")
}

/// `['Action', 'Drama']`, `Action|Drama` and `Action, Drama` are the same labels.
fn texts_of(text: &str) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for label in text.trim_matches(['[', ']']).split(['|', ',']) {
        let label = label.trim().trim_matches(['\'', '"']).trim();
        if !label.is_empty() && !labels.iter().any(|known| known == label) {
            labels.push(label.to_owned());
        }
    }
    labels
}

/// Pictures by path and by name without folder and ending.
struct Pictures<'a> {
    paths: BTreeSet<&'a str>,
    by_stem: BTreeMap<&'a str, &'a str>,
}

impl<'a> Pictures<'a> {
    fn of(files: &'a [String]) -> Self {
        let pictures = || {
            files
                .iter()
                .map(String::as_str)
                .filter(|name| is_picture(name))
        };
        let stem = |path: &'a str| {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.rsplit_once('.').map_or(name, |(stem, _)| stem)
        };
        Self {
            paths: pictures().collect(),
            by_stem: pictures().map(|path| (stem(path), path)).collect(),
        }
    }

    fn find(&self, id: &str) -> String {
        let path = id.trim_start_matches("./");
        if self.paths.contains(path) {
            return path.to_owned();
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        let stem = if is_picture(name) {
            name.rsplit_once('.').map_or(name, |(stem, _)| stem)
        } else {
            name
        };
        self.by_stem
            .get(stem)
            .map_or_else(|| path.to_owned(), |path| (*path).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_table_with_a_column_of_labels_is_read() {
        let files = files(&[
            "train.csv",
            "sample.csv",
            "Images/tt1.jpg",
            "Images/tt2.PNG",
        ]);
        assert_eq!(table_of(&files), Some("train.csv"));
        let text = b"Id,Genre,Action,Drama\ntt1,\"['Action', 'Drama']\",1,1\ntt2,Drama|War,0,1\ntt3,[],0,0\n";
        let rows = rows_of_table("train.csv", text, &files).unwrap();
        let shown: Vec<_> = rows
            .iter()
            .map(|row| format!("{} {}", row.path, row.labels.join("+")))
            .collect();
        assert_eq!(
            shown,
            [
                "Images/tt1.jpg Action+Drama",
                "Images/tt2.PNG Drama+War",
                "tt3 "
            ]
        );
    }

    #[test]
    fn a_table_with_a_column_a_label_is_read() {
        let files = files(&["x.csv", "a.jpg", "b.jpg"]);
        let text = b"image_id,year,Action,Drama\na,1999,1,0\nb.jpg,2001,1,1\n";
        let rows = rows_of_table("x.csv", text, &files).unwrap();
        assert_eq!(rows[0].labels, ["Action"]);
        assert_eq!((rows[1].path.as_str(), rows[1].labels.len()), ("b.jpg", 2));
        assert!(rows_of_table("x.csv", b"a,b\n1,2\n", &files).is_err());
        assert!(rows_of_table("x.csv", b"id,name\n1,x\n", &files).is_err());
    }

    #[test]
    fn folders_are_labels() {
        let rows = rows_of_folders(&files(&[
            "train/cat/1.jpg",
            "train/dog/2.png",
            "readme.txt",
            "top.jpg",
        ]));
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1].labels, ["dog"]);
    }
}
