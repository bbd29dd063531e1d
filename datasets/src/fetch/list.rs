//! Pictures from a list: CSV or Parquet with the columns `id`, `url`, `labels` and optionally
//! `group`. What stands in `url` is a URL, or a path below the list's own folder.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use marquee_domain::artifact::Digest;
use marquee_domain::rate::HOSTS_MAX;
use marquee_domain::report::{FetchSummary, SourceNote};
use marquee_domain::spec::{ArrayElement, FetchSettings, Source};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use reqwest::Url;
use sha2::{Digest as _, Sha256};

use super::PICTURE_MAX_BYTES;
use super::engine::{Engine, Fetched, Outcome, Place, Settled, on_disk};
use super::folder::read_up_to;
use super::http::{Answer, Body, Manners, NoAnswer, PoliteClient, Validators, service_of};
use super::labels_csv;
use super::plan::{self, Entry, Plan, PlanWriter};
use super::terms;
use crate::dice::Dice;
use crate::job::{Context, JobError};
use crate::sniff::format_of;

pub(super) async fn run(
    fetch: &FetchSettings,
    place: &Place<'_>,
    seed: u64,
    context: &Context,
) -> Result<FetchSummary, JobError> {
    let Source::List {
        path,
        requests_per_second,
        concurrency,
        request_timeout_s,
        request_attempts,
        outage_s,
    } = &fetch.source
    else {
        return Err(JobError::crash("the source is no list"));
    };
    let manners = Manners {
        requests_per_second: *requests_per_second,
        concurrency: *concurrency,
        timeout: Duration::from_secs(u64::from(*request_timeout_s)),
        attempts: *request_attempts,
        outage: Duration::from_secs(u64::from(*outage_s)),
    };
    let manners = place.manners(manners);
    let list = PathBuf::from(path);
    let jitter = Dice::keyed(&[seed]);
    let client = PoliteClient::new(manners, None, false, jitter, context.clock, place.shares)?;
    let fingerprint = fingerprint(fetch, &list)?;
    let dir = place.journal_dir(&fingerprint)?;
    let plan = match plan::read(&dir) {
        Some(plan) => plan,
        None => tokio::task::block_in_place(|| {
            make_plan(fetch, &list, &dir, fingerprint, place.element, context)
        })?,
    };
    let asker = Asker {
        client,
        folder: list.parent().unwrap_or(Path::new("")).to_owned(),
        place,
    };
    let asker = &asker;
    if place.shares.is_some() {
        let urls = urls_of(&dir).map_err(|error| on_disk(&dir, &error))?;
        asker.client.declare(urls);
    }
    Engine::open(dir, plan, place, context)?
        .run(*concurrency, |entry| asker.settle(entry))
        .await
}

/// Of the list's bytes and of what is kept, not of how fast.
fn fingerprint(fetch: &FetchSettings, list: &Path) -> Result<Digest, JobError> {
    let unreadable = |error: io::Error| {
        JobError::user(format!(
            "{} cannot be opened on this worker: {error}",
            list.display()
        ))
    };
    let mut hash = Sha256::new();
    let mut file = File::open(list).map_err(unreadable)?;
    let mut sink = Hashing(&mut hash);
    io::copy(&mut file, &mut sink).map_err(unreadable)?;
    hash.update(fetch.licence.as_deref().unwrap_or_default());
    Ok(Digest::from_hash(&hash.finalize()))
}

/// One URL of each of the first hosts of the plan in `dir`.
fn urls_of(dir: &Path) -> io::Result<Vec<Url>> {
    let mut urls = BTreeMap::new();
    for entry in plan::entries(dir)? {
        let Entry::Place { place, .. } = entry? else {
            continue;
        };
        if let Ok(url) = Url::parse(&place)
            && urls.len() <= HOSTS_MAX
        {
            urls.entry(service_of(&url)).or_insert(url);
        }
    }
    Ok(urls.into_values().collect())
}

