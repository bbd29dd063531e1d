//! Pictures from a list: CSV or Parquet with the columns `id`, `url`, `labels` and optionally
//! `group`. What stands in `url` is a URL, or a path below the list's own folder.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use marquee_domain::artifact::Digest;
use marquee_domain::rate::HOSTS_MAX;
use marquee_domain::report::{FetchSummary, SourceNote};
use marquee_domain::spec::{ArrayElement, FetchSettings, LabelRules, Source};
use reqwest::Url;
use sha2::{Digest as _, Sha256};

use self::links::LinksOut;
use self::place::{ListFolder, is_url};
use self::rows::{List, ListRow};
use super::PICTURE_MAX_BYTES;
use super::answer::{Body, Conditional, NoAnswer, Validators};
use super::client::{PoliteClient, service_of};
use super::engine::Engine;
use super::files::{name_of, open_plain};
use super::manners::Manners;
use super::miss::{Miss, MissClass};
use super::outcome::{Details, Fetched, Outcome, Settled};
use super::place::{Workplace, on_disk};
use super::plan::{self, FetchPlan, PlanEntry, PlanWriter};
use super::table::joined::LabelCounts;
use super::table::label_cell::RowLabels;
use super::table::repeats::{Repeat, Repeats};
use super::terms;
use crate::dice::Dice;
use crate::job::{Context, JobError};
use crate::sniff::{NO_PICTURE, format_of};

mod any;
mod links;
mod place;
mod rows;

pub use self::any::{list_samples, read_any_list};

pub(super) async fn run(
    fetch: &FetchSettings,
    place: &Workplace<'_>,
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
        rules,
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
    // By the list's bytes: in a journal of another list other entries stand at the same places.
    let fingerprint = fingerprint(fetch, &list, rules)?;
    let dir = place.journal_dir(&fingerprint)?;
    // A plan that is there is gone on with: the journal beside it counts by its entries.
    let plan = match plan::read(&dir) {
        Some(plan) => plan,
        None => tokio::task::block_in_place(|| {
            let work = PlanWork {
                fetch,
                list: &list,
                rules,
                fingerprint,
            };
            work.make_plan(&dir, place.element, context)
        })?,
    };
    let asker = Asker {
        client,
        folder: ListFolder::of(&list),
        place,
    };
    let asker = &asker;
    // Only where the rate is shared does anybody have to know the hosts beforehand.
    if place.shares.is_some() {
        let urls = urls_of(&dir).map_err(|error| on_disk(&dir, &error))?;
        asker.client.declare(urls);
    }
    Engine::open(dir, plan, "pictures", place, context)?
        .run(*concurrency, |entry, _| asker.settle(entry))
        .await
}

/// Of the list's bytes and of what is kept, not of how fast.
fn fingerprint(fetch: &FetchSettings, list: &Path, rules: &LabelRules) -> Result<Digest, JobError> {
    let unreadable = |error: io::Error| {
        JobError::user(format!(
            "{} cannot be opened on this worker: {error}",
            list.display()
        ))
    };
    let mut hash = Sha256::new();
    let mut file = open_plain(list).map_err(unreadable)?;
    let mut sink = Hashing(&mut hash);
    io::copy(&mut file, &mut sink).map_err(unreadable)?;
    hash.update(fetch.licence.as_deref().unwrap_or_default());
    // Nothing for rules that nobody set: journals of earlier versions go on.
    if *rules != LabelRules::default() {
        hash.update(serde_json::to_vec(rules).unwrap_or_default());
    }
    Ok(Digest::from_hash(&hash.finalize()))
}

/// One URL of each of the first hosts of the plan in `dir`.
fn urls_of(dir: &Path) -> io::Result<Vec<Url>> {
    let mut urls = BTreeMap::new();
    for entry in plan::entries(dir)? {
        let PlanEntry::Picture { location, .. } = entry? else {
            continue;
        };
        if is_url(&location).is_ok_and(|is_url| is_url)
            && let Ok(url) = Url::parse(&location)
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

/// What a plan is made from.
struct PlanWork<'a> {
    fetch: &'a FetchSettings,
    list: &'a Path,
    rules: &'a LabelRules,
    fingerprint: Digest,
}

impl PlanWork<'_> {
    fn make_plan(
        self,
        dir: &Path,
        element: Option<ArrayElement>,
        context: &Context,
    ) -> Result<FetchPlan, JobError> {
        let list = List::open(self.list, self.rules)?;
        let mut writer = PlanWriter::create(dir, element).map_err(|error| on_disk(dir, &error))?;
        let (mut repeats, mut labels) = (Repeats::default(), LabelCounts::default());
        let mut links = LinksOut::of(self.list);
        list.read(&mut |row| {
            let said = format!("{:?} {:?} {:?}", row.location, row.labels, row.group);
            let repeat = repeats.see(row.number, &row.id, &said);
            if let RowLabels::Said(said) = &row.labels {
                said.iter().for_each(|label| labels.add(label));
            }
            match entry_of(row, repeat, list.unit()) {
                Some(entry) => {
                    if let PlanEntry::Picture { location, .. } = &entry {
                        links.see(location);
                    }
                    writer.push(&entry).map_err(|error| on_disk(dir, &error))
                }
                None => Ok(()),
            }
        })?;
        if writer.listed() == 0 {
            return Err(JobError::bad_input(format!(
                "{} names no picture; write one line a picture below the header id,url,labels",
                self.list.display()
            )));
        }
        let mut remarks = list.remarks();
        remarks.notes.extend(repeats.note(list.unit()));
        remarks.notes.extend(links.note());
        let cure = |separator: &str| {
            format!(
                "if {separator:?} joins labels, set separator = {separator:?} in the job's source"
            )
        };
        remarks.warnings.extend(labels.warning(cure));
        let today = (context.clock)().date_naive();
        let plan = FetchPlan {
            fingerprint: self.fingerprint,
            entries: writer.entries(),
            labels: list.known().into_iter().map(|name| (None, name)).collect(),
            note: SourceNote {
                name: name_of(self.list),
                licence: self.fetch.licence.clone(),
                use_until: terms::use_until(self.fetch, false, today),
                ..SourceNote::default()
            },
            pictures: None,
            listed_on: today.to_string(),
            remarks,
        };
        writer.finish(&plan).map_err(|error| on_disk(dir, &error))?;
        Ok(plan)
    }
}

