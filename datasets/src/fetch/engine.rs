//! What all fetches of many things have in common: a plan, a journal, a window of requests, books,
//! and at the end a dataset in the plan's order.
//!
//! Invariant: each entry of the plan is settled once in the journal before it counts, whatever the
//! order of the answers; what is settled is never asked for again, by this attempt or a later one. An
//! answer is in the journal before the request after it goes: an attempt that is killed costs the
//! requests that were in flight.

use std::fs;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use marquee_domain::child::ChildEvent;
use marquee_domain::report::FetchSummary;

use super::answer::Body;
use super::assemble::Assembly;
use super::journal::{Journal, Standing};
use super::miss::Miss;
use super::outcome::{Details, Noted, Outcome, Settled};
use super::place::{Workplace, link, on_disk};
use super::plan::{self, FetchPlan, PlanEntry};
use crate::job::{Context, JobError, Step};

/// Entries that may be under way for each request in flight: a film takes two requests, and while
/// one waits to be tried again others go on.
const AHEAD: usize = 2;
/// Time between checkpoints: an attempt on another host loses at most what came since.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

/// A fetch under way.
#[derive(Debug)]
pub(super) struct Engine<'a> {
    dir: PathBuf,
    plan: FetchPlan,
    /// What the source's entries are called in progress and metrics, plural.
    unit: &'static str,
    journal: Journal,
    place: &'a Workplace<'a>,
    context: &'a Context,
    /// Entries that earlier attempts had settled.
    resumed: u64,
    checkpointed: (Instant, u64),
    /// How often `failed` came in a row.
    failed_in_a_row: u32,
}