struct Hashing<'a>(&'a mut Sha256);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn make_plan(
    fetch: &FetchSettings,
    list: &Path,
    dir: &Path,
    fingerprint: Digest,
    element: Option<ArrayElement>,
    context: &Context,
) -> Result<Plan, JobError> {
    let mut writer = PlanWriter::create(dir, element).map_err(|error| on_disk(dir, &error))?;
    let mut seen = HashSet::new();
    let mut push = |row: Row| {
        // Half a hash is enough to tell some million ids apart, and takes a fixed room.
        let hash: [u8; 16] = Sha256::digest(row.id.as_bytes())[..16]
            .try_into()
            .unwrap_or_default();
        let rejected = |class: &str, detail: &str| Entry::Rejected {
            id: row.id.clone(),
            class: class.to_owned(),
            detail: detail.to_owned(),
        };
        let entry = if !seen.insert(hash) {
            rejected("duplicate_id", "the list has it twice")
        } else if row.labels.is_empty() {
            rejected("no_labels", "its labels are empty")
        } else if row.place.is_empty() {
            rejected("no_url", "its url is empty")
        } else {
            Entry::Place {
                id: row.id,
                place: row.place,
                labels: row.labels,
                group: row.group,
            }
        };
        writer.push(&entry).map_err(|error| on_disk(dir, &error))
    };
    let is_parquet = list
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"));
    if is_parquet {
        read_parquet(list, &mut push)?;
    } else {
        read_csv(list, &mut push)?;
    }
    if writer.listed() == 0 {
        return Err(JobError::bad_input(format!(
            "{} names no picture; write one line a picture below the header id,url,labels",
            list.display()
        )));
    }
    let today = (context.clock)().date_naive();
    let plan = Plan {
        fingerprint,
        entries: writer.entries(),
        labels: Vec::new(),
        note: SourceNote {
            name: name_of(list),
            licence: fetch.licence.clone(),
            use_until: terms::use_until(fetch, false, today),
            ..SourceNote::default()
        },
        pictures: None,
        listed_on: today.to_string(),
    };
    writer.finish(&plan).map_err(|error| on_disk(dir, &error))?;
    Ok(plan)
}

/// A file's or folder's name without its extension.
pub(super) fn name_of(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// A row of the list.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    id: String,
    place: String,
    labels: Vec<String>,
    group: Option<String>,
}

fn read_csv(
    list: &Path,
    push: &mut impl FnMut(Row) -> Result<(), JobError>,
) -> Result<(), JobError> {
    let shown = list.display();
    let file = File::open(list)
        .map_err(|error| JobError::user(format!("{shown} cannot be opened: {error}")))?;
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file);
    let wrong =
        |line: u64, problem: &str| JobError::bad_input(format!("{shown} line {line}: {problem}"));
    let header = reader
        .headers()
        .map_err(|error| wrong(1, &error.to_string()))?
        .clone();
    // Spreadsheets like to put a byte order mark in front.
    let names: Vec<&str> = header
        .iter()
        .map(|name| name.trim_start_matches('\u{feff}').trim())
        .collect();
    let place = |name: &str| names.iter().position(|known| *known == name);
    let (Some(id), Some(url), Some(labels)) = (place("id"), place("url"), place("labels")) else {
        return Err(wrong(
            1,
            &format!(
                "its columns are {:?}; write id,url,labels or id,url,labels,group",
                names.join(",")
            ),
        ));
    };
    let group = place("group");
    for record in reader.records() {
        let record = record.map_err(|error| {
            let line = error.position().map_or(0, csv::Position::line);
            wrong(line, "it is not valid UTF-8; save the file as UTF-8")
        })?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |at: usize| record.get(at).map(str::trim).unwrap_or_default();
        if record.len() != names.len() {
            let problem = format!(
                "it has {} fields and the header has {}; put fields with commas in quotes",
                record.len(),
                names.len()
            );
            return Err(wrong(line, &problem));
        }
        if field(id).is_empty() {
            return Err(wrong(line, "column id is empty"));
        }
        push(Row {
            id: field(id).to_owned(),
            place: field(url).to_owned(),
            labels: labels_csv::split(field(labels)),
            group: group
                .map(|at| field(at).to_owned())
                .filter(|group| !group.is_empty()),
        })?;
    }
    Ok(())
}

