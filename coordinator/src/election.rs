//! Which of several coordinators on one database leads, seen from one of them: it stands by until the one that leads
//! is gone, takes over, renews its lease, and hands over when it ends.
//!
//! A coordinator that is taken over from ends ([`TakenOver`]), and its service manager starts it anew, to stand by.
//! All that it holds in memory (index, sessions, shares of rates) was made by leading; a new process is the one sure
//! way to leave nothing of that behind.
//!
//! Not here: what the database says (`marquee_store::leader`), and what keeps one that no longer leads from writing
//! (the fence of `marquee_store::Db`).

use std::time::Duration;

use anyhow::Context as _;
use marquee_store::leader::{Candidate, Leader, Post, Renewed};
use marquee_store::{Db, Schema, StoreError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::app::App;
use crate::background;
use crate::blobs::{BlobError, ObjectTrouble};
use crate::lifecycle::{self, LifecycleError};
use crate::role::{Role, Standby};
use crate::systemd;

/// Renewals in one lease: two may be lost.
const RENEWALS_PER_LEASE: u32 = 3;
/// Looks of one that stands by in one lease of the leader's. Two of them must find it over.
const LOOKS_PER_LEASE: u32 = 12;
/// How often it is said that Postgres is still away.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long a new leader takes it that somebody stands by whom it has not heard of.
const LEASES_TO_BE_SEEN: u32 = 2;
/// How long handing over may take: without it the lease runs out by itself.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);
/// Pause before what a leader asks of a Postgres that is away is tried again: as soon as that is back, before anybody
/// who stands by finds a lease that is over.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Exit code of a coordinator that another one took over from: what it was started for goes on elsewhere, and it may
/// be started again.
pub const TAKEN_OVER: u8 = 75;

/// Another coordinator leads now.
#[derive(Debug, thiserror::Error)]
#[error(
    "another coordinator has taken over (epoch {newest}, at {leader}): this one, which led as epoch {epoch}, has changed nothing since, and ends; started again it stands by"
)]
pub struct TakenOver {
    epoch: i64,
    newest: i64,
    leader: String,
}

/// Somebody asked the coordinator that leads to hand over.
#[derive(Debug, thiserror::Error)]
#[error(
    "somebody asked this coordinator, which led as epoch {epoch}, to hand over: it ends, and started again it stands by"
)]
pub struct SteppedDown {
    epoch: i64,
}

/// A coordinator among others.
#[derive(Debug)]
pub struct Election {
    post: Post,
    db: Db,
    role: Role,
    schema: Schema,
    lease: Duration,
    /// The epoch that it leads.
    epoch: Option<i64>,
    /// It only answers: another one may lead.
    is_passive: bool,
}

/// What a process brings to its election.
#[derive(Debug)]
pub struct Terms {
    pub schema: Schema,
    /// How long a leader's lease is.
    pub lease: Duration,
    /// Its database is its own: no other coordinator can be there.
    pub is_alone: bool,
    /// In safe mode it changes nothing, so it must not keep others from leading.
    pub is_passive: bool,
}

impl Election {
    /// Leads at once where that can be known to harm nobody: nobody leads, the one that did is gone, or its lease is
    /// over. Else it stands by.
    pub async fn begin(post: Post, db: Db, role: Role, terms: Terms) -> anyhow::Result<Self> {
        let mut election = Self {
            post,
            db,
            role,
            schema: terms.schema,
            lease: terms.lease,
            epoch: None,
            is_passive: terms.is_passive,
        };
        let leader = election.post.look().await?;
        election.show(&leader);
        if terms.is_passive {
            return Ok(election);
        }
        let me = election.post.me();
        // Who has the lock of this data folder knows that no other process works in it.
        let is_gone = terms.is_alone || leader.process.is_none() || leader.seat == me.seat;
        if !is_gone && !leader.has_expired {
            tracing::info!(leader = leader.address, epoch = leader.epoch, "standing by");
            if election.has_other_storage(&leader) {
                tracing::warn!(
                    leader = leader.address,
                    "this coordinator has another folder of artifacts (artifacts_dir) than the one that leads: it serves \
                     none of them, and does not take over by itself"
                );
            }
            return Ok(election);
        }
        if election.has_other_storage(&leader) {
            tracing::warn!(
                "artifacts_dir is not the folder that the coordinator before this one had: artifacts and checkpoints that \
                 lie there are missing here"
            );
        }
        // The word of a moment ago is judged again there, under the lock that writers share.
        if let Some(epoch) = election.post.take(&leader, is_gone).await? {
            election.won(epoch, &leader);
            // By the one that leads alone, which renews its lease meanwhile: a new index on a large table
            // takes longer than that.
            if election.schema == Schema::Older {
                let db = election.db.clone();
                election.while_renewing(epoch, db.migrate()).await??;
                election.schema = Schema::Ours;
            }
        }
        Ok(election)
    }