/// What is asked for because of a row; None where an earlier row says the same.
fn entry_of(row: ListRow, repeat: Repeat, unit: &str) -> Option<PlanEntry> {
    let rejected =
        |id: String, class: MissClass, detail: String| PlanEntry::Rejected { id, class, detail };
    // Refused rows are entries too: the books must name every row of the list.
    Some(match (repeat, row.labels) {
        (Repeat::Same, _) => return None,
        (Repeat::Other { earlier }, _) => {
            let detail = format!(
                "{unit} {} has it again with another url, other labels or another group than {unit} {earlier}",
                row.number
            );
            rejected(row.id, MissClass::DuplicateId, detail)
        }
        (Repeat::No, RowLabels::Unsaid) => rejected(
            row.id,
            MissClass::NoLabels,
            "its labels are empty".to_owned(),
        ),
        (Repeat::No, RowLabels::Uncertain { column }) => {
            let detail = format!("its column {column:?} is -1");
            rejected(row.id, MissClass::Uncertain, detail)
        }
        (Repeat::No, RowLabels::Said(_)) if row.location.is_empty() => {
            rejected(row.id, MissClass::NoUrl, "its url is empty".to_owned())
        }
        (Repeat::No, RowLabels::Said(labels)) => PlanEntry::Picture {
            id: row.id,
            location: row.location,
            labels,
            group: row.group,
        },
    })
}

/// Gets the pictures of a list.
struct Asker<'a> {
    client: PoliteClient,
    folder: ListFolder,
    place: &'a Workplace<'a>,
}

/// What a list says of a picture besides where it is.
struct Said {
    labels: Vec<String>,
    group: Option<String>,
}

impl Asker<'_> {
    async fn settle(&self, entry: PlanEntry) -> Settled {
        match entry {
            PlanEntry::Picture {
                id,
                location,
                labels,
                group,
            } => {
                let said = Said { labels, group };
                match self.picture(&id, &location, said).await {
                    Ok((fetched, body)) => Settled::As(Outcome::Fetched(Box::new(fetched)), body),
                    Err(miss) => Settled::missed(miss),
                }
            }
            PlanEntry::Film(_) | PlanEntry::Kept(_) | PlanEntry::Rejected { .. } => {
                Settled::Over(JobError::crash("a list's plan has pictures alone"))
            }
        }
    }

    async fn picture(&self, id: &str, location: &str, said: Said) -> Result<(Fetched, Body), Miss> {
        let row = self.place.earlier(id);
        let known = row.map_or_else(Validators::default, Validators::of_picture);
        let (body, picture, digest) = if is_url(location)? {
            match self.fetch_url(location, &known).await? {
                Conditional::New { value, validators } => {
                    let digest = Digest::of(&value.bytes);
                    (Some(value), validators, digest)
                }
                Conditional::Unchanged => {
                    // The earlier row's: what did not change was not sent, so there are no bytes to
                    // compute it from.
                    let digest = row.map(|row| row.picture_digest.clone());
                    (None, known, digest.unwrap_or_else(|| Digest::of(b"")))
                }
            }
        } else {
            let bytes = self.folder.read(location)?;
            let digest = Digest::of(&bytes);
            (Some(Body::of(bytes)), Validators::default(), digest)
        };
        if let Some(body) = body
            .as_ref()
            .filter(|body| format_of(&body.bytes).is_none())
        {
            let class = if body.bytes.is_empty() {
                MissClass::Empty
            } else {
                MissClass::UnknownFormat
            };
            return Err(Miss::rejected(class, NO_PICTURE));
        }
        let details = Details {
            labels: said.labels.into_iter().map(|name| (None, name)).collect(),
            group: said.group,
            ..Details::at(String::new())
        };
        let fetched = details.with_picture(digest, picture, body.is_none());
        Ok((fetched, body.unwrap_or_default()))
    }

    async fn fetch_url(
        &self,
        location: &str,
        known: &Validators,
    ) -> Result<Conditional<Body>, Miss> {
        let odd = |detail: &str| Miss::rejected(MissClass::OddUrl, detail);
        let url = Url::parse(location).map_err(|error| odd(&error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(odd("it holds a user name or password"));
        }
        let answer = self.client.image(url, PICTURE_MAX_BYTES, known).await;
        answer.map_err(|answer| match answer {
            NoAnswer::Gone { detail } => Miss::Gone { detail },
            NoAnswer::Unauthorized { detail }
            | NoAnswer::Failed {
                class: MissClass::Http(403),
                detail,
            } => Miss::rejected(MissClass::Refused, detail),
            // Asking again for more than is taken would change nothing.
            NoAnswer::Failed {
                class: class @ MissClass::TooLarge,
                detail,
            } => Miss::rejected(class, detail),
            NoAnswer::Failed { class, detail } => Miss::failed(class, detail),
            // The other hosts of the list may be well: unlike an API's, the job goes on without it.
            NoAnswer::Down { detail } => Miss::failed(MissClass::HostDown, detail),
        })
    }
}
