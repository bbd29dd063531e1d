//! Elements of arrays that become jobs before their turn: what is to come of an array goes the way of the array.
//!
//! Whoever has an array of a hundred thousand cancels it, brings it back, needs it, names one of its last elements, shares
//! the cluster with it, and restarts the coordinator in the middle of it. Two elements stand in line here, not a thousand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::time::Duration;

use marquee_coordinator::env::Env;
use marquee_proto::v1;
use marquee_proto::v1::cluster_client::ClusterClient;
use marquee_proto::v1::{FailureClass, JobState};
use marquee_store::projects;
use marquee_store::testing::TestDatabase;
use tonic::Code;

use crate::support::worker::{FakeWorker, key_of};
use crate::support::{Cluster, Ground, channel, counts};

const AHEAD: u32 = 2;
const SWEEP: &str = "
    [jobs.sweep]
    kind = \"command\"
    argv = [\"true\"]
    array = 7
    max_attempts = 1
    [jobs.best]
    kind = \"command\"
    argv = [\"true\"]
    inputs = { runs = \"sweep.output\" }
";
/// What cleans up after an array waits for its last element.
const CLEANED: &str = "
    [jobs.sweep]
    kind = \"command\"
    argv = [\"true\"]
    array = 6
    max_attempts = 1
    [jobs.clean]
    kind = \"command\"
    argv = [\"true\"]
    needs = [{ job = \"sweep\", on = \"finished\" }]
";

async fn cluster() -> Cluster {
    let ground = Ground {
        elements_ahead: Some(AHEAD),
        ..Ground::default()
    };
    Cluster::start_with(TestDatabase::create().await, Env::system(), ground).await
}

async fn named(cluster: &Cluster, array: i64, index: u32) -> Vec<v1::Job> {
    let request = v1::ListJobsRequest {
        array_job_id: array,
        array_index: Some(index),
        ..Default::default()
    };
    let listed = cluster.jobs().await.list_jobs(request).await.unwrap();
    listed.into_inner().jobs
}

fn index(job: &v1::Job) -> u32 {
    job.element.as_ref().unwrap().index
}

/// Does the next `count` jobs that the worker is given; which they were.
async fn work(worker: &mut FakeWorker, count: usize) -> Vec<i64> {
    let mut done = Vec::new();
    for _ in 0..count {
        let key = worker.take_and_start().await;
        worker.finish(key, None).await;
        done.push(key.0);
    }
    done
}

#[tokio::test]
async fn an_array_is_worked_off_while_few_of_it_are_jobs_and_its_artifact_has_all() {
    let cluster = cluster().await;
    let jobs = cluster.submit(SWEEP).await;
    let [sweep, best] = [jobs[0].id, jobs[1].id];
    let there = cluster.elements(sweep).await.len();
    assert!((2..7).contains(&there), "{there}");
    assert_eq!(counts(&cluster.job(sweep).await), [0, 7, 0, 0, 0, 0]);
    // Somebody else's job, when most of the array is no job yet.
    let other = cluster
        .submit("[jobs.other]\nkind = \"command\"\nargv = [\"true\"]")
        .await[0]
        .id;

    let mut worker = cluster.worker("w1").await;
    let mut order = Vec::new();
    for number in 0..7u32 {
        let assign = worker.take().await;
        let spec: marquee_domain::spec::JobSpec = serde_json::from_str(&assign.spec_json).unwrap();
        let element = spec
            .element
            .expect("the array was submitted before the other job");
        assert_eq!((element.index, element.size), (number, 7));
        worker.prepare(&assign).await;
        let key = key_of(&assign);
        worker.started(key).await;
        let contents: &'static [u8] = b"same";
        let output = cluster.output("loss", contents).await;
        worker.finish(key, Some(output)).await;
        cluster.wait_for(key.0, JobState::Succeeded).await;
        order.push(key.0);
    }
    assert!(order.is_sorted(), "{order:?}");
    cluster.wait_for(sweep, JobState::Succeeded).await;
    assert_eq!(counts(&cluster.job(sweep).await), [0, 0, 0, 7, 0, 0]);
    let indexes: Vec<u32> = cluster.elements(sweep).await.iter().map(index).collect();
    assert_eq!(indexes, (0..7).collect::<Vec<_>>());
    let [next, last] = [worker.take().await, worker.take().await];
    assert_eq!(
        BTreeSet::from([next.job_id, last.job_id]),
        BTreeSet::from([other, best])
    );
    let of_best = if next.job_id == best { next } else { last };
    assert_eq!(of_best.inputs[0].manifest.as_ref().unwrap().files.len(), 7);
}

#[tokio::test]
async fn what_is_to_come_is_cancelled_with_its_array_and_comes_back_with_it_each_once() {
    let cluster = cluster().await;
    let jobs = cluster
        .submit(&SWEEP.replace("array = 7", "array = 20"))
        .await;
    let [sweep, best] = [jobs[0].id, jobs[1].id];
    let mut worker = cluster.worker("w1").await;
    work(&mut worker, 3).await;
    let running = worker.take_and_start().await;
    cluster.cancel(sweep).await.unwrap();
    let given = counts(&cluster.job(sweep).await)[2];
    worker.stop(running).await;
    // And what its worker has been given beside that.
    for _ in 1..given {
        let assign = worker.take().await;
        worker.stop(key_of(&assign)).await;
    }
    for id in [sweep, best, running.0] {
        cluster.wait_for(id, JobState::Cancelled).await;
    }
    for _ in 0..100 {
        if counts(&cluster.job(sweep).await)[2] == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(counts(&cluster.job(sweep).await), [0, 0, 0, 3, 0, 17]);
    let before = cluster.elements(sweep).await.len();
    assert!(before < 20, "some never became jobs: {before}");

    cluster.retry(sweep).await.unwrap();
    let again = work(&mut worker, 17).await;
    assert!(again.contains(&running.0));
    cluster.wait_for(sweep, JobState::Succeeded).await;
    assert_eq!(counts(&cluster.job(sweep).await), [0, 0, 0, 20, 0, 0]);
    let all = cluster.elements(sweep).await;
    let indexes: Vec<u32> = all.iter().map(index).collect();
    assert_eq!(indexes, (0..20).collect::<Vec<_>>());
    assert_eq!(work(&mut worker, 1).await, [best]);
}

#[tokio::test]
async fn what_is_to_come_waits_with_its_array_and_is_lost_with_it() {
    let cluster = cluster().await;
    let body = format!(
        "[jobs.first]\nkind = \"command\"\nargv = [\"true\"]\nmax_attempts = 1\n{}",
        SWEEP.replace("array = 7", "array = 7\nneeds = [\"first\"]")
    );
    let jobs = cluster.submit(&body).await;
    let [first, sweep] = [jobs[0].id, jobs[1].id];
    assert_eq!(counts(&cluster.job(sweep).await), [7, 0, 0, 0, 0, 0]);
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    assert_eq!(key.0, first);
    worker.fail(key, FailureClass::UserError, "no").await;
    cluster.wait_for(sweep, JobState::Cancelled).await;
    assert_eq!(counts(&cluster.job(sweep).await), [0, 0, 0, 0, 0, 7]);
    assert_eq!(cluster.elements(sweep).await.len(), 2);

    cluster.retry(first).await.unwrap();
    assert_eq!(counts(&cluster.job(sweep).await), [7, 0, 0, 0, 0, 0]);
    let done = work(&mut worker, 8).await;
    assert_eq!(done[0], first);
    cluster.wait_for(sweep, JobState::Succeeded).await;
}

#[tokio::test]
async fn an_array_that_failed_goes_on_with_what_is_to_come_until_somebody_cancels_it() {
    let cluster = cluster().await;
    let jobs = cluster.submit(CLEANED).await;
    let [sweep, clean] = [jobs[0].id, jobs[1].id];
    let mut worker = cluster.worker("w1").await;
    let bad = worker.take_and_start().await;
    worker.fail(bad, FailureClass::UserError, "nan").await;
    cluster.wait_for(sweep, JobState::Failed).await;
    // It would pull away what the others still use.
    work(&mut worker, 2).await;
    assert_eq!(cluster.job(clean).await.state(), JobState::Waiting);
    cluster.cancel(sweep).await.unwrap();
    // What its worker has been given already is asked for, and all else is cancelled at once.
    let of = counts(&cluster.job(sweep).await);
    for _ in 0..of[2] {
        let assign = worker.take().await;
        worker.stop(key_of(&assign)).await;
    }
    assert_eq!(work(&mut worker, 1).await, [clean]);
    assert_eq!(counts(&cluster.job(sweep).await)[3..], [2, 1, 3]);
    assert_eq!(cluster.job(sweep).await.state(), JobState::Failed);
    let refused = cluster.cancel(sweep).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}

#[tokio::test]
async fn what_cleans_up_after_an_array_that_failed_waits_for_what_is_to_come() {
    let cluster = cluster().await;
    let jobs = cluster.submit(CLEANED).await;
    let [sweep, clean] = [jobs[0].id, jobs[1].id];
    let mut worker = cluster.worker("w1").await;
    let bad = worker.take_and_start().await;
    worker.fail(bad, FailureClass::UserError, "nan").await;
    cluster.wait_for(sweep, JobState::Failed).await;
    let done = work(&mut worker, 6).await;
    assert_eq!(done[5], clean, "{done:?}");
    assert_eq!(counts(&cluster.job(sweep).await), [0, 0, 0, 5, 1, 0]);
}

#[tokio::test]
async fn an_element_that_is_named_becomes_a_job_with_those_before_it() {
    let cluster = cluster().await;
    let sweep = cluster.submit(SWEEP).await[0].id;
    assert!(named(&cluster, sweep, 7).await.is_empty(), "the last is 6");
    let named_5 = named(&cluster, sweep, 5).await;
    assert_eq!(named_5.iter().map(index).collect::<Vec<_>>(), [5]);
    assert_eq!(named(&cluster, sweep, 5).await[0].id, named_5[0].id);
    let indexes: Vec<u32> = cluster.elements(sweep).await.iter().map(index).collect();
    assert_eq!(indexes, (0..6).collect::<Vec<_>>());
    // And is a job like any other.
    cluster.cancel(named_5[0].id).await.unwrap();
    cluster.wait_for(sweep, JobState::Cancelled).await;
    let mut worker = cluster.worker("w1").await;
    work(&mut worker, 6).await;
    assert_eq!(counts(&cluster.job(sweep).await), [0, 0, 0, 6, 0, 1]);
}

#[tokio::test]
async fn a_coordinator_that_starts_in_the_middle_of_an_array_goes_on_with_it() {
    let mut cluster = cluster().await;
    let sweep = cluster.submit(SWEEP).await[0].id;
    let mut worker = cluster.worker("w1").await;
    work(&mut worker, 3).await;
    cluster.kill().await;
    cluster.start_again().await;
    let mut worker = worker.reconnect(&cluster.running.address).await.unwrap();
    work(&mut worker, 4).await;
    cluster.wait_for(sweep, JobState::Succeeded).await;
    assert_eq!(counts(&cluster.job(sweep).await), [0, 0, 0, 7, 0, 0]);
}

#[tokio::test]
async fn all_that_is_queued_is_counted_whether_it_is_a_job_yet_or_not() {
    let cluster = cluster().await;
    cluster.submit(SWEEP).await;
    let overview = async || {
        let channel = channel(&cluster.running.address).await;
        let mut client = ClusterClient::new(channel);
        let asked = client.get_overview(v1::GetOverviewRequest {}).await;
        asked.unwrap().into_inner()
    };
    let mut said = overview().await;
    for _ in 0..100 {
        if said.queued == 7 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        said = overview().await;
    }
    assert_eq!(said.queued, 7, "{said:?}");
    let why: u32 = said.queue.iter().map(|reason| reason.jobs).sum();
    assert_eq!(why, 7, "{said:?}");
    let name = "default".parse().unwrap();
    let mut conn = cluster.app().db.read().await.unwrap();
    // With the one that waits for them.
    assert_eq!(projects::count_queued(&mut conn, &name).await.unwrap(), 8);
}

#[tokio::test]
async fn an_element_of_an_array_that_waits_is_named_and_waits_too() {
    let cluster = cluster().await;
    let body = format!(
        "[jobs.first]\nkind = \"command\"\nargv = [\"true\"]\n{}",
        SWEEP.replace("array = 7", "array = 7\nneeds = [\"first\"]")
    );
    let sweep = cluster.submit(&body).await[1].id;
    let of_5 = named(&cluster, sweep, 5).await;
    assert_eq!(of_5.iter().map(index).collect::<Vec<_>>(), [5]);
    assert_eq!(of_5[0].state(), JobState::Waiting);
    let mut worker = cluster.worker("w1").await;
    work(&mut worker, 8).await;
    cluster.wait_for(sweep, JobState::Succeeded).await;
    assert_eq!(counts(&cluster.job(sweep).await), [0, 0, 0, 7, 0, 0]);
}

#[tokio::test]
async fn a_pipeline_is_cancelled_with_the_elements_of_an_array_that_has_failed() {
    let cluster = cluster().await;
    let jobs = cluster.submit(CLEANED).await;
    let sweep = jobs[0].id;
    let mut worker = cluster.worker("w1").await;
    let bad = worker.take_and_start().await;
    worker.fail(bad, FailureClass::UserError, "nan").await;
    cluster.wait_for(sweep, JobState::Failed).await;
    let running = worker.take_and_start().await;
    let id = jobs[0].pipeline_id;
    let cancel = v1::CancelPipelineRequest { id };
    cluster.jobs().await.cancel_pipeline(cancel).await.unwrap();
    let given = counts(&cluster.job(sweep).await)[2];
    worker.stop(running).await;
    for _ in 1..given {
        let assign = worker.take().await;
        worker.stop(key_of(&assign)).await;
    }
    cluster
        .wait_until(sweep, "without open elements", |job| {
            counts(job)[..3] == [0, 0, 0]
        })
        .await;
    assert_eq!(counts(&cluster.job(sweep).await)[3..], [0, 1, 5]);
    cluster.wait_for(jobs[1].id, JobState::Cancelled).await;
}
