//! What all fetches of many things have in common: a plan, a journal, a window of requests, books,
//! and at the end a dataset in the plan's order.
//!
//! Invariant: each entry of the plan is settled once in the journal before it counts, whatever the
//! order of the answers; what is settled is never asked for again, by this attempt or a later one.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use marquee_domain::artifact::Digest;
use marquee_domain::child::ChildEvent;
use marquee_domain::report::FetchSummary;
use marquee_domain::spec::ArrayElement;
use serde::{Deserialize, Serialize};

use super::books::{Books, Miss};
use super::http::{Body, Manners, Validators};
use super::journal::Journal;
use super::plan::{self, Entry, Plan};
use crate::dataset::{Dataset, DatasetWriter, FilmRow};
use crate::job::{Context, FETCHED, JobError, Step};

/// Entries that may be under way for each request in flight: a film takes two requests, and while
/// one waits to be tried again others go on.
const AHEAD: usize = 2;
/// Time between checkpoints: an attempt on another host loses at most what came since.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
/// Name of the journal's folder in the output, while a job has no scratch folder.
pub(super) const JOURNAL_DIR: &str = ".journal";

/// A label of a picture, with the source's id of it where it has one.
pub(super) type Label = (Option<i64>, String);

/// What became of an entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum Outcome {
    Fetched(Box<Fetched>),
    Gone { detail: String },
    Rejected { class: String, detail: String },
    Failed { class: String, detail: String },
}

/// A picture and what is known of it. Its bytes are the frame's body, unless they are `earlier`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Fetched {
    pub(super) labels: Vec<Label>,
    pub(super) group: Option<String>,
    pub(super) title: Option<String>,
    pub(super) release_date: Option<chrono::NaiveDate>,
    pub(super) popularity: Option<f64>,
    pub(super) language: Option<String>,
    pub(super) digest: Digest,
    pub(super) details: Validators,
    pub(super) picture: Validators,
    /// The picture is that of the earlier dataset.
    pub(super) earlier: bool,
}

impl From<Miss> for Outcome {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::Gone { detail } => Self::Gone { detail },
            Miss::Rejected { class, detail } => Self::Rejected { class, detail },
            Miss::Failed { class, detail } => Self::Failed { class, detail },
        }
    }
}

impl Fetched {
    /// The film of the earlier dataset's row, with its picture.
    pub(super) fn earlier(row: &FilmRow) -> Self {
        let ids = row.label_ids.iter().map(|id| Some(*id));
        Self {
            labels: ids
                .chain(std::iter::repeat(None))
                .zip(row.labels.iter().cloned())
                .collect(),
            group: row.group.clone(),
            title: row.title.clone(),
            release_date: row.release_date,
            popularity: row.popularity,
            language: row.language.clone(),
            digest: row.picture_digest.clone(),
            details: Validators {
                etag: row.details_etag.clone(),
                last_modified: None,
            },
            picture: Validators {
                etag: row.picture_etag.clone(),
                last_modified: row.picture_modified.clone(),
            },
            earlier: true,
        }
    }
}

/// An answer to one entry.
pub(super) enum Settled {
    As(Outcome, Body),
    /// Nothing more will come: the job ends.
    Over(JobError),
}

/// Where a fetch job works.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) output: &'a Path,
    /// Folder for checkpoints.
    pub(super) checkpoints: &'a Path,
    /// A checkpoint to go on from.
    pub(super) resume: Option<&'a Path>,
    /// A folder that later attempts on this worker find again.
    pub(super) scratch: Option<&'a Path>,
    /// An earlier dataset.
    pub(super) previous: Option<Dataset>,
    pub(super) licence: Option<String>,
    /// The share of an array that this is.
    pub(super) element: Option<ArrayElement>,
    /// Folder through which shares of each host's rate come. None: the settings' own rate holds.
    pub(super) shares: Option<&'a Path>,
    pub(super) started: Instant,
}

