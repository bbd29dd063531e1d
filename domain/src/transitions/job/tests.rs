use std::time::Duration;

use super::*;
use crate::end::{AttemptEnd, Interruption, after_end};
use crate::failure::{Failure, FailureClass};

/// The job that others need in these tests.
const NEED: JobId = JobId(7);

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

/// Queued since second 0, its second of three attempts the newest.
fn job(stage: JobStage) -> JobLife {
    JobLife {
        stage,
        budget: AttemptBudget {
            newest: 2,
            last: 3,
            granted: 3,
        },
        is_array: false,
    }
}

fn queued() -> JobStage {
    JobStage::Queued {
        queued_at: at(0),
        not_before: None,
    }
}

fn running(cancel_requested: bool) -> JobStage {
    JobStage::Running {
        queued_at: at(0),
        cancel_requested,
    }
}

fn cancelled(for_job: Option<JobId>) -> JobStage {
    JobStage::Cancelled { for_job }
}

/// Lets `event` happen at second 60; what is retried does not have to wait.
fn apply(job: JobLife, event: JobEvent) -> Outcome {
    let now = at(60);
    match event {
        JobEvent::Release => job.release(now),
        JobEvent::Place => job.place(),
        JobEvent::Succeed => job.succeed(),
        JobEvent::Requeue => job.requeue(now + Duration::from_secs(4)),
        JobEvent::Interrupt => job.interrupt(),
        JobEvent::GiveUp => job.give_up(),
        JobEvent::FailUnplaced => job.fail_unplaced(),
        JobEvent::RequestCancel => job.request_cancel(),
        JobEvent::FinishCancel => job.finish_cancel(),
        JobEvent::CancelForNeed => job.cancel_for_need(NEED),
        JobEvent::Retry => job.retry(false, now),
        JobEvent::Revive => job.revive(false, now),
        JobEvent::MakeAgain => job.make_again(false, now),
        JobEvent::WaitAgain => job.wait_again(),
    }
}

/// For each event the state that it leads to from: waiting, queued, running, running and to be
/// cancelled, succeeded, failed, cancelled by name, cancelled for a need. None: refused.
type Row = (JobEvent, [Option<JobStateName>; 8]);

fn table() -> [Row; 14] {
    use JobStateName::{Cancelled, Failed, Queued, Running, Succeeded, Waiting};
    const NO: Option<JobStateName> = None;
    let to = Some;
    [
        (JobEvent::Release, [to(Queued), NO, NO, NO, NO, NO, NO, NO]),
        (JobEvent::Place, [NO, to(Running), NO, NO, NO, NO, NO, NO]),
        (
            JobEvent::Succeed,
            [NO, NO, to(Succeeded), to(Succeeded), NO, NO, NO, NO],
        ),
        (JobEvent::Requeue, [NO, NO, to(Queued), NO, NO, NO, NO, NO]),
        (
            JobEvent::Interrupt,
            [NO, NO, to(Queued), NO, NO, NO, NO, NO],
        ),
        (
            JobEvent::GiveUp,
            [NO, NO, to(Failed), to(Failed), NO, NO, NO, NO],
        ),
        (
            JobEvent::FailUnplaced,
            [to(Failed), to(Failed), NO, NO, NO, NO, NO, NO],
        ),
        (
            JobEvent::RequestCancel,
            [
                to(Cancelled),
                to(Cancelled),
                to(Running),
                to(Running),
                NO,
                NO,
                NO,
                NO,
            ],
        ),
        (
            JobEvent::FinishCancel,
            [NO, NO, NO, to(Cancelled), NO, NO, NO, NO],
        ),
        (
            JobEvent::CancelForNeed,
            [to(Cancelled), NO, NO, NO, NO, NO, NO, NO],
        ),
        (
            JobEvent::Retry,
            [NO, NO, NO, NO, NO, to(Queued), to(Queued), to(Queued)],
        ),
        (JobEvent::Revive, [NO, NO, NO, NO, NO, NO, NO, to(Queued)]),
        (
            JobEvent::MakeAgain,
            [NO, NO, NO, NO, to(Queued), NO, NO, NO],
        ),
        (
            JobEvent::WaitAgain,
            [to(Waiting), to(Waiting), NO, NO, NO, NO, NO, NO],
        ),
    ]
}

#[test]
fn each_event_in_each_state() {
    let stages = [
        JobStage::Waiting,
        queued(),
        running(false),
        running(true),
        JobStage::Succeeded,
        JobStage::Failed,
        cancelled(None),
        cancelled(Some(NEED)),
    ];
    let named: Vec<JobStateName> = stages.iter().map(|stage| stage.name()).collect();
    for state in JobStateName::ALL {
        assert!(named.contains(&state), "{state:?} is not tried");
    }
    let table = table();
    assert_eq!(table.map(|row| row.0), JobEvent::ALL);
    for (event, expected) in table {
        for (stage, expected) in stages.into_iter().zip(expected) {
            let after = apply(job(stage), event);
            match expected {
                Some(state) => {
                    let after = after.unwrap_or_else(|refused| panic!("{refused}"));
                    assert_eq!(after.stage.name(), state, "{event:?} from {stage:?}");
                    assert!(!after.is_array);
                }
                None => {
                    let refused = InvalidTransition::Job { from: stage, event };
                    assert_eq!(after, Err(refused));
                }
            }
        }
    }
}

