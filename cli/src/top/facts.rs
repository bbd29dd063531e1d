//! What is known of the cluster, as far as it has been heard.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use marquee_proto::v1;
use marquee_view::{progress, units, words};

/// Values of a curve that are kept and asked for: as many as the widest place for them has columns.
pub(super) const CURVE_VALUES: u32 = 64;
/// Lines of a log that are kept.
pub(super) const LOG_LINES: usize = 10_000;
/// The newest lines, with which a log begins.
pub(super) const LOG_FIRST: u32 = 1_000;
/// Characters kept of each line: no screen shows more.
const LOG_LINE_CHARS: usize = 2_000;

/// How the connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    Connecting,
    Live,
    Lost { since: DateTime<Utc>, cause: String },
}

/// Which jobs a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Filter {
    #[default]
    All,
    Open,
    State(v1::JobState),
}

impl Filter {
    /// In the order in which a key goes through them.
    const ALL: [Self; 8] = [
        Self::All,
        Self::Open,
        Self::State(v1::JobState::Running),
        Self::State(v1::JobState::Queued),
        Self::State(v1::JobState::Waiting),
        Self::State(v1::JobState::Failed),
        Self::State(v1::JobState::Succeeded),
        Self::State(v1::JobState::Cancelled),
    ];

    pub(super) fn next(self) -> Self {
        let now = Self::ALL.iter().position(|filter| *filter == self);
        Self::ALL[now.map_or(0, |now| (now + 1) % Self::ALL.len())]
    }

    pub(super) fn states(self) -> Vec<v1::JobState> {
        match self {
            Self::All => Vec::new(),
            Self::Open => vec![
                v1::JobState::Waiting,
                v1::JobState::Queued,
                v1::JobState::Running,
            ],
            Self::State(state) => vec![state],
        }
    }

    pub(super) fn word(self) -> &'static str {
        let job = |state: v1::JobState| v1::Job {
            state: state.into(),
            ..v1::Job::default()
        };
        match self {
            Self::All => "every state",
            Self::Open => "open",
            Self::State(state) => words::job_state(&job(state)),
        }
    }
}

/// What a list of jobs asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Query {
    pub filter: Filter,
    /// Stands in the name of a job or pipeline.
    pub text: String,
    /// The elements of this array; 0: all jobs but elements.
    pub array: i64,
}

/// Jobs, as many as one answer has.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    pub query: Query,
    pub jobs: Vec<v1::Job>,
    /// Counted up to 10,000.
    pub total: u32,
}

/// One job, and why it is where it is.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub detail: v1::JobDetail,
    pub why: v1::ExplainResponse,
}

/// The course of a training job, its newest values last.
#[derive(Debug, Clone, Default)]
pub(super) struct Curves {
    pub loss: Vec<f64>,
    pub rate: Vec<f64>,
}

/// What is heard.
#[derive(Debug)]
pub(super) enum News {
    Overview(Box<v1::Overview>),
    Lost(String),
    Workers(Vec<v1::Worker>),
    Jobs(Listing),
    Look(Box<Look>),
    Curves(i64, Curves),
    /// The coordinator said no to what was asked or done.
    Trouble(String),
    Said(String),
    /// Lines were added to the log.
    Log,
}

/// A log as far as it is kept; filled by whoever follows it.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub lines: VecDeque<v1::LogLine>,
    /// Lines that were let go of at the beginning, since there are too many.
    pub passed: u64,
    /// It will not go on: the job has ended, or why not.
    pub end: Option<String>,
}

/// A log that two parts of the program know.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedLog(Arc<Mutex<Log>>);

