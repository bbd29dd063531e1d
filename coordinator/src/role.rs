//! Whether this process leads, stands by, or no longer leads: asked by whatever answers or orders.
//!
//! Invariant: this is a hint that keeps refusals cheap and clear. What keeps a process that no longer leads from
//! writing is the fence of the database, and from being obeyed the epoch in each message to a worker.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use marquee_proto::error::not_leading;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Status;

/// The calls that look at blobs.
const OF_BLOBS: [&str; 2] = [
    "/marquee.v1.Artifacts/DownloadBlob",
    "/marquee.v1.Audit/Verify",
];

/// What this process is. A cheap handle. By default it is alone: there is no election, as in tests of one coordinator.
#[derive(Debug, Clone, Default)]
pub struct Role {
    state: Arc<Mutex<State>>,
    /// Rung when it shall hand over.
    step_down: Arc<Notify>,
}

#[derive(Debug, Clone, Default)]
enum State {
    #[default]
    Alone,
    StandsBy(Standby),
    Leads {
        epoch: i64,
        /// Until when nobody else can have taken over; None: there is nobody who would.
        sure_until: Option<Instant>,
    },
}

/// What one that does not lead knows and can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standby {
    /// Where the one that leads can be reached; None: nobody leads, as far as is known.
    pub leader: Option<String>,
    /// Why nothing can be read here; None: it can.
    pub unreadable: Option<&'static str>,
    /// It has another store of artifacts than the one that leads.
    pub other_storage: bool,
}

impl Role {
    /// The epoch that messages to workers carry; 0 where none is known.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        match &*self.state() {
            State::Leads { epoch, .. } => u64::try_from(*epoch).unwrap_or(0),
            State::Alone | State::StandsBy(_) => 0,
        }
    }

    /// The epoch by which it leads, 0 where it is alone. None: it stands by.
    #[must_use]
    pub fn leads_as(&self) -> Option<u64> {
        match &*self.state() {
            State::Alone => Some(0),
            State::Leads { epoch, .. } => Some(u64::try_from(*epoch).unwrap_or(0)),
            State::StandsBy(_) => None,
        }
    }

    /// Whether nobody else can lead by now. What no fence guards, such as shares of rates, is given out only then.
    #[must_use]
    pub fn is_sure(&self) -> bool {
        match &*self.state() {
            State::Alone => true,
            State::Leads { sure_until, .. } => {
                sure_until.is_none_or(|until| Instant::now() < until)
            }
            State::StandsBy(_) => false,
        }
    }

    /// Why workers had better look for another coordinator; None: they are right here. One that cannot reach Postgres while
    /// another one can is taken over from, and does not hear of it. Workers that stayed with it would be silent to the new
    /// one, and be judged lost by it.
    #[must_use]
    pub fn doubt(&self) -> Option<Status> {
        if self.standby().is_some() || self.is_sure() {
            return None;
        }
        let text = "this coordinator cannot renew its lease, since Postgres does not answer it, and one that stands by may \
                    have taken over: ask the others, then this one again";
        Some(not_leading(text.to_owned(), None))
    }

    /// The lease of `epoch` was renewed by a request that was sent at `asked`.
    pub fn leads(&self, epoch: i64, asked: Instant, lease: Duration, has_standby: bool) {
        // From the question on, not from the answer: the database began to count somewhere between the two.
        let sure_until = has_standby.then(|| asked + lease);
        *self.state() = State::Leads { epoch, sure_until };
    }

    /// It does not lead.
    pub fn stands_by(&self, standby: Standby) {
        *self.state() = State::StandsBy(standby);
    }

    /// Asks the election to hand over.
    pub fn step_down(&self) {
        self.step_down.notify_one();
    }

    /// Waits until it is asked to.
    pub(crate) async fn asked_to_step_down(&self) {
        self.step_down.notified().await;
    }

    /// What it knows where it does not lead. None: it leads, or is alone.
    #[must_use]
    pub fn standby(&self) -> Option<Standby> {
        match &*self.state() {
            State::StandsBy(standby) => Some(standby.clone()),
            State::Alone | State::Leads { .. } => None,
        }
    }

    /// Why a request cannot be answered here; None: it can.
    #[must_use]
    pub fn refusal(&self, path: &str, is_read: bool) -> Option<Status> {
        let state = self.state();
        let State::StandsBy(standby) = &*state else {
            return None;
        };
        let why = match standby.unreadable {
            Some(why) => why,
            None if !is_read => "and changes nothing",
            None if OF_BLOBS.contains(&path) && standby.other_storage => {
                "and has another store of artifacts (artifacts_dir or [s3]) than the one that leads"
            }
            None => return None,
        };
        let leader = standby.leader.as_deref();
        let whom = match leader {
            Some(leader) => {
                format!("ask the one that leads, {leader}, or name the addresses of all")
            }
            None => {
                "nobody leads just now: one that stands by takes over within seconds, so try again"
                    .to_owned()
            }
        };
        let text = format!("this coordinator stands by {why}; {whom}");
        Some(not_leading(text, leader))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use marquee_proto::error::leader_elsewhere;

    use super::*;

    #[test]
    fn a_standby_answers_reads_and_names_the_leader_to_all_others() {
        let role = Role::default();
        let submit = "/marquee.v1.Jobs/SubmitPipeline";
        assert!(role.refusal(submit, false).is_none());
        assert_eq!(role.epoch(), 0);
        let mut standby = Standby {
            leader: Some("http://b:7700".to_owned()),
            ..Standby::default()
        };
        role.stands_by(standby.clone());
        assert!(role.refusal("/marquee.v1.Jobs/ListJobs", true).is_none());
        for path in OF_BLOBS {
            assert!(role.refusal(path, true).is_none(), "{path}");
        }
        let refusal = role.refusal(submit, false).unwrap();
        assert_eq!(
            leader_elsewhere(&refusal),
            Some(Some("http://b:7700".to_owned()))
        );
        standby.other_storage = true;
        standby.leader = None;
        role.stands_by(standby.clone());
        assert!(
            OF_BLOBS
                .iter()
                .all(|path| role.refusal(path, true).is_some())
        );
        let refusal = role.refusal(OF_BLOBS[0], true).unwrap();
        assert!(refusal.message().contains("artifacts_dir"), "{refusal}");
        assert!(refusal.message().contains("nobody leads"), "{refusal}");
        assert_eq!(leader_elsewhere(&refusal), Some(None));
        standby.unreadable = Some("until it leads");
        role.stands_by(standby);
        assert!(role.refusal("/marquee.v1.Jobs/ListJobs", true).is_some());
    }

    #[test]
    fn a_leader_is_sure_until_its_lease_may_have_run_out_where_somebody_stands_by() {
        let role = Role::default();
        let (now, lease) = (Instant::now(), Duration::from_secs(3_000));
        role.leads(7, now, lease, true);
        assert!(role.is_sure() && role.epoch() == 7 && role.doubt().is_none());
        role.leads(7, now, Duration::ZERO, true);
        assert!(!role.is_sure());
        let doubt = role.doubt().unwrap();
        assert_eq!(leader_elsewhere(&doubt), Some(None), "{doubt}");
        role.leads(7, now, Duration::ZERO, false);
        assert!(
            role.is_sure() && role.doubt().is_none(),
            "nobody else is there"
        );
        role.stands_by(Standby::default());
        assert!(!role.is_sure() && role.epoch() == 0);
        // It says of itself that it does not lead (`refusal`).
        assert!(role.doubt().is_none());
    }
}
