//! A user's own pictures: a folder or a `.zip` of one, with `labels.csv`, in Kaggle's layout, or with
//! one folder a label.
//!
//! Not here: a journal. The files are on this machine, and reading them again is cheap.

use std::path::Path;

use marquee_domain::artifact::Digest;
use marquee_domain::report::{FetchSummary, SourceNote};
use marquee_domain::spec::{FetchSettings, LabelRules};

use self::described::{Described, PictureRow};
use self::store::Store;
use super::PICTURE_MAX_BYTES;
use super::books::Books;
use super::files::name_of;
use super::find::Index;
use super::labels::Labels;
use super::miss::{Miss, MissClass};
use super::place::Workplace;
use super::table::Table;
use super::table::joined::LabelCounts;
use super::table::label_cell::RowLabels;
use super::terms;
use crate::dataset::{DatasetWriter, Example};
use crate::job::{Context, FETCHED, JobError, Step};
use crate::sniff::format_of;

mod any;
mod archive;
mod described;
mod labels_csv;
mod layouts;
mod litter;
mod store;
mod tree;

pub use self::any::{archive_samples, read_any_archive, read_any_table, table_samples};

const LABELS_NAME: &str = "labels.csv";
/// Bytes of a folder's table, at most: room for several million pictures.
const TABLE_MAX_BYTES: usize = 512 * 1024 * 1024;

pub(super) fn run(
    fetch: &FetchSettings,
    path: &Path,
    rules: &LabelRules,
    place: &Workplace<'_>,
    context: &Context,
) -> Result<FetchSummary, JobError> {
    let mut store = Store::open(path)?;
    let described = described(&mut store, path, rules)?;
    if described.rows.is_empty() {
        return Err(JobError::bad_input(format!(
            "{} names no picture; write one line a picture below the header path,labels",
            path.display()
        )));
    }
    let total = described.rows.len() as u64;
    let mut books = Books::open(total, 0);
    books.remarks = described.remarks;
    store.remark(&mut books.remarks);
    let mut writer = DatasetWriter::create(place.output)?;
    let known: Vec<_> = described
        .known
        .into_iter()
        .map(|name| (None, name))
        .collect();
    let mut labels = Labels::new(&known);
    let name = name_of(path);
    for (done, row) in described.rows.into_iter().enumerate() {
        // Without a checkpoint: the next attempt reads the files again, which is cheap.
        if context.stop.is_told() {
            return Err(JobError::Stopped);
        }
        match picture_of(&mut store, &row)? {
            Ok((picture, said)) => {
                for label in &said {
                    // Labels that the table does not list by itself come in the order in which
                    // pictures have them.
                    labels.name_of(&(None, label.clone()));
                }
                books.fetched(picture.len(), false);
                books.labelled(&said);
                writer.settled(&row.path, FETCHED, None)?;
                writer.push(example_of(row, said, &picture, fetch, &name), picture)?;
            }
            Err(miss) => {
                let class = miss.class();
                writer.settled(&row.path, miss.outcome(), Some((&class, miss.detail())))?;
                books.missed(&row.path, &miss);
            }
        }
        context.reporter.step(Step {
            phase: "pictures",
            unit: "pictures",
            done: done as u64 + 1,
            total,
            bytes: books.bytes(),
            counts: books.misses(),
        });
    }
    let today = (context.clock)().date_naive();
    let note = SourceNote {
        name,
        licence: fetch.licence.clone(),
        use_until: terms::use_until(fetch, false, today),
        ..SourceNote::default()
    };
    let seconds = place.started.elapsed().as_secs_f64();
    let books = books.close(seconds, note, &today.to_string())?;
    writer.finish(&labels.names, &books)?;
    Ok(books.summary)
}

