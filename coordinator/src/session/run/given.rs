//! What a worker is told of its ranks: what follows from the stored rows and from what it holds.

use std::time::Duration;

use marquee_domain::failure::{Failure, FailureClass};
use marquee_proto::v1;
use marquee_proto::v1::coordinator_message::Body as Out;
use marquee_store::StoreError;
use marquee_store::attempts::Rendezvous;
use marquee_store::ranks::{self, RankKey};
use prost::Message as _;
use tokio::time::Instant;

use super::{End, Given, Session};
use crate::lifecycle;
use crate::session::assign::{self, Assigned};
use crate::session::messages::{ASSIGN_MAX_BYTES, ack, kill, too_large};
use crate::session::reconcile::{Action, Occasion, decide};
use crate::session::registry::PlacedRank;

/// Of a worker that does not count its assignments: a rank that was given to it and is in none of so many heartbeats
/// after that counts as not there. The first may have been on its way when the assignment was, and so may others that
/// a slow link delivers together.
const HEARTBEATS_UNTIL_ABSENT: u64 = 2;
/// The rows of an idle worker's ranks are looked at this often at least.
const COMPARED_EVERY: Duration = Duration::from_secs(60);

impl Session {
    /// Tells a worker that has just come where its reports go on, then what should change.
    pub(super) async fn acknowledge_all(&mut self) -> Result<(), End> {
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

    /// Whether a look at the rows of the worker's ranks would find none: it holds nothing, it was given nothing that it may
    /// not have taken yet, and the index knows of nothing that it should hold. Now and then they are looked at all the
    /// same, since the index is no proof.
    pub(super) fn has_nothing_to_compare(&mut self) -> bool {
        self.forget_given();
        let now = Instant::now();
        // The first heartbeat says what the worker holds by now, whatever was on its way when it said Hello.
        let is_due = self.heartbeat == 1 || now - self.compared_at >= COMPARED_EVERY;
        if is_due || !self.held.is_empty() || !self.given.is_empty() {
            return false;
        }
        // Whoever plans at this moment may be placing something: then the rows are asked.
        let open = self.app.index.try_open();
        let has_none = open.is_some_and(|open| open.held_on(self.seat.worker).next().is_none());
        if has_none {
            // As after a read: a word of a placement that was begun before may have waited for long.
            self.read_at = now;
        }
        has_none
    }

    /// Forgets what the worker was given and has taken by now.
    fn forget_given(&mut self) {
        let (followed, heartbeat) = (self.followed, self.heartbeat);
        self.given.retain(|_, given| match followed {
            Some(followed) => given.assignment > followed,
            None => given.heartbeat.saturating_add(HEARTBEATS_UNTIL_ABSENT) > heartbeat,
        });
    }

    /// Compares what should be held with what is, and does what follows.
    pub(super) async fn reconcile(&mut self, occasion: Occasion) -> Result<(), End> {
        let keys: Vec<RankKey> = self.held.keys().copied().collect();
        let mut conn = self.app.db.read().await?;
        let rows = ranks::list_worker_ranks(&mut conn, self.seat.worker, &keys).await?;
        drop(conn);
        // Noted after the read: a placement that was committed during it may be missing in these rows, and is
        // read again.
        self.read_at = Instant::now();
        self.compared_at = self.read_at;
        let mut assigned = Vec::new();
        self.forget_given();
        for (key, action) in decide(&rows, &self.held, occasion) {
            match action {
                // Either guard is enough, this one or the worker's own (`Supervisor::assign`): the bug takes both away.
                #[cfg(feature = "planted")]
                Action::Assign if marquee_domain::planted::is("assignment-taken-twice") => {
                    assigned.push(key);
                }
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
    pub(super) async fn placed(&mut self, placed: &[PlacedRank]) -> Result<(), End> {
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
                    let message = assign::at_once(assignment, self.knows);
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
        let assignments = assign::assignments(&mut conn, keys, self.knows).await?;
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
}