fn read_parquet(
    list: &Path,
    push: &mut impl FnMut(Row) -> Result<(), JobError>,
) -> Result<(), JobError> {
    let shown = list.display();
    let wrong = |problem: String| JobError::bad_input(format!("{shown}: {problem}"));
    let file = File::open(list)
        .map_err(|error| JobError::user(format!("{shown} cannot be opened: {error}")))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.with_batch_size(1_024).build())
        .map_err(|error| wrong(error.to_string()))?;
    for batch in reader {
        let batch = batch.map_err(|error| wrong(error.to_string()))?;
        let column = |name: &str| {
            batch.column_by_name(name).ok_or_else(|| {
                wrong(format!(
                    "it has no column {name}; it needs id, url and labels"
                ))
            })
        };
        let (ids, places, labels) = (column("id")?, column("url")?, column("labels")?);
        let groups = batch.column_by_name("group");
        for row in 0..batch.num_rows() {
            let text = |column: &dyn Array, name: &str| {
                text_at(column, row)
                    .map_err(|kind| wrong(format!("column {name} is of type {kind}; make it text")))
            };
            let Some(id) = text(ids, "id")? else {
                return Err(wrong("an id is null".to_owned()));
            };
            push(Row {
                id,
                place: text(places, "url")?.unwrap_or_default(),
                labels: labels_at(labels, row).map_err(|kind| {
                    wrong(format!(
                        "column labels is of type {kind}; make it a list of texts, or texts joined by |"
                    ))
                })?,
                group: groups
                    .map(|groups| text(groups, "group"))
                    .transpose()?
                    .flatten(),
            })?;
        }
        drop::<RecordBatch>(batch);
    }
    Ok(())
}

/// A cell as text, None where it is null, or the name of a type that is no text or number.
fn text_at(column: &dyn Array, row: usize) -> Result<Option<String>, String> {
    if column.is_null(row) {
        return Ok(None);
    }
    // The types of another crate are many, and new ones are as unreadable as the old.
    let kind = column.data_type();
    let text = if kind == &DataType::Utf8 {
        column.as_string::<i32>().value(row).to_owned()
    } else if kind == &DataType::LargeUtf8 {
        column.as_string::<i64>().value(row).to_owned()
    } else if kind == &DataType::Utf8View {
        column.as_string_view().value(row).to_owned()
    } else if kind == &DataType::Int64 {
        column.as_primitive::<Int64Type>().value(row).to_string()
    } else if kind == &DataType::Int32 {
        column.as_primitive::<Int32Type>().value(row).to_string()
    } else {
        return Err(kind.to_string());
    };
    Ok(Some(text))
}

fn labels_at(column: &dyn Array, row: usize) -> Result<Vec<String>, String> {
    if column.is_null(row) {
        return Ok(Vec::new());
    }
    let values = if let Some(lists) = column.as_list_opt::<i32>() {
        lists.value(row)
    } else if let Some(lists) = column.as_list_opt::<i64>() {
        lists.value(row)
    } else {
        let text = text_at(column, row)?.unwrap_or_default();
        return Ok(labels_csv::split(&text));
    };
    let texts: Result<Vec<_>, _> = (0..values.len()).map(|at| text_at(&values, at)).collect();
    Ok(texts?
        .into_iter()
        .flatten()
        .filter(|label| !label.is_empty())
        .collect())
}

/// Gets the pictures of a list.
struct Asker<'a> {
    client: PoliteClient,
    folder: PathBuf,
    place: &'a Place<'a>,
}

