//! Which writes are let through: those of the coordinator that leads.
//!
//! A transaction begins with the shared advisory lock and then reads the leader's epoch, all in the one round trip
//! that its BEGIN takes anyway (`begin_write`, migration 0025). The lock comes first since each query there sees what is
//! committed when it begins, and a successor raises the epoch under the exclusive lock: it waits for writes in flight,
//! and none can follow.

use std::sync::atomic::{AtomicI64, Ordering};

use marquee_domain::ids::PipelineId;
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

/// One plan for a statement and connection, kept whatever it is asked with. Left to itself Postgres plans most
/// statements of the hot path anew each time, because it takes arrays of one element for arrays of ten: about a sixth
/// of the CPU time that a quick job costs. What is asked with conditions that may be missing needs
/// [`Tx::plan_anew`](crate::Tx::plan_anew).
const PLAN_ONCE: &str = "set_config('plan_cache_mode', 'force_generic_plan', true)";

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
    pub(crate) async fn begin(
        &self,
        connection: &mut PoolConnection<Postgres>,
        opening: Opening<'_>,
    ) -> Result<()> {
        // Read once. If this process takes or loses the lead meanwhile, the comparison below refuses what is
        // begun here.
        let mine = self.0.load(Ordering::SeqCst);
        if mine == CLOSED {
            return Err(StoreError::NotLeading {
                mine: None,
                leader: String::new(),
            });
        }
        #[cfg(feature = "testing")]
        if mine == OPEN {
            return opening.begin_unfenced(connection).await;
        }
        let call = opening.call(Some(mine));
        let begin = format!("BEGIN; SELECT newest, leader_address, {PLAN_ONCE} FROM {call}");
        // Not prepared: the two go in one round trip, and BEGIN has no parameters.
        let leader = sqlx::raw_sql(AssertSqlSafe(begin))
            .fetch_one(&mut **connection)
            .await?;
        let newest: Option<i64> = leader.try_get("newest")?;
        // Null is a row that is gone: no coordinator deletes it, so nobody can be known to lead.
        let newest = newest.ok_or(StoreError::Vanished("leader"))?;
        #[cfg(feature = "planted")]
        let newest = if marquee_domain::planted::is("epoch-unchecked") {
            mine
        } else {
            newest
        };
        // Neither lower nor higher: a process of an old epoch must not write, and one that reads an epoch
        // above its own has missed that it was taken over from.
        if newest != mine {
            return Err(StoreError::NotLeading {
                mine: Some(mine),
                leader: leader.try_get("leader_address")?,
            });
        }
        Ok(())
    }
}

/// What a transaction begins with, besides the fence.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Opening<'a> {
    /// Who asked for what it does, as the audit names them.
    pub(crate) actor: Option<&'a str>,
    /// Those whose locks it takes at once; see [`crate::pipelines::lock_pipelines`].
    pub(crate) pipelines: &'a [PipelineId],
}

impl Opening<'_> {
    /// The call of `begin_write` (migration 0025) as text.
    fn call(&self, epoch: Option<i64>) -> String {
        let epoch = epoch.map_or("NULL".to_owned(), |epoch| epoch.to_string());
        // A name is whatever its owner chose: as hexadecimal digits it cannot end the literal.
        let actor = self.actor.map_or("NULL".to_owned(), |actor| {
            format!("convert_from(decode('{}', 'hex'), 'UTF8')", hex(actor))
        });
        let pipelines = if self.pipelines.is_empty() {
            "NULL".to_owned()
        } else {
            let ids: Vec<String> = self.pipelines.iter().map(|id| id.0.to_string()).collect();
            format!("'{{{}}}'", ids.join(","))
        };
        format!("begin_write({LOCK_KEY}, {epoch}, {actor}, {pipelines})")
    }

    /// Where there is no election. Nothing is asked of tables that may not be there yet, where nothing needs them.
    #[cfg(feature = "testing")]
    async fn begin_unfenced(self, connection: &mut PoolConnection<Postgres>) -> Result<()> {
        let mut begin = format!("BEGIN; SELECT {PLAN_ONCE}");
        if self.actor.is_some() || !self.pipelines.is_empty() {
            begin = format!("{begin} FROM {}", self.call(None));
        }
        sqlx::raw_sql(AssertSqlSafe(begin))
            .execute(&mut **connection)
            .await?;
        Ok(())
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
