//! What should change on a worker: a pure decision from the stored rows and what it holds.
//!
//! Every message is idempotent for the worker, and is decided anew at each heartbeat until the
//! rows and the list agree.

use std::borrow::Cow;
use std::collections::BTreeMap;

use marquee_domain::ids::{AttemptNumber, Rank};
use marquee_domain::job::{AttemptStateName, RankState};
use marquee_store::attempts::Rendezvous;
use marquee_store::ranks::{RankKey, WorkerRank};

use super::hello::{Held, HeldRanks};

/// What to base the decision on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// The worker has just said in this session what it holds: what is not in the list is not there.
    Heartbeat,
    /// Something changed here, or the session has just begun; the list may be older than the rows.
    Nudge,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Assign,
    Start {
        rendezvous: Option<Rendezvous>,
        standby: Option<Rendezvous>,
    },
    Stop {
        reason: Cow<'static, str>,
        forget: bool,
    },
    /// The attempt has gone on without it: end it at once, for as long as it lives it may hold the
    /// others up, and forget it.
    Kill {
        reason: &'static str,
    },
    /// The attempt goes on without these.
    TellLost {
        ranks: Vec<Rank>,
    },
    /// Every report up to here is stored.
    Ack {
        sequence: u64,
    },
    /// A live attempt's rank is not on its worker any more: the attempt has lost it.
    Lost,
    /// An ended attempt's rank is not there any more: its devices are free.
    Gone,
}

/// Why a rank that its attempt has gone on without is ended, and its reports are refused.
pub(super) const LOST: &str = "the other ranks went on without this one";

/// Decides what to do with each rank that is stored for the worker or held by it.
pub(super) fn decide(
    rows: &[WorkerRank],
    held: &HeldRanks,
    occasion: Occasion,
) -> Vec<(RankKey, Action)> {
    let known: BTreeMap<RankKey, &WorkerRank> = rows.iter().map(|row| (row.key, row)).collect();
    let unknown = held
        .keys()
        .filter(|key| !known.contains_key(key))
        .map(|key| {
            let reason = "the coordinator has not given this rank to this worker";
            (
                *key,
                Action::Stop {
                    reason: reason.into(),
                    forget: true,
                },
            )
        });
    let mut actions: Vec<_> = unknown.collect();
    for row in rows {
        let action = match held.get(&row.key) {
            Some(held) => for_held(row, *held),
            None => for_absent(row, occasion),
        };
        actions.extend(action.map(|action| (row.key, action)));
    }
    actions
}

/// The worker holds the rank.
fn for_held(row: &WorkerRank, held: Held) -> Option<Action> {
    if row.state.has_ended() {
        let all_stored = held.state.has_ended() && held.last_sequence <= row.last_sequence;
        return Some(if all_stored {
            // The acknowledgement of its last report was lost.
            Action::Ack {
                sequence: row.last_sequence,
            }
        } else {
            Action::Stop {
                reason: "the rank has ended".into(),
                forget: true,
            }
        });
    }
    if held.state.has_ended() {
        // Its last reports are on their way.
        return None;
    }
    if row.is_lost {
        return Some(Action::Kill { reason: LOST });
    }
    if let Some((reason, forget)) = unwanted(row) {
        return Some(Action::Stop { reason, forget });
    }
    // Some of its peers are not prepared yet: none of a gang starts before all can.
    if row.attempt_state != AttemptStateName::Running {
        return None;
    }
    if row.state == RankState::Prepared {
        return Some(Action::Start {
            rendezvous: row.rendezvous.clone(),
            standby: row.standby.clone(),
        });
    }
    (!row.lost.is_empty()).then(|| Action::TellLost {
        ranks: row.lost.clone(),
    })
}