impl Place<'_> {
    /// How requests are made here: as the settings say, and where no coordinator shares rates out,
    /// by an element of an array at its share of them.
    pub(super) fn manners(&self, whole: Manners) -> Manners {
        match self.shares {
            Some(_) => whole,
            None => whole.share_of(self.element),
        }
    }

    /// The journal's folder: with what an earlier attempt left, if it was at the same work.
    pub(super) fn journal_dir(&self, fingerprint: &Digest) -> Result<PathBuf, JobError> {
        let dir = self.scratch.unwrap_or(self.output).join(JOURNAL_DIR);
        self.make_journal_dir(&dir, fingerprint)
            .map_err(|error| on_disk(&dir, &error))?;
        Ok(dir)
    }

    fn make_journal_dir(&self, dir: &Path, fingerprint: &Digest) -> io::Result<()> {
        let is_same =
            |dir: &Path| plan::read(dir).is_some_and(|plan| plan.fingerprint == *fingerprint);
        // A job may have been on another worker since: what is further counts.
        let beyond = self.resume.filter(|resume| is_same(resume));
        if is_same(dir) && beyond.is_none_or(|resume| journal_bytes(resume) <= journal_bytes(dir)) {
            return Ok(());
        }
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => fs::create_dir_all(dir)?,
        }
        if let Some(resume) = beyond {
            // The plan last: without it the folder counts as empty.
            let mut names: Vec<_> = fs::read_dir(resume)?
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<io::Result<_>>()?;
            names.sort_by_key(|name| *name == plan::PLAN_FILE);
            for name in names {
                link(&resume.join(&name), &dir.join(&name))?;
            }
        }
        Ok(())
    }

    /// The row of the earlier dataset with this id, and what a server needs to know about it.
    pub(super) fn earlier(&self, id: &str) -> Option<&FilmRow> {
        self.previous.as_ref()?.film(id)
    }
}

/// Bytes of the files of a journal.
fn journal_bytes(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files
        .filter_map(|file| file.metadata().ok())
        .map(|found| found.len())
        .sum()
}

/// Another name for a file that never changes; a copy where links are impossible.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(|_| ()))
}

pub(super) fn on_disk(path: &Path, error: &io::Error) -> JobError {
    JobError::crash(format!("{}: {error}", path.display()))
}

/// A fetch under way.
#[derive(Debug)]
pub(super) struct Engine<'a> {
    dir: PathBuf,
    plan: Plan,
    journal: Journal,
    place: &'a Place<'a>,
    context: &'a Context,
    /// Entries that earlier attempts had settled.
    resumed: u64,
    counts: BTreeMap<String, u64>,
    checkpointed: (Instant, u64),
    /// How often `failed` came in a row.
    failed_in_a_row: u32,
}

impl<'a> Engine<'a> {
    /// Takes up the plan in `dir`.
    pub(super) fn open(
        dir: PathBuf,
        plan: Plan,
        place: &'a Place<'a>,
        context: &'a Context,
    ) -> Result<Self, JobError> {
        // What failed may have been the hour: a new attempt asks for it again.
        let stands = |outcome: &Outcome| !matches!(outcome, Outcome::Failed { .. });
        let journal =
            Journal::open(&dir, plan.entries, stands).map_err(|error| on_disk(&dir, &error))?;
        let resumed = journal.settled();
        if resumed > 0 {
            tracing::info!(
                resumed,
                of = plan.entries,
                "going on where an earlier attempt ended"
            );
        }
        Ok(Self {
            checkpointed: (Instant::now(), resumed),
            dir,
            plan,
            journal,
            place,
            context,
            resumed,
            counts: BTreeMap::new(),
            failed_in_a_row: 0,
        })
    }

    /// Settles every entry with `ask`, at most `concurrency` requests at once, and makes the
    /// dataset. Told to stop, it leaves a checkpoint.
    pub(super) async fn run<F: Future<Output = Settled>>(
        mut self,
        concurrency: u32,
        ask: impl Fn(Entry) -> F,
    ) -> Result<FetchSummary, JobError> {
        let stop = self.context.stop.clone();
        let settled = tokio::select! {
            settled = self.settle_all(concurrency, ask) => settled,
            () = stop.told() => Err(JobError::Stopped),
        };
        if let Err(error) = settled {
            // Whatever ended it, what is there is there.
            if let Err(fault) = self.checkpoint() {
                tracing::warn!("no checkpoint: {fault}");
            }
            if self.place.scratch.is_none() {
                // The checkpoint has links of its own.
                let _ = fs::remove_dir_all(&self.dir);
            }
            return Err(error);
        }
        let summary = tokio::task::block_in_place(|| self.finish())?;
        fs::remove_dir_all(&self.dir).map_err(|error| on_disk(&self.dir, &error))?;
        Ok(summary)
    }