    /// Whether it leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.epoch.is_some()
    }

    /// Whether the tables can be read by this version.
    #[must_use]
    pub fn can_read(&self) -> bool {
        self.schema == Schema::Ours
    }

    /// Begins to work as the leader, if it leads already. To be called before anybody is answered, so that nobody who
    /// comes first is sent away.
    pub async fn start(&mut self, app: &App, loops: &mut JoinSet<()>) -> anyhow::Result<()> {
        if self.is_passive {
            *loops = background::alive_only(app);
            return Ok(());
        }
        let Some(epoch) = self.epoch else {
            return Ok(());
        };
        let (db, schema) = (self.db.clone(), self.schema);
        let asked = Instant::now();
        self.while_renewing(epoch, begin(app, db, schema)).await??;
        // Until the first renewal, it is not known that nobody stands by.
        self.role.leads(epoch, asked, self.lease, true);
        *loops = background::start(app);
        Ok(())
    }

    /// Leads, or stands by until it does, and comes back when this process must end. What only a leader does is in
    /// `loops`.
    pub async fn run(&mut self, app: &App, loops: &mut JoinSet<()>) -> anyhow::Error {
        if self.is_passive {
            return self.look_on().await;
        }
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => {
                let epoch = self.stand_by().await;
                if let Err(error) = self.start(app, loops).await {
                    return error;
                }
                epoch
            }
        };
        self.hold(app, epoch).await
    }

    /// Hands over, so that whoever stands by need not wait for the lease's end. Nothing may be under way any more that
    /// is to be stored: from now on it is refused.
    pub async fn leave(&mut self) {
        // First, so that nothing more of this process is stored once the row is nobody's.
        self.db.lead(None);
        let epoch = self.epoch.take();
        match timeout(LEAVE_WITHIN, self.post.leave(epoch)).await {
            Ok(Ok(())) if epoch.is_some() => tracing::info!("handed over"),
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "could not hand over; the lease runs out by itself")
            }
            Err(_) => tracing::debug!("could not hand over in time; the lease runs out by itself"),
        }
    }

    /// Waits until it leads.
    async fn stand_by(&mut self) -> i64 {
        let every = self.lease / LOOKS_PER_LEASE;
        let mut over: Option<(i64, Instant)> = None;
        let mut said_alive: Option<Instant> = None;
        let mut is_away = false;
        loop {
            systemd::alive();
            match self.look(&mut over, every).await {
                Ok(Some(epoch)) => return epoch,
                Ok(None) => is_away = false,
                Err(error) => {
                    over = None;
                    if !is_away {
                        tracing::warn!(%error, "who leads cannot be asked; trying again");
                    }
                    is_away = true;
                }
            }
            if !is_away
                && said_alive.is_none_or(|at| at.elapsed() > self.lease / RENEWALS_PER_LEASE)
            {
                // It is read by people: the next time will do.
                if self.post.say_alive().await.is_ok() {
                    said_alive = Some(Instant::now());
                }
            }
            sleep(every).await;
        }
    }

    /// One look. The epoch, where it leads by now.
    async fn look(
        &mut self,
        over: &mut Option<(i64, Instant)>,
        every: Duration,
    ) -> Result<Option<i64>, StoreError> {
        let asked = Instant::now();
        let leader = self.post.look().await?;
        self.show(&leader);
        if leader.process == Some(self.post.me().process) {
            // It took over before, and did not hear so.
            self.won(leader.epoch, &leader);
            return Ok(Some(leader.epoch));
        }
        // By itself it takes over nothing whose files it lacks. Where nobody leads any more,
        // whoever starts it anew decides so (`begin`).
        if self.has_other_storage(&leader) {
            return Ok(None);
        }
        let has_left = leader.process.is_none();
        if !has_left {
            // An answer that took as long as that tells of a Postgres that stood still, under the leader too.
            let is_prompt = asked.elapsed() < self.lease / RENEWALS_PER_LEASE;
            if !leader.has_expired || !is_prompt {
                *over = None;
                return Ok(None);
            }
            // Two looks, with time between them: one may have come just before a renewal that was late.
            match *over {
                Some((epoch, since)) if epoch == leader.epoch && since.elapsed() >= every => {}
                Some((epoch, _)) if epoch == leader.epoch => return Ok(None),
                Some(_) | None => {
                    *over = Some((leader.epoch, Instant::now()));
                    return Ok(None);
                }
            }
        }
        let taken = self.post.take(&leader, has_left).await?;
        if let Some(epoch) = taken {
            self.won(epoch, &leader);
        }
        Ok(taken)
    }

    /// Looks on who leads, and never does.
    async fn look_on(&mut self) -> anyhow::Error {
        loop {
            match self.post.look().await {
                Ok(leader) => self.show(&leader),
                Err(error) => tracing::debug!(%error, "who leads cannot be asked"),
            }
            sleep(self.lease).await;
        }
    }

    /// Renews the lease for as long as nobody has taken over.
    async fn hold(&mut self, app: &App, epoch: i64) -> anyhow::Error {
        let mut away: Option<Away> = None;
        let mut has_let_go = false;
        // Coordinators are often started together: one that stands by may not have said so yet.
        let certain_from = Instant::now() + self.lease * LEASES_TO_BE_SEEN;
        loop {
            // Counted from before the question, not from the answer: so the lease runs out here before it
            // does in Postgres, never after.
            let asked = Instant::now();
            let pause = match self.renew(epoch).await {
                Ok(has_standby) => {
                    let may_have_one = has_standby || asked < certain_from;
                    self.role.leads(epoch, asked, self.lease, may_have_one);
                    has_let_go = false;
                    if let Some(away) = away.take() {
                        tracing::info!(away_for = ?away.since.elapsed(), "Postgres answers again; this coordinator leads on");
                    }
                    self.lease / RENEWALS_PER_LEASE
                }
                Err(Lost::TakenOver(error)) => return error.into(),
                Err(Lost::Away(error)) => {
                    Away::say(&mut away, &error);
                    if !has_let_go && let Some(why) = self.role.doubt() {
                        // Each keeps its ranks, and comes back where this one leads all the same. Nobody is judged by it
                        // for that: the rounds that could fail as long as Postgres is away (`background::leases`).
                        tracing::warn!(
                            "the lease is over, and others may lead: workers are sent to look for them"
                        );
                        app.sessions.expel_all(&why);
                        has_let_go = true;
                    }
                    AGAIN_AFTER
                }
            };
            tokio::select! {
                biased;
                () = self.role.asked_to_step_down() => return SteppedDown { epoch }.into(),
                () = sleep(pause) => {}
            }
        }
    }

    /// Renews the lease until `work` is done.
    async fn while_renewing<T>(
        &mut self,
        epoch: i64,
        work: impl Future<Output = T>,
    ) -> anyhow::Result<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = sleep(self.lease / RENEWALS_PER_LEASE) => {}
            }
            match self.renew(epoch).await {
                // The work itself hears that Postgres is away, and knows better what to do about it.
                Ok(_) | Err(Lost::Away(_)) => {}
                Err(Lost::TakenOver(error)) => return Err(error.into()),
            }
        }
    }

    /// Whether there is somebody who would take over.
    async fn renew(&mut self, epoch: i64) -> Result<bool, Lost> {
        match self.post.renew(epoch).await.map_err(Lost::Away)? {
            Renewed::Yes { has_standby } => Ok(has_standby),
            Renewed::TakenOver(leader) => {
                // At once: what is under way in this process is not the leader's any more, and is refused
                // without a question to Postgres.
                self.db.lead(None);
                self.epoch = None;
                self.show(&leader);
                Err(Lost::TakenOver(TakenOver {
                    epoch,
                    newest: leader.epoch,
                    leader: leader.address,
                }))
            }
        }
    }

    fn won(&mut self, epoch: i64, before: &Leader) {
        self.epoch = Some(epoch);
        self.db.lead(Some(epoch));
        if before.epoch == 0 || before.address == self.post.me().address {
            tracing::info!(epoch, "leading");
        } else {
            tracing::info!(epoch, before = before.address, "took over; leading");
        }
    }

    /// Tells whoever answers requests what this process is.
    fn show(&self, leader: &Leader) {
        let is_there = leader.process.is_some() && !leader.has_expired;
        self.role.stands_by(Standby {
            leader: is_there.then(|| leader.address.clone()),
            unreadable: (!self.can_read()).then_some(
                "with tables of an earlier version, which it brings to its own when it leads, and cannot read before",
            ),
            other_storage: self.has_other_storage(leader),
        });
    }

    fn has_other_storage(&self, leader: &Leader) -> bool {
        let ours: Uuid = self.post.me().storage;
        leader.storage.is_some_and(|theirs| theirs != ours)
    }
}

