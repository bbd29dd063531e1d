//! A connection that reads, and a transaction that writes.
//!
//! What a function of this crate takes says what it does: `&mut Conn` reads, `&mut Tx` writes or locks. A
//! transaction can be read on too, so a `&mut Tx` passes for a `&mut Conn`.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
#[cfg(feature = "testing")]
use std::sync::Arc;

use marquee_domain::ids::JobId;
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, Transaction};

use crate::Result;
#[cfg(feature = "testing")]
use crate::faults::{Faults, When};
use crate::stats::Meter;

/// A connection to read on.
#[derive(Debug)]
pub struct Conn {
    on: On,
    meter: Meter,
}

#[derive(Debug)]
enum On {
    Connection(PoolConnection<Postgres>),
    Transaction(Transaction<'static, Postgres>),
}

impl Conn {
    pub(crate) fn reading(connection: PoolConnection<Postgres>, meter: Meter) -> Self {
        Self {
            on: On::Connection(connection),
            meter,
        }
    }

    /// What one statement runs on. Called once for each statement, which it counts.
    pub(crate) fn sql(&mut self) -> &mut PgConnection {
        self.meter.statement();
        match &mut self.on {
            On::Connection(connection) => connection,
            On::Transaction(transaction) => transaction,
        }
    }
}

/// Who caused what, by job.
#[derive(Debug, Default)]
struct Callers(BTreeMap<JobId, String>);

/// A transaction that writes. Dropped without [`commit`](Self::commit) it is rolled back.
#[derive(Debug)]
pub struct Tx {
    conn: Conn,
    callers: Callers,
    #[cfg(feature = "testing")]
    faults: Arc<Faults>,
}

impl Tx {
    pub(crate) fn new(
        transaction: Transaction<'static, Postgres>,
        meter: Meter,
        #[cfg(feature = "testing")] faults: Arc<Faults>,
    ) -> Self {
        Self {
            conn: Conn {
                on: On::Transaction(transaction),
                meter,
            },
            callers: Callers::default(),
            #[cfg(feature = "testing")]
            faults,
        }
    }

    /// No transaction: each statement is committed by itself.
    #[cfg(feature = "testing")]
    pub(crate) fn autocommit(
        connection: PoolConnection<Postgres>,
        meter: Meter,
        faults: Arc<Faults>,
    ) -> Self {
        Self {
            conn: Conn::reading(connection, meter),
            callers: Callers::default(),
            faults,
        }
    }

    /// Says who caused what happens to a job in this transaction: the worker whose report moved it. Lines that its
    /// history gets from now on name it, where they name nobody else.
    pub fn caused_by(&mut self, job: JobId, caller: &str) {
        self.callers.0.insert(job, caller.to_owned());
    }

    /// Who caused what happens to a job; empty: the coordinator itself.
    pub(crate) fn caller_of(&self, job: JobId) -> String {
        self.callers.0.get(&job).cloned().unwrap_or_default()
    }

    /// Makes what was written visible to others, and lasting.
    ///
    /// An error does not say that nothing was stored: where the connection broke after Postgres had taken the
    /// COMMIT, only its answer is lost. So every caller must be safe to run again with the same request.
    ///
    /// This is also where a coordinator that was replaced will be stopped. Once there is an elected leader,
    /// each `Tx` takes `pg_advisory_xact_lock_shared` on the leader's key and reads the leader's epoch in a
    /// statement after that; a commit by an epoch that is not the newest is refused. The lock comes first
    /// since each statement sees what is committed when it begins, and the successor raises the epoch under
    /// the exclusive lock: it waits for writes in flight, and none can follow.
    pub async fn commit(self) -> Result<()> {
        let Conn { on, mut meter } = self.conn;
        let On::Transaction(transaction) = on else {
            // Of a test, whose statements are each committed already.
            return Ok(());
        };
        #[cfg(feature = "testing")]
        let fault = self.faults.take(meter.operation());
        #[cfg(feature = "testing")]
        if fault == Some(When::BeforeCommit) {
            transaction.rollback().await?;
            return Err(Faults::error());
        }
        transaction.commit().await?;
        meter.committed();
        #[cfg(feature = "testing")]
        if fault == Some(When::AfterCommit) {
            return Err(Faults::error());
        }
        Ok(())
    }
}

impl Deref for Tx {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.conn
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}