    async fn settle_all<F: Future<Output = Settled>>(
        &mut self,
        concurrency: u32,
        ask: impl Fn(Entry) -> F,
    ) -> Result<(), JobError> {
        let window = concurrency.max(1) as usize * AHEAD;
        let entries = plan::entries(&self.dir).map_err(|error| on_disk(&self.dir, &error))?;
        let done: Vec<bool> = (0..self.plan.entries)
            .map(|at| self.journal.has(at))
            .collect();
        let open = (0_u64..)
            .zip(entries)
            .filter(|(at, _)| !done.get(*at as usize).copied().unwrap_or(false));
        let ask = &ask;
        let mut answers = stream::iter(open)
            .map(|(at, entry)| async move {
                let settled = match entry {
                    Ok(Entry::Rejected { class, detail, .. }) => {
                        Settled::As(Outcome::Rejected { class, detail }, Body::default())
                    }
                    Ok(entry) => ask(entry).await,
                    Err(error) => Settled::Over(JobError::crash(format!(
                        "entry {at} of the plan cannot be read: {error}"
                    ))),
                };
                (at, settled)
            })
            .buffer_unordered(window);
        while let Some((at, settled)) = answers.next().await {
            let (outcome, body) = match settled {
                Settled::As(outcome, body) => (outcome, body),
                Settled::Over(error) => return Err(error),
            };
            self.count(&outcome)?;
            self.journal
                .append(at, &outcome, &body.bytes)
                .map_err(|error| on_disk(&self.dir, &error))?;
            self.tell();
            let (since, settled) = self.checkpointed;
            if since.elapsed() >= CHECKPOINT_EVERY && self.journal.settled() > settled {
                self.checkpoint()
                    .map_err(|error| on_disk(self.place.checkpoints, &error))?;
            }
        }
        Ok(())
    }

    /// A service that answers, but with nothing of use, is as good as down.
    fn count(&mut self, outcome: &Outcome) -> Result<(), JobError> {
        const FAILED_IN_A_ROW_MAX: u32 = 100;
        self.failed_in_a_row = match outcome {
            Outcome::Failed { .. } => self.failed_in_a_row + 1,
            Outcome::Fetched(_) | Outcome::Gone { .. } | Outcome::Rejected { .. } => 0,
        };
        let class = match outcome {
            Outcome::Fetched(_) => FETCHED.to_owned(),
            Outcome::Gone { .. } => "gone".to_owned(),
            Outcome::Rejected { class, .. } => format!("rejected_{class}"),
            Outcome::Failed { class, .. } => format!("failed_{class}"),
        };
        *self.counts.entry(class).or_default() += 1;
        match outcome {
            Outcome::Failed { class, detail } if self.failed_in_a_row >= FAILED_IN_A_ROW_MAX => {
                Err(JobError::network(format!(
                    "{} in a row failed, the last with {class}: {detail}; what was fetched before is kept for \
                     the next attempt",
                    self.failed_in_a_row
                )))
            }
            Outcome::Failed { .. }
            | Outcome::Fetched(_)
            | Outcome::Gone { .. }
            | Outcome::Rejected { .. } => Ok(()),
        }
    }

    fn tell(&self) {
        self.context.reporter.step(Step {
            phase: "films",
            unit: "films",
            done: self.journal.settled(),
            total: self.plan.entries,
            bytes: self.journal.body_bytes(),
            counts: &self.counts,
        });
    }

    /// Leaves what is settled as a checkpoint: links to the journal's closed segments and the plan.
    fn checkpoint(&mut self) -> io::Result<()> {
        let settled = self.journal.settled();
        if settled == self.checkpointed.1 {
            return Ok(());
        }
        self.journal.close_segment()?;
        let path = self
            .place
            .checkpoints
            .join(format!("settled-{settled:012}"));
        fs::create_dir_all(&path)?;
        let files = [plan::ENTRIES_FILE, plan::PLAN_FILE].map(|name| self.dir.join(name));
        for file in self.journal.segments()?.into_iter().chain(files) {
            let name = file.file_name().unwrap_or_default();
            link(&file, &path.join(name))?;
        }
        self.checkpointed = (Instant::now(), settled);
        self.context.reporter.event(&ChildEvent::Checkpoint {
            step: settled,
            path,
        });
        Ok(())
    }

