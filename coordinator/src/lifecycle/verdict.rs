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
    let members = || ranks.iter().filter(|rank| rank.lost_at.is_none());
    if members().all(|rank| rank.state == RankState::Finished) {
        return Verdict::Commit;
    }
    let all_gone = ranks.iter().all(is_gone);
    if situation.cancel_requested {
        return if all_gone {
            Verdict::Cancel
        } else {
            Verdict::Wait
        };
    }
    if let Some((cause, message)) = situation.makes_room
        && all_gone
    {
        return Verdict::Interrupt {
            cause: *cause,
            message: message.clone(),
        };
    }
    if situation.makes_room.is_some() {
        // Whatever a rank says while it is being stopped, the job is not to blame.
        return Verdict::Wait;
    }
    if let Some((failure, since)) = cause(ranks) {
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
mod tests {
    use marquee_domain::ids::{AttemptNumber, JobId, Rank, WorkerId};
    use marquee_store::attempts::Rendezvous;
    use marquee_store::ranks::RankKey;
    use uuid::Uuid;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn attempt(state: AttemptStateName) -> Attempt {
        let running = state == AttemptStateName::Running;
        Attempt {
            number: AttemptNumber(1),
            state,
            rendezvous: Some(Rendezvous {
                host: "a".into(),
                port: 1,
            }),
            standby: None,
            resumed_from: None,
            failure: None,
            created_at: at(0),
            started_at: running.then(|| at(0)),
            finished_at: None,
        }
    }

    fn rank(number: u32, state: RankState) -> RankRow {
        RankRow {
            key: RankKey {
                job: JobId(1),
                attempt: AttemptNumber(1),
                rank: Rank(number),
            },
            worker: WorkerId(Uuid::from_u128(u128::from(number))),
            worker_name: format!("w{number}"),
            worker_online: true,
            devices: vec![],
            state,
            progress: None,
            summary: None,
            failure: None,
            ended_at: state.has_ended().then(|| at(10)),
            lost_at: None,
        }
    }

    fn failed(number: u32, class: FailureClass) -> RankRow {
        let failure = Failure {
            class,
            message: "broke".into(),
        };
        RankRow {
            failure: Some(failure),
            ..rank(number, RankState::Failed)
        }
    }

    fn lost(number: u32, state: RankState) -> RankRow {
        RankRow {
            worker_online: false,
            ..rank(number, state)
        }
    }

    fn judge_at(now: i64, state: AttemptStateName, ranks: &[RankRow], cancel: bool) -> Verdict {
        judge(&Situation {
            attempt: &attempt(state),
            ranks,
            cancel_requested: cancel,
            makes_room: None,
            deadline: None,
            min_ranks: None,
            timeout: Some(Duration::from_secs(100)),
            settle: Duration::from_secs(1),
            is_leaving: false,
            was_not_replaced: false,
            hung: None,
            now: at(now),
        })
    }

    fn class(verdict: Verdict) -> FailureClass {
        match verdict {
            Verdict::Fail(failure) => failure.class,
            Verdict::Wait
            | Verdict::Start
            | Verdict::Commit
            | Verdict::GoOn(_)
            | Verdict::Interrupt { .. }
            | Verdict::Cancel => {
                panic!("expected a failure, got {verdict:?}")
            }
        }
    }

    use AttemptStateName::{Assigned, Running};

    #[test]
    fn a_gang_starts_when_its_last_rank_is_prepared() {
        let half = [rank(0, RankState::Prepared), rank(1, RankState::Assigned)];
        assert_eq!(judge_at(1, Assigned, &half, false), Verdict::Wait);
        let whole = [rank(0, RankState::Prepared), rank(1, RankState::Prepared)];
        assert_eq!(judge_at(1, Assigned, &whole, false), Verdict::Start);
        assert_eq!(judge_at(1, Running, &whole, false), Verdict::Wait);
    }

    #[test]
    fn peers_have_a_moment_to_name_a_better_cause() {
        let first = [
            failed(0, FailureClass::Network),
            rank(1, RankState::Running),
        ];
        assert_eq!(judge_at(10, Running, &first, false), Verdict::Wait);
        assert_eq!(
            class(judge_at(11, Running, &first, false)),
            FailureClass::Network
        );
        let both = [
            failed(0, FailureClass::Network),
            failed(1, FailureClass::OutOfMemory),
        ];
        let verdict = judge_at(10, Running, &both, false);
        let message = "rank 1 on worker \"w1\": broke".into();
        let class = FailureClass::OutOfMemory;
        assert_eq!(verdict, Verdict::Fail(Failure { class, message }));
    }

    #[test]
    fn a_lost_worker_fails_its_attempt_at_once() {
        let ranks = [rank(0, RankState::Running), lost(1, RankState::Running)];
        assert_eq!(
            class(judge_at(1, Running, &ranks, false)),
            FailureClass::LostWorker
        );
    }

    #[test]
    fn a_worker_that_shuts_down_interrupts_and_does_not_fail() {
        let drained = |verdict| match verdict {
            Verdict::Interrupt { cause, .. } => cause == Interruption::Drained,
            Verdict::Wait
            | Verdict::Start
            | Verdict::Commit
            | Verdict::GoOn(_)
            | Verdict::Fail(_)
            | Verdict::Cancel => false,
        };
        assert!(drained(judge_at(
            10,
            Running,
            &[rank(0, RankState::Stopped)],
            false
        )));
        // Its peer lost the connection to it: whatever it makes of that tells nothing new.
        for class in FailureClass::ALL {
            let gang = [failed(0, class), rank(1, RankState::Stopped)];
            assert!(drained(judge_at(11, Running, &gang, false)), "{class:?}");
        }
        // What a worker of 0.1 says at its end.
        let message = "worker \"gpu-1\" was shut down".to_owned();
        let class = FailureClass::LostWorker;
        let of_old = RankRow {
            failure: Some(Failure { class, message }),
            ..rank(1, RankState::Failed)
        };
        assert!(drained(judge_at(11, Running, &[of_old], false)));
        let lost = [failed(0, FailureClass::LostWorker)];
        assert!(!drained(judge_at(11, Running, &lost, false)));
    }

    #[test]
    fn what_fails_while_a_worker_leaves_is_judged_when_that_has_stopped_its_rank() {
        let judge_leaving = |ranks: &[RankRow], is_leaving| {
            judge(&Situation {
                attempt: &attempt(Running),
                ranks,
                cancel_requested: false,
                makes_room: None,
                deadline: None,
                min_ranks: None,
                timeout: None,
                settle: Duration::from_secs(1),
                is_leaving,
                was_not_replaced: false,
                hung: None,
                now: at(30),
            })
        };
        let gang = [
            failed(0, FailureClass::UserError),
            rank(1, RankState::Running),
        ];
        assert_eq!(judge_leaving(&gang, true), Verdict::Wait);
        assert_eq!(class(judge_leaving(&gang, false)), FailureClass::UserError);
        // It never came back, and its lease ran out.
        let gone = [
            failed(0, FailureClass::UserError),
            lost(1, RankState::Running),
        ];
        assert_eq!(class(judge_leaving(&gone, true)), FailureClass::UserError);
    }

    #[test]
    fn what_a_worker_said_of_a_stop_is_told_and_costs_nothing() {
        for cause in Interruption::ALL {
            let told = StoppedFor {
                cause,
                reason: "it had to be".into(),
            };
            let stopped = RankRow {
                summary: serde_json::to_value(told).ok(),
                ..rank(1, RankState::Stopped)
            };
            let gang = [failed(0, FailureClass::Collective), stopped];
            match judge_at(11, Running, &gang, false) {
                Verdict::Interrupt {
                    cause: found,
                    message,
                } => {
                    assert_eq!(found, cause);
                    assert_eq!(message, "rank 1 on worker \"w1\": it had to be");
                }
                other @ (Verdict::Wait
                | Verdict::Start
                | Verdict::Commit
                | Verdict::GoOn(_)
                | Verdict::Fail(_)
                | Verdict::Cancel) => panic!("{cause:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_worker_that_went_to_be_replaced_and_did_not_come_back_costs_its_jobs_nothing() {
        let judge_gone = |was_not_replaced| {
            judge(&Situation {
                attempt: &attempt(Running),
                ranks: &[lost(0, RankState::Running)],
                cancel_requested: false,
                makes_room: None,
                deadline: None,
                min_ranks: None,
                timeout: None,
                settle: Duration::from_secs(1),
                is_leaving: false,
                was_not_replaced,
                hung: None,
                now: at(200),
            })
        };
        let cause = Interruption::HostUpgraded;
        assert!(
            matches!(judge_gone(true), Verdict::Interrupt { cause: found, .. } if found == cause)
        );
        assert_eq!(class(judge_gone(false)), FailureClass::LostWorker);
    }

    #[test]
    fn who_hangs_is_named_where_its_peers_gave_it_up() {
        let judge_hung = |ranks: &[RankRow], hung| {
            judge(&Situation {
                attempt: &attempt(Running),
                ranks,
                cancel_requested: false,
                makes_room: None,
                deadline: None,
                min_ranks: None,
                timeout: None,
                settle: Duration::from_secs(1),
                is_leaving: false,
                was_not_replaced: false,
                hung,
                now: at(30),
            })
        };
        let hung = Some("hung: rank 1 on w1 is stopped by a signal");
        let gang = [
            failed(0, FailureClass::Collective),
            rank(1, RankState::Running),
        ];
        match judge_hung(&gang, hung) {
            Verdict::Fail(failure) => {
                assert_eq!(failure.class, FailureClass::Hang);
                assert!(
                    failure.message.starts_with("hung: rank 1 on w1"),
                    "{failure:?}"
                );
            }
            other @ (Verdict::Wait
            | Verdict::Start
            | Verdict::Commit
            | Verdict::GoOn(_)
            | Verdict::Interrupt { .. }
            | Verdict::Cancel) => panic!("{other:?}"),
        }
        assert_eq!(class(judge_hung(&gang, None)), FailureClass::Collective);
        // What hangs explains no other failure.
        let crashed = [failed(0, FailureClass::Crash), rank(1, RankState::Running)];
        assert_eq!(class(judge_hung(&crashed, hung)), FailureClass::Crash);
    }

    /// Judged as a gang of three that may go on with two, half a minute after the first step.
    fn judge_elastic(ranks: &[RankRow]) -> Verdict {
        let progress = marquee_store::ranks::Progress {
            phase: "epoch 1/2".into(),
            done: 8,
            total: None,
            unit: "images".into(),
            at: at(5),
            phase_started_at: at(5),
            bytes: None,
            problems: std::collections::BTreeMap::new(),
            phase_started_done: 0,
            phase_started_bytes: 0,
        };
        let ranks: Vec<RankRow> = ranks
            .iter()
            .map(|rank| RankRow {
                progress: Some(progress.clone()),
                ..rank.clone()
            })
            .collect();
        judge(&Situation {
            attempt: &attempt(Running),
            ranks: &ranks,
            cancel_requested: false,
            makes_room: None,
            deadline: None,
            min_ranks: Some(2),
            timeout: None,
            settle: Duration::from_secs(1),
            is_leaving: false,
            was_not_replaced: false,
            hung: None,
            now: at(30),
        })
    }

    fn left_behind(rank: RankRow) -> RankRow {
        RankRow {
            lost_at: Some(at(12)),
            ..rank
        }
    }

    #[test]
    fn a_gang_goes_on_without_a_rank_whose_loss_may_pass() {
        let runs = |number| rank(number, RankState::Running);
        for class in FailureClass::ALL {
            let verdict = judge_elastic(&[runs(0), failed(1, class), runs(2)]);
            match verdict {
                Verdict::GoOn(lost) if class.spares_the_others() => {
                    assert_eq!(lost.len(), 1);
                    assert_eq!((lost[0].0.rank, lost[0].1.class), (Rank(1), class));
                }
                Verdict::Fail(failure) if !class.spares_the_others() => {
                    assert_eq!(failure.class, class);
                }
                other @ (Verdict::Wait
                | Verdict::Start
                | Verdict::Commit
                | Verdict::GoOn(_)
                | Verdict::Fail(_)
                | Verdict::Interrupt { .. }
                | Verdict::Cancel) => panic!("{class:?}: {other:?}"),
            }
        }
        // Its host went away, rank 0 with it.
        let host = [lost(0, RankState::Running), runs(1), runs(2)];
        assert!(matches!(judge_elastic(&host), Verdict::GoOn(lost) if lost[0].0.rank == Rank(0)));
        // What is known is acted on once.
        let known = [
            left_behind(failed(0, FailureClass::Crash)),
            runs(1),
            runs(2),
        ];
        assert_eq!(judge_elastic(&known), Verdict::Wait);
        let known = [left_behind(lost(0, RankState::Running)), runs(1), runs(2)];
        assert_eq!(judge_elastic(&known), Verdict::Wait);
    }

    #[test]
    fn fewer_than_the_least_are_the_end() {
        let ranks = [
            left_behind(failed(0, FailureClass::Crash)),
            failed(1, FailureClass::Crash),
            rank(2, RankState::Running),
        ];
        match judge_elastic(&ranks) {
            Verdict::Fail(failure) => assert!(
                failure
                    .message
                    .ends_with("1 of 3 ranks were left, fewer than ranks.min (2)"),
                "{failure:?}"
            ),
            other @ (Verdict::Wait
            | Verdict::Start
            | Verdict::Commit
            | Verdict::GoOn(_)
            | Verdict::Interrupt { .. }
            | Verdict::Cancel) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_gang_that_has_not_met_needs_all_its_ranks() {
        let ranks = [
            failed(0, FailureClass::Crash),
            rank(1, RankState::Running),
            rank(2, RankState::Running),
        ];
        let verdict = judge(&Situation {
            attempt: &attempt(Running),
            ranks: &ranks,
            cancel_requested: false,
            makes_room: None,
            deadline: None,
            min_ranks: Some(2),
            timeout: None,
            settle: Duration::from_secs(1),
            is_leaving: false,
            was_not_replaced: false,
            hung: None,
            now: at(30),
        });
        assert_eq!(class(verdict), FailureClass::Crash);
    }

    #[test]
    fn those_that_went_on_commit_without_the_lost_one() {
        let ranks = [
            left_behind(rank(0, RankState::Running)),
            rank(1, RankState::Finished),
            rank(2, RankState::Finished),
        ];
        assert_eq!(judge_elastic(&ranks), Verdict::Commit);
        let ranks = [
            failed(0, FailureClass::Network),
            rank(1, RankState::Finished),
            rank(2, RankState::Finished),
        ];
        assert!(matches!(judge_elastic(&ranks), Verdict::GoOn(_)));
    }

    #[test]
    fn a_cancel_takes_effect_when_nothing_is_left() {
        let some = [rank(0, RankState::Stopped), rank(1, RankState::Running)];
        assert_eq!(judge_at(1, Running, &some, true), Verdict::Wait);
        let none = [rank(0, RankState::Stopped), lost(1, RankState::Running)];
        assert_eq!(judge_at(1, Running, &none, true), Verdict::Cancel);
    }

    fn judge_with(ranks: &[RankRow], makes_room: bool, deadline: Option<i64>) -> Verdict {
        let why = (Interruption::Preempted, "job 9 goes first".to_owned());
        judge(&Situation {
            attempt: &attempt(Running),
            ranks,
            cancel_requested: false,
            makes_room: makes_room.then_some(&why),
            deadline: deadline.map(at),
            min_ranks: None,
            timeout: None,
            settle: Duration::from_secs(1),
            is_leaving: false,
            was_not_replaced: false,
            hung: None,
            now: at(30),
        })
    }

    #[test]
    fn who_makes_room_is_interrupted_when_nothing_is_left_of_it_whatever_its_ranks_say() {
        let some = [
            failed(0, FailureClass::UserError),
            rank(1, RankState::Running),
        ];
        assert_eq!(judge_with(&some, true, None), Verdict::Wait);
        let none = [
            failed(0, FailureClass::Network),
            rank(1, RankState::Stopped),
        ];
        assert_eq!(
            judge_with(&none, true, None),
            Verdict::Interrupt {
                cause: Interruption::Preempted,
                message: "job 9 goes first".into()
            }
        );
        // It had finished before the word came.
        let done = [rank(0, RankState::Finished), rank(1, RankState::Finished)];
        assert_eq!(judge_with(&done, true, None), Verdict::Commit);
    }

    #[test]
    fn a_deadline_ends_what_runs() {
        let ranks = [rank(0, RankState::Running)];
        assert_eq!(judge_with(&ranks, false, Some(31)), Verdict::Wait);
        assert_eq!(
            class(judge_with(&ranks, false, Some(30))),
            FailureClass::Timeout
        );
    }

    #[test]
    fn a_result_that_is_complete_is_kept() {
        let done = [rank(0, RankState::Finished), rank(1, RankState::Finished)];
        assert_eq!(judge_at(1000, Running, &done, true), Verdict::Commit);
    }

    #[test]
    fn an_attempt_may_run_as_long_as_its_timeout() {
        let ranks = [rank(0, RankState::Running)];
        assert_eq!(judge_at(99, Running, &ranks, false), Verdict::Wait);
        assert_eq!(
            class(judge_at(100, Running, &ranks, false)),
            FailureClass::Timeout
        );
    }

    #[test]
    fn preparing_has_an_end() {
        let ranks = [rank(0, RankState::Prepared), rank(1, RankState::Assigned)];
        let late = i64::try_from(PREPARE_MAX.as_secs()).unwrap();
        assert_eq!(judge_at(late - 1, Assigned, &ranks, false), Verdict::Wait);
        assert_eq!(
            class(judge_at(late, Assigned, &ranks, false)),
            FailureClass::Network
        );
    }
}
