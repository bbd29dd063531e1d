//! A dataset as a `.zip` of pictures and a table: for people, for other programs, and to be read
//! again as a source of type `folder`.

use std::collections::BTreeSet;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use chrono::Datelike;
use zip::CompressionMethod;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::dataset::{Dataset, DatasetError, Example};
use crate::sniff::format_of;

/// How the archive is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `labels.csv` (`path,labels,group`) and `images/`.
    Plain,
    /// `train.csv` (`Id`, `Genre`, one column of 0 and 1 for each label) and `Images/`.
    Kaggle,
}

/// Writes the dataset in `dataset` to the archive `out`, and gives the number of pictures.
pub fn to_zip(dataset: &Path, out: &Path, layout: Layout) -> Result<u64, DatasetError> {
    let dataset = Dataset::open(dataset)?;
    write(&dataset, out, layout).map_err(|source| DatasetError::Io {
        file: out.to_owned(),
        source,
    })
}

fn write(dataset: &Dataset, out: &Path, layout: Layout) -> io::Result<u64> {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let aside = out.with_file_name(name);
    let mut archive = ZipWriter::new(std::fs::File::create(&aside)?);
    // Pictures are packed already.
    let stored = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .large_file(false);
    let mut written = BTreeSet::new();
    // A label file names each picture by the path that it got here.
    let mut paths = Vec::with_capacity(dataset.examples().len());
    for example in dataset.examples() {
        let path = path_of(example, dataset, layout, &mut written);
        archive.start_file(&path, stored)?;
        archive.write_all(dataset.picture(&example.id).unwrap_or_default())?;
        paths.push(path);
    }
    let packed = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    let (table, text) = match layout {
        Layout::Plain => ("labels.csv", plain_table(dataset, &paths)?),
        Layout::Kaggle => ("train.csv", kaggle_table(dataset, &paths)?),
    };
    archive.start_file(table, packed)?;
    archive.write_all(&text)?;
    if let Some(terms) = terms_of(dataset) {
        archive.start_file("TERMS.txt", packed)?;
        archive.write_all(terms.as_bytes())?;
    }
    let mut file = archive.finish()?;
    file.seek(SeekFrom::Start(0))?;
    file.sync_all()?;
    std::fs::rename(&aside, out)?;
    Ok(paths.len() as u64)
}

/// A path for the example's picture that no other has, with the ending that its content asks for.
fn path_of(
    example: &Example,
    dataset: &Dataset,
    layout: Layout,
    written: &mut BTreeSet<String>,
) -> String {
    let folder = match layout {
        Layout::Plain => "images",
        Layout::Kaggle => "Images",
    };
    let ending =
        format_of(dataset.picture(&example.id).unwrap_or_default()).map_or("jpg", |format| {
            match format.as_str() {
                "jpeg" => "jpg",
                other => other,
            }
        });
    // What was exported before and fetched again has the folder in its id: it would lie in
    // images/images.
    let id = example.id.strip_prefix("images/").unwrap_or(&example.id);
    let stem = match id.rsplit_once('.') {
        Some((stem, end))
            if ["jpg", "jpeg", "png", "webp", "gif"]
                .contains(&end.to_ascii_lowercase().as_str()) =>
        {
            stem
        }
        _ => id,
    };
    let safe: String = stem
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') {
                c
            } else {
                '_'
            }
        })
        .collect();
    let mut path = format!("{folder}/{safe}.{ending}");
    let mut number = 1;
    // Without capitals: on many machines two names that differ in them alone are one file.
    while !written.insert(path.to_lowercase()) {
        number += 1;
        path = format!("{folder}/{safe}-{number}.{ending}");
    }
    path
}

fn plain_table(dataset: &Dataset, paths: &[String]) -> io::Result<Vec<u8>> {
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(["path", "labels", "group"])?;
    for (example, path) in dataset.examples().iter().zip(paths) {
        // An empty cell would say that nobody has looked.
        let labels = match example.labels.as_slice() {
            [] => "[]".to_owned(),
            labels => labels.join("|"),
        };
        table.write_record([path, &labels, example.group.as_deref().unwrap_or_default()])?;
    }
    table.into_inner().map_err(io::Error::other)
}

fn kaggle_table(dataset: &Dataset, paths: &[String]) -> io::Result<Vec<u8>> {
    let mut table = csv::Writer::from_writer(Vec::new());
    let mut header = vec!["Id", "Genre", "Title", "Year"];
    header.extend(dataset.labels().iter().map(String::as_str));
    table.write_record(&header)?;
    for (example, path) in dataset.examples().iter().zip(paths) {
        let quoted: Vec<_> = example
            .labels
            .iter()
            .map(|label| format!("'{label}'"))
            .collect();
        let year = example.release_date.map(|date| date.year().to_string());
        let mut record = vec![
            path.clone(),
            format!("[{}]", quoted.join(", ")),
            example.title.clone().unwrap_or_default(),
            year.unwrap_or_default(),
        ];
        let flag = |label: &String| u8::from(example.labels.contains(label)).to_string();
        record.extend(dataset.labels().iter().map(flag));
        table.write_record(&record)?;
    }
    table.into_inner().map_err(io::Error::other)
}

/// What whoever gets the archive has to know.
fn terms_of(dataset: &Dataset) -> Option<String> {
    let source = &dataset.books().summary.source;
    let mut lines = vec![format!("Source: {}", source.name)];
    lines.extend(
        source
            .licence
            .iter()
            .map(|licence| format!("Licence: {licence}")),
    );
    lines.extend(source.attribution.clone());
    lines.extend(
        source
            .use_until
            .iter()
            .map(|day| format!("To be used until {day} alone.")),
    );
    if source.synthetic {
        lines.push("These pictures are synthetic.".to_owned());
    }
    (lines.len() > 1).then(|| lines.join("\n") + "\n")
}
