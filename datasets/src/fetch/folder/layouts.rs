//! What a folder of pictures is laid out like, when it has no `labels.csv` of paths and labels: the way of
//! Kaggle's data sets (a table with a column of ids and either a column of labels or one column of 0 and 1
//! for each), or one folder a label.

use marquee_domain::spec::LabelRules;

use super::described::{Collector, Described, PictureRow};
use crate::fetch::find::{Index, is_picture};
use crate::fetch::table::columns::{LabelColumns, Question};
use crate::fetch::table::label_cell::RowLabels;
use crate::fetch::table::{Cell, Table};

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
const GROUP_COLUMN: &str = "group";

/// The tables at the top of a folder.
pub(super) fn tables_in(files: &[String]) -> Vec<&str> {
    let is_table =
        |name: &&String| !name.contains('/') && name.to_ascii_lowercase().ends_with(".csv");
    files.iter().filter(is_table).map(String::as_str).collect()
}

/// The table of a set in Kaggle's layout: `train.csv`, or the one table at the top.
pub(super) fn table_of(files: &[String]) -> Option<&str> {
    let tables = tables_in(files);
    let train = tables
        .iter()
        .find(|name| name.eq_ignore_ascii_case("train.csv"));
    match (train, tables.as_slice()) {
        (Some(train), _) => Some(train),
        // Of several tables none is taken by chance: that would be a guess about the labels.
        (None, [only]) => Some(only),
        (None, _) => None,
    }
}

/// The rows of a table in Kaggle's layout, with paths among `files`. A row whose picture is not
/// there keeps its id as its path, so that the books name it.
pub(super) fn rows_of_table(
    table: &Table,
    rules: &LabelRules,
    index: &Index<'_>,
    files: &[String],
) -> Result<Described, String> {
    let find = |names: &[&str]| names.iter().find_map(|name| table.find(name));
    let id = find(&ID_COLUMNS).ok_or_else(|| {
        format!(
            "{} has no column for the picture; its columns are {:?}; call one of them Id, or write a labels.csv \
             with the header path,labels",
            table.name,
            table.header.join(",")
        )
    })?;
    let group = table.find(GROUP_COLUMN);
    let taken: Vec<usize> = [Some(id), group].into_iter().flatten().collect();
    let columns = LabelColumns::of(
        table,
        &Question {
            taken: &taken,
            joined: find(&LABEL_COLUMNS),
            separators: &['|', ','],
            confirms: true,
            rules,
        },
    )?;
    let asked: Vec<usize> = taken.iter().chain(&columns.places).copied().collect();
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
        let said = columns.read(&row.cells[taken.len()..]);
        let group = group.map(|_| &row.cells[1]).filter(|cell| !cell.is_empty());
        let column = (table.header[id].as_str(), written.as_str());
        rows.push(
            row.number,
            column,
            index.of_id(&written),
            said,
            group.map(Cell::text),
        );
    }
    rows.finish(columns.known(), columns.remarks)
}

/// The rows of a set with one folder a label; empty if it is none.
pub(super) fn rows_of_folders(files: &[String]) -> Described {
    let mut described = Described::default();
    let (mut at_top, mut others) = (Vec::new(), Vec::new());
    for path in files {
        if !is_picture(path) {
            others.push(path);
            continue;
        }
        // The folder that it lies in: those above tell splits apart, or sets.
        let label = path
            .rsplit_once('/')
            .and_then(|(folder, _)| folder.rsplit('/').next());
        match label {
            Some(label) => described.rows.push(PictureRow {
                path: path.clone(),
                labels: RowLabels::Said(vec![label.to_owned()]),
                group: None,
                nearest: None,
            }),
            None => at_top.push(path),
        }
    }
    for (files, what) in [
        (at_top, "pictures that lie in no folder and have no label"),
        (others, "files that are no pictures by their names"),
    ] {
        if let Some(first) = files.first() {
            let note = format!("{what}: {}, such as {first:?}", files.len());
            described.remarks.notes.push(note);
        }
    }
    described.remarks.warnings.extend(tables_not_read(files));
    described
}

