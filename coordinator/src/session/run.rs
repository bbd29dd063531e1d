//! One session at work: reads the worker's messages in order, stores, decides, answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use marquee_domain::backoff::Backoff;
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::limits::REPORTS_IN_MESSAGE_MAX;
use marquee_domain::rate::SHARE_FOR;
use marquee_proto::v1;
use marquee_proto::v1::coordinator_message::Body as Out;
use marquee_proto::v1::worker_message::Body as In;
use marquee_store::StoreError;
use marquee_store::attempts::Rendezvous;
use marquee_store::ranks::{self, RankKey};
use marquee_store::workers::{self, WorkerState};
use prost::Message as _;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::assign::{self, Assigned};
use super::counter::Answer;
use super::hello::{self, HeldRanks};
use super::messages::{ASSIGN_MAX_BYTES, ack, kill, rescue, too_large};
use super::reader::read;
use super::reconcile::{Action, LOST, Occasion, decide};
use super::registry::{PlacedRank, Seat};
use super::{gpus, hangs, kept};
use crate::app::App;
use crate::lifecycle::{self, LifecycleError};
use crate::rates::Asks;
use crate::walls::caught;

/// Messages to a worker that wait to be sent: an assignment for each of its ranks with room to
/// spare. A worker that does not read them in time is let go, and comes back.
pub(super) const OUTBOX_MAX: usize = 1_024;
/// Messages from a worker that wait to be stored; above it the stream itself holds the rest.
const INBOX_MAX: usize = 256;
/// Of a worker that does not count its assignments: a rank that was given to it and is in none of so many heartbeats
/// after that counts as not there. The first may have been on its way when the assignment was, and so may others that
/// a slow link delivers together.
const HEARTBEATS_UNTIL_ABSENT: u64 = 2;
/// How long a worker may take to read a message.
const SEND_MAX: Duration = Duration::from_secs(10);
/// First and longest pause before storing a message is tried again while Postgres is away.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// A worker's session.
#[derive(Debug)]
pub(super) struct Session {
    app: App,
    seat: Seat,
    name: String,
    /// The worker as histories name it.
    caller: Arc<str>,
    /// The worker's newest list, brought forward by the reports that came since.
    held: HeldRanks,
    /// Number of the newest heartbeat, and when it came.
    heartbeat: u64,
    heard: Instant,
    /// When the rows of the worker's ranks were read last.
    read_at: Instant,
    /// Ranks given to the worker that it may not have taken yet.
    given: BTreeMap<RankKey, Given>,
    /// Assignments that were sent in this session.
    assignments: u64,
    /// Of them, those that the worker had followed before its newest heartbeat; None: it does not count them.
    followed: Option<u64>,
    /// The worker starts a rank of its own accord where its assignment says so.
    starts_by_assignment: bool,
    /// The worker counts its lease by the answers to its heartbeats.
    keeps_lease: bool,
    outbox: mpsc::Sender<Result<v1::CoordinatorMessage, Status>>,
}

/// When a rank was given to the worker.
#[derive(Debug, Clone, Copy)]
struct Given {
    /// The number of its assignment in this session, from 1.
    assignment: u64,
    /// That of the worker's newest heartbeat then.
    heartbeat: u64,
}

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the worker closed its stream")]
    Closed,
    #[error("the worker said goodbye")]
    Goodbye,
    #[error("a newer session of this worker began, or it was sent away")]
    Replaced,
    #[error("the worker is cut off on purpose")]
    CutOff,
    #[error("the coordinator stops")]
    Shutdown,
    #[error("the worker does not read what it is sent")]
    Stuck,
    #[error("the worker sent what cannot be read: {0}")]
    Nonsense(String),
    #[error(transparent)]
    Failed(#[from] LifecycleError),
}

