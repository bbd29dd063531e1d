//! Job arrays: elements with attempts of their own, one artifact of all.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support::worker::key_of;
use crate::support::{Cluster, counts};
use marquee_domain::spec::JobSpec;
use marquee_proto::v1;
use marquee_proto::v1::{FailureClass, JobState};
use tonic::Code;

const ARRAY: &str = "
    [jobs.first]
    kind = \"command\"
    argv = [\"true\"]
    [jobs.fetch]
    kind = \"command\"
    argv = [\"true\"]
    array = 3
    needs = [\"first\"]
    [jobs.train]
    kind = \"command\"
    argv = [\"true\"]
    inputs = { data = \"fetch.output\" }
";
const ALONE: &str = "
    [jobs.fetch]
    kind = \"command\"
    argv = [\"true\"]
    array = 2
    max_attempts = 1
    [jobs.train]
    kind = \"command\"
    argv = [\"true\"]
    needs = [\"fetch\"]
";

#[tokio::test]
async fn an_array_is_one_row_whose_elements_do_its_work_and_share_one_artifact() {
    let cluster = Cluster::start().await;
    let jobs = cluster.submit(ARRAY).await;
    let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
    assert_eq!(names, ["first", "fetch", "train"]);
    let [first, fetch, train] = [jobs[0].id, jobs[1].id, jobs[2].id];
    let array = cluster.job(fetch).await;
    assert_eq!(array.reason, "waits for \"first\" to succeed");
    assert_eq!(counts(&array), [3, 0, 0, 0, 0, 0]);
    assert_eq!(array.needs, ["first"]);

    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    assert_eq!(key.0, first);
    worker.finish(key, None).await;
    let mut taken = Vec::new();
    for index in 0..3u32 {
        let assign = worker.take().await;
        let spec: JobSpec = serde_json::from_str(&assign.spec_json).unwrap();
        let element = spec.element.expect("it is an element");
        assert_eq!((element.index, element.size), (index, 3));
        worker.prepare(&assign).await;
        let key = key_of(&assign);
        worker.started(key).await;
        let array = cluster
            .wait_until(fetch, "running", |job| job.state() == JobState::Running)
            .await;
        assert_eq!(array.name, "fetch");
        let contents: &'static [u8] = [b"zero".as_slice(), b"one", b"two"][index as usize];
        let output = cluster.output("data.txt", contents).await;
        worker.finish(key, Some(output.clone())).await;
        cluster.wait_for(key.0, JobState::Succeeded).await;
        taken.push((key.0, output));
    }
    let listed: Vec<i64> = cluster
        .elements(fetch)
        .await
        .iter()
        .map(|job| job.id)
        .collect();
    assert_eq!(listed, taken.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    let array = cluster.wait_for(fetch, JobState::Succeeded).await;
    assert_eq!(counts(&array), [0, 0, 0, 3, 0, 0]);

    // What follows is given the files of all elements.
    let assign = worker.take().await;
    assert_eq!(assign.job_id, train);
    let files = &assign.inputs[0].manifest.as_ref().unwrap().files;
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "elements/0000/data.txt",
            "elements/0001/data.txt",
            "elements/0002/data.txt"
        ]
    );
    let digests: Vec<_> = taken
        .iter()
        .map(|(_, output)| &output.files[0].digest)
        .collect();
    assert_eq!(
        files.iter().map(|file| &file.digest).collect::<Vec<_>>(),
        digests
    );

    // Elements stand in no other listing.
    let all = cluster
        .jobs()
        .await
        .list_jobs(v1::ListJobsRequest::default())
        .await;
    assert_eq!(all.unwrap().into_inner().jobs.len(), 3);
    // The array itself printed nothing, and says who did.
    let logs = v1::LogsRequest {
        job_id: fetch,
        ..Default::default()
    };
    let refused = cluster.jobs().await.logs(logs).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("--array"), "{refused}");
}

#[tokio::test]
async fn an_element_that_fails_for_good_fails_its_array_and_a_retry_runs_it_alone() {
    let cluster = Cluster::start().await;
    let jobs = cluster.submit(ALONE).await;
    let [fetch, train] = [jobs[0].id, jobs[1].id];
    let mut worker = cluster.worker("w1").await;
    let (good, bad) = (worker.take_and_start().await, worker.take_and_start().await);
    worker
        .fail(bad, FailureClass::UserError, "no such file")
        .await;
    let array = cluster.wait_for(fetch, JobState::Failed).await;
    assert_eq!(
        array.failure.unwrap().message,
        format!("its element fetch[1] (job {}) failed: no such file", bad.0)
    );
    cluster.wait_for(train, JobState::Cancelled).await;
    // The other one goes on, and what it commits is kept.
    worker.finish(good, None).await;
    cluster.wait_for(good.0, JobState::Succeeded).await;

    let retried = cluster
        .jobs()
        .await
        .retry_job(v1::RetryJobRequest { id: fetch })
        .await;
    let array = retried.unwrap().into_inner();
    assert_eq!(counts(&array)[3..], [1, 0, 0]);
    let again = worker.take_and_start().await;
    assert_eq!((again.0, again.1), (bad.0, 2));
    worker.finish(again, None).await;
    cluster.wait_for(fetch, JobState::Succeeded).await;
    let key = worker.take_and_start().await;
    assert_eq!(key.0, train);
}

#[tokio::test]
async fn cancelling_an_array_cancels_its_elements_and_retrying_it_brings_them_back() {
    let cluster = Cluster::start().await;
    let jobs = cluster.submit(ALONE).await;
    let [fetch, train] = [jobs[0].id, jobs[1].id];
    let mut worker = cluster.worker("w1").await;
    let running = worker.take_and_start().await;
    let cancel = v1::CancelJobRequest { id: fetch };
    cluster.jobs().await.cancel_job(cancel).await.unwrap();
    // Brought back now, it would not know that an element of it is about to end cancelled.
    let retry = v1::RetryJobRequest { id: fetch };
    let early = cluster.jobs().await.retry_job(retry).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition);
    assert!(early.message().contains(" element(s) of job"), "{early}");
    worker.stop(running).await;
    for id in [fetch, train, running.0] {
        cluster.wait_for(id, JobState::Cancelled).await;
    }
    for element in cluster.elements(fetch).await {
        cluster.wait_for(element.id, JobState::Cancelled).await;
    }
    let retry = v1::RetryJobRequest { id: fetch };
    cluster.jobs().await.retry_job(retry).await.unwrap();
    for element in cluster.elements(fetch).await {
        assert!(
            !element.state().as_str_name().ends_with("CANCELLED"),
            "{element:?}"
        );
    }
    assert_eq!(
        cluster.job(train).await.reason,
        "waits for \"fetch\" to succeed"
    );
}

/// Its last element had done its work when the cancel came, and its worker could not say so before.
#[tokio::test]
async fn an_array_that_was_cancelled_stays_so_when_its_last_element_has_finished_all_the_same() {
    let cluster = Cluster::start().await;
    let fetch = cluster.submit(ALONE).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let [first, last] = [worker.take_and_start().await, worker.take_and_start().await];
    worker.finish(first, None).await;
    cluster.wait_for(first.0, JobState::Succeeded).await;
    let cancel = v1::CancelJobRequest { id: fetch };
    cluster.jobs().await.cancel_job(cancel).await.unwrap();
    cluster.wait_for(fetch, JobState::Cancelled).await;
    worker.finish(last, None).await;
    cluster.wait_for(last.0, JobState::Succeeded).await;
    assert_eq!(cluster.job(fetch).await.state(), JobState::Cancelled);
    // Nothing is left to be done but its commit.
    let retry = v1::RetryJobRequest { id: fetch };
    cluster.jobs().await.retry_job(retry).await.unwrap();
    cluster.wait_for(fetch, JobState::Succeeded).await;
}

const SHARE: &str = "
    [jobs.sweep]
    kind = \"command\"
    argv = [\"true\"]
    array = { count = 4, may_fail = 2 }
    max_attempts = 1
    [jobs.best]
    kind = \"command\"
    argv = [\"true\"]
    inputs = { runs = \"sweep.output\" }
    [jobs.tell]
    kind = \"command\"
    argv = [\"true\"]
    needs = [{ job = \"sweep\", on = \"failed\" }]
";

/// It would wait for ever for an element that does not come any more, and what needs it with it.
#[tokio::test]
async fn a_cancelled_element_ends_its_array_and_a_retry_brings_both_back() {
    let cluster = Cluster::start().await;
    let jobs = cluster.submit(ALONE).await;
    let [fetch, train] = [jobs[0].id, jobs[1].id];
    let all = cluster.elements(fetch).await;
    // One that waits for a place.
    cluster.cancel(all[1].id).await.unwrap();
    let array = cluster.wait_for(fetch, JobState::Cancelled).await;
    let said = format!(
        "its element fetch[1] (job {}) was cancelled; \"marquee retry {fetch}\" brings both back",
        all[1].id
    );
    assert_eq!(array.reason, said);
    cluster.wait_for(train, JobState::Cancelled).await;
    cluster.retry(all[1].id).await.unwrap();
    assert_eq!(cluster.job(train).await.state(), JobState::Waiting);

    // One that runs: the array ends when nothing of it is left.
    let mut worker = cluster.worker("w1").await;
    let (good, bad) = (worker.take_and_start().await, worker.take_and_start().await);
    cluster.cancel(bad.0).await.unwrap();
    worker.stop(bad).await;
    cluster.wait_for(fetch, JobState::Cancelled).await;
    cluster.wait_for(train, JobState::Cancelled).await;
    // The other one goes on, and what it commits is kept.
    worker.finish(good, None).await;
    cluster.wait_for(good.0, JobState::Succeeded).await;
    assert_eq!(counts(&cluster.job(fetch).await), [0, 0, 0, 1, 0, 1]);
    cluster.retry(fetch).await.unwrap();
    let again = worker.take_and_start().await;
    assert_eq!((again.0, again.1), (bad.0, 2));
    worker.finish(again, None).await;
    cluster.wait_for(fetch, JobState::Succeeded).await;
    assert_eq!(worker.take_and_start().await.0, train);
}

#[tokio::test]
async fn an_array_succeeds_without_the_share_that_may_fail() {
    let cluster = Cluster::start().await;
    let jobs = cluster.submit(SHARE).await;
    let [sweep, best, tell] = [jobs[0].id, jobs[1].id, jobs[2].id];
    let all = cluster.elements(sweep).await;
    cluster.cancel(all[1].id).await.unwrap();
    let mut worker = cluster.worker("w1").await;
    let zero = worker.take_and_start().await;
    worker.fail(zero, FailureClass::UserError, "nan").await;
    cluster.wait_for(zero.0, JobState::Failed).await;
    assert_eq!(cluster.job(best).await.state(), JobState::Waiting);
    for contents in [b"two".as_slice(), b"three"] {
        let key = worker.take_and_start().await;
        let output = cluster.output("loss", contents).await;
        worker.finish(key, Some(output)).await;
    }
    let array = cluster.wait_for(sweep, JobState::Succeeded).await;
    assert_eq!(counts(&array), [0, 0, 0, 2, 1, 1]);
    let events = cluster.detail(sweep).await.events;
    let said = "2 of 4 elements have succeeded; 2 have not, and 2 may; committed output";
    assert!(
        events.iter().any(|event| event.text.starts_with(said)),
        "{events:?}"
    );
    // What waits for its failure is not needed, and what needs it sees which elements there are.
    assert!(cluster.wait_for(tell, JobState::Cancelled).await.not_needed);
    let assign = worker.take().await;
    assert_eq!(assign.job_id, best);
    let files = &assign.inputs[0].manifest.as_ref().unwrap().files;
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["elements/0002/loss", "elements/0003/loss"]);
    // That artifact does not change any more.
    let refused = cluster.retry(zero.0).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("has succeeded without it"),
        "{refused}"
    );
}

#[tokio::test]
async fn one_element_more_than_may_fail_fails_its_array_at_once() {
    let cluster = Cluster::start().await;
    let jobs = cluster.submit(SHARE).await;
    let [sweep, best, tell] = [jobs[0].id, jobs[1].id, jobs[2].id];
    let all = cluster.elements(sweep).await;
    for element in &all[..2] {
        cluster.cancel(element.id).await.unwrap();
    }
    let mut worker = cluster.worker("w1").await;
    let two = worker.take_and_start().await;
    worker.fail(two, FailureClass::UserError, "nan").await;
    let array = cluster.wait_for(sweep, JobState::Failed).await;
    let said = format!(
        "3 of its 4 elements ended without success, and 2 may; its element sweep[2] (job {}) failed: nan",
        two.0
    );
    assert_eq!(array.failure.unwrap().message, said);
    cluster.wait_for(best, JobState::Cancelled).await;
    // Its last element is at work still: whoever tells of the failure waits for that.
    assert_eq!(cluster.job(tell).await.state(), JobState::Waiting);
    let three = worker.take_and_start().await;
    assert_eq!(three.0, all[3].id);
    worker.finish(three, None).await;
    assert_eq!(worker.take_and_start().await.0, tell);
    // A retry brings all of it back, and then enough is enough.
    let refused = cluster.retry(sweep).await.unwrap_err();
    assert!(refused.message().contains("at work"), "{refused}");
}
