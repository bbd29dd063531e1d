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
    }
    Ok(())
}

#[tokio::test]
async fn every_state_refuses_what_it_must_and_is_as_it_was() {
    const OPEN: &[(Ask, &str)] = &[
        (Ask::Retry, "MQ0302"),
        (Ask::Remove, "MQ0308"),
        (Ask::TryRemove, "MQ0308"),
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
        (waiting, JobState::Waiting, OPEN),
        (queued, JobState::Queued, OPEN),
        (running, JobState::Running, OPEN),
        // Asked to stop is not stopped: what is left of it may still write.
        (stopping, JobState::Running, OPEN),
        (
            succeeded,
            JobState::Succeeded,
            &[(Ask::Cancel, "MQ0301"), (Ask::Retry, "MQ0302")],
        ),
        (failed, JobState::Failed, &[(Ask::Cancel, "MQ0301")]),
        (cancelled, JobState::Cancelled, &[(Ask::Cancel, "MQ0301")]),
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
        for what in [Ask::Cancel, Ask::Retry, Ask::Remove, Ask::TryRemove] {
            let status = ask(&cluster, &nothing, what).await.unwrap_err();
            assert!(
                matches!(status.code(), Code::NotFound | Code::InvalidArgument),
                "{what:?} of {id}: {status}"
            );
        }
    }
}
