//! What a moment for `marquee admin backup` is made of, and whose turn it is to take one. The handle that everybody has;
//! what is done with it stands in `moment`.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use chrono::{DateTime, Utc};

use super::dump::Place;

/// Who takes a moment, and since when.
type Taker = (String, DateTime<Utc>);

/// What a moment is made of. A cheap handle, which knows the database's address: nothing of that is shown.
#[derive(Clone, Default)]
pub struct Dumps {
    from: Option<Arc<From>>,
    /// Who takes one, since when. One at a time: each keeps old rows and a `pg_dump`.
    taken_by: Arc<Mutex<Option<Taker>>>,
}

/// The database, and where the programs are that read it.
pub(super) struct From {
    /// Holds a password: not for logs.
    pub(super) url: String,
    pub(super) place: Place,
}

/// Somebody else takes one.
#[derive(Debug, thiserror::Error)]
#[error(
    "{by} is taking a backup since {}; try again when that is through",
    since.format("%H:%M:%S UTC")
)]
pub(crate) struct Taken {
    by: String,
    since: DateTime<Utc>,
}

impl fmt::Debug for Dumps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dumps").finish_non_exhaustive()
    }
}

impl Dumps {
    /// Of a database somewhere, with the programs of `postgres_bin`.
    #[must_use]
    pub fn elsewhere(url: &str, data_dir: PathBuf, postgres_bin: Option<PathBuf>) -> Self {
        let place = Place {
            data_dir,
            postgres_bin,
            is_elsewhere: true,
        };
        Self::of(url, place)
    }

    /// `url`: of the database that the coordinator works with.
    pub(super) fn of(url: &str, place: Place) -> Self {
        let url = url.to_owned();
        Self {
            from: Some(Arc::new(From { url, place })),
            taken_by: Arc::default(),
        }
    }

    /// The right to take one; an error names who has it.
    pub(crate) fn begin(&self, caller: &str, now: DateTime<Utc>) -> Result<Turn, Taken> {
        let mut taken_by = self.lock();
        if let Some((who, since)) = &*taken_by {
            return Err(Taken {
                by: who.clone(),
                since: *since,
            });
        }
        *taken_by = Some((caller.to_owned(), now));
        drop(taken_by);
        Ok(Turn(self.clone()))
    }

    pub(super) fn from(&self) -> anyhow::Result<Arc<From>> {
        self.from.clone().context("no database is named")
    }

    fn lock(&self) -> MutexGuard<'_, Option<(String, DateTime<Utc>)>> {
        // Each change is one assignment.
        self.taken_by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever holds it takes a moment.
#[derive(Debug)]
pub(crate) struct Turn(Dumps);

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_moment_at_a_time_is_taken_and_the_other_is_told_by_whom() {
        let dumps = Dumps::default();
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let turn = dumps.begin("ada (10.0.0.1)", now).unwrap();
        let refused = dumps.clone().begin("bob", now).unwrap_err().to_string();
        assert_eq!(
            refused,
            "ada (10.0.0.1) is taking a backup since 08:00:00 UTC; try again when that is through"
        );
        drop(turn);
        dumps.begin("bob", now).unwrap();
    }

    #[test]
    fn where_the_database_is_stands_in_no_log() {
        let url = "postgres://marquee:pw@db/m";
        let dumps = Dumps::elsewhere(url, "/data".into(), None);
        assert!(!format!("{dumps:?}").contains("pw"));
    }
}
