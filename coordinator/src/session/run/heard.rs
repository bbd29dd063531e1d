//! What a worker says: each message is stored, and what follows from it is done or answered.

use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::limits::REPORTS_IN_MESSAGE_MAX;
use marquee_proto::v1::coordinator_message::Body as Out;
use marquee_proto::v1::worker_message::Body as In;
use marquee_proto::{convert, v1};
use marquee_store::ranks::{self, RankKey};
use marquee_store::workers::{self, WorkerState};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{End, Session, Work, nonsense};
use crate::lifecycle;
use crate::rates::Asks;
use crate::session::counter::Answer;
use crate::session::hello::{self, HeldRanks};
use crate::session::messages::{ack, kill, rescue};
use crate::session::reconcile::{LOST, Occasion};
use crate::session::rhythm::{GATHER, ends};
use crate::session::{clocks, gpus, hangs, kept};

impl Session {
    /// Takes in a message, and with one that says that a job has ended those of the next moment.
    pub(super) async fn hear(
        &mut self,
        message: v1::WorkerMessage,
        inbox: &mut mpsc::Receiver<v1::WorkerMessage>,
    ) -> Result<(), End> {
        let Some(In::Reports(first)) = message.body else {
            return self.store_and_answer(message).await;
        };
        let mut reports = first.reports;
        let mut next = None;
        if self.rhythm.is_quick(Instant::now()) {
            next = self.gather(&mut reports, inbox).await;
        }
        self.rhythm.ended(ends(reports.iter()), Instant::now());
        let body = Some(In::Reports(v1::Reports { reports }));
        self.store_and_answer(v1::WorkerMessage { body }).await?;
        match next {
            Some(next) => self.store_and_answer(next).await,
            None => Ok(()),
        }
    }

    /// Waits a moment for more reports, where other jobs of the worker are likely to end just now, too. Gives back a
    /// message that is none of them, and comes after them.
    async fn gather(
        &self,
        reports: &mut Vec<v1::Report>,
        inbox: &mut mpsc::Receiver<v1::WorkerMessage>,
    ) -> Option<v1::WorkerMessage> {
        let until = Instant::now() + GATHER;
        // Whoever plans at this moment will be a while: then nothing is gained by waiting.
        let at_work = self.app.index.try_open()?.held_on(self.seat.worker).count();
        // What runs alone waits for nobody, and what has not ended waits for nothing.
        while (1..at_work).contains(&ends(reports.iter())) {
            let message = timeout_at(until, inbox.recv()).await.ok()??;
            match message.body {
                Some(In::Reports(more))
                    if reports.len() + more.reports.len() <= REPORTS_IN_MESSAGE_MAX =>
                {
                    reports.extend(more.reports);
                }
                body => return Some(v1::WorkerMessage { body }),
            }
        }
        None
    }

    pub(super) async fn store_and_answer(&mut self, message: v1::WorkerMessage) -> Result<(), End> {
        match message.body {
            Some(In::Heartbeat(heartbeat)) => {
                // A delayed one says what was held then, not now.
                if heartbeat.sequence <= self.heartbeat {
                    return Ok(());
                }
                self.heartbeat = heartbeat.sequence;
                self.followed = heartbeat.assignments;
                self.heard = Instant::now();
                if self.app.sessions.set_leaving(&self.seat, heartbeat.leaving) {
                    self.app.wake.notify_one();
                }
                self.app
                    .sessions
                    .set_kept(&self.seat, kept::read(heartbeat.kept));
                self.app.sessions.set_cache(&self.seat, heartbeat.cache);
                self.compare_clocks(heartbeat.now.as_ref()).await?;
                let away = Duration::from_millis(heartbeat.away_ms.into());
                self.app.sessions.set_away(&self.seat, away);
                let hang = self
                    .app
                    .sessions
                    .hangs
                    .heard(self.seat.worker, &heartbeat.held);
                // Before all that needs Postgres: shares run out, also while that is away.
                self.share_rates(hello::rates(&heartbeat.held)).await?;
                self.held = hello::held(heartbeat.held).map_err(nonsense)?;
                self.persist(Work::Heartbeat).await?;
                // After what matters for the ranks themselves.
                for attempt in hang {
                    // Said anew with the next heartbeat.
                    if let Err(error) = hangs::look(&self.app, attempt).await {
                        tracing::warn!(job = %attempt.0, %error, "that it hangs is not stored yet");
                    }
                }
                Ok(())
            }
            Some(In::Reports(batch)) => {
                let count = batch.reports.len();
                if count > REPORTS_IN_MESSAGE_MAX {
                    return Err(nonsense(format!(
                        "{count} reports in one message, at most {REPORTS_IN_MESSAGE_MAX}"
                    )));
                }
                self.persist(Work::Reports(batch.reports)).await
            }
            Some(In::Goodbye(goodbye)) => {
                let left = hello::held(goodbye.held).map_err(nonsense)?;
                self.persist(Work::Goodbye(left)).await?;
                Err(End::Goodbye)
            }
            Some(In::Gpus(readings)) => {
                let gpus = gpus::bounded(readings.gpus);
                if self.app.sessions.set_gpus(&self.seat, gpus) {
                    // A device has become usable, or a reason has to name one that is not.
                    self.app.wake.notify_one();
                }
                Ok(())
            }
            Some(In::Rescued(rescued)) => self.rescued(rescued).await,
            Some(In::Hello(_)) => Err(nonsense("a second Hello")),
            None => Err(nonsense("a message without a body")),
        }
    }

