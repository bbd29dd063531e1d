//! What a client may ask of a job, in every state that refuses it: told so with the code of docs/errors, and
//! nothing is changed by the asking.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support::Cluster;
use marquee_proto::error::PublicError;
use marquee_proto::v1::{self, FailureClass, JobState};
use tonic::{Code, Status};

const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\nmax_attempts = 1\n";
const TWO: &str = "[jobs.first]\nkind = \"command\"\nargv = [\"true\"]\n\
                   [jobs.second]\nkind = \"command\"\nargv = [\"true\"]\nneeds = [\"first\"]\n";

#[derive(Debug, Clone, Copy)]
enum Ask {
    Cancel,
    Retry,
    Remove,
    /// Only to be told what would go.
    TryRemove,
    Hold,
    Release,
    Move,
}

async fn ask(cluster: &Cluster, job: &v1::Job, what: Ask) -> Result<(), Status> {
    let mut client = cluster.jobs().await;
    let (id, pipeline) = (job.id, job.pipeline_id);
    match what {
        Ask::Cancel => drop(client.cancel_job(v1::CancelJobRequest { id }).await?),
        Ask::Retry => drop(client.retry_job(v1::RetryJobRequest { id }).await?),
        Ask::Remove | Ask::TryRemove => {
            let dry_run = matches!(what, Ask::TryRemove);
            let request = v1::RemovePipelineRequest {
                id: pipeline,
                dry_run,
            };
            drop(client.remove_pipeline(request).await?);
        }
        Ask::Hold => drop(client.hold_job(v1::HoldJobRequest { id }).await?),
        Ask::Release => drop(client.release_job(v1::HoldJobRequest { id }).await?),
        Ask::Move => drop(client.move_job(v1::MoveJobRequest { id }).await?),
    }
    Ok(())
}

#[tokio::test]
async fn every_state_refuses_what_it_must_and_is_as_it_was() {
    const UNPLACED: &[(Ask, &str)] = &[
        (Ask::Retry, "MQ0302"),
        (Ask::Remove, "MQ0308"),
        (Ask::TryRemove, "MQ0308"),
        (Ask::Move, "MQ0365"),
    ];
    const RUNNING: &[(Ask, &str)] = &[
        (Ask::Retry, "MQ0302"),
        (Ask::Remove, "MQ0308"),
        (Ask::TryRemove, "MQ0308"),
        (Ask::Hold, "MQ0330"),
        (Ask::Release, "MQ0330"),
    ];
    const STOPPING: &[(Ask, &str)] = &[
        (Ask::Retry, "MQ0302"),
        (Ask::Remove, "MQ0308"),
        (Ask::TryRemove, "MQ0308"),
        (Ask::Hold, "MQ0330"),
        (Ask::Release, "MQ0330"),
        (Ask::Move, "MQ0365"),
    ];
    const ENDED: &[(Ask, &str)] = &[
        (Ask::Cancel, "MQ0301"),
        (Ask::Hold, "MQ0330"),
        (Ask::Release, "MQ0330"),
        (Ask::Move, "MQ0365"),
    ];
    const SUCCEEDED: &[(Ask, &str)] = &[
        (Ask::Cancel, "MQ0301"),
        (Ask::Retry, "MQ0302"),
        (Ask::Hold, "MQ0330"),
        (Ask::Release, "MQ0330"),
        (Ask::Move, "MQ0365"),
    ];
    let cluster = Cluster::start().await;

    let cancelled = cluster.submit(ONE).await[0].id;
    let request = v1::CancelJobRequest { id: cancelled };
    cluster.jobs().await.cancel_job(request).await.unwrap();

    let mut worker = cluster.worker("w1").await;
    let succeeded = cluster.submit(ONE).await[0].id;
    let key = worker.take_and_start().await;
    worker.finish(key, None).await;
    cluster.wait_for(succeeded, JobState::Succeeded).await;

    let failed = cluster.submit(ONE).await[0].id;
    let key = worker.take_and_start().await;
    worker
        .fail(key, FailureClass::UserError, "no such file")
        .await;
    cluster.wait_for(failed, JobState::Failed).await;

    let two = cluster.submit(TWO).await;
    let (running, waiting) = (two[0].id, two[1].id);
    worker.take_and_start().await;
    cluster.wait_for(running, JobState::Running).await;

    let stopping = cluster.submit(ONE).await[0].id;
    worker.take_and_start().await;
    let request = v1::CancelJobRequest { id: stopping };
    cluster.jobs().await.cancel_job(request).await.unwrap();

    // Both slots are taken.
    let queued = cluster.submit(ONE).await[0].id;

    type Refused = &'static [(Ask, &'static str)];
    let table: [(i64, JobState, Refused); 7] = [
        (waiting, JobState::Waiting, UNPLACED),
        (queued, JobState::Queued, UNPLACED),
        (running, JobState::Running, RUNNING),
        // Asked to stop is not stopped: what is left of it may still write.
        (stopping, JobState::Running, STOPPING),
        (succeeded, JobState::Succeeded, SUCCEEDED),
        (failed, JobState::Failed, ENDED),
        (cancelled, JobState::Cancelled, ENDED),
    ];
    for (id, state, refused) in table {
        let before = cluster.detail(id).await;
        let job = before.job.as_ref().unwrap();
        assert_eq!(job.state(), state);
        for &(what, code) in refused {
            let status = ask(&cluster, job, what).await.unwrap_err();
            let said = PublicError::from(&status).code;
            assert_eq!(
                (status.code(), said.as_deref()),
                (Code::FailedPrecondition, Some(code)),
                "{what:?} of a job that is {state:?}: {status}"
            );
            let after = cluster.detail(id).await;
            assert_eq!(after.events, before.events, "{what:?} of {state:?}");
            let now = after.job.unwrap();
            assert_eq!(
                (now.state(), now.cancel_requested, now.attempt),
                (state, job.cancel_requested, job.attempt),
                "{what:?} of {state:?}"
            );
        }
    }

    // Where there is nothing, that is what is said, however strange the number.
    for id in [i64::MAX, i64::MIN, -1, 0, 1 << 40] {
        let nothing = v1::Job {
            id,
            pipeline_id: id,
            ..v1::Job::default()
        };
        for what in [
            Ask::Cancel,
            Ask::Retry,
            Ask::Remove,
            Ask::TryRemove,
            Ask::Hold,
            Ask::Release,
            Ask::Move,
        ] {
            let status = ask(&cluster, &nothing, what).await.unwrap_err();
            assert!(
                matches!(status.code(), Code::NotFound | Code::InvalidArgument),
                "{what:?} of {id}: {status}"
            );
        }
    }
}