impl SharedLog {
    pub(super) fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, mut line: v1::LogLine) {
        // By characters: cut within one, `truncate` would panic.
        if let Some((end, _)) = line.text.char_indices().nth(LOG_LINE_CHARS) {
            line.text.truncate(end);
        }
        let mut log = self.lock();
        if log.lines.len() == LOG_LINES {
            log.lines.pop_front();
            log.passed += 1;
        }
        log.lines.push_back(line);
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Facts {
    pub addr: String,
    pub link: Link,
    /// When something was heard last.
    pub heard_at: Option<DateTime<Utc>>,
    pub overview: Option<v1::Overview>,
    pub workers: Option<Vec<v1::Worker>>,
    pub listing: Option<Listing>,
    pub look: Option<Look>,
    pub log: SharedLog,
    curves: BTreeMap<i64, Curves>,
    /// Rates of jobs that store none, as they were seen.
    seen_rates: BTreeMap<i64, SeenRate>,
}

#[derive(Debug, Default)]
struct SeenRate {
    at: Option<DateTime<Utc>>,
    values: VecDeque<f64>,
}

impl Facts {
    pub(super) fn new(addr: String) -> Self {
        Self {
            addr,
            link: Link::Connecting,
            heard_at: None,
            overview: None,
            workers: None,
            listing: None,
            look: None,
            log: SharedLog::default(),
            curves: BTreeMap::new(),
            seen_rates: BTreeMap::new(),
        }
    }

    /// Takes in what was heard; what is only words for the user comes back.
    pub(super) fn take(&mut self, news: News, now: DateTime<Utc>) -> Option<News> {
        match news {
            News::Overview(overview) => {
                self.link = Link::Live;
                self.heard_at = Some(now);
                self.watch_rates(&overview.running);
                self.overview = Some(*overview);
            }
            News::Lost(cause) => {
                let since = match &self.link {
                    // From the first loss on: each further try that fails must not make the outage
                    // look young.
                    Link::Lost { since, .. } => *since,
                    Link::Connecting | Link::Live => now,
                };
                self.link = Link::Lost { since, cause };
            }
            News::Workers(mut workers) => {
                // Who said goodbye is not part of the cluster now.
                workers.retain(|worker| worker.state() != v1::WorkerState::Left);
                self.workers = Some(workers);
            }
            News::Jobs(listing) => self.listing = Some(listing),
            News::Look(look) => self.look = Some(*look),
            News::Curves(job, curves) => {
                self.curves.insert(job, curves);
            }
            News::Log => {}
            said @ (News::Trouble(_) | News::Said(_)) => return Some(said),
        }
        None
    }

    fn watch_rates(&mut self, running: &[v1::Job]) {
        let ids: BTreeSet<i64> = running.iter().map(|job| job.id).collect();
        self.seen_rates.retain(|job, _| ids.contains(job));
        self.curves.retain(|job, _| {
            // The job that is looked at keeps its curves when it has ended.
            ids.contains(job) || self.look.as_ref().is_some_and(|look| id(look) == *job)
        });
        for job in running {
            let Some(progress) = &job.progress else {
                continue;
            };
            let seen = self.seen_rates.entry(job.id).or_default();
            let at = units::time(progress.at.as_ref());
            // The same word of progress, told again with another overview, is no new value.
            if at == seen.at {
                continue;
            }
            seen.at = at;
            if let Some(rate) = progress::rate(progress) {
                if seen.values.len() == CURVE_VALUES as usize {
                    seen.values.pop_front();
                }
                seen.values.push_back(rate);
            }
        }
    }

    pub(super) fn loss(&self, job: i64) -> &[f64] {
        self.curves.get(&job).map_or(&[], |curves| &curves.loss)
    }

    /// As it is stored; as it was seen, where it is not.
    pub(super) fn rate(&self, job: i64) -> Vec<f64> {
        match self.curves.get(&job) {
            Some(curves) if !curves.rate.is_empty() => curves.rate.clone(),
            Some(_) | None => self
                .seen_rates
                .get(&job)
                .map_or_else(Vec::new, |seen| seen.values.iter().copied().collect()),
        }
    }

    /// A job wherever it is known from, the newest word first.
    pub(super) fn job(&self, wanted: i64) -> Option<&v1::Job> {
        let look = self.look.iter().filter_map(|look| look.detail.job.as_ref());
        let overview = self.overview.iter();
        let shown = overview.flat_map(|overview| overview.running.iter().chain(&overview.ended));
        let listed = self.listing.iter().flat_map(|listing| &listing.jobs);
        let mut all = shown.chain(listed).chain(look);
        all.find(|job| job.id == wanted)
    }
}

fn id(look: &Look) -> i64 {
    look.detail.job.as_ref().map_or(0, |job| job.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_floods_keeps_its_newest_lines_and_counts_the_others() {
        let log = SharedLog::default();
        for number in 0..LOG_LINES + 5 {
            log.push(v1::LogLine {
                text: format!("{number} {}", "é".repeat(3_000)),
                ..v1::LogLine::default()
            });
        }
        let log = log.lock();
        assert_eq!((log.lines.len(), log.passed), (LOG_LINES, 5));
        assert!(log.lines[0].text.starts_with("5 "));
        assert_eq!(log.lines[0].text.chars().count(), LOG_LINE_CHARS);
    }

    #[test]
    fn every_filter_comes_by() {
        let mut seen = vec![Filter::All];
        while let Some(next) = seen.last().map(|filter| filter.next())
            && next != Filter::All
        {
            seen.push(next);
        }
        assert_eq!(seen, Filter::ALL);
    }
}
