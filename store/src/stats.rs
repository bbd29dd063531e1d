//! How many statements and transactions there were, for what, and how long they took.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What one process has done on a database. What is still open counts when it ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DbStats {
    /// Connections taken to read.
    pub reads: OperationStats,
    /// Transactions, by what they were for.
    pub writes: BTreeMap<&'static str, OperationStats>,
    /// COMMITs that were sent, and whose answer did not come, or was a refusal: what they were for may be stored, and
    /// whoever waited for it may have gone.
    pub unanswered: u64,
}

/// Of one kind of operation, all that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OperationStats {
    /// Reads or transactions that began, and have ended in any way.
    pub begun: u64,
    /// Transactions whose COMMIT was answered.
    pub committed: u64,
    /// Transactions that ended in any other way.
    pub rolled_back: u64,
    /// Statements, without BEGIN, COMMIT and ROLLBACK.
    pub statements: u64,
    /// Time for which a connection was held, all together.
    pub held: Duration,
}

impl DbStats {
    /// Statements of reads and writes, without BEGIN, COMMIT and ROLLBACK.
    #[must_use]
    pub fn statements(&self) -> u64 {
        self.all().map(|operation| operation.statements).sum()
    }

    /// Transactions that were begun.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.writes.values().map(|write| write.begun).sum()
    }

    /// Transactions whose COMMIT was answered.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.writes.values().map(|write| write.committed).sum()
    }

    /// What came since `earlier`, a snapshot of the same database.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let writes = self.writes.iter().map(|(name, now)| {
            let before = earlier.writes.get(name).copied().unwrap_or_default();
            (*name, now.since(before))
        });
        Self {
            reads: self.reads.since(earlier.reads),
            writes: writes.filter(|(_, write)| write.begun > 0).collect(),
            unanswered: self.unanswered - earlier.unanswered,
        }
    }

    fn all(&self) -> impl Iterator<Item = &OperationStats> {
        std::iter::once(&self.reads).chain(self.writes.values())
    }
}

impl OperationStats {
    fn since(self, earlier: Self) -> Self {
        Self {
            begun: self.begun - earlier.begun,
            committed: self.committed - earlier.committed,
            rolled_back: self.rolled_back - earlier.rolled_back,
            statements: self.statements - earlier.statements,
            held: self.held.saturating_sub(earlier.held),
        }
    }
}

/// The counts of one [`Db`](crate::Db) and its clones.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<DbStats>);

impl Counters {
    pub(crate) fn reading(self: &Arc<Self>) -> Meter {
        Meter::new(self, Kind::Read)
    }

    pub(crate) fn writing(self: &Arc<Self>, operation: &'static str) -> Meter {
        let (asked, committed) = (false, false);
        Meter::new(
            self,
            Kind::Write {
                operation,
                asked,
                committed,
            },
        )
    }

    pub(crate) fn snapshot(&self) -> DbStats {
        self.stats().clone()
    }

    pub(crate) fn unanswered(&self) -> u64 {
        self.stats().unanswered
    }

    fn stats(&self) -> MutexGuard<'_, DbStats> {
        // Counts are whole after each addition, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Read,
    Write {
        operation: &'static str,
        /// Its COMMIT was sent.
        asked: bool,
        /// And answered.
        committed: bool,
    },
}

/// Counts for one connection in use, and adds it up when it is dropped: a lock once, not once a statement.
#[derive(Debug)]
pub(crate) struct Meter {
    counters: Arc<Counters>,
    kind: Kind,
    since: Instant,
    statements: u64,
}

impl Meter {
    fn new(counters: &Arc<Counters>, kind: Kind) -> Self {
        Self {
            counters: counters.clone(),
            kind,
            since: Instant::now(),
            statements: 0,
        }
    }

    pub(crate) fn statement(&mut self) {
        self.statements += 1;
    }

    pub(crate) fn asks_to_commit(&mut self) {
        if let Kind::Write { asked, .. } = &mut self.kind {
            *asked = true;
        }
    }

    pub(crate) fn committed(&mut self) {
        if let Kind::Write { committed, .. } = &mut self.kind {
            *committed = true;
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn operation(&self) -> &'static str {
        match self.kind {
            Kind::Read => "",
            Kind::Write { operation, .. } => operation,
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let mut stats = self.counters.stats();
        let operation = match self.kind {
            Kind::Read => &mut stats.reads,
            Kind::Write {
                operation,
                asked,
                committed,
            } => {
                // Dropped while it waited counts as well: nobody is left to hear the answer.
                stats.unanswered += u64::from(asked && !committed);
                let write = stats.writes.entry(operation).or_default();
                write.committed += u64::from(committed);
                write.rolled_back += u64::from(!committed);
                write
            }
        };
        operation.begun += 1;
        operation.statements += self.statements;
        operation.held += self.since.elapsed();
    }
}
