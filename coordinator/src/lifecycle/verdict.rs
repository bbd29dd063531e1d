//! What follows for a live attempt from the state of its ranks: a pure decision.

use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::end::{Interruption, StoppedFor};
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::job::{AttemptStateName, RankState};
use marquee_store::attempts::Attempt;
use marquee_store::ranks::{RankKey, RankRow};
use serde::Deserialize as _;

/// How long the ranks of an attempt may take to fetch their inputs: a terabyte over a slow network
/// takes hours, a worker that hangs takes for ever.
pub const PREPARE_MAX: Duration = Duration::from_secs(4 * 3600);

/// A live attempt, as it is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation<'a> {
    pub(super) attempt: &'a Attempt,
    pub(super) ranks: &'a [RankRow],
    pub(super) cancel_requested: bool,
    /// It is to make room: why, and for whose sake.
    pub(super) makes_room: Option<&'a (Interruption, String)>,
    /// When it is too late for its result.
    pub(super) deadline: Option<DateTime<Utc>>,
    /// With how few ranks the job goes on. None: all are needed.
    pub(super) min_ranks: Option<u32>,
    /// How long the job's attempts may run.
    pub(super) timeout: Option<Duration>,
    /// How long after a rank's failure its peers may still name a better cause.
    pub(super) settle: Duration,
    /// A worker that has a rank of it is being shut down: what the others died of may be that.
    pub(super) is_leaving: bool,
    /// The daemon of a worker that has a rank of it went in order, to be replaced, and did not come back.
    pub(super) was_not_replaced: bool,
    /// What is known of it, where it hangs: who does and who only waits.
    pub(super) hung: Option<&'a str>,
    pub(super) now: DateTime<Utc>,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    /// Every rank is prepared: the attempt runs.
    Start,
    /// Every rank that was not lost has finished: the first one's output becomes the artifact.
    Commit,
    /// These ranks are lost for the causes beside them, and the others go on.
    GoOn(Vec<(RankKey, Failure)>),
    Fail(Failure),
    /// A worker stopped a rank of its own accord: the others are asked to leave too, with time for a checkpoint, and then
    /// the attempt is interrupted.
    MakeRoom {
        cause: Interruption,
        message: String,
    },
    /// It was stopped for a reason that is none of the job's: it is queued again at no cost.
    Interrupt {
        cause: Interruption,
        message: String,
    },
    Cancel,
}

/// Decides what follows. The order is the rule: a finished attempt is kept even when a cancel or
/// the timeout came too late to stop it.
pub(super) fn judge(situation: &Situation<'_>) -> Verdict {
    let Situation {
        attempt,
        ranks,
        now,
        ..
    } = *situation;
    // Ranks that the attempt has gone on without have no say any more.
    let members = || ranks.iter().filter(|rank| rank.lost_at.is_none());
    if members().all(|rank| rank.state == RankState::Finished) {
        return Verdict::Commit;
    }
    // Of all ranks, also those that the attempt has gone on without: one of them may still hold its
    // devices.
    let all_gone = ranks.iter().all(is_gone);
    if situation.cancel_requested {
        // A rank that has not gone may still use its devices and write.
        return if all_gone {
            Verdict::Cancel
        } else {
            Verdict::Wait
        };
    }
    if let Some((cause, message)) = situation.makes_room
        && all_gone
    {
        let message = message.clone();
        return match cause {
            Interruption::Idle => Verdict::Fail(Failure {
                class: FailureClass::Idle,
                message,
            }),
            Interruption::Preempted
            | Interruption::Drained
            | Interruption::HostUpgraded
            | Interruption::Disconnected
            | Interruption::InputDamaged
            | Interruption::Grown => Verdict::Interrupt {
                cause: *cause,
                message,
            },
        };
    }
    if situation.makes_room.is_some() {
        // Whatever a rank says while it is being stopped, the job is not to blame.
        return Verdict::Wait;
    }
    if let Some((failure, since)) = cause(ranks) {
        if lost_ranks(situation).is_none()
            && !members().all(is_gone)
            && let Some((cause, message)) = shut_down(ranks)
        {
            // No peer knows better, and each second that they work on is lost.
            return Verdict::MakeRoom { cause, message };
        }
        let settled = match since {
            Some(since) => since + situation.settle <= now,
            None => true,
        };
        if (!settled || situation.is_leaving) && !members().all(is_gone) {
            return Verdict::Wait;
        }
        return match (lost_ranks(situation), shut_down(ranks)) {
            (Some(lost), _) => Verdict::GoOn(lost),
            (None, Some((cause, message))) => Verdict::Interrupt { cause, message },
            (None, None)
                if situation.was_not_replaced && failure.class == FailureClass::LostWorker =>
            {
                Verdict::Interrupt {
                    cause: Interruption::HostUpgraded,
                    message: format!(
                        "{}; it was stopped in order, and no new daemon came",
                        failure.message
                    ),
                }
            }
            (None, None) => Verdict::Fail(with_least(by_hang(failure, situation.hung), situation)),
        };
    }
    if let Some(failure) = out_of_time(situation) {
        return Verdict::Fail(failure);
    }
    let is_prepared = |rank: &RankRow| rank.state != RankState::Assigned;
    if attempt.state != AttemptStateName::Assigned || !ranks.iter().all(is_prepared) {
        return Verdict::Wait;
    }
    if ranks.len() > 1 && attempt.rendezvous.is_none() {
        return Verdict::Fail(Failure {
            class: FailureClass::Crash,
            message: format!(
                "worker {:?} prepared rank 0 without saying where the ranks can meet; update the worker",
                ranks[0].worker_name
            ),
        });
    }
    Verdict::Start
}

