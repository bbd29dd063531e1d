//! One session at work: reads the worker's messages in order, stores, decides, answers.
//!
//! Here are its life and its loop. What it does with what the worker says stands in `heard.rs`, what it tells the worker of
//! its ranks in `given.rs`.

mod given;
mod heard;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use marquee_domain::backoff::Backoff;
use marquee_domain::rate::SHARE_FOR;
use marquee_proto::v1;
use marquee_proto::v1::coordinator_message::Body as Out;
use marquee_store::ranks::RankKey;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::assign::Knows;
use super::hello::HeldRanks;
use super::messages::{kill, rescue};
use super::reader::read;
use super::reconcile::Occasion;
use super::registry::{PlacedRank, Seat};
use super::rhythm::Rhythm;
use crate::app::App;
use crate::lifecycle::LifecycleError;
use crate::walls::caught;

/// Messages to a worker that wait to be sent: an assignment for each of its ranks with room to
/// spare. A worker that does not read them in time is let go, and comes back.
pub(super) const OUTBOX_MAX: usize = 1_024;
/// Messages from a worker that wait to be stored; above it the stream itself holds the rest.
const INBOX_MAX: usize = 256;
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
    /// When the rows of the worker's ranks were read last, or were known to be none.
    read_at: Instant,
    /// When they were read.
    compared_at: Instant,
    /// Ranks given to the worker that it may not have taken yet.
    given: BTreeMap<RankKey, Given>,
    /// Assignments that were sent in this session.
    assignments: u64,
    /// Of them, those that the worker had followed before its newest heartbeat; None: it does not count them.
    followed: Option<u64>,
    knows: Knows,
    /// When its jobs ended of late.
    rhythm: Rhythm,
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
        (knows, keeps_lease): (Knows, bool),
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
            compared_at: Instant::now(),
            given: BTreeMap::new(),
            assignments: 0,
            followed: None,
            knows,
            rhythm: Rhythm::default(),
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
        // It waits for the worker's next message, which nobody would take any more.
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
                        Some(message) => self.hear(message, &mut inbox).await,
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

    async fn nudged(&mut self) -> Result<(), End> {
        if let Some(text) = self.app.sessions.rival_to_tell(&self.seat) {
            self.send(Out::Notice(v1::Notice { text })).await?;
        }
        if self.heartbeat > 0 {
            self.send_shares().await?;
        }
        self.persist(Work::Nudge).await
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
