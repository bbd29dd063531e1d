//! Tables and archives of whatever bytes, for the fuzzer.

use std::collections::BTreeSet;
use std::io::{Cursor, Write};

use marquee_domain::spec::LabelRules;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::{Described, Store, described, picture_of, read_table};
use crate::fetch::any::{in_memory, words};
use crate::fetch::find::Index;
use crate::fetch::table::Table;
use crate::fetch::table::label_cell::RowLabels;

/// Reads whatever bytes as the table of a folder, and says what became of it.
#[must_use]
pub fn read_any_table(bytes: &[u8]) -> String {
    let files = ["img/a.jpg", "img/b.png", "c.webp"].map(str::to_owned);
    let index = Index::of(&files);
    let table = Table::of_bytes("t.csv", bytes.to_vec());
    match table.and_then(|table| read_table(&table, &LabelRules::default(), &index, &files)) {
        Ok(described) => shown(&described),
        Err(problem) => words(&problem),
    }
}

/// Reads whatever bytes as a `.zip` of pictures.
#[must_use]
pub fn read_any_archive(bytes: &[u8]) -> String {
    in_memory(bytes, |path| {
        let mut store = Store::open(path)?;
        let described = described(&mut store, path, &LabelRules::default())?;
        let mut classes = BTreeSet::new();
        for row in &described.rows {
            classes.insert(match picture_of(&mut store, row)? {
                Ok(_) => "fetched".to_owned(),
                Err(miss) => miss.class(),
            });
        }
        Ok(format!("{} {classes:?}", shown(&described)))
    })
}

/// What is said, without what would be another verdict for each input.
fn shown(described: &Described) -> String {
    let kinds: BTreeSet<&str> = described
        .rows
        .iter()
        .map(|row| match &row.labels {
            RowLabels::Said(labels) if labels.is_empty() => "none",
            RowLabels::Said(_) => "said",
            RowLabels::Unsaid => "unsaid",
            RowLabels::Uncertain { .. } => "uncertain",
        })
        .collect();
    let remarks = &described.remarks;
    format!(
        "{kinds:?} {} {} {}",
        remarks.zeros_stated,
        remarks.notes.len(),
        remarks.warnings.len()
    )
}

/// Tables that are right, in every way that they are written.
#[must_use]
pub fn table_samples() -> Vec<Vec<u8>> {
    let texts = [
        "path,labels,group\nimg/a.jpg,cat|dog,g1\nimg/b.png,[],\n\"c.webp\",'cat',\n",
        "Id;cat;dog;note\r\na;1;0;x\r\nb;True;;y\r\n;;;\r\n",
        "image\tgenre\tAction\tDrama\na\t['Action', 'Drama']\t1\t1\nb\t\t0\t0\n",
        "image,labels\na,scab\nb,\"rust scab\"\nc,rust\na,scab\n",
        "id,edema\na,-1\nb,0\n",
    ];
    let utf16 = texts.iter().map(|text| {
        let units = [0xfeff].into_iter().chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect()
    });
    let plain = texts.iter().map(|text| text.as_bytes().to_vec());
    plain.chain(utf16).collect()
}

/// Archives that are right.
#[must_use]
pub fn archive_samples() -> Vec<Vec<u8>> {
    let sets: [&[(&str, &[u8])]; 2] = [
        &[
            ("labels.csv", b"path,labels\nimg\\a.jpg,cat\nb.jpg,dog\n"),
            ("img/a.jpg", b"\xff\xd8\xff\xe0 one"),
            ("b.jpg", b"\xff\xd8\xff\xe0 two"),
        ],
        &[
            ("cat/a.jpg", b"\xff\xd8\xff\xe0 one"),
            ("dog/.hidden/b.jpg", b"\xff\xd8\xff\xe0 two"),
        ],
    ];
    let methods = [CompressionMethod::Stored, CompressionMethod::Deflated];
    let all = sets
        .iter()
        .flat_map(|files| methods.map(|method| (files, method)));
    let packed = all.map(|(files, method)| {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in *files {
            let options = SimpleFileOptions::default().compression_method(method);
            archive.start_file(*name, options).ok()?;
            archive.write_all(bytes).ok()?;
        }
        Some(archive.finish().ok()?.into_inner())
    });
    packed.flatten().collect()
}
