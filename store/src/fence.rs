//! Which writes are let through: those of the coordinator that leads.
//!
//! A transaction begins with the shared advisory lock and then reads the leader's epoch, all in the one round trip
//! that its BEGIN takes anyway. The lock comes first since each statement sees what is committed when it begins, and a
//! successor raises the epoch under the exclusive lock: it waits for writes in flight, and none can follow.

use std::sync::atomic::{AtomicI64, Ordering};

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Postgres, Row as _};

use crate::{Result, StoreError};

/// The advisory lock that every writing transaction shares, and a successor takes alone. The letters of "Marquee".
pub(crate) const LOCK_KEY: i64 = 0x4d_6172_7175_6565;

/// No process of this database leads: nothing is written.
const CLOSED: i64 = 0;
/// There is no election, as in tests that write tables themselves.
#[cfg(feature = "testing")]
const OPEN: i64 = -1;

/// By which epoch a process writes.
#[derive(Debug)]
pub(crate) struct Fence(AtomicI64);

impl Default for Fence {
    fn default() -> Self {
        Self(AtomicI64::new(CLOSED))
    }
}

impl Fence {
    #[cfg(feature = "testing")]
    pub(crate) fn open() -> Self {
        Self(AtomicI64::new(OPEN))
    }

    pub(crate) fn set(&self, epoch: Option<i64>) {
        self.0.store(epoch.unwrap_or(CLOSED), Ordering::SeqCst);
    }

    #[cfg(feature = "testing")]
    pub(crate) fn set_open(&self) {
        self.0.store(OPEN, Ordering::SeqCst);
    }

    /// Begins a transaction that may write.
    pub(crate) async fn begin(&self, connection: &mut PoolConnection<Postgres>) -> Result<()> {
        let mine = self.0.load(Ordering::SeqCst);
        if mine == CLOSED {
            return Err(StoreError::NotLeading {
                mine: None,
                leader: String::new(),
            });
        }
        #[cfg(feature = "testing")]
        if mine == OPEN {
            sqlx::raw_sql("BEGIN").execute(&mut **connection).await?;
            return Ok(());
        }
        let begin = format!(
            "BEGIN; SET LOCAL marquee.epoch = {mine}; SELECT pg_advisory_xact_lock_shared({LOCK_KEY}); \
             SELECT epoch, address FROM leader"
        );
        let answers = sqlx::raw_sql(AssertSqlSafe(begin))
            .fetch_all(&mut **connection)
            .await?;
        // The last one is the leader's; the lock's own says nothing.
        let leader = answers.last().ok_or(StoreError::Vanished("leader"))?;
        let newest: i64 = leader.try_get("epoch")?;
        #[cfg(feature = "planted")]
        let newest = if marquee_domain::planted::is("epoch-unchecked") {
            mine
        } else {
            newest
        };
        if newest != mine {
            return Err(StoreError::NotLeading {
                mine: Some(mine),
                leader: leader.try_get("address")?,
            });
        }
        Ok(())
    }
}