/// The worker's list lacks the rank. Only rows that have not ended come here.
fn for_absent(row: &WorkerRank, occasion: Occasion) -> Option<Action> {
    let unwanted = row.is_lost || unwanted(row).is_some();
    match (row.state, occasion) {
        (RankState::Assigned, Occasion::Heartbeat | Occasion::Nudge) if !unwanted => {
            Some(Action::Assign)
        }
        // A worker that was never told, or has not heard it yet: it holds nothing, and will not be
        // told to start.
        (RankState::Assigned, Occasion::Heartbeat) => Some(Action::Gone),
        #[cfg(feature = "planted")]
        (RankState::Prepared | RankState::Running, Occasion::Heartbeat)
            if marquee_domain::planted::is("absent-rank-ignored") =>
        {
            None
        }
        (RankState::Prepared | RankState::Running, Occasion::Heartbeat)
            if is_live(row) && !row.is_lost =>
        {
            Some(Action::Lost)
        }
        (RankState::Prepared | RankState::Running, Occasion::Heartbeat) => Some(Action::Gone),
        (RankState::Assigned | RankState::Prepared | RankState::Running, Occasion::Nudge)
        | (RankState::Finished | RankState::Failed | RankState::Stopped, _) => None,
    }
}

fn is_live(row: &WorkerRank) -> bool {
    !row.attempt_state.has_ended()
}

/// Why a rank should not be there, and whether its reports are refused.
fn unwanted(row: &WorkerRank) -> Option<(Cow<'static, str>, bool)> {
    #[cfg(feature = "planted")]
    {
        let is_old = AttemptNumber(row.newest_attempt) != row.key.attempt || !is_live(row);
        let is_left = is_old && marquee_domain::planted::is("old-attempts-kept");
        if is_left || !is_old && marquee_domain::planted::is("cancel-not-sent") {
            return None;
        }
    }
    if AttemptNumber(row.newest_attempt) != row.key.attempt {
        Some(("a newer attempt has taken its place".into(), true))
    } else if !is_live(row) {
        Some(("its attempt has ended".into(), false))
    } else if row.cancel_requested {
        Some(("a user cancelled the job".into(), false))
    } else {
        // TERM first, so that it can write a checkpoint.
        let why = row.makes_room.as_ref()?;
        Some((format!("it makes room: {why}").into(), false))
    }
}

#[cfg(test)]
mod tests {
    use marquee_domain::ids::JobId;

    use super::*;

    const KEY: RankKey = RankKey {
        job: JobId(7),
        attempt: AttemptNumber(2),
        rank: Rank(0),
    };

    fn row(state: RankState, attempt_state: AttemptStateName) -> WorkerRank {
        WorkerRank {
            key: KEY,
            state,
            last_sequence: 5,
            attempt_state,
            newest_attempt: 2,
            cancel_requested: false,
            makes_room: None,
            world_size: 1,
            rendezvous: None,
            standby: None,
            is_lost: false,
            lost: Vec::new(),
        }
    }

    fn holding(state: RankState, last_sequence: u64) -> HeldRanks {
        HeldRanks::from([(
            KEY,
            Held {
                state,
                last_sequence,
            },
        )])
    }

    fn decide_one(row: WorkerRank, held: &HeldRanks, occasion: Occasion) -> Option<Action> {
        let mut actions = decide(&[row], held, occasion);
        assert!(actions.len() <= 1, "{actions:?}");
        actions.pop().map(|(_, action)| action)
    }

    use AttemptStateName::{Assigned, Cancelled, Failed, Running};
    use Occasion::{Heartbeat, Nudge};

    #[test]
    fn a_rank_is_assigned_until_it_is_held() {
        let nothing = HeldRanks::new();
        let assigned = row(RankState::Assigned, Assigned);
        assert_eq!(
            decide_one(assigned.clone(), &nothing, Nudge),
            Some(Action::Assign)
        );
        assert_eq!(
            decide_one(assigned.clone(), &nothing, Heartbeat),
            Some(Action::Assign)
        );
        let held = holding(RankState::Assigned, 0);
        assert_eq!(decide_one(assigned, &held, Heartbeat), None);
    }

    #[test]
    fn a_prepared_rank_starts_when_its_attempt_runs() {
        let held = holding(RankState::Prepared, 5);
        assert_eq!(
            decide_one(row(RankState::Prepared, Assigned), &held, Nudge),
            None
        );
        let start = Some(Action::Start {
            rendezvous: None,
            standby: None,
        });
        assert_eq!(
            decide_one(row(RankState::Prepared, Running), &held, Nudge),
            start
        );
        assert_eq!(
            decide_one(row(RankState::Running, Running), &held, Nudge),
            None
        );
    }

