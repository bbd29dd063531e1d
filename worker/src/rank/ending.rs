//! How a rank's child is ended, and what is done when the disk has no room for its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use marquee_proto::v1::report::Body;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::output::{Output, Read};
use super::prepare::KEEPER_KILL_MAX;
use super::pump::Stdout;
use super::task::{RankTask, Unsaid};
use super::{StopCause, StopOrder};
use crate::blocking::blocking;
use crate::process::launcher::{Child, Status};
use crate::remove;

/// After this long a child that cannot be killed is worth a line in the daemon's log.
const UNKILLABLE_AFTER: Duration = Duration::from_secs(10);
/// How often a child that does not leave is told again, and what does not die is looked for.
const PRESS_EVERY: Duration = Duration::from_millis(100);
const BURY_EVERY: Duration = Duration::from_millis(20);
/// Looks in a row that find nothing left: then nothing is.
const CLEAN_LOOKS: u32 = 2;
/// How long the end of a child's log waits for room on a full disk, and the same where it was told to stop.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
const STOPPED_PATIENCE: Duration = Duration::from_secs(3);

impl RankTask {
    /// Carries out an order to stop: TERM, after the grace KILL, and at last the keeper too. When to
    /// press again; None where the child's next news will tell.
    pub(super) async fn press(
        &self,
        child: &dyn Child,
        status: &Status,
        stop: &StopOrder,
        since: &mut Option<Instant>,
    ) -> Option<Instant> {
        let grace = Duration::from_millis(u64::from(stop.grace_ms));
        let again = Instant::now() + PRESS_EVERY;
        match *since {
            // Nobody has heard of it yet, and nothing of it is worth a grace.
            None if *status == Status::Starting => {
                *since = Some(Instant::now());
                child.kill();
                Some(again)
            }
            // Its peers are not to stop with it, which is what one that leaves in order asks them to.
            None if grace.is_zero() || self.is_to_be_left_behind(stop) => {
                info!(rank = %self.rank.key, reason = %stop.reason, "ending the child");
                *since = Some(Instant::now());
                child.kill();
                self.note(&format!("ended at once: {}", stop.reason)).await;
                Some(again)
            }
            None => {
                info!(rank = %self.rank.key, reason = %stop.reason, ?grace, "stopping the child");
                let begin = Instant::now();
                *since = Some(begin);
                child.terminate();
                self.note(&format!("stopping: {}", stop.reason)).await;
                Some(begin + grace)
            }
            #[cfg(feature = "planted")]
            Some(_) if marquee_domain::planted::is("no-kill-after-grace") => None,
            Some(since) if since.elapsed() >= grace => {
                if since.elapsed() >= grace + KEEPER_KILL_MAX {
                    child.kill_session();
                } else {
                    child.kill();
                }
                Some(again)
            }
            Some(since) => Some(since + grace),
        }
    }

    /// Whether this daemon leaves while others of a gang go on without its rank.
    fn is_to_be_left_behind(&self, stop: &StopOrder) -> bool {
        let is_elastic = || {
            self.spec()
                .is_ok_and(|spec| spec.resources.min_ranks.is_some())
        };
        stop.cause == StopCause::Shutdown && is_elastic()
    }

    /// Waits until no process of the child is left, and sees to it. Only where the keeper could not: one that
    /// left in order had nothing left to wait for.
    pub(super) async fn bury(&self, child: &dyn Child) {
        let since = Instant::now();
        let (mut warned, mut clean) = (false, 0);
        loop {
            let looked = Instant::now();
            let left = child.survivors();
            // One that was being forked during the first look is seen by the second.
            clean = if left.is_empty() { clean + 1 } else { 0 };
            if clean == CLEAN_LOOKS {
                return;
            }
            if !left.is_empty() {
                child.kill_session();
            }
            if since.elapsed() >= UNKILLABLE_AFTER && !warned {
                warned = true;
                warn!(rank = %self.rank.key, pids = ?left, "processes of the rank do not die; its devices stay taken");
            }
            // At least as long as the look took: going through all processes of a busy host must not keep one
            // of its cores.
            tokio::time::sleep(BURY_EVERY.max(looked.elapsed())).await;
        }
    }

    /// What is done where the disk has no room for the last words of a child that is gone. Its work folder is
    /// of no use any more. If that does not help, its log is given up: what it said to its worker, and how it
    /// ended, goes with the rank's last report, for which there is room.
    pub(super) async fn make_room_for_the_end(
        &self,
        since: Instant,
        is_stopped: bool,
        output: &Arc<Output>,
        kind: Stdout,
        unsaid: &mut Unsaid,
    ) -> Read {
        let work = self.rank.dir.work();
        let removed = blocking(move || remove::all(&work)).await;
        if let Err(error) = removed.map_err(io::Error::other).flatten() {
            debug!(rank = %self.rank.key, %error, "the work folder stays");
        }
        let patience = if is_stopped {
            STOPPED_PATIENCE
        } else {
            PATIENCE
        };
        if since.elapsed() < patience {
            return Read::Nothing;
        }
        warn!(rank = %self.rank.key, "the disk is full: the end of the rank's log is dropped");
        let (rank, output) = (Arc::clone(&self.rank), Arc::clone(output));
        let rest = blocking(move || -> io::Result<Unsaid> {
            let mut cursor = rank.spool().cursor().clone();
            let mut bodies = Vec::new();
            loop {
                let pumped = output.step(&mut cursor, kind, true, false)?;
                for body in pumped.bodies {
                    if let Body::Log(log) = body {
                        let bytes: usize = log.lines.iter().map(String::len).sum();
                        cursor.dropped_bytes += bytes as u64;
                    } else {
                        bodies.push(body);
                    }
                }
                if pumped.at_end {
                    let cursor = Some(cursor);
                    return Ok(Unsaid { bodies, cursor });
                }
            }
        });
        match rest.await.map_err(io::Error::other).flatten() {
            Ok(rest) => {
                *unsaid = rest;
                Read::All
            }
            Err(error) => {
                warn!(rank = %self.rank.key, %error, "the child's output cannot be read");
                Read::Nothing
            }
        }
    }
}