impl Asker<'_> {
    async fn settle(&self, entry: Entry) -> Settled {
        let (outcome, body) = match entry {
            Entry::Place {
                id,
                place,
                labels,
                group,
            } => self
                .picture(&id, &place, labels, group)
                .await
                .unwrap_or_else(|outcome| (outcome, Body::default())),
            Entry::Film(_) | Entry::Kept(_) | Entry::Rejected { .. } => {
                return Settled::Over(JobError::crash("a list's plan has pictures alone"));
            }
        };
        Settled::As(outcome, body)
    }

    async fn picture(
        &self,
        id: &str,
        place: &str,
        labels: Vec<String>,
        group: Option<String>,
    ) -> Result<(Outcome, Body), Outcome> {
        let row = self.place.earlier(id);
        let known = row.map_or_else(Validators::default, |row| Validators {
            etag: row.picture_etag.clone(),
            last_modified: row.picture_modified.clone(),
        });
        let (body, picture, digest) = if is_url(place) {
            match self.fetch_url(place, &known).await? {
                Answer::New { value, validators } => {
                    let digest = Digest::of(&value.bytes);
                    (Some(value), validators, digest)
                }
                Answer::Unchanged => {
                    let digest = row.map(|row| row.picture_digest.clone());
                    (None, known, digest.unwrap_or_else(|| Digest::of(b"")))
                }
            }
        } else {
            let bytes = self.read_file(place)?;
            let digest = Digest::of(&bytes);
            (Some(Body::of(bytes)), Validators::default(), digest)
        };
        if let Some(body) = body
            .as_ref()
            .filter(|body| format_of(&body.bytes).is_none())
        {
            let class = if body.bytes.is_empty() {
                "empty"
            } else {
                "unknown_format"
            };
            return Err(rejected(class, "it is no JPEG, PNG or WebP"));
        }
        let film = Fetched {
            labels: labels.into_iter().map(|name| (None, name)).collect(),
            group,
            title: None,
            release_date: None,
            popularity: None,
            language: None,
            digest,
            details: Validators::default(),
            picture,
            earlier: body.is_none(),
        };
        Ok((Outcome::Fetched(Box::new(film)), body.unwrap_or_default()))
    }

    async fn fetch_url(&self, place: &str, known: &Validators) -> Result<Answer<Body>, Outcome> {
        let url = Url::parse(place).map_err(|error| rejected("odd_url", &error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(rejected("odd_url", "it holds a user name or password"));
        }
        let answer = self.client.image(url, PICTURE_MAX_BYTES, known).await;
        answer.map_err(|answer| match answer {
            NoAnswer::Gone { detail } => Outcome::Gone { detail },
            NoAnswer::Unauthorized { detail } => rejected("refused", &detail),
            NoAnswer::Failed { class, detail } if class == "http_403" => {
                rejected("refused", &detail)
            }
            NoAnswer::Failed { class, detail } if class == "too_large" => rejected(&class, &detail),
            NoAnswer::Failed { class, detail } => Outcome::Failed { class, detail },
            NoAnswer::Down { detail } => Outcome::Failed {
                class: "host_down".to_owned(),
                detail,
            },
        })
    }

    fn read_file(&self, place: &str) -> Result<Vec<u8>, Outcome> {
        let is_below = Path::new(place).components().all(|part| {
            matches!(
                part,
                std::path::Component::Normal(_) | std::path::Component::CurDir
            )
        });
        if !is_below {
            return Err(rejected("odd_path", "it leads out of the list's folder"));
        }
        match fs::File::open(self.folder.join(place)) {
            Ok(file) => read_up_to(file, PICTURE_MAX_BYTES).map_err(Outcome::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Outcome::Gone {
                detail: "there is no such file".to_owned(),
            }),
            Err(error) => Err(Outcome::Failed {
                class: "unreadable".to_owned(),
                detail: error.to_string(),
            }),
        }
    }
}

fn is_url(place: &str) -> bool {
    let start = place.get(..8).unwrap_or(place).to_ascii_lowercase();
    start.starts_with("http://") || start.starts_with("https://")
}

fn rejected(class: &str, detail: &str) -> Outcome {
    Outcome::Rejected {
        class: class.to_owned(),
        detail: detail.to_owned(),
    }
}