/// The peers of a rank that hangs give it up before its own time is over: what they say of it is that the exchange
/// failed. Who hangs is known by then.
fn by_hang(failure: Failure, hung: Option<&str>) -> Failure {
    let is_consequence = matches!(
        failure.class,
        FailureClass::Collective | FailureClass::Network | FailureClass::Hang
    );
    match hung {
        Some(hung) if is_consequence => Failure {
            class: FailureClass::Hang,
            message: format!("{hung}; {}", failure.message),
        },
        Some(_) | None => failure,
    }
}

/// Where the attempt ended because a worker stopped a rank of its own accord: why, and what is to be said of it.
/// Nobody asked for that on the job's account. Whatever its peers died of, they only lost their connection to
/// it; and what would have failed without that too fails in the next attempt.
fn shut_down(ranks: &[RankRow]) -> Option<(Interruption, String)> {
    let mut members = ranks.iter().filter(|rank| rank.lost_at.is_none());
    let rank = members.find(|rank| was_shut_down(rank))?;
    if let Some(told) = stopped_for(rank) {
        let (number, worker) = (rank.key.rank, &rank.worker_name);
        let message = format!("rank {number} on worker {worker:?}: {}", told.reason);
        return Some((told.cause, message));
    }
    Some((Interruption::Drained, failure_of(rank)?.message))
}

/// What its worker said of why it stopped the rank. One of 0.1 does not say.
fn stopped_for(rank: &RankRow) -> Option<StoppedFor> {
    let told = rank
        .summary
        .as_ref()
        .filter(|_| rank.state == RankState::Stopped)?;
    StoppedFor::deserialize(told).ok()
}

/// Nobody asked the rank to stop but its own worker. One of 0.1 calls that a failure.
fn was_shut_down(rank: &RankRow) -> bool {
    let says_so = |failure: &Failure| {
        failure.class == FailureClass::LostWorker && failure.message.ends_with("was shut down")
    };
    match rank.state {
        RankState::Stopped => true,
        RankState::Failed => rank.failure.as_ref().is_some_and(says_so),
        RankState::Assigned | RankState::Prepared | RankState::Running | RankState::Finished => {
            false
        }
    }
}

/// The ranks that are lost, where the others go on without them.
fn lost_ranks(situation: &Situation<'_>) -> Option<Vec<(RankKey, Failure)>> {
    let least = situation.min_ranks?;
    // Before the first step the ranks have not met: those that are left would wait for the lost one.
    let has_begun = situation.attempt.state == AttemptStateName::Running
        && situation.ranks.iter().any(|rank| rank.progress.is_some());
    if !has_begun || left(situation.ranks) < usize::try_from(least).unwrap_or(usize::MAX) {
        return None;
    }
    let lost: Vec<_> = situation
        .ranks
        .iter()
        .filter(|rank| rank.lost_at.is_none())
        .filter_map(|rank| Some((rank.key, failure_of(rank)?)))
        .collect();
    let may_pass = |(_, failure): &(RankKey, Failure)| failure.class.spares_the_others();
    lost.iter().all(may_pass).then_some(lost)
}

/// Ranks of which nothing bad is known.
fn left(ranks: &[RankRow]) -> usize {
    ranks
        .iter()
        .filter(|rank| rank.lost_at.is_none() && failure_of(rank).is_none())
        .count()
}