#[test]
fn a_job_keeps_its_place_in_the_queue_while_it_is_tried() {
    let waiting = JobLife {
        budget: AttemptBudget {
            newest: 0,
            last: 3,
            granted: 3,
        },
        ..job(JobStage::Waiting)
    };
    let released = waiting.release(at(5)).unwrap();
    let placed = released.place().unwrap();
    assert_eq!(placed.budget.newest, 1);
    let failed_once = placed.requeue(at(20)).unwrap();
    assert_eq!(
        failed_once.stage,
        JobStage::Queued {
            queued_at: at(5),
            not_before: Some(at(20))
        }
    );
    let placed_again = failed_once.place().unwrap();
    assert_eq!(placed_again.budget.newest, 2);
    let made_room = placed_again.interrupt().unwrap();
    assert_eq!(
        made_room.stage,
        JobStage::Queued {
            queued_at: at(5),
            not_before: None
        }
    );
}

#[test]
fn interruptions_spend_no_attempt_and_never_reuse_a_number() {
    let mut life = JobLife {
        budget: AttemptBudget {
            newest: 0,
            last: 1,
            granted: 1,
        },
        ..job(queued())
    };
    for attempt in 1..=20 {
        life = life.place().unwrap();
        assert_eq!(life.budget.newest, attempt);
        let end = AttemptEnd::Interrupted {
            cause: Interruption::Preempted,
            message: "job 9 goes first".into(),
        };
        let after = after_end(&end, life.budget, 0.5);
        life = life.end_attempt(after, at(60)).unwrap();
        assert_eq!(life.stage, queued());
        assert_eq!(life.budget.left(), 1);
    }
    // The one attempt that it was given is still there to be spent, and then it is spent.
    let life = life.place().unwrap();
    let end = AttemptEnd::Failed(Failure {
        class: FailureClass::Crash,
        message: "broke".into(),
    });
    let after = after_end(&end, life.budget, 0.5);
    let life = life.end_attempt(after, at(60)).unwrap();
    assert_eq!(life.stage, JobStage::Failed);
}

#[test]
fn without_an_attempt_left_a_failure_does_not_queue_the_job_again() {
    let last = JobLife {
        budget: AttemptBudget {
            newest: 3,
            last: 3,
            granted: 3,
        },
        ..job(running(false))
    };
    let refused = InvalidTransition::Job {
        from: running(false),
        event: JobEvent::Requeue,
    };
    assert_eq!(last.requeue(at(60)), Err(refused));
}

#[test]
fn a_retry_gives_all_attempts_again_and_a_new_place_in_the_queue() {
    let ended = [JobStage::Failed, cancelled(None), cancelled(Some(NEED))];
    for stage in ended {
        let back = job(stage).retry(false, at(60)).unwrap();
        assert_eq!(
            back.stage,
            JobStage::Queued {
                queued_at: at(60),
                not_before: None
            }
        );
        assert_eq!((back.budget.newest, back.budget.last), (2, 5));
        assert_eq!(back.budget.spent(), 0);
        let waits = job(stage).retry(true, at(60)).unwrap();
        assert_eq!(waits.stage, JobStage::Waiting);
    }
}

#[test]
fn an_array_comes_back_with_its_element_and_waits_for_it() {
    let array = JobLife {
        is_array: true,
        ..job(JobStage::Failed)
    };
    for back in [
        array.clone().revive(false, at(60)),
        array.retry(false, at(60)),
    ] {
        assert_eq!(back.unwrap().stage, JobStage::Waiting);
    }
}

#[test]
fn a_cancel_names_the_job_that_caused_it() {
    let with_need = job(JobStage::Waiting).cancel_for_need(NEED).unwrap();
    assert_eq!(with_need.stage, cancelled(Some(NEED)));
    let by_name = job(JobStage::Waiting).request_cancel().unwrap();
    assert_eq!(by_name.stage, cancelled(None));
}

#[test]
fn what_after_end_decides_is_what_happens() {
    let after = Duration::from_secs(4);
    let decisions = [
        (AfterEnd::Succeed, JobEvent::Succeed),
        (
            AfterEnd::Requeue {
                spends_attempt: true,
                after,
            },
            JobEvent::Requeue,
        ),
        (
            AfterEnd::Requeue {
                spends_attempt: false,
                after: Duration::ZERO,
            },
            JobEvent::Interrupt,
        ),
        (AfterEnd::GiveUp, JobEvent::GiveUp),
    ];
    for (decision, event) in decisions {
        let life = job(running(false));
        assert_eq!(
            life.clone().end_attempt(decision, at(60)),
            apply(life, event),
            "{decision:?}"
        );
    }
    let stopping = job(running(true));
    assert_eq!(
        stopping.clone().end_attempt(AfterEnd::Cancel, at(60)),
        apply(stopping, JobEvent::FinishCancel)
    );
}
