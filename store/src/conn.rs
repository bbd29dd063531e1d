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
use sqlx::{PgConnection, Postgres};

use crate::Result;
#[cfg(feature = "testing")]
use crate::faults::{Faults, When};
use crate::fence::{Fence, Opening};
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
    Transaction(Transaction),
    /// Reads alone, all of one moment. Rolled back when it is dropped.
    Snapshot(sqlx::Transaction<'static, Postgres>),
}

/// A connection with a transaction on it. Not sqlx's own: that one begins in a round trip of its own, and what stands
/// behind BEGIN could not be read.
#[derive(Debug)]
pub(crate) struct Transaction(Option<PoolConnection<Postgres>>);

impl Transaction {
    /// Begins one that `fence` lets through.
    pub(crate) async fn begin(
        connection: PoolConnection<Postgres>,
        fence: &Fence,
        opening: Opening<'_>,
    ) -> Result<Self> {
        // Before the first await, so that whatever becomes of it, it is rolled back.
        let mut begun = Self(Some(connection));
        fence.begin(begun.connection(), opening).await?;
        Ok(begun)
    }

    #[allow(
        clippy::expect_used,
        reason = "only `end` and `drop` take it, and both are the last"
    )]
    fn connection(&mut self) -> &mut PoolConnection<Postgres> {
        self.0
            .as_mut()
            .expect("a transaction has its connection to its end")
    }

    async fn end(mut self, statement: &'static str) -> Result<()> {
        // Not prepared: there is nothing to plan, and one round trip does it.
        sqlx::raw_sql(statement)
            .execute(&mut **self.connection())
            .await?;
        // Nothing is left to roll back.
        drop(self.0.take());
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(mut connection) = self.0.take() else {
            return;
        };
        // Nobody could send the ROLLBACK. The end of the connection ends the transaction as well.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            connection.close_on_drop();
            return;
        };
        // A destructor cannot wait for an answer. The connection is in the pool again when this is done, not
        // before.
        runtime.spawn(async move {
            let rolled_back = sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await;
            if rolled_back.is_err() {
                // Whoever got it next would be in the middle of our transaction.
                connection.close_on_drop();
            }
        });
    }
}

impl Conn {
    pub(crate) fn reading(connection: PoolConnection<Postgres>, meter: Meter) -> Self {
        Self {
            on: On::Connection(connection),
            meter,
        }
    }

    pub(crate) fn snapshot(
        transaction: sqlx::Transaction<'static, Postgres>,
        meter: Meter,
    ) -> Self {
        Self {
            on: On::Snapshot(transaction),
            meter,
        }
    }

    /// What one statement runs on. Called once for each statement, which it counts.
    pub(crate) fn sql(&mut self) -> &mut PgConnection {
        self.meter.statement();
        match &mut self.on {
            On::Connection(connection) => connection,
            On::Transaction(transaction) => transaction.connection(),
            On::Snapshot(transaction) => transaction,
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
        transaction: Transaction,
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

    /// Has each statement from now on planned for the values that it is asked with. For statements whose conditions may
    /// be missing (`$1 IS NULL OR ..`): one plan for all of them would read whole tables.
    pub async fn plan_anew(&mut self) -> Result<()> {
        sqlx::query_scalar!("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)")
            .fetch_one(self.sql())
            .await?;
        Ok(())
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
    /// Which coordinator wrote it was checked when the transaction began (`fence`), and stays true to its end.
    pub async fn commit(self) -> Result<()> {
        let Conn { on, mut meter } = self.conn;
        let On::Transaction(transaction) = on else {
            // Only a test has this; each of its statements is committed already.
            return Ok(());
        };
        #[cfg(feature = "testing")]
        let fault = self.faults.take(meter.operation());
        #[cfg(feature = "testing")]
        if fault == Some(When::BeforeCommit) {
            // Ended here and not by the destructor, which works in the background: a test that looks at once
            // finds nothing left of it.
            transaction.end("ROLLBACK").await?;
            return Err(Faults::error());
        }
        #[cfg(feature = "testing")]
        if fault == Some(When::Conflict) {
            return transaction.end(Faults::CONFLICT).await;
        }
        meter.asks_to_commit();
        transaction.end("COMMIT").await?;
        #[cfg(feature = "testing")]
        if fault == Some(When::AfterCommit) {
            return Err(Faults::error());
        }
        meter.committed();
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