    #[test]
    fn what_is_not_held_any_more_is_lost_but_only_a_new_list_can_say_so() {
        let nothing = HeldRanks::new();
        for state in [RankState::Prepared, RankState::Running] {
            assert_eq!(
                decide_one(row(state, Running), &nothing, Heartbeat),
                Some(Action::Lost)
            );
            assert_eq!(
                decide_one(row(state, Failed), &nothing, Heartbeat),
                Some(Action::Gone)
            );
            assert_eq!(decide_one(row(state, Running), &nothing, Nudge), None);
        }
        let never_told = row(RankState::Assigned, Cancelled);
        assert_eq!(
            decide_one(never_told, &nothing, Heartbeat),
            Some(Action::Gone)
        );
    }

    #[test]
    fn what_is_not_wanted_is_stopped() {
        let held = holding(RankState::Running, 5);
        let forget = |action| match action {
            Some(Action::Stop { forget, .. }) => forget,
            other => panic!("expected a stop, got {other:?}"),
        };
        // Still the newest attempt: its last reports are welcome.
        assert!(!forget(decide_one(
            row(RankState::Running, Failed),
            &held,
            Heartbeat
        )));
        let cancelled = WorkerRank {
            cancel_requested: true,
            ..row(RankState::Running, Running)
        };
        assert!(!forget(decide_one(cancelled, &held, Nudge)));
        let makes_room = WorkerRank {
            makes_room: Some("job 9 goes first".into()),
            ..row(RankState::Running, Running)
        };
        assert_eq!(
            decide_one(makes_room, &held, Nudge),
            Some(Action::Stop {
                reason: "it makes room: job 9 goes first".into(),
                forget: false
            })
        );
        let old = WorkerRank {
            newest_attempt: 3,
            ..row(RankState::Running, Failed)
        };
        assert!(forget(decide_one(old, &held, Heartbeat)));
        assert!(forget(decide_one(
            row(RankState::Stopped, Failed),
            &held,
            Heartbeat
        )));
        // Not in the rows at all.
        let actions = decide(&[], &held, Heartbeat);
        assert!(forget(actions.into_iter().next().map(|(_, action)| action)));
    }

    #[test]
    fn who_was_lost_is_ended_and_freed_on_proof_and_the_others_are_told() {
        let lost = WorkerRank {
            is_lost: true,
            lost: vec![Rank(0)],
            ..row(RankState::Running, Running)
        };
        let held = holding(RankState::Running, 5);
        for occasion in [Heartbeat, Nudge] {
            assert_eq!(
                decide_one(lost.clone(), &held, occasion),
                Some(Action::Kill { reason: LOST })
            );
        }
        let nothing = HeldRanks::new();
        assert_eq!(decide_one(lost.clone(), &nothing, Nudge), None);
        assert_eq!(
            decide_one(lost, &nothing, Heartbeat),
            Some(Action::Gone),
            "its devices are free, and its attempt is not failed for it"
        );
        let other = WorkerRank {
            lost: vec![Rank(1)],
            ..row(RankState::Running, Running)
        };
        assert_eq!(
            decide_one(other, &held, Heartbeat),
            Some(Action::TellLost {
                ranks: vec![Rank(1)]
            })
        );
    }

    #[test]
    fn a_lost_acknowledgement_is_made_again() {
        let held = holding(RankState::Finished, 5);
        let ack = Some(Action::Ack { sequence: 5 });
        assert_eq!(
            decide_one(row(RankState::Finished, Running), &held, Heartbeat),
            ack
        );
        // Its last report has not arrived yet.
        assert_eq!(
            decide_one(row(RankState::Running, Running), &held, Heartbeat),
            None
        );
    }

    #[test]
    fn what_agrees_is_left_alone() {
        let held = holding(RankState::Running, 9);
        assert_eq!(
            decide_one(row(RankState::Running, Running), &held, Heartbeat),
            None
        );
    }
}