/// Labels by folder may be a guess where there are tables too.
fn tables_not_read(files: &[String]) -> Option<String> {
    let tables: Vec<String> = tables_in(files)
        .iter()
        .take(4)
        .map(|name| format!("{name:?}"))
        .collect();
    (!tables.is_empty()).then(|| {
        format!(
            "labels are the names of folders; tables at the top are not read: {}; call the one with the labels \
             train.csv or labels.csv",
            tables.join(", ")
        )
    })
}

/// What to do where labels are made of others.
pub(super) fn cure(separator: &str, is_by_folder: bool) -> String {
    if is_by_folder {
        "if such a picture has several labels, list them in labels.csv".to_owned()
    } else {
        format!("if {separator:?} joins labels, set separator = {separator:?} in the job's source")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn read(text: &str, files: &[String]) -> Result<Described, String> {
        let table = Table::of_bytes("x.csv", text.as_bytes().to_vec())?;
        rows_of_table(&table, &LabelRules::default(), &Index::of(files), files)
    }

    fn shown(described: &Described) -> Vec<String> {
        let row = |row: &PictureRow| match &row.labels {
            RowLabels::Said(labels) => format!("{} {}", row.path, labels.join("+")),
            RowLabels::Unsaid | RowLabels::Uncertain { .. } => format!("{} ?", row.path),
        };
        described.rows.iter().map(row).collect()
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
        let text = "Id,Genre,Action,Drama\ntt1,\"['Action', 'Drama']\",1,1\ntt2,Drama|War,0,1\ntt3,[],0,0\n";
        let rows = read(text, &files).unwrap();
        assert_eq!(
            shown(&rows),
            [
                "Images/tt1.jpg Action+Drama",
                "Images/tt2.PNG Drama+War",
                "tt3 "
            ]
        );
    }

    #[test]
    fn a_table_with_a_column_a_label_is_read() {
        let files = files(&["x.csv", "a.jpg", "b.jpg", "c.jpg"]);
        let text =
            "image_id,group,year,Action,Drama\na,g1,1999,1,0\nb.jpg,,2001,1,1\nc,g1,2002,0,0\n\n";
        let rows = read(text, &files).unwrap();
        assert_eq!(
            shown(&rows),
            ["a.jpg Action", "b.jpg Action+Drama", "c.jpg "]
        );
        assert_eq!(rows.known, ["Action", "Drama"]);
        assert_eq!(rows.rows[0].group.as_deref(), Some("g1"));
        assert!(rows.remarks.zeros_stated);
        insta::assert_snapshot!(read("a,b\n1,2\n", &files).unwrap_err(), @r#"x.csv has no column for the picture; its columns are "a,b"; call one of them Id, or write a labels.csv with the header path,labels"#);
        assert!(read("id,name\n1,x\n", &files).is_err());
    }

    #[test]
    fn an_id_that_fits_two_files_and_rows_that_contradict_are_refused_with_their_lines() {
        let files = files(&["x.csv", "images/000.jpg", "masks/000.png", "images/1.jpg"]);
        let text = "image,cat\n1,1\n000,1\n1.jpg,1\nimages/1,0\n";
        insta::assert_snapshot!(read(text, &files).unwrap_err(), @r#"
        x.csv cannot be used:
          line 3, column image: "000" fits 2 files: "images/000.jpg" and "masks/000.png"; write the one that is meant, with its folder and ending
          line 5, column image: "images/1" stands in line 2 already, with other labels or another group; write all labels of a picture in one row
        "#);
        let rows = read("image,cat\nimages/000,1\n1,0\n", &files).unwrap();
        assert_eq!(shown(&rows), ["images/000.jpg cat", "images/1.jpg "]);
    }

    #[test]
    fn folders_are_labels() {
        let described = rows_of_folders(&files(&[
            "train/cat/1.jpg",
            "train/dog/2.png",
            "readme.txt",
            "top.jpg",
            "a.csv",
            "b.csv",
        ]));
        assert_eq!(
            shown(&described),
            ["train/cat/1.jpg cat", "train/dog/2.png dog"]
        );
        insta::assert_snapshot!(described.remarks.notes.join("\n"), @r#"
        pictures that lie in no folder and have no label: 1, such as "top.jpg"
        files that are no pictures by their names: 3, such as "readme.txt"
        "#);
        insta::assert_snapshot!(described.remarks.warnings.join("\n"), @r#"labels are the names of folders; tables at the top are not read: "a.csv", "b.csv"; call the one with the labels train.csv or labels.csv"#);
    }
}
