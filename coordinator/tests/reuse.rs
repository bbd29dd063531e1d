//! Identical steps: the artifact of one that succeeded stands for another's, at once and only where
//! it may.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support::worker::{FakeWorker, key_of};
use crate::support::{Cluster, manifest};
use marquee_proto::v1;
use marquee_proto::v1::{FailureClass, JobState};
use serde_json::json;

const WHOLE: &str = "
    [jobs.fetch]
    kind = \"fetch\"
    source = { type = \"folder\", path = \"/data\" }
    [jobs.preprocess]
    kind = \"preprocess\"
    inputs = { dataset = \"fetch.dataset\" }
    width = 64
    height = 64
    [jobs.after]
    kind = \"command\"
    argv = [\"true\"]
    inputs = { shards = \"preprocess.shards\" }
";

/// What the fake `marquee-prep` says at its end.
fn summary(code: &str, use_until: Option<&str>) -> String {
    json!({ "code": code, "source": { "synthetic": true, "use_until": use_until } }).to_string()
}

/// One preprocess job on a dataset that is there, with more lines in its table.
fn alone(dataset: &str, more: &str) -> String {
    format!(
        "[jobs.preprocess]\nkind = \"preprocess\"\nwidth = 64\nheight = 64\n\
         inputs = {{ dataset = \"artifact:{dataset}\" }}\n{more}"
    )
}

/// A cluster with a dataset, and its digest.
async fn with_dataset() -> (Cluster, FakeWorker, String) {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let body = "[jobs.fetch]\nkind = \"fetch\"\nsource = { type = \"folder\", path = \"/data\" }\n";
    let fetch = cluster.submit(body).await[0].id;
    let key = worker.take_and_start().await;
    let output = cluster.output("films.parquet", b"films").await;
    worker.finish(key, Some(output)).await;
    let fetched = cluster.wait_for(fetch, JobState::Succeeded).await;
    (cluster, worker, fetched.artifact_digest)
}

/// Submits `body` and lets the worker do its one job, by its own work.
async fn done(cluster: &Cluster, worker: &mut FakeWorker, body: &str, summary: &str) -> v1::Job {
    let id = cluster.submit(body).await[0].id;
    let key = worker.take_and_start().await;
    assert_eq!(key.0, id, "it runs");
    let output = cluster.output("shards.json", b"shards").await;
    worker.finish_with(key, summary, Some(output)).await;
    let job = cluster.wait_for(id, JobState::Succeeded).await;
    assert_eq!(job.reused_from_job_id, 0);
    job
}

/// Submits `body`, whose one job must succeed without a worker.
async fn reused(cluster: &Cluster, body: &str) -> v1::Job {
    let id = cluster.submit(body).await[0].id;
    cluster.wait_for(id, JobState::Succeeded).await
}

#[tokio::test]
async fn an_identical_step_is_reused_at_once_and_says_so() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let mut pipelines = Vec::new();
    for day in [b"monday".as_slice(), b"tuesday"] {
        let jobs = cluster.submit(WHOLE).await;
        let fetch = worker.take_and_start().await;
        assert_eq!(
            fetch.0, jobs[0].id,
            "what a fetch finds changes: it always runs"
        );
        // It found the same; only the notes of how it went differ.
        let mut dataset = cluster.output("films.parquet", b"films").await;
        let note = cluster.output("run.json", day).await;
        dataset.files.extend(note.files);
        worker.finish(fetch, Some(dataset)).await;
        if pipelines.is_empty() {
            let key = worker.take_and_start().await;
            assert_eq!(key.0, jobs[1].id);
            let output = cluster.output("shards.json", b"shards").await;
            worker
                .finish_with(key, &summary("code-1", None), Some(output))
                .await;
        }
        let prepared = cluster.wait_for(jobs[1].id, JobState::Succeeded).await;
        // What needs it has its files, as from any other job.
        let assign = worker.take().await;
        assert_eq!(assign.job_id, jobs[2].id);
        let files = &assign.inputs[0].manifest.as_ref().unwrap().files;
        assert_eq!(files, &manifest("shards.json", b"shards").files);
        worker.prepare(&assign).await;
        worker.started(key_of(&assign)).await;
        worker.finish(key_of(&assign), None).await;
        pipelines.push(prepared);
    }
    let [first, second] = [&pipelines[0], &pipelines[1]];
    assert_eq!(
        (first.reused_from_job_id, second.reused_from_job_id),
        (0, first.id)
    );
    assert_eq!(second.artifact_digest, first.artifact_digest);
    let detail = cluster.detail(second.id).await;
    assert!(detail.attempts[0].ranks.is_empty(), "it was never placed");
    let last = &detail.events.last().unwrap().text;
    assert!(
        last.starts_with(&format!("reused from job {}: same code", first.id)),
        "{last}"
    );
}

#[tokio::test]
async fn what_was_reused_is_reused_from_who_did_the_work() {
    let (cluster, mut worker, dataset) = with_dataset().await;
    let body = alone(&dataset, "");
    let first = done(&cluster, &mut worker, &body, &summary("code-1", None)).await;
    for _ in 0..2 {
        assert_eq!(reused(&cluster, &body).await.reused_from_job_id, first.id);
    }
    // A default that is written out makes no other step, another value does.
    let same = alone(&dataset, "seed = 0\n");
    assert_eq!(reused(&cluster, &same).await.reused_from_job_id, first.id);
    let other = alone(&dataset, "seed = 2\n");
    done(&cluster, &mut worker, &other, &summary("code-1", None)).await;
}

#[tokio::test]
async fn reuse_is_refused_by_the_job_and_by_the_pipeline() {
    let (cluster, mut worker, dataset) = with_dataset().await;
    let body = alone(&dataset, "");
    let words = summary("code-1", None);
    done(&cluster, &mut worker, &body, &words).await;
    done(
        &cluster,
        &mut worker,
        &alone(&dataset, "reuse = false\n"),
        &words,
    )
    .await;
    done(
        &cluster,
        &mut worker,
        &format!("reuse = false\n{body}"),
        &words,
    )
    .await;
    let both = format!("reuse = false\n{}", alone(&dataset, "reuse = true\n"));
    let last = done(&cluster, &mut worker, &both, &words).await;
    // What ran all the same can be reused: the newest is.
    assert_eq!(reused(&cluster, &body).await.reused_from_job_id, last.id);
}

#[tokio::test]
async fn nothing_is_reused_across_versions_of_the_code() {
    let (cluster, mut worker, dataset) = with_dataset().await;
    let body = alone(&dataset, "");
    // Made by code that no worker has.
    done(&cluster, &mut worker, &body, &summary("code-0", None)).await;
    let first = done(&cluster, &mut worker, &body, &summary("code-1", None)).await;
    assert_eq!(reused(&cluster, &body).await.reused_from_job_id, first.id);
    // Another worker has another version: who would do the work, nobody can say.
    let other = cluster.worker_with_code("w2", "code-2").await;
    done_by_any(&cluster, &mut [worker, other], &body).await;
}

/// One of the workers does the job.
async fn done_by_any(cluster: &Cluster, workers: &mut [FakeWorker], body: &str) {
    let id = cluster.submit(body).await[0].id;
    let running = cluster
        .wait_until(id, "placed", |job| job.state() == JobState::Running)
        .await;
    assert_eq!(running.reused_from_job_id, 0);
    let placed = cluster.detail(id).await;
    let name = &placed.attempts[0].ranks[0].worker_name;
    let worker = workers
        .iter_mut()
        .find(|worker| worker.name == *name)
        .unwrap();
    let key = worker.take_and_start().await;
    let output = cluster.output("shards.json", b"shards").await;
    worker
        .finish_with(key, &summary("code-2", None), Some(output))
        .await;
    cluster.wait_for(id, JobState::Succeeded).await;
}

#[tokio::test]
async fn an_artifact_with_a_missing_file_is_not_reused() {
    let (cluster, mut worker, dataset) = with_dataset().await;
    let body = alone(&dataset, "");
    let words = summary("code-1", None);
    done(&cluster, &mut worker, &body, &words).await;
    cluster.lose_blob(b"shards");
    let second = done(&cluster, &mut worker, &body, &words).await;
    // The work has brought the file back.
    assert_eq!(reused(&cluster, &body).await.reused_from_job_id, second.id);
}

#[tokio::test]
async fn data_whose_term_is_over_is_not_reused() {
    let (cluster, mut worker, dataset) = with_dataset().await;
    let body = alone(&dataset, "");
    done(
        &cluster,
        &mut worker,
        &body,
        &summary("code-1", Some("2020-01-01")),
    )
    .await;
    let words = summary("code-1", Some("2999-01-01"));
    let second = done(&cluster, &mut worker, &body, &words).await;
    assert_eq!(reused(&cluster, &body).await.reused_from_job_id, second.id);
}

#[tokio::test]
async fn of_two_identical_steps_one_waits_for_the_other() {
    let (cluster, mut worker, dataset) = with_dataset().await;
    let body = alone(&dataset, "max_attempts = 1\n");
    let (one, two) = tokio::join!(cluster.submit(&body), cluster.submit(&body));
    let ids = [one[0].id, two[0].id];
    let key = worker.take_and_start().await;
    let waiting = ids.into_iter().find(|id| *id != key.0).unwrap();
    let reason = format!("job {} is at the same step", key.0);
    let kept_back =
        |job: &v1::Job| job.state() == JobState::Queued && job.reason.starts_with(&reason);
    cluster.wait_until(waiting, "kept back", kept_back).await;
    // The one at work fails: the other does the work itself.
    worker.fail(key, FailureClass::UserError, "broken").await;
    cluster.wait_for(key.0, JobState::Failed).await;
    let key = worker.take_and_start().await;
    assert_eq!(key.0, waiting);

    let third = cluster.submit(&body).await[0].id;
    let output = cluster.output("shards.json", b"shards").await;
    worker
        .finish_with(key, &summary("code-1", None), Some(output))
        .await;
    let job = cluster.wait_for(third, JobState::Succeeded).await;
    assert_eq!(job.reused_from_job_id, waiting);
}
