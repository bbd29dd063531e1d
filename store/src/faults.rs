//! Failures that a test asks for.

use std::io::{Error, ErrorKind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::StoreError;

/// Where a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The connection breaks before Postgres gets the COMMIT: nothing is stored.
    BeforeCommit,
    /// It breaks after the COMMIT: what was written is stored, and the caller does not hear so.
    AfterCommit,
    /// Another transaction was in its way, and Postgres ends this one: nothing is stored.
    Conflict,
}

/// The failures that are still to come, each for one write.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<(&'static str, When)>>);

impl Faults {
    pub(crate) fn fail_next(&self, operation: &'static str, when: When) {
        self.planned().push((operation, when));
    }

    /// The failure that this write was chosen for.
    pub(crate) fn take(&self, operation: &str) -> Option<When> {
        let mut planned = self.planned();
        let place = planned.iter().position(|(name, _)| *name == operation)?;
        Some(planned.remove(place).1)
    }

    /// The statement by which Postgres ends a transaction as it does one of two that are in each other's way.
    pub(crate) const CONFLICT: &str = "DO $$ BEGIN RAISE EXCEPTION 'a test asked for it' USING ERRCODE = 'serialization_failure'; END $$";

    /// What a caller sees of a connection that broke.
    pub(crate) fn error() -> StoreError {
        sqlx::Error::Io(Error::from(ErrorKind::ConnectionReset)).into()
    }

    // A test that panicked while it held the lock changes nothing about what is planned.
    fn planned(&self) -> MutexGuard<'_, Vec<(&'static str, When)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
