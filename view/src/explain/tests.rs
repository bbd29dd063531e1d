use marquee_domain::report::{TrainSummary, WentOn};
use marquee_proto::v1::{JobKind, JobState};

use crate::samples;

use super::*;

#[test]
fn a_job_that_goes_on_without_a_rank_says_so() {
    let mut detail = samples::still_running();
    let attempt = detail.attempts.last_mut().unwrap();
    attempt.ranks[0].summary_json = serde_json::to_string(&TrainSummary {
        went_on: vec![WentOn {
            step: 120,
            ranks: 1,
            of: 2,
            steps_lost: 1,
            seconds: 3.2,
        }],
        ..TrainSummary::default()
    })
    .unwrap();
    attempt.ranks[1].lost_at = attempt.started_at;
    let why = Explanation {
        detail: &detail,
        needs: &[],
    }
    .why(detail.job.as_ref().unwrap(), samples::now());
    insta::assert_snapshot!(why[1..].join("\n"), @r"
    It went on with 1 of 2 ranks: rank 1 on worker-2 was lost (out_of_memory: rank 1 was killed: the host's memory ran out; lower batch_size).
    It went on with 1 of 2 ranks from step 120 after 3.2 s; 1 step was lost.
    It takes new ranks, at a checkpoint, once devices for all 2 are free for which nobody waits who goes before it or is its equal; at the earliest 5 minutes after a loss, and 10 minutes after its start.
    ");
}

#[test]
fn of_two_ranks_that_failed_the_one_that_was_the_cause_is_named() {
    let mut detail = samples::failed_train();
    let attempt = detail.attempts.last_mut().unwrap();
    attempt.ranks[0].failure = Some(Failure {
        class: marquee_proto::v1::FailureClass::Collective.into(),
        message: "Connection closed by peer [10.0.0.7]:3512".into(),
    });
    let why = Explanation {
        detail: &detail,
        needs: &[],
    }
    .why(detail.job.as_ref().unwrap(), samples::now());
    assert!(
        why.contains(&"It was rank 1 on worker-2.".to_owned()),
        "{why:?}"
    );
}

#[test]
fn a_job_that_hangs_says_which_rank_does_and_which_only_waits() {
    let mut detail = samples::still_running();
    let attempt = detail.attempts.last_mut().unwrap();
    attempt.ranks[0].stall = Some(marquee_proto::v1::Stall {
        idle_ms: 45_000,
        step: Some(12),
        phase: "all-reduce".into(),
        waits_for_peers: true,
        ..Default::default()
    });
    attempt.ranks[1].stall = Some(marquee_proto::v1::Stall {
        idle_ms: 46_200,
        step: Some(12),
        phase: "forward".into(),
        is_stopped: true,
        ..Default::default()
    });
    let explanation = Explanation {
        detail: &detail,
        needs: &[],
    };
    let job = detail.job.as_ref().unwrap();
    let why = explanation.why(job, samples::now());
    insta::assert_snapshot!(why[1..].join("\n"), @r#"
    Rank 1 on worker-2 hangs: it is stopped by a signal (state T) at step 12, for 46 s; "kill -CONT" lets it go on.
    Rank 0 on worker-1 waits in all-reduce at step 12, for 45 s.
    "#);
    let hints = explanation.what_to_do(job);
    assert!(hints[0].to_string().contains("--rank 1"), "{hints:?}");
}

#[test]
fn what_only_a_newer_coordinator_knows_is_said_to_be_unknown() {
    let failed = Job {
        state: JobState::Failed.into(),
        failure: Some(marquee_proto::v1::Failure {
            class: 99,
            message: "the moon was in the way".into(),
        }),
        ..Job::default()
    };
    let newer = Job {
        state: 99,
        kind: 99,
        ..Job::default()
    };
    for (job, says) in [
        (failed, "It failed (unknown): the moon was in the way"),
        (newer, "only a newer marquee knows"),
    ] {
        let detail = JobDetail {
            job: Some(job.clone()),
            ..JobDetail::default()
        };
        let explanation = Explanation {
            detail: &detail,
            needs: &[],
        };
        let why = explanation.why(&job, samples::now()).join(" ");
        assert!(why.contains(says), "{why}");
        let json = explanation.json(samples::now());
        assert_eq!(json["job"]["kind"], "unknown");
        assert!(!Page::of(&explanation, samples::now()).blocks().is_empty());
    }
}

#[test]
fn an_answer_without_a_job_is_nothing_and_no_panic() {
    let explanation = Explanation {
        detail: &JobDetail::default(),
        needs: &[],
    };
    assert!(Page::of(&explanation, samples::now()).blocks().is_empty());
    assert_eq!(explanation.json(samples::now()), Value::Null);
    assert!(explanation.ids().is_empty());
}

#[test]
fn a_kept_output_is_to_be_rescued_and_not_made_again() {
    let failed = |message: &str| Job {
        id: 7,
        state: JobState::Failed.into(),
        failure: Some(marquee_proto::v1::Failure {
            class: marquee_proto::v1::FailureClass::UserError.into(),
            message: message.into(),
        }),
        ..Job::default()
    };
    let first = |job: &Job| {
        let detail = JobDetail {
            job: Some(job.clone()),
            ..JobDetail::default()
        };
        let explanation = Explanation {
            detail: &detail,
            needs: &[],
        };
        let hints = explanation.what_to_do(job);
        let all: Vec<String> = hints.iter().map(ToString::to_string).collect();
        (all[0].clone(), all.join("\n"))
    };
    let kept = "latest.pt leads outside; kept for 7 days: \"marquee artifacts rescue 7\" stores it";
    let (hint, all) = first(&failed(kept));
    assert!(hint.starts_with("marquee artifacts rescue 7"), "{hint}");
    assert!(!all.contains("submit it again"), "{all}");
    // Another job's number is no rescue of this one.
    let other = "see \"marquee artifacts rescue 70\" of another job";
    let (hint, all) = first(&failed(other));
    assert!(hint.contains("submit it again"), "{hint}");
    assert!(!all.contains("rescue"), "{all}");
}

#[test]
fn a_job_has_a_sentence_and_a_hint_in_every_state() {
    for state in JobStateName::ALL {
        let job = samples::job(7, "train", JobKind::Train, state.into());
        let detail = JobDetail {
            job: Some(job.clone()),
            ..JobDetail::default()
        };
        let explanation = Explanation {
            detail: &detail,
            needs: &[],
        };
        let why = explanation.why(&job, samples::now());
        assert!(why[0].starts_with("It "), "{state:?}: {why:?}");
        // A job that waits for nothing that is known has nobody to be sent to.
        let hints = explanation.what_to_do(&job);
        assert_eq!(
            hints.is_empty(),
            state == JobStateName::Waiting,
            "{state:?}"
        );
    }
}