/// What the folder says about its pictures, in whichever layout it has.
fn described(store: &mut Store, path: &Path, rules: &LabelRules) -> Result<Described, JobError> {
    let name = path.join(LABELS_NAME).display().to_string();
    let names = std::mem::take(&mut store.names);
    let table = match names.iter().find(|file| *file == LABELS_NAME) {
        Some(table) => Some(table.as_str()),
        None => {
            // One that lies deeper is meant for its own folder, not to be passed over.
            if let Some(folder) = names
                .iter()
                .find_map(|file| file.strip_suffix(LABELS_NAME)?.strip_suffix('/'))
            {
                return Err(JobError::bad_input(format!(
                    "there is no {name}, but one in its folder {folder}; move it to the top, or give that \
                     folder as path"
                )));
            }
            layouts::table_of(&names)
        }
    };
    let Some(table) = table else {
        let described = layouts::rows_of_folders(&names);
        if described.rows.is_empty() {
            return Err(JobError::bad_input(format!(
                "there is no {name}; a folder of pictures needs one, with the header path,labels (or a table \
                 as Kaggle's sets have it, or one folder a label)"
            )));
        }
        return Ok(with_joined(described, true));
    };
    let shown = path.join(table).display().to_string();
    let text = store.read(table, TABLE_MAX_BYTES)?.map_err(|miss| {
        JobError::bad_input(format!("{shown} cannot be read: {}", miss.detail()))
    })?;
    let index = Index::of(&names);
    let described =
        Table::of_bytes(&shown, text).and_then(|table| read_table(&table, rules, &index, &names));
    Ok(with_joined(described.map_err(JobError::bad_input)?, false))
}

/// The rows of a table of pictures among `files`, or what is wrong with it.
fn read_table(
    table: &Table,
    rules: &LabelRules,
    index: &Index<'_>,
    files: &[String],
) -> Result<Described, String> {
    if labels_csv::is_one(table) {
        labels_csv::rows(table, rules, index, files)
    } else {
        layouts::rows_of_table(table, rules, index, files)
    }
}

/// Adds the warning of labels that are made of others.
fn with_joined(mut described: Described, is_by_folder: bool) -> Described {
    let mut counts = LabelCounts::default();
    for row in &described.rows {
        if let RowLabels::Said(labels) = &row.labels {
            labels.iter().for_each(|label| counts.add(label));
        }
    }
    let warning = counts.warning(|separator| layouts::cure(separator, is_by_folder));
    described.remarks.warnings.extend(warning);
    described
}

/// A picture's file and its labels.
type Labelled = (Vec<u8>, Vec<String>);

/// The picture of a row with its labels, or why there is none; or the end of the job.
fn picture_of(store: &mut Store, row: &PictureRow) -> Result<Result<Labelled, Miss>, JobError> {
    let labels = match &row.labels {
        RowLabels::Said(labels) => labels.clone(),
        RowLabels::Unsaid => {
            let detail = "its labels are empty";
            return Ok(Err(Miss::rejected(MissClass::NoLabels, detail)));
        }
        RowLabels::Uncertain { column } => {
            let detail = format!("its column {column:?} is -1");
            return Ok(Err(Miss::rejected(MissClass::Uncertain, detail)));
        }
    };
    let bytes = match store.read(&row.path, PICTURE_MAX_BYTES)? {
        Ok(bytes) => bytes,
        Err(Miss::Gone { detail }) => {
            let nearest = row.nearest.as_ref();
            let nearest = nearest.map(|path| format!("; the nearest is {path:?}"));
            let detail = detail + &nearest.unwrap_or_default();
            return Ok(Err(Miss::Gone { detail }));
        }
        Err(miss @ (Miss::Rejected { .. } | Miss::Failed { .. })) => return Ok(Err(miss)),
    };
    // By its bytes: an ending only says what a file is called.
    if format_of(&bytes).is_none() {
        let detail = crate::sniff::NO_PICTURE;
        return Ok(Err(Miss::rejected(MissClass::UnknownFormat, detail)));
    }
    Ok(Ok((bytes, labels)))
}

fn example_of(
    row: PictureRow,
    labels: Vec<String>,
    picture: &[u8],
    fetch: &FetchSettings,
    source: &str,
) -> Example {
    Example {
        id: row.path,
        labels,
        label_ids: Vec::new(),
        group: row.group,
        title: None,
        release_date: None,
        popularity: None,
        language: None,
        picture_bytes: picture.len() as u64,
        picture_digest: Digest::of(picture),
        picture_etag: None,
        picture_modified: None,
        details_etag: None,
        licence: fetch.licence.clone(),
        source: source.to_owned(),
    }
}