impl<'a> Engine<'a> {
    /// Takes up the plan in `dir`.
    pub(super) fn open(
        dir: PathBuf,
        plan: FetchPlan,
        unit: &'static str,
        place: &'a Workplace<'a>,
        context: &'a Context,
    ) -> Result<Self, JobError> {
        // What failed may have failed for a passing reason: a new attempt asks for it again. What is gone
        // or was rejected is so by what the service said, and stands.
        let judge = |noted: &Noted| match noted {
            Noted::Settled(Outcome::Failed { .. }) => Standing::Nothing,
            Noted::Settled(outcome) => Standing::Settled(outcome.counted_as()),
            Noted::Known(_) => Standing::Known,
        };
        let journal =
            Journal::open(&dir, plan.entries, judge).map_err(|error| on_disk(&dir, &error))?;
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
            unit,
            journal,
            place,
            context,
            resumed,
            failed_in_a_row: 0,
        })
    }

    /// Settles every entry with `ask`, which is also told what is known of the entry, at most `concurrency` requests at
    /// once, and makes the dataset. Told to stop, it leaves a checkpoint.
    pub(super) async fn run<F: Future<Output = Settled>>(
        mut self,
        concurrency: u32,
        ask: impl Fn(PlanEntry, Option<Box<Details>>) -> F,
    ) -> Result<FetchSummary, JobError> {
        let stop = self.context.stop.clone();
        let settled = tokio::select! {
            settled = self.settle_all(concurrency, ask) => settled,
            // Requests in flight are dropped: none of their answers is in the journal, so they are
            // asked for again.
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
        let work = Assembly {
            dir: &self.dir,
            plan: &self.plan,
            place: self.place,
            resumed: self.resumed,
        };
        let journal = &mut self.journal;
        let summary = tokio::task::block_in_place(|| work.dataset(journal))?;
        // Only now: until the dataset is complete, the journal is all that there is.
        fs::remove_dir_all(&self.dir).map_err(|error| on_disk(&self.dir, &error))?;
        Ok(summary)
    }

    async fn settle_all<F: Future<Output = Settled>>(
        &mut self,
        concurrency: u32,
        ask: impl Fn(PlanEntry, Option<Box<Details>>) -> F,
    ) -> Result<(), JobError> {
        let window = concurrency.max(1) as usize * AHEAD;
        let entries = plan::entries(&self.dir).map_err(|error| on_disk(&self.dir, &error))?;
        // A copy, one byte an entry, since the journal grows while the entries are gone through.
        let done: Vec<bool> = (0..self.plan.entries)
            .map(|at| self.journal.has(at))
            .collect();
        let mut open = (0_u64..)
            .zip(entries)
            .filter(|(at, _)| !done.get(*at as usize).copied().unwrap_or(false));
        let settle = |at: u64, entry: PlanEntry, known| {
            let asked = ask(entry.clone(), known);
            async move { (at, entry, asked.await) }
        };
        // Answers in whatever order they come: a slow host must not hold up what others have sent. The
        // order of the plan comes back when the dataset is written.
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < window
                && let Some((at, entry)) = open.next()
            {
                let entry = entry.map_err(|error| {
                    JobError::crash(format!("entry {at} of the plan cannot be read: {error}"))
                })?;
                if let PlanEntry::Rejected { class, detail, .. } = entry {
                    self.settle(at, Outcome::Rejected { class, detail }, Body::default())?;
                    continue;
                }
                let known = self.known(at)?;
                under_way.push(settle(at, entry, known));
            }
            let Some((at, entry, settled)) = under_way.next().await else {
                return Ok(());
            };
            match settled {
                Settled::As(outcome, body) => self.settle(at, outcome, body)?,
                Settled::Known(details) => {
                    let noted = self.journal.note(at, &details);
                    noted.map_err(|error| on_disk(&self.dir, &error))?;
                    under_way.push(settle(at, entry, Some(details)));
                }
                Settled::Over(error) => return Err(error),
            }
        }
    }

    /// What an earlier attempt has learned of an entry.
    fn known(&mut self, at: u64) -> Result<Option<Box<Details>>, JobError> {
        match self.journal.known(at) {
            Ok(Some(Noted::Known(details))) => Ok(Some(details)),
            Ok(Some(Noted::Settled(_)) | None) => Ok(None),
            Err(error) => Err(on_disk(&self.dir, &error)),
        }
    }

    /// Writes down what became of an entry, and leaves a checkpoint now and then.
    fn settle(&mut self, at: u64, outcome: Outcome, body: Body) -> Result<(), JobError> {
        // Before it is written: what a service says may be of any length, and the journal keeps it
        // all.
        let outcome = outcome.bounded();
        self.check_luck(&outcome)?;
        self.journal
            .append(at, &outcome, &outcome.counted_as(), &body.bytes)
            .map_err(|error| on_disk(&self.dir, &error))?;
        self.tell();
        let (since, settled) = self.checkpointed;
        if since.elapsed() >= CHECKPOINT_EVERY && self.journal.settled() > settled {
            self.checkpoint()
                .map_err(|error| on_disk(self.place.checkpoints, &error))?;
        }
        Ok(())
    }

    /// Ends the job when too many have failed in a row: a service that answers, but with nothing of use,
    /// is as good as down.
    fn check_luck(&mut self, outcome: &Outcome) -> Result<(), JobError> {
        const FAILED_IN_A_ROW_MAX: u32 = 100;
        let Some(Miss::Failed { class, detail }) = outcome.miss() else {
            // Gone and rejected are answers that make sense: whoever gives them is well.
            self.failed_in_a_row = 0;
            return Ok(());
        };
        self.failed_in_a_row += 1;
        if self.failed_in_a_row < FAILED_IN_A_ROW_MAX {
            return Ok(());
        }
        Err(JobError::network(format!(
            "{} in a row failed, the last with {class}: {detail}; what was fetched before is kept for the \
             next attempt",
            self.failed_in_a_row
        )))
    }

    fn tell(&self) {
        self.context.reporter.step(Step {
            phase: self.unit,
            unit: self.unit,
            done: self.journal.settled(),
            total: self.plan.entries,
            bytes: self.journal.body_bytes(),
            // Of all attempts, as what is done is.
            counts: self.journal.counts(),
        });
    }

    /// Leaves what is settled as a checkpoint: links to the journal's closed segments and the plan.
    fn checkpoint(&mut self) -> io::Result<()> {
        let settled = self.journal.settled();
        if settled == self.checkpointed.1 {
            return Ok(());
        }
        // What is linked is never written on: the segment at hand is closed first.
        self.journal.close_segment()?;
        let path = self
            .place
            .checkpoints
            .join(format!("settled-{settled:012}"));
        fs::create_dir_all(&path)?;
        // Links, not copies: a checkpoint of 100 GB of pictures costs a few directory entries.
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
}
