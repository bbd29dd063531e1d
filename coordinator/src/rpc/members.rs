//! Whether a worker that shows a certificate still is one: looked up at every call, so that a worker that was revoked is
//! out at once and no list of revoked certificates is needed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use marquee_domain::ids::WorkerId;
use marquee_store::Db;
use marquee_store::trust::{self, Member};
use tonic::Status;

use crate::lifecycle::LifecycleError;
use crate::trust::belonging::verdict;

/// Looks workers up. A cheap handle.
#[derive(Debug, Clone, Default)]
pub(super) struct Members {
    /// None: there is nothing to look in, and so there are none.
    db: Option<Db>,
    /// Those that were workers when they were last looked up.
    good: Arc<Mutex<HashSet<WorkerId>>>,
}

impl Members {
    pub(super) fn new(db: Db) -> Self {
        Self {
            db: Some(db),
            good: Arc::default(),
        }
    }

    /// Refuses a worker that was revoked or forgotten. While Postgres is away, what was found before holds: files that
    /// ranks wait for need no database, and nobody can be revoked meanwhile.
    pub(super) async fn check(&self, worker: WorkerId) -> Result<(), Status> {
        let found = match &self.db {
            Some(db) => look_up(db, worker).await,
            None => Ok(None),
        };
        // Locked only now: nobody waits for another one's look at Postgres.
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(member) => {
                let verdict = verdict(member.as_ref());
                if verdict.is_ok() {
                    good.insert(worker);
                } else {
                    good.remove(&worker);
                }
                verdict
            }
            Err(error) if error.may_pass() && good.contains(&worker) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

async fn look_up(db: &Db, worker: WorkerId) -> Result<Option<Member>, LifecycleError> {
    let mut conn = db.read().await?;
    Ok(trust::find_member(&mut conn, worker).await?)
}