    /// The dataset, in the plan's order.
    fn finish(&mut self) -> Result<FetchSummary, JobError> {
        let mut books = Books::open(self.plan.entries, self.resumed);
        let mut writer = DatasetWriter::create(self.place.output)?;
        let mut labels = Labels::new(&self.plan.labels);
        let entries = plan::entries(&self.dir).map_err(|error| on_disk(&self.dir, &error))?;
        for (at, entry) in (0_u64..).zip(entries) {
            let entry = entry.map_err(|error| on_disk(&self.dir, &error))?;
            let read = self
                .journal
                .read::<Outcome>(at)
                .map_err(|error| on_disk(&self.dir, &error))?;
            // An entry that is not settled is missing in the books, which then do not balance.
            let Some((outcome, body)) = read else {
                continue;
            };
            let id = entry.id();
            match outcome {
                Outcome::Fetched(film) => {
                    let body = self.picture_of(&id, &film, body)?;
                    books.fetched(body.len(), film.earlier);
                    writer.settled(&id, "fetched", None)?;
                    let row = self.row_of(id, *film, &body, &mut labels);
                    writer.push(row, body)?;
                }
                Outcome::Gone { detail } => {
                    writer.settled(&id, "gone", Some(("gone", &detail)))?;
                    books.missed(&id, Miss::Gone { detail });
                }
                Outcome::Rejected { class, detail } => {
                    writer.settled(&id, "rejected", Some((&class, &detail)))?;
                    books.missed(&id, Miss::Rejected { class, detail });
                }
                Outcome::Failed { class, detail } => {
                    writer.settled(&id, "failed", Some((&class, &detail)))?;
                    books.missed(&id, Miss::Failed { class, detail });
                }
            }
        }
        let seconds = self.place.started.elapsed().as_secs_f64();
        let books = books.close(seconds, self.plan.note.clone(), &self.plan.listed_on)?;
        writer.finish(&labels.names, &books)?;
        Ok(books.summary)
    }

    fn picture_of(&self, id: &str, film: &Fetched, body: Vec<u8>) -> Result<Vec<u8>, JobError> {
        if !film.earlier {
            return Ok(body);
        }
        let earlier = self.place.previous.as_ref();
        let picture = earlier.and_then(|dataset| dataset.picture(id));
        picture.map(<[u8]>::to_vec).ok_or_else(|| {
            JobError::bad_input(format!(
                "the earlier dataset has no picture of {id} any more"
            ))
        })
    }

    fn row_of(&self, id: String, film: Fetched, picture: &[u8], labels: &mut Labels) -> FilmRow {
        FilmRow {
            id,
            labels: film
                .labels
                .iter()
                .map(|label| labels.name_of(label))
                .collect(),
            label_ids: film.labels.iter().filter_map(|(id, _)| *id).collect(),
            group: film.group,
            title: film.title,
            release_date: film.release_date,
            popularity: film.popularity,
            language: film.language,
            picture_bytes: picture.len() as u64,
            picture_digest: film.digest,
            picture_etag: film.picture.etag,
            picture_modified: film.picture.last_modified,
            details_etag: film.details.etag,
            licence: self.place.licence.clone(),
            source: self.plan.note.name.clone(),
        }
    }
}

/// Labels by id and name, in the source's own order.
#[derive(Debug)]
pub(super) struct Labels {
    pub(super) names: Vec<String>,
    by_id: BTreeMap<i64, usize>,
    by_name: BTreeMap<String, usize>,
}

impl Labels {
    pub(super) fn new(known: &[Label]) -> Self {
        let mut labels = Self {
            names: Vec::new(),
            by_id: BTreeMap::new(),
            by_name: BTreeMap::new(),
        };
        for label in known {
            labels.name_of(label);
        }
        labels
    }

    /// The name that a label goes by. One that the source did not list is added at the end; one
    /// that it lists by another name (another language) keeps the listed one.
    pub(super) fn name_of(&mut self, (id, name): &Label) -> String {
        if let Some(known) = id.and_then(|id| self.by_id.get(&id)) {
            return self.names[*known].clone();
        }
        let name = match id {
            Some(id) if name.is_empty() => format!("genre-{id}"),
            Some(_) | None => name.clone(),
        };
        // Two ids of one name are one label: nobody could tell them apart.
        let next = self.names.len();
        let at = *self.by_name.entry(name.clone()).or_insert(next);
        if at == next {
            self.names.push(name.clone());
        }
        if let Some(id) = id {
            self.by_id.insert(*id, at);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn genres_keep_the_lists_order_and_strangers_come_last() {
        let label = |id, name: &str| (Some(id), name.to_owned());
        let mut labels = Labels::new(&[label(28, "Action"), label(12, "Adventure")]);
        assert_eq!(labels.name_of(&label(12, "Abenteuer")), "Adventure");
        assert_eq!(labels.name_of(&label(10769, "Foreign")), "Foreign");
        assert_eq!(labels.name_of(&label(5, "")), "genre-5");
        assert_eq!(labels.name_of(&(None, "Action".to_owned())), "Action");
        assert_eq!(labels.names, ["Action", "Adventure", "Foreign", "genre-5"]);
    }
}