impl From<marquee_store::StoreError> for End {
    fn from(error: marquee_store::StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl Session {
    pub(super) fn new(
        app: App,
        seat: Seat,
        (name, caller): (String, Arc<str>),
        held: HeldRanks,
        (starts_by_assignment, keeps_lease): (bool, bool),
        outbox: mpsc::Sender<Result<v1::CoordinatorMessage, Status>>,
    ) -> Self {
        Self {
            app,
            seat,
            name,
            caller,
            held,
            heartbeat: 0,
            heard: Instant::now(),
            read_at: Instant::now(),
            given: BTreeMap::new(),
            assignments: 0,
            followed: None,
            starts_by_assignment,
            keeps_lease,
            outbox,
        }
    }

    /// Works until the stream ends. `_turn` keeps any other session of this worker waiting.
    pub(super) async fn run(
        mut self,
        inbound: Streaming<v1::WorkerMessage>,
        _turn: OwnedMutexGuard<()>,
    ) {
        let worker = self.seat.worker;
        tracing::info!(%worker, name = self.name, held = self.held.len(), "worker connected");
        let (inbox_in, inbox) = mpsc::channel(INBOX_MAX);
        // Answered by the reader itself: a lease must not run out while a batch waits for Postgres.
        let answers = self.keeps_lease.then(|| self.outbox.clone());
        let reader = read(
            self.app.clone(),
            self.seat.clone(),
            inbound,
            inbox_in,
            answers,
        );
        let reader = tokio::spawn(reader);
        // A panic ends this session alone; its worker comes back, and sends again what was not acknowledged.
        let end = match caught(self.work(inbox)).await {
            Ok(end) => end,
            Err(panicked) => End::Failed(panicked.into()),
        };
        reader.abort();
        self.app.sessions.leave(&self.seat);
        // For the planner: it must not count on this worker any more.
        self.app.wake.notify_one();
        match end {
            End::Nonsense(_) | End::Failed(_) | End::Stuck => {
                tracing::warn!(%worker, name = self.name, error = %end, "session ended");
            }
            End::Closed | End::Goodbye | End::Replaced | End::CutOff | End::Shutdown => {
                tracing::info!(%worker, name = self.name, reason = %end, "session ended");
            }
        }
        let status = match end {
            End::Nonsense(why) => marquee_proto::error::ErrorCode::InvalidRequest.status(why),
            End::Failed(error) => error.into(),
            End::Shutdown => Status::unavailable("the coordinator stops; connect again"),
            End::Replaced => self
                .app
                .sessions
                .expelled(&self.seat)
                .unwrap_or_else(|| Status::aborted("a newer session of this worker began")),
            End::CutOff => Status::unavailable("this worker is cut off on purpose (marquee chaos)"),
            End::Closed | End::Goodbye | End::Stuck => return,
        };
        // The worker may be gone already.
        let _ = self.outbox.try_send(Err(status));
    }

    async fn work(&mut self, mut inbox: mpsc::Receiver<v1::WorkerMessage>) -> End {
        let replaced = self.seat.replaced.clone();
        let shutdown = self.app.shutdown.clone();
        let nudge = self.seat.nudge.clone();
        let placed = self.seat.placed.clone();
        let kills = self.seat.kills.clone();
        let rescues = self.seat.rescues.clone();
        let work = async {
            if let Err(end) = self.welcome().await {
                return end;
            }
            // The scheduler may use the worker from now on.
            self.app.wake.notify_one();
            loop {
                let done = tokio::select! {
                    message = inbox.recv() => match message {
                        Some(message) => self.store_and_answer(message).await,
                        None => Err(End::Closed),
                    },
                    () = nudge.notified() => self.nudged().await,
                    ranks = placed.next() => self.persist(Work::Placed(ranks)).await,
                    keys = kills.next() => self.kill_on_purpose(&keys).await,
                    keys = rescues.next() => self.rescue(&keys).await,
                };
                if let Err(end) = done {
                    return end;
                }
            }
        };
        // A store that is dropped half-way is rolled back, and the worker sends it again.
        tokio::select! {
            end = work => end,
            () = replaced.cancelled() => match self.app.sessions.is_cut_off_for(self.seat.worker) {
                Some(_) => End::CutOff,
                None => End::Replaced,
            },
            () = shutdown.cancelled() => End::Shutdown,
        }
    }

    async fn welcome(&mut self) -> Result<(), End> {
        let settings = self.app.settings;
        let ms = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        self.send(Out::Welcome(v1::Welcome {
            heartbeat_every_ms: ms(settings.heartbeat_every),
            lease_ms: ms(settings.lease),
            version: env!("CARGO_PKG_VERSION").into(),
            cluster_id: self.app.cluster.to_string(),
            keeps_leases: true,
        }))
        .await?;
        self.persist(Work::Welcome).await
    }

    async fn store_and_answer(&mut self, message: v1::WorkerMessage) -> Result<(), End> {
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

    /// A rehearsal: its worker ends these ranks and forgets them, and the next heartbeat finds them missing.
    async fn kill_on_purpose(&self, keys: &[RankKey]) -> Result<(), End> {
        for key in keys {
            self.send(kill(*key, "killed on purpose (marquee chaos)"))
                .await?;
        }
        Ok(())
    }

    /// Somebody asked for outputs that the worker keeps.
    async fn rescue(&self, keys: &[RankKey]) -> Result<(), End> {
        for key in keys {
            self.send(rescue(*key, false)).await?;
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

    async fn nudged(&mut self) -> Result<(), End> {
        if let Some(text) = self.app.sessions.rival_to_tell(&self.seat) {
            self.send(Out::Notice(v1::Notice { text })).await?;
        }
        if self.heartbeat > 0 {
            self.send_shares().await?;
        }
        self.persist(Work::Nudge).await
    }

    /// Takes what the worker's fetch ranks say of their requests, and gives them their shares. Nothing
    /// of this is stored, so it needs no Postgres.
    async fn share_rates(&self, ranks: Vec<(RankKey, Asks)>) -> Result<(), End> {
        let nudged = self.app.rates.heard(self.seat.worker, ranks, self.heard);
        self.app.sessions.nudge(&nudged);
        self.send_shares().await
    }

    /// Sends the shares that the worker's ranks have now, counted from its newest heartbeat.
    async fn send_shares(&self) -> Result<(), End> {
        // No statement of Postgres stands behind a share: one that may have been taken over from gives none.
        if !self.app.role.is_sure() {
            return Ok(());
        }
        let shares = self
            .app
            .rates
            .shares(self.seat.worker, self.heard, Instant::now());
        if shares.is_empty() {
            return Ok(());
        }
        let shares = shares.into_iter().map(|share| v1::RateShare {
            job_id: share.key.job.0,
            attempt: share.key.attempt.0,
            rank: share.key.rank.0,
            number: share.number,
            per_second: share.per_second,
            in_flight: share.in_flight,
            hosts: share.hosts,
        });
        self.send(Out::RateShares(v1::RateShares {
            shares: shares.collect(),
            heartbeat: self.heartbeat,
            valid_ms: u32::try_from(SHARE_FOR.as_millis()).unwrap_or(u32::MAX),
        }))
        .await
    }

    /// Does `work`, again and again while Postgres is away.
    async fn persist(&mut self, work: Work) -> Result<(), End> {
        // Without an end: what a worker has reported must be stored before anything else it says, however
        // long Postgres is away.
        let mut backoff = RETRY;
        loop {
            let done = match &work {
                Work::Welcome => self.acknowledge_all().await,
                Work::Nudge => self.reconcile(Occasion::Nudge).await,
                Work::Placed(ranks) => self.placed(ranks).await,
                Work::Heartbeat => self.heartbeat().await,
                Work::Reports(reports) => self.reports(reports).await,
                Work::Goodbye(left) => self.goodbye(left).await,
            };
            match done {
                // Also where a row was not as it was read: the next try reads it anew.
                Err(End::Failed(error)) if error.may_pass() || error.is_stale() => {
                    if backoff.failures() == 0 && !error.is_stale() {
                        tracing::warn!(worker = %self.seat.worker, %error, "storing failed; trying again");
                    }
                    tokio::time::sleep(backoff.next_whole()).await;
                }
                done => return done,
            }
        }
    }

    /// Tells a worker that has just come where its reports go on, then what should change.
    async fn acknowledge_all(&mut self) -> Result<(), End> {
        let keys: Vec<RankKey> = self.held.keys().copied().collect();
        let mut conn = self.app.db.read().await?;
        let rows = ranks::list_worker_ranks(&mut conn, self.seat.worker, &keys).await?;
        drop(conn);
        for row in rows.iter().filter(|row| self.held.contains_key(&row.key)) {
            self.send(ack(row.key, row.last_sequence)).await?;
        }
        // Its Hello proves nothing of what it lacks: an older one may have been on its way for long, and come when
        // the worker had been given more in a session that began in between. Its first heartbeat in this session
        // comes at once, and was made when the worker had followed all that it was told in any session before.
        self.reconcile(Occasion::Nudge).await
    }

    async fn heartbeat(&mut self) -> Result<(), End> {
        let now = self.app.clock.now();
        let mut tx = self.app.db.write("worker heartbeat").await?;
        workers::mark_worker_seen(&mut tx, self.seat.worker, &self.name, now).await?;
        tx.commit().await?;
        self.reconcile(Occasion::Heartbeat).await
    }

    /// Compares what should be held with what is, and does what follows.
    async fn reconcile(&mut self, occasion: Occasion) -> Result<(), End> {
        let keys: Vec<RankKey> = self.held.keys().copied().collect();
        let mut conn = self.app.db.read().await?;
        let rows = ranks::list_worker_ranks(&mut conn, self.seat.worker, &keys).await?;
        drop(conn);
        // Noted after the read: a placement that was committed during it may be missing in these rows, and is
        // read again.
        self.read_at = Instant::now();
        let mut assigned = Vec::new();
        let (followed, heartbeat) = (self.followed, self.heartbeat);
        self.given.retain(|_, given| match followed {
            Some(followed) => given.assignment > followed,
            None => given.heartbeat.saturating_add(HEARTBEATS_UNTIL_ABSENT) > heartbeat,
        });
        for (key, action) in decide(&rows, &self.held, occasion) {
            match action {
                // The list may be older than the assignment, by which the worker may start it yet. A second one might
                // come when it has done its work and forgotten it.
                Action::Gone | Action::Assign if self.given.contains_key(&key) => {}
                Action::Assign => assigned.push(key),
                other @ (Action::Start { .. }
                | Action::Stop { .. }
                | Action::Kill { .. }
                | Action::TellLost { .. }
                | Action::Ack { .. }
                | Action::Lost
                | Action::Gone) => self.act(key, other).await?,
            }
        }
        self.assign(&assigned).await
    }

    /// Gives the worker ranks that were just placed on it, unless it has them by now. The word of it may have waited:
    /// for Postgres, or for a session to begin after the one that had it ended.
    async fn placed(&mut self, placed: &[PlacedRank]) -> Result<(), End> {
        let is_sure = self.app.role.is_sure();
        let mut to_read = Vec::new();
        for PlacedRank {
            key,
            before,
            assignment,
        } in placed
        {
            if self.given.contains_key(key) || self.held.contains_key(key) {
                continue;
            }
            // Whatever ends a rank that its worker has not taken follows from a read of this session. Without one since the
            // rank was placed, it is as it was placed; a coordinator that may have been taken over from reads all the same.
            let is_new = is_sure && self.read_at < *before;
            match assignment {
                Some(assignment) if is_new && self.heartbeat > 0 => {
                    let message = assign::at_once(assignment, self.starts_by_assignment);
                    self.give(*key, message).await?;
                }
                Some(_) | None => to_read.push(*key),
            }
        }
        self.assign(&to_read).await
    }

    /// Gives ranks to the worker.
    ///
    /// One that is given may be started for as long as it is among `given`, whatever becomes of its rows meanwhile.
    async fn assign(&mut self, keys: &[RankKey]) -> Result<(), End> {
        // Its first heartbeat in this session comes at once, and says what it has by now.
        if keys.is_empty() || self.heartbeat == 0 {
            return Ok(());
        }
        let mut conn = self.app.db.read().await?;
        let assignments = assign::assignments(&mut conn, keys, self.starts_by_assignment).await?;
        drop(conn);
        for (key, assign) in assignments {
            self.give(key, assign).await?;
        }
        Ok(())
    }

    async fn give(&mut self, key: RankKey, assign: Assigned) -> Result<(), End> {
        match assign {
            // Here and not by the other end, which would refuse the whole message and with it the session.
            Ok(assign) if assign.encoded_len() > ASSIGN_MAX_BYTES => {
                self.gone(key, Some(&too_large(&assign))).await
            }
            Ok(assign) => {
                // Noted before it is sent: a message that went out and was not noted could be given twice.
                self.assignments += 1;
                let given = Given {
                    assignment: self.assignments,
                    heartbeat: self.heartbeat,
                };
                self.given.insert(key, given);
                self.send(Out::Assign(assign)).await
            }
            Err(failure) => self.gone(key, Some(&failure)).await,
        }
    }

    async fn act(&mut self, key: RankKey, action: Action) -> Result<(), End> {
        match action {
            // Given together, with what they need read at once.
            Action::Assign => self.assign(&[key]).await,
            Action::Start {
                rendezvous,
                standby,
            } => {
                let wire = |at: Option<Rendezvous>| {
                    at.map(|at| v1::Rendezvous {
                        host: at.host,
                        port: u32::from(at.port),
                    })
                };
                let (rendezvous, standby) = (wire(rendezvous), wire(standby));
                let (job_id, attempt, rank) = (key.job.0, key.attempt.0, key.rank.0);
                self.send(Out::Start(v1::Start {
                    job_id,
                    attempt,
                    rank,
                    rendezvous,
                    standby,
                }))
                .await
            }
            Action::Stop { reason, forget } => {
                #[cfg(feature = "planted")]
                if marquee_domain::planted::is("free-when-told") {
                    self.gone(key, None).await?;
                }
                self.send(self.stop(key, &reason, forget)).await
            }
            Action::Kill { reason } => self.send(kill(key, reason)).await,
            Action::TellLost { ranks } => {
                self.send(Out::RanksLost(v1::RanksLost {
                    job_id: key.job.0,
                    attempt: key.attempt.0,
                    rank: key.rank.0,
                    lost: ranks.into_iter().map(|rank| rank.0).collect(),
                }))
                .await
            }
            Action::Ack { sequence } => self.send(ack(key, sequence)).await,
            Action::Lost => {
                let failure = Failure {
                    class: FailureClass::LostWorker,
                    message: format!(
                        "worker {:?} is here, but does not hold rank {} any more; was it restarted?",
                        self.name, key.rank
                    ),
                };
                self.gone(key, Some(&failure)).await
            }
            Action::Gone => self.gone(key, None).await,
        }
    }

    /// Nothing of the rank is left on its worker.
    async fn gone(&self, key: RankKey, failure: Option<&Failure>) -> Result<(), End> {
        let now = self.app.clock.now();
        let mut tx = self.app.db.write("rank gone").await?;
        match ranks::mark_rank_gone(&mut tx, key, failure, now).await {
            Ok(()) => tx.commit().await?,
            // It ended meanwhile, in whatever way. To try that again would hold up all that this worker says.
            Err(StoreError::StaleRank { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        tracing::info!(
            job = %key.job, attempt = %key.attempt, rank = %key.rank, worker = %self.seat.worker,
            "rank is not held any more"
        );
        self.app.jobs_changed(&[key.job]);
        match lifecycle::advance(&self.app, &[key.job]).await {
            // Somebody else did it.
            Err(error) if error.is_stale() => Ok(()),
            done => Ok(done?),
        }
    }

    async fn reports(&mut self, batch: &[v1::Report]) -> Result<(), End> {
        let stored = self
            .app
            .reports
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
    async fn goodbye(&self, left: &HeldRanks) -> Result<(), End> {
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

    fn stop(&self, key: RankKey, reason: &str, forget: bool) -> Out {
        let grace = self.app.settings.stop_grace.as_millis();
        Out::Stop(v1::Stop {
            job_id: key.job.0,
            attempt: key.attempt.0,
            rank: key.rank.0,
            grace_ms: u32::try_from(grace).unwrap_or(u32::MAX),
            reason: reason.into(),
            forget,
        })
    }

    async fn send(&self, body: Out) -> Result<(), End> {
        let message = v1::CoordinatorMessage {
            body: Some(body),
            epoch: self.app.role.epoch(),
        };
        match self.outbox.send_timeout(Ok(message), SEND_MAX).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(End::Stuck),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(End::Closed),
        }
    }
}

/// A message's work, kept until it is stored.
#[derive(Debug)]
enum Work {
    Welcome,
    Nudge,
    /// Ranks that were just placed on the worker.
    Placed(Vec<PlacedRank>),
    Heartbeat,
    Reports(Vec<v1::Report>),
    /// With the ranks of which something is left all the same.
    Goodbye(HeldRanks),
}

fn nonsense(why: impl ToString) -> End {
    End::Nonsense(why.to_string())
}