/// The failure, with the number of ranks that were left where that is why it ended the attempt.
fn with_least(failure: Failure, situation: &Situation<'_>) -> Failure {
    let left = left(situation.ranks);
    match situation.min_ranks {
        Some(least)
            if failure.class.spares_the_others()
                && left < usize::try_from(least).unwrap_or(usize::MAX) =>
        {
            Failure {
                class: failure.class,
                message: format!(
                    "{}; {left} of {} ranks were left, fewer than ranks.min ({least})",
                    failure.message,
                    situation.ranks.len()
                ),
            }
        }
        Some(_) | None => failure,
    }
}

/// Whether nothing more will come of a rank: it ended, or its worker's lease did.
fn is_gone(rank: &RankRow) -> bool {
    rank.state.has_ended() || !rank.worker_online
}

/// The failure that names the cause best, and since when any is known; None when it is certain at
/// once, as with a lost worker, whose lease was long enough for its peers to speak.
fn cause(ranks: &[RankRow]) -> Option<(Failure, Option<DateTime<Utc>>)> {
    let members = || ranks.iter().filter(|rank| rank.lost_at.is_none());
    let failures = members().filter_map(|rank| Some((rank, failure_of(rank)?)));
    // Of equal classes the lowest rank's is kept: `max_by_key` keeps the last.
    let (rank, failure) = failures
        .rev()
        .max_by_key(|(_, failure)| failure.class.precedence())?;
    let lost = members().any(|rank| !rank.state.has_ended() && !rank.worker_online);
    let earliest = members()
        .filter(|rank| failure_of(rank).is_some())
        .filter_map(|rank| rank.ended_at)
        .min();
    let since = if lost { None } else { earliest };
    let message = if ranks.len() == 1 || failure.class == FailureClass::LostWorker {
        failure.message
    } else {
        let (number, worker) = (rank.key.rank, &rank.worker_name);
        format!("rank {number} on worker {worker:?}: {}", failure.message)
    };
    Some((
        Failure {
            class: failure.class,
            message,
        },
        since,
    ))
}

fn failure_of(rank: &RankRow) -> Option<Failure> {
    let lost = |what: &str| {
        let (number, worker) = (rank.key.rank, &rank.worker_name);
        let message = format!("rank {number} was lost: worker {worker:?} {what}");
        Some(Failure {
            class: FailureClass::LostWorker,
            message,
        })
    };
    match rank.state {
        RankState::Finished => None,
        RankState::Failed => rank.failure.clone().or_else(|| lost("did not say why")),
        // Nobody asked it to: its worker is being shut down.
        RankState::Stopped => lost("is being shut down and stopped it"),
        RankState::Assigned | RankState::Prepared | RankState::Running => {
            if rank.worker_online {
                None
            } else {
                lost("went away; see \"marquee workers\"")
            }
        }
    }
}

/// A job that has not ended by its deadline.
pub(super) fn too_late(deadline: DateTime<Utc>) -> Failure {
    Failure {
        class: FailureClass::Timeout,
        message: format!(
            "it had not ended by its deadline, {} UTC; submit it with a later one, or a higher priority",
            deadline.format("%Y-%m-%d %H:%M:%S")
        ),
    }
}

fn out_of_time(situation: &Situation<'_>) -> Option<Failure> {
    let Situation {
        attempt,
        ranks,
        timeout,
        now,
        ..
    } = *situation;
    if let Some(deadline) = situation.deadline.filter(|deadline| *deadline <= now) {
        return Some(too_late(deadline));
    }
    match (attempt.started_at, timeout) {
        (Some(started_at), Some(timeout)) => (started_at + timeout <= now).then(|| Failure {
            class: FailureClass::Timeout,
            message: format!(
                "it ran longer than its timeout of {} s; raise \"timeout\" or make the job smaller",
                timeout.as_secs()
            ),
        }),
        (None, _) => {
            let late = ranks
                .iter()
                .find(|rank| rank.state == RankState::Assigned)?;
            (attempt.created_at + PREPARE_MAX <= now).then(|| Failure {
                class: FailureClass::Network,
                message: format!(
                    "worker {:?} did not prepare rank {} within {} h; look at its log for what its downloads wait for",
                    late.worker_name,
                    late.key.rank,
                    PREPARE_MAX.as_secs() / 3600,
                ),
            })
        }
        (Some(_), None) => None,
    }
}

#[cfg(test)]
mod tests;
