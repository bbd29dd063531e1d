//! What a job of this crate tells its worker while it runs, and how it can end.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use marquee_domain::FailureClass;
use marquee_domain::child::ChildEvent;
use marquee_domain::failure::Failure;
use tokio::sync::watch;

use crate::channel::Channel;
use crate::clock::Clock;
use crate::dataset::DatasetError;
use crate::shards::ShardError;

/// Progress is told this often at most: a bar that moves four times a second looks alive.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// Rates are told this often at most.
const METRICS_EVERY: Duration = Duration::from_secs(2);

/// What a job works with besides its settings.
#[derive(Debug)]
pub struct Context {
    pub reporter: Reporter,
    pub stop: Stop,
    pub clock: Clock,
    /// The program whose `decode-helper` decodes pictures in processes of their own. None: they
    /// are decoded in this one.
    pub helper: Option<std::path::PathBuf>,
}

/// Why a job has no result.
#[derive(Debug, PartialEq, Eq)]
pub enum JobError {
    /// It was told to stop, and did.
    Stopped,
    Failed(Failure),
}

impl JobError {
    pub(crate) fn user(message: impl Into<String>) -> Self {
        Self::of(FailureClass::UserError, message)
    }

    pub(crate) fn bad_input(message: impl Into<String>) -> Self {
        Self::of(FailureClass::BadInput, message)
    }

    pub(crate) fn network(message: impl Into<String>) -> Self {
        Self::of(FailureClass::Network, message)
    }

    /// A fault of ours or of the machine, such as a full disk.
    pub(crate) fn crash(message: impl Into<String>) -> Self {
        Self::of(FailureClass::Crash, message)
    }

    fn of(class: FailureClass, message: impl Into<String>) -> Self {
        Self::Failed(Failure {
            class,
            message: message.into(),
        })
    }
}

impl From<DatasetError> for JobError {
    fn from(error: DatasetError) -> Self {
        let message = error.to_string();
        match error {
            DatasetError::Io { .. } => Self::crash(message),
            DatasetError::Damaged { .. } | DatasetError::Incomplete { .. } => {
                Self::bad_input(message)
            }
        }
    }
}

impl From<ShardError> for JobError {
    fn from(error: ShardError) -> Self {
        let message = error.to_string();
        match error {
            ShardError::Index { .. } | ShardError::Damaged { .. } => Self::bad_input(message),
            ShardError::Io { .. }
            | ShardError::NoSuchRow { .. }
            | ShardError::WrongBuffer { .. }
            | ShardError::BadRow { .. } => Self::crash(message),
        }
    }
}

/// Whether the job was told to stop.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// A stop that comes when `true` is sent.
    #[must_use]
    pub fn new(told: watch::Receiver<bool>) -> Self {
        Self(told)
    }

    pub(crate) fn is_told(&self) -> bool {
        *self.0.borrow()
    }

    /// Completes when the job is told to stop; never, if nobody can tell it any more.
    pub(crate) async fn told(&self) {
        let mut told = self.0.clone();
        if told.wait_for(|told| *told).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Writes events, one JSON object a line.
pub struct Reporter {
    state: Mutex<State>,
}

struct State {
    out: Channel,
    phase: String,
    last_progress: Option<Instant>,
    last_metrics: Option<(Instant, u64, u64)>,
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reporter")
    }
}

/// How far a phase is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<'a> {
    pub(crate) phase: &'a str,
    /// What is counted, plural.
    pub(crate) unit: &'a str,
    pub(crate) done: u64,
    pub(crate) total: u64,
    /// Bytes so far.
    pub(crate) bytes: u64,
    /// How many ended how.
    pub(crate) counts: &'a BTreeMap<String, u64>,
}

/// Among counts, what went well.
pub(crate) const FETCHED: &str = "fetched";

impl Reporter {
    /// A reporter that writes to `out`.
    #[must_use]
    pub fn new(out: Channel) -> Self {
        let state = State {
            out,
            phase: String::new(),
            last_progress: None,
            last_metrics: None,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// Writes one event. A worker that went away is no reason to stop: it may come back, and the
    /// result counts.
    pub fn event(&self, event: &ChildEvent) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(event);
    }

    /// Writes the event that decides about the job, and waits for room where the disk is full.
    pub fn last_word(&self, event: &ChildEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.write(event);
        if let Err(error) = state.out.finish() {
            tracing::error!(%error, "the last word cannot be written");
        }
    }

    /// Tells how far the work is and how fast it goes, unless it was told a moment ago. The first
    /// and the last step of a phase are always told.
    pub(crate) fn step(&self, step: Step<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // Numbers of another phase count something else: no rate can be told from one to the other.
        if state.phase != step.phase {
            step.phase.clone_into(&mut state.phase);
            state.last_progress = None;
            state.last_metrics = None;
        }
        // The last step is always told: a bar that stops at 99 % looks like a fault.
        let is_last = step.done == step.total;
        let is_due = |last: Option<Instant>, every| {
            last.is_none_or(|last| now.duration_since(last) >= every)
        };
        if is_last || is_due(state.last_progress, PROGRESS_EVERY) {
            state.last_progress = Some(now);
            state.write(&ChildEvent::Progress {
                phase: step.phase.to_owned(),
                done: step.done,
                total: Some(step.total),
                unit: step.unit.to_owned(),
                bytes: (step.bytes > 0).then_some(step.bytes),
                problems: problems(step.counts),
            });
        }
        if is_last || is_due(state.last_metrics.map(|(at, ..)| at), METRICS_EVERY) {
            if let Some((since, done, bytes)) = state.last_metrics {
                state.write(&rates(&step, now.duration_since(since), done, bytes));
            }
            state.last_metrics = Some((now, step.done, step.bytes));
        }
    }
}

/// What did not go well, of how many ended how.
fn problems(counts: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut problems = counts.clone();
    problems.remove(FETCHED);
    problems
}

/// The rates since the step that stood at `done` and `bytes`.
fn rates(step: &Step<'_>, passed: Duration, done: u64, bytes: u64) -> ChildEvent {
    // The last step may come within the same tick of the clock as the one before.
    let seconds = passed.as_secs_f64().max(1e-6);
    let name = |what: &str| format!("{}/{what}_per_second", step.phase);
    let rate = step.done.saturating_sub(done) as f64 / seconds;
    let mut values = BTreeMap::from([
        (name(step.unit), rate),
        (
            name("bytes"),
            step.bytes.saturating_sub(bytes) as f64 / seconds,
        ),
    ]);
    let total = |what: &str| format!("{}/{what}", step.phase);
    if rate > 0.0 {
        let left = step.total.saturating_sub(step.done) as f64 / rate;
        values.insert(total("seconds_left"), left);
    }
    for (class, count) in step.counts {
        values.insert(total(class), *count as f64);
    }
    ChildEvent::Metrics {
        step: step.done,
        values,
    }
}

impl State {
    fn write(&mut self, event: &ChildEvent) {
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let _ = self.out.write_all(&line).and_then(|()| self.out.flush());
        }
    }
}
