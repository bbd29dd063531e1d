//! Jobs that wait for another end than success, and arrays over values.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support::Cluster;
use crate::support::worker::key_of;
use marquee_domain::spec::{JobSpec, Work};
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::{FailureClass, JobState};
use tonic::Code;

/// Work, what needs its success, what cleans up after it, what tells of its failure, and what follows the cleaning.
const PIPELINE: &str = "
    [jobs.work]
    kind = \"command\"
    argv = [\"true\"]
    max_attempts = 1
    [jobs.use]
    kind = \"command\"
    argv = [\"true\"]
    needs = [\"work\"]
    [jobs.clean]
    kind = \"command\"
    argv = [\"true\"]
    needs = [{ job = \"work\", on = \"finished\" }]
    [jobs.tell]
    kind = \"command\"
    argv = [\"true\"]
    needs = [{ job = \"use\", on = \"failed\" }]
    [jobs.after]
    kind = \"command\"
    argv = [\"true\"]
    needs = [\"clean\", { job = \"tell\", on = \"finished\" }]
";
const ARRAY: &str = "
    [jobs.sweep]
    kind = \"command\"
    argv = [\"run\", \"--lr={lr}\"]
    array = { over = { lr = [0.1, 0.01] } }
    max_attempts = 1
    [jobs.use]
    kind = \"command\"
    argv = [\"true\"]
    needs = [\"sweep\"]
    [jobs.clean]
    kind = \"command\"
    argv = [\"true\"]
    needs = [{ job = \"sweep\", on = \"finished\" }]
";

async fn submit(cluster: &Cluster, body: &str, name: &str) -> impl Fn(&str) -> i64 + use<> {
    let jobs = cluster.submit(body).await;
    assert!(jobs.iter().any(|job| job.name == name));
    move |name| jobs.iter().find(|job| job.name == name).unwrap().id
}

async fn explain(cluster: &Cluster, job_id: i64) -> String {
    let request = v1::ExplainRequest { job_id };
    let answer = cluster.jobs().await.explain(request).await.unwrap();
    answer.into_inner().why.join("\n")
}

#[tokio::test]
async fn what_cleans_up_and_what_tells_run_after_a_failure_and_a_retry_waits_for_them() {
    let cluster = Cluster::start().await;
    let id = submit(&cluster, PIPELINE, "work").await;
    let waits = cluster.job(id("after")).await;
    assert_eq!(
        waits.reason,
        "waits for \"clean\" to succeed, and for \"tell\" to end"
    );
    assert_eq!(waits.needs_on.len(), 1);
    let why = explain(&cluster, id("clean")).await;
    assert!(why.contains("It runs when work (job"), "{why}");
    let mut worker = cluster.worker("w1").await;
    let work = worker.take_and_start().await;
    assert_eq!(work.0, id("work"));
    worker.fail(work, FailureClass::UserError, "no").await;
    let used = cluster.wait_for(id("use"), JobState::Cancelled).await;
    assert!(!used.not_needed, "{used:?}");
    // Both run at once on two slots.
    let first = worker.take_and_start().await;
    let second = worker.take_and_start().await;
    assert_eq!([first.0, second.0], [id("clean"), id("tell")]);
    let refused = cluster.retry(id("work")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(PublicError::from(&refused).code.as_deref(), Some("MQ0302"));
    assert!(
        refused.message().contains("is at work because of"),
        "{refused}"
    );
    worker.finish(first, None).await;
    // Of one that tells of a failure, that it failed itself is nobody's business but its own.
    worker
        .fail(second, FailureClass::UserError, "no mail")
        .await;
    let after = worker.take_and_start().await;
    assert_eq!(after.0, id("after"));
    worker.finish(after, None).await;
    cluster.wait_for(id("after"), JobState::Succeeded).await;

    // Nothing is at work any more: the retry brings back what was lost, and what has run stays.
    cluster.retry(id("work")).await.unwrap();
    let work = worker.take_and_start().await;
    assert_eq!((work.0, work.1), (id("work"), 2));
    worker.finish(work, None).await;
    let used = worker.take_and_start().await;
    assert_eq!(used.0, id("use"));
    worker.finish(used, None).await;
    cluster.wait_for(id("use"), JobState::Succeeded).await;
    let refused = cluster.retry(id("tell")).await.unwrap_err();
    assert!(
        refused
            .message()
            .contains("there is nothing left for it to do"),
        "{refused}"
    );
}

#[tokio::test]
async fn what_waits_for_a_failure_is_not_needed_after_a_success() {
    let cluster = Cluster::start().await;
    let id = submit(&cluster, PIPELINE, "work").await;
    let mut worker = cluster.worker("w1").await;
    let work = worker.take_and_start().await;
    worker.finish(work, None).await;
    let (first, second) = (worker.take_and_start().await, worker.take_and_start().await);
    assert_eq!([first.0, second.0], [id("clean"), id("use")]);
    worker.finish(second, None).await;
    let tell = cluster.wait_for(id("tell"), JobState::Cancelled).await;
    assert!(
        tell.not_needed && tell.reason.starts_with("not needed: job"),
        "{tell:?}"
    );
    let why = explain(&cluster, id("tell")).await;
    assert!(why.starts_with("It did not have to run"), "{why}");
    worker.finish(first, None).await;
    // An end is an end: what waits for it runs.
    let after = worker.take_and_start().await;
    assert_eq!(after.0, id("after"));
}

#[tokio::test]
async fn a_job_that_is_cancelled_by_name_is_cleaned_up_after_and_did_not_fail() {
    let cluster = Cluster::start().await;
    let id = submit(&cluster, PIPELINE, "work").await;
    let cancel = v1::CancelJobRequest { id: id("work") };
    cluster.jobs().await.cancel_job(cancel).await.unwrap();
    for name in ["use", "tell"] {
        cluster.wait_for(id(name), JobState::Cancelled).await;
    }
    let clean = cluster.job(id("clean")).await;
    assert_eq!(clean.state(), JobState::Queued);
    // It waits for a place: what was cancelled does not come back beside it.
    let refused = cluster.retry(id("work")).await.unwrap_err();
    assert!(
        refused.message().contains("is at work because of"),
        "{refused}"
    );
    // Of a whole pipeline nothing is left, whatever it waited for.
    let pipeline = clean.pipeline_id;
    let cancel = v1::CancelPipelineRequest { id: pipeline };
    cluster.jobs().await.cancel_pipeline(cancel).await.unwrap();
    for name in ["work", "use", "clean", "tell", "after"] {
        cluster.wait_for(id(name), JobState::Cancelled).await;
    }
    // By then nothing is at work, and all that hung on it comes back.
    cluster.retry(id("work")).await.unwrap();
    assert_eq!(cluster.job(id("work")).await.state(), JobState::Queued);
    assert_eq!(cluster.job(id("use")).await.state(), JobState::Waiting);
}

#[tokio::test]
async fn an_array_over_values_is_cleaned_up_after_its_last_element() {
    let cluster = Cluster::start().await;
    let id = submit(&cluster, ARRAY, "sweep").await;
    let mut worker = cluster.worker("w1").await;
    let mut keys = Vec::new();
    for value in ["0.1", "0.01"] {
        let assign = worker.take().await;
        let spec: JobSpec = serde_json::from_str(&assign.spec_json).unwrap();
        let Work::Command(command) = &spec.work else {
            panic!("{spec:?}")
        };
        assert_eq!(command.argv, ["run".to_owned(), format!("--lr={value}")]);
        assert_eq!(command.env["MARQUEE_VALUE_LR"], value);
        worker.prepare(&assign).await;
        let key = key_of(&assign);
        worker.started(key).await;
        assert_eq!(cluster.job(key.0).await.values["lr"], value);
        keys.push(key);
    }
    let one = v1::ListJobsRequest {
        array_job_id: id("sweep"),
        array_index: Some(1),
        ..Default::default()
    };
    let one = cluster
        .jobs()
        .await
        .list_jobs(one)
        .await
        .unwrap()
        .into_inner()
        .jobs;
    assert_eq!(
        one.iter().map(|job| job.id).collect::<Vec<_>>(),
        [keys[1].0]
    );

    worker.fail(keys[0], FailureClass::UserError, "no").await;
    cluster.wait_for(id("sweep"), JobState::Failed).await;
    cluster.wait_for(id("use"), JobState::Cancelled).await;
    // The other element goes on: nobody cleans up under it.
    let clean = cluster.job(id("clean")).await;
    assert_eq!(clean.state(), JobState::Waiting, "{clean:?}");
    assert_eq!(clean.reason, "waits for \"sweep\" to end");
    worker.finish(keys[1], None).await;
    let key = worker.take_and_start().await;
    assert_eq!(key.0, id("clean"));
    worker.finish(key, None).await;
    cluster.wait_for(id("clean"), JobState::Succeeded).await;
    // The failed one alone runs again.
    cluster.retry(id("sweep")).await.unwrap();
    let again = worker.take_and_start().await;
    assert_eq!((again.0, again.1), (keys[0].0, 2));
    worker.finish(again, None).await;
    cluster.wait_for(id("sweep"), JobState::Succeeded).await;
    let used = worker.take_and_start().await;
    assert_eq!(used.0, id("use"));
}