/// Why a lease was not renewed.
enum Lost {
    TakenOver(TakenOver),
    /// Postgres did not answer: nobody else can have heard anything from it either, or will have taken over.
    Away(StoreError),
}

/// Postgres does not answer.
struct Away {
    since: Instant,
    told_at: Instant,
}

impl Away {
    fn say(away: &mut Option<Self>, error: &StoreError) {
        let now = Instant::now();
        match away {
            None => {
                tracing::warn!(%error, "Postgres does not answer, so the lease of this coordinator was not renewed; trying again");
                *away = Some(Self {
                    since: now,
                    told_at: now,
                });
            }
            Some(away) if away.told_at.elapsed() > TELL_EVERY => {
                away.told_at = now;
                tracing::warn!(
                    away_for = ?away.since.elapsed(),
                    "Postgres does not answer, and this coordinator waits for it: workers go on, and nothing is stored or \
                     placed until it does"
                );
            }
            Some(_) => {}
        }
    }
}

/// What a new leader does before its loops start: from here on it may write.
async fn begin(app: &App, db: Db, schema: Schema) -> anyhow::Result<()> {
    if schema == Schema::Older {
        db.migrate().await?;
    }
    // Only now that it leads: what looks left over may be an upload to the one that leads.
    loop {
        match settle_blobs(app).await {
            Ok(()) => break,
            Err(error) if is_away(&error) => {
                tracing::warn!(%error, "the store of artifacts does not answer; trying again");
                sleep(AGAIN_AFTER).await;
            }
            Err(error) => return Err(error).context("could not make ready the store of artifacts"),
        }
    }
    loop {
        match load(app, &db).await {
            Ok(()) => return Ok(()),
            Err(error) if error.may_pass() => sleep(AGAIN_AFTER).await,
            Err(error) => {
                return Err(error)
                    .context("could not read what the coordinator before this one left");
            }
        }
    }
}

async fn settle_blobs(app: &App) -> Result<(), LifecycleError> {
    // In this order: what is to be settled is read by the first of the two.
    app.blobs.remove_leftovers().await?;
    lifecycle::settle_going(app).await
}

/// Whether it may pass by itself. What a person has to mend ends this process, so that another coordinator can try.
fn is_away(error: &LifecycleError) -> bool {
    if let LifecycleError::Store(error) = error {
        return error.may_pass();
    }
    let away = ObjectTrouble::Away;
    matches!(error, LifecycleError::Blobs(BlobError::Objects { trouble, .. }) if *trouble == away)
}

async fn load(app: &App, db: &Db) -> Result<(), StoreError> {
    let mut conn = db.read().await?;
    app.rates.begin(&mut conn, app.clock.now()).await
}

/// A coordinator as it shows itself to the others.
#[must_use]
pub fn candidate(process: Uuid, seat: String, address: String, storage: Uuid) -> Candidate {
    Candidate {
        process,
        seat,
        address,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        storage,
    }
}