    /// Notes how far the worker's clock is from ours; who looks after either host hears when that becomes much.
    async fn compare_clocks(&self, theirs: Option<&prost_types::Timestamp>) -> Result<(), End> {
        let Some(theirs) = theirs.and_then(|at| convert::datetime(at).ok()) else {
            return Ok(());
        };
        // What it took to come here counts as behind; that is milliseconds, or the worker is nearly lost.
        let ahead = theirs - self.app.clock.now();
        if self.app.sessions.set_clock(&self.seat, ahead) {
            let text = clocks::apart(ahead);
            tracing::warn!(worker = self.name, "{text}");
            self.send(Out::Notice(v1::Notice { text })).await?;
        }
        Ok(())
    }

    /// An output that the worker kept is stored, or cannot be: whoever asked for it is told.
    async fn rescued(&self, rescued: v1::Rescued) -> Result<(), End> {
        let key = hello::key(rescued.job_id, rescued.attempt, rescued.rank);
        let broken = |message: String| Failure {
            class: FailureClass::Crash,
            message,
        };
        let outcome = match (rescued.output, rescued.failure) {
            (Some(output), _) => match output.try_into() {
                Ok(manifest) => {
                    let by = format!("rescued from worker {:?}", self.name);
                    lifecycle::rescue(&self.app, key, &manifest, &by)
                        .await
                        .map_err(|error| broken(error.to_string()))
                }
                Err(bad) => Err(broken(bad.to_string())),
            },
            (None, Some(failure)) => Err(failure.try_into().map_err(nonsense)?),
            (None, None) => Err(broken("the worker did not say why".into())),
        };
        self.seat.rescues.answer(key, &outcome);
        match outcome {
            Ok(()) => self.send(rescue(key, true)).await,
            Err(failure) => {
                let (job, message) = (key.job, failure.message);
                tracing::warn!(%job, worker = self.name, message, "an output was not rescued");
                Ok(())
            }
        }
    }

    /// Takes what the worker's fetch ranks say of their requests, and gives them their shares. Nothing
    /// of this is stored, so it needs no Postgres.
    async fn share_rates(&self, ranks: Vec<(RankKey, Asks)>) -> Result<(), End> {
        let nudged = self.app.rates.heard(self.seat.worker, ranks, self.heard);
        self.app.sessions.nudge(&nudged);
        self.send_shares().await
    }

    pub(super) async fn heartbeat(&mut self) -> Result<(), End> {
        let (worker, now) = (self.seat.worker, self.app.clock.now());
        if self.app.sessions.take_missed(&self.seat) {
            self.come_back(now).await.inspect_err(|_| {
                // Tried again, with this heartbeat or the next.
                self.app.sessions.miss(worker);
            })?;
        } else {
            self.app.sessions.signs.note(worker, now);
        }
        if self.has_nothing_to_compare() {
            return Ok(());
        }
        self.reconcile(Occasion::Heartbeat).await
    }

    /// Its lease had run out, and here it is.
    async fn come_back(&self, now: DateTime<Utc>) -> Result<(), End> {
        let mut tx = self.app.db.write("worker back").await?;
        workers::mark_worker_seen(&mut tx, self.seat.worker, &self.name, now).await?;
        tx.commit().await?;
        Ok(())
    }

    pub(super) async fn reports(&mut self, batch: &[v1::Report]) -> Result<(), End> {
        let stored = self
            .app
            .reports
            // A copy: where it cannot be stored, `persist` comes again with the same batch.
            .store(self.seat.worker, self.caller.clone(), batch.to_vec())
            .await?;
        for outcome in stored {
            let key = outcome.key;
            match outcome.answer {
                Answer::Stored { sequence, state } => {
                    let last_sequence = sequence;
                    self.held.insert(
                        key,
                        hello::Held {
                            state,
                            last_sequence,
                        },
                    );
                    self.send(ack(key, sequence)).await?;
                }
                Answer::Refused { reason } => {
                    self.send(self.stop(key, reason, true)).await?;
                }
                Answer::Lost => self.send(kill(key, LOST)).await?,
            }
            if outcome.regrouped {
                let ranks = {
                    let mut conn = self.app.db.read().await?;
                    ranks::list_ranks(&mut conn, key.job, Some(key.attempt)).await?
                };
                // Those that were left behind are ended, and the others told, at once.
                let workers: Vec<_> = ranks.iter().map(|rank| rank.worker).collect();
                self.app.sessions.nudge(&workers);
            }
        }
        Ok(())
    }

    /// The worker holds nothing any more but what is `left`, and will not come back soon.
    pub(super) async fn goodbye(&self, left: &HeldRanks) -> Result<(), End> {
        let worker = self.seat.worker;
        let now = self.app.clock.now();
        let mut tx = self.app.db.write("goodbye").await?;
        let jobs = workers::list_worker_jobs(&mut tx, worker).await?;
        let rows = ranks::list_worker_ranks(&mut tx, worker, &[]).await?;
        // In one transaction with its goodbye: a worker that has left holds what it said, and nothing else.
        for row in rows.iter().filter(|row| !left.contains_key(&row.key)) {
            // It was stopped with its worker: nobody's fault, and the job goes on elsewhere.
            ranks::mark_rank_gone(&mut tx, row.key, None, now).await?;
        }
        workers::mark_worker_gone(&mut tx, worker, WorkerState::Left).await?;
        tx.commit().await?;
        self.app.jobs_changed(&jobs);
        self.app.workers_changed();
        lifecycle::advance(&self.app, &jobs).await?;
        Ok(())
    }
}