/// What a submission is refused for, a try of it is refused for too, with the same fields; and neither stores anything.
#[tokio::test]
async fn a_try_is_refused_for_what_the_submission_is() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker("w1").await;
    let job = |keys: &str| format!("[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n{keys}\n");
    let absent = "0".repeat(64);
    for (what, body) in [
        ("a key that there is not", job("nice = 3")),
        ("more ranks than devices", job("ranks = 9")),
        ("no such project", job("project = \"visoin\"")),
        (
            "no such artifact",
            job(&format!("inputs = {{ data = \"artifact:{absent}\" }}")),
        ),
        ("a need of nobody", job("needs = [\"two\"]")),
        ("nothing to do", String::new()),
    ] {
        let ask = async |dry_run: bool| {
            let request = v1::SubmitPipelineRequest {
                dry_run,
                ..crate::support::request(&format!("request {what}"), &body)
            };
            let refused = cluster.jobs().await.submit_pipeline(request).await;
            PublicError::from(&refused.expect_err(what))
        };
        let (tried, refused) = (ask(true).await, ask(false).await);
        assert_eq!(
            (&tried.code, &tried.fields),
            (&refused.code, &refused.fields),
            "{what}"
        );
        assert!(!tried.fields.is_empty(), "{what}: {tried:?}");
    }
    let count = "SELECT count(*) FROM pipelines";
    assert_eq!(cluster.database.number(count).await, 0);
    let good = v1::SubmitPipelineRequest {
        dry_run: true,
        ..crate::support::request("good", &job(""))
    };
    let would = cluster.jobs().await.submit_pipeline(good).await.unwrap();
    let would = would.into_inner();
    assert_eq!((would.pipeline_id, would.jobs.len()), (0, 1));
    assert_eq!(
        cluster.database.number(count).await,
        0,
        "a try stores nothing"
    );
}
