//! Users: who asks, what he may do, and how often.
//!
//! Users, tokens and sessions are few and asked of with each request, so that this process keeps them all (`book`). The
//! one that leads reads them when it begins to lead and after each change, all of which are its own; one that stands by
//! reads them again every two seconds, which is how long a token that was revoked is still shown stored jobs there.
//!
//! Invariant: what is kept here is what is stored, or nothing: where it cannot be read, nobody is let in.

mod book;
mod flow;
mod who;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use marquee_store::{Db, StoreError, users};
use tokio::time::Instant;

use crate::env::Clock;
use crate::role::Role as Leadership;

pub(crate) use book::Known;
pub(crate) use flow::{Asker, Flow, Open};
pub(crate) use who::{Means, NotKnown, OwnPage, Who, cookie, is_private, is_tls, session_of};

use book::Book;

/// How old what is known may be where another coordinator makes the changes.
const STANDBY_READS_EVERY: Duration = Duration::from_secs(2);
/// A token that was refused is said at most so often: who tries many fills no log.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// What this process knows of users. A cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Users(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    kept: RwLock<Kept>,
    /// Held while rows are read: whoever reads last has the newest, and keeps it.
    reading: tokio::sync::Mutex<()>,
    flow: Flow,
    refused: Mutex<Refused>,
}

#[derive(Debug, Default)]
struct Refused {
    said: Option<Instant>,
    since: u64,
}

#[derive(Debug, Default)]
struct Kept {
    book: Book,
    read: Option<Read>,
}

/// When the rows were read, and under which epoch; None: while another one led.
#[derive(Debug, Clone, Copy)]
struct Read {
    at: Instant,
    epoch: Option<u64>,
}

impl Users {
    /// Whether what is known can be gone by without a look at Postgres.
    pub(crate) fn is_current(&self, leadership: &Leadership) -> bool {
        let Some(read) = self.kept().read else {
            return false;
        };
        match leadership.leads_as() {
            Some(epoch) => read.epoch == Some(epoch),
            None => read.at.elapsed() < STANDBY_READS_EVERY,
        }
    }

    /// Sees to it that what is known is current.
    pub(crate) async fn ready(
        &self,
        db: &Db,
        leadership: &Leadership,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        let reading = self.0.reading.lock().await;
        if self.is_current(leadership) {
            // Somebody else had the same question.
            return Ok(());
        }
        self.read(db, leadership, clock, reading).await
    }

    /// Reads everything again, after a change. Where that fails, nobody is let in until it has been read.
    pub(crate) async fn again(
        &self,
        db: &Db,
        leadership: &Leadership,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        let reading = self.0.reading.lock().await;
        self.0
            .kept
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .read = None;
        self.read(db, leadership, clock, reading).await
    }

    async fn read(
        &self,
        db: &Db,
        leadership: &Leadership,
        clock: &dyn Clock,
        _reading: tokio::sync::MutexGuard<'_, ()>,
    ) -> Result<(), StoreError> {
        // Before the rows: what is written under a later epoch is then not taken for read.
        let read = Read {
            at: Instant::now(),
            epoch: leadership.leads_as(),
        };
        // All three of one moment: a token without its user, or a session without its token, would stand for
        // nobody.
        let mut conn = db.snapshot().await?;
        let all = users::list_users(&mut conn).await?;
        let (tokens, sessions) = if all.is_empty() {
            (Vec::new(), Vec::new())
        } else {
            (
                users::list_tokens(&mut conn).await?,
                users::list_sessions(&mut conn, clock.now()).await?,
            )
        };
        drop(conn);
        let mut kept = self.0.kept.write().unwrap_or_else(PoisonError::into_inner);
        kept.book = kept.book.succeeded_by(all, tokens, sessions);
        kept.read = Some(read);
        self.0.flow.keep(|name| kept.book.by_name(name).is_some());
        Ok(())
    }

    /// Whether there are any users.
    pub(crate) fn are_there(&self) -> bool {
        self.kept().book.has_users()
    }

    /// Says that a token was refused; never which.
    pub(crate) fn say_refused(&self, from: Option<SocketAddr>, why: &NotKnown) {
        let mut refused = self
            .0
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        refused.since += 1;
        if refused.said.is_some_and(|said| said.elapsed() < SAID_EVERY) {
            return;
        }
        refused.said = Some(Instant::now());
        let times = std::mem::take(&mut refused.since);
        let from = from.map(|from| from.to_string()).unwrap_or_default();
        tracing::warn!(from, times, %why, "a token was refused");
    }

    pub(crate) fn flow(&self) -> &Flow {
        &self.0.flow
    }

    fn kept(&self) -> RwLockReadGuard<'_, Kept> {
        self.0.kept.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use crate::role::Standby;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_read_holds_for_its_epoch_and_for_two_seconds_where_another_one_leads() {
        let users = Users::default();
        let role = Leadership::default();
        assert!(!users.is_current(&role), "nothing was read yet");
        let read = |epoch| {
            let at = Instant::now();
            users.0.kept.write().unwrap().read = Some(Read { at, epoch });
        };
        let lead = |epoch| role.leads(epoch, Instant::now(), Duration::from_secs(3), true);
        lead(3);
        read(Some(3));
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert!(users.is_current(&role), "all changes are its own");
        lead(4);
        assert!(
            !users.is_current(&role),
            "others may have changed something between"
        );
        role.stands_by(Standby::default());
        read(None);
        assert!(users.is_current(&role));
        tokio::time::sleep(STANDBY_READS_EVERY).await;
        assert!(!users.is_current(&role));
        // What was read while it stood by is nothing to lead by.
        read(None);
        lead(5);
        assert!(!users.is_current(&role));
    }
}
