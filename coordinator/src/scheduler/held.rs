//! Devices that are held back for a job which does not fit yet.

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;

use super::End;
use super::wanted::{Member, Wanted};

/// What is held back for one job.
#[derive(Debug)]
pub(super) struct HeldBack<'a> {
    pub(super) wanted: Wanted<'a>,
    pub(super) job: JobId,
    /// Devices by host index; 0 where none are held back.
    pub(super) devices: Vec<u32>,
    /// When the job can start, where the ends of what runs tell: who has ended by then may use them before.
    pub(super) until: Option<DateTime<Utc>>,
    /// It was to have started by now: something took longer than its like did before.
    pub(super) is_late: bool,
    /// Others made room for the job: nobody else starts there, however short.
    pub(super) is_claim: bool,
}

impl HeldBack<'_> {
    /// Whether it keeps off a job that ends so; None: nobody knows when.
    ///
    /// Once a promise is broken, only those are let in that are stopped in time: a stream of jobs that all take longer
    /// than was expected would put the start off for ever.
    pub(super) fn bars(&self, end: Option<End>) -> bool {
        match (self.until, end) {
            (Some(until), Some(end)) => {
                self.is_claim || end.at > until || (self.is_late && !end.is_sure)
            }
            (None, _) | (_, None) => true,
        }
    }

    /// How many of a host's `free` devices may be taken. Where some are held back, as many as the
    /// gang needs stay free of those that it could use; the others are anybody's.
    pub(super) fn leaves(
        &self,
        index: usize,
        member: &Member<'_>,
        wanted: Wanted<'_>,
        free: u32,
    ) -> u32 {
        let held_back = self.devices[index];
        if held_back == 0 {
            return free;
        }
        let theirs = self.wanted.count(member.host, &member.free);
        let theirs_too = member
            .free
            .iter()
            .filter(|device| wanted.fits(member.host, device));
        let shared = self.wanted.count(member.host, theirs_too);
        (free - shared) + shared.min(theirs.saturating_sub(held_back))
    }
}
