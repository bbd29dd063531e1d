//! Rows that an earlier version stored, or somebody by hand, and that this one does not take.

use marquee_proto::v1;
use marquee_proto::v1::JobState;

use super::{ONE, all_is_well};
use crate::support::Cluster;
use crate::support::worker::FakeWorker;

/// It killed the coordinator by memory, and again at each start.
#[tokio::test(flavor = "multi_thread")]
async fn a_stored_worker_with_what_no_host_has_is_shown_as_unreadable() {
    let mut cluster = Cluster::start().await;
    let id = cluster.submit(ONE).await[0].id;
    let mut evil = cluster.worker("evil").await;
    let key = evil.take_and_start().await;
    evil.finish(key, None).await;
    cluster.wait_for(id, JobState::Succeeded).await;
    for (field, value) in [
        ("cpu_slots", "4000000000"),
        ("cpu_threads", "4294967295"),
        ("cpu_slots", "1e40"),
        ("memory_bytes", "18446744073709551615"),
        ("hostname", "\"\\u001b[2J\""),
        (
            "gpus",
            "[{\"index\": 4294967295, \"uuid\": \"\", \"name\": \"\", \"memory_bytes\": 0, \"compute_capability\": [9, 0]}]",
        ),
    ] {
        cluster
            .database
            .execute(&format!(
                "UPDATE workers SET inventory = jsonb_set(inventory, '{{{field}}}', '{value}') WHERE name = 'evil'"
            ))
            .await;
        // Also for one that has just started and reads all there is.
        cluster.kill().await;
        cluster.start_again().await;
        let mut good = FakeWorker::connect(&cluster.running.address, "good").await;
        all_is_well(&cluster, &mut good).await;
        let workers = cluster.workers().await;
        let evil_row = workers.iter().find(|worker| worker.name == "evil").unwrap();
        assert!(
            evil_row.unreadable.contains("workers.inventory"),
            "{field}: {evil_row:?}"
        );
        assert!(evil_row.inventory.is_none());
        good.goodbye().await;
    }
    // What it says now counts again.
    let mut mended = evil.reconnect(&cluster.running.address).await.unwrap();
    all_is_well(&cluster, &mut mended).await;
    let workers = cluster.workers().await;
    let row = workers.iter().find(|worker| worker.name == "evil").unwrap();
    assert_eq!(row.unreadable, "");
}

/// Sizes beyond all bounds, taken by an earlier version, overflowed in a background loop; the job ran for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_was_stored_with_endless_sizes_fails_its_job() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    for size in ["18446744073709551615", "9223372036854775808", "-1", "\"x\""] {
        cluster
            .database
            .execute(&format!(
                "CREATE OR REPLACE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                   IF NEW.output IS NOT NULL THEN
                     NEW.output := jsonb_set(NEW.output, '{{files,0,size_bytes}}', '{size}');
                   END IF; RETURN NEW; END $$;
                 CREATE OR REPLACE TRIGGER poison BEFORE UPDATE ON attempt_ranks
                   FOR EACH ROW EXECUTE FUNCTION poison()"
            ))
            .await;
        let id = cluster.submit(ONE).await[0].id;
        let key = worker.take_and_start().await;
        let output = cluster.output("model.bin", b"weights").await;
        worker.finish(key, Some(output)).await;
        let job = cluster
            .wait_until(id, "failed", |job| job.failure.is_some())
            .await;
        let failure = job.failure.unwrap();
        assert!(
            failure.message.contains("cannot be stored"),
            "{size}: {failure:?}"
        );
        cluster
            .database
            .execute("DROP TRIGGER poison ON attempt_ranks")
            .await;
        let mut jobs = cluster.jobs().await;
        let _ = jobs.cancel_job(v1::CancelJobRequest { id }).await;
        cluster
            .wait_until(id, "over", |job| job.finished_at.is_some())
            .await;
    }
    all_is_well(&cluster, &mut worker).await;
}

/// A listing shows what can be read.
#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_row_hides_no_other() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let body = ["a", "b", "c"]
        .map(|name| ONE.replace("one", name))
        .concat();
    let jobs = cluster.submit(&body).await;
    for _ in 0..3 {
        let key = worker.take_and_start().await;
        let output = cluster.output("f", b"f").await;
        worker.finish(key, Some(output)).await;
    }
    for job in &jobs {
        cluster.wait_for(job.id, JobState::Succeeded).await;
    }
    let (broken, kept) = (jobs[0].id, [jobs[1].id, jobs[2].id]);
    cluster
        .database
        .execute(&format!(
            "UPDATE jobs SET name = 'No Name' WHERE id = {broken};
             UPDATE artifacts SET digest = 'x' WHERE job_id = {broken}"
        ))
        .await;
    let list = v1::ListJobsRequest::default();
    let listed = cluster.jobs().await.list_jobs(list).await.unwrap();
    let mut ids: Vec<i64> = listed.into_inner().jobs.iter().map(|job| job.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, kept);
    let channel = crate::support::channel(&cluster.running.address).await;
    let mut artifacts = marquee_proto::v1::artifacts_client::ArtifactsClient::new(channel);
    let listed = artifacts
        .list_artifacts(v1::ListArtifactsRequest::default())
        .await
        .unwrap();
    assert_eq!(listed.into_inner().artifacts.len(), 2);
    all_is_well(&cluster, &mut worker).await;
}

/// Lines of a log that a broken disk or a hand has taken or altered.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_of_a_stored_log_is_counted_and_what_was_altered_is_named() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let id = cluster.submit(ONE).await[0].id;
    let key = worker.take_and_start().await;
    worker.log(key, &["a", "b", "c", "d"]).await;
    worker.log(key, &["e", "f"]).await;
    worker.finish(key, None).await;
    cluster.wait_for(id, JobState::Succeeded).await;
    let read = async |tail| {
        let request = v1::LogsRequest {
            job_id: id,
            tail,
            ..v1::LogsRequest::default()
        };
        let mut stream = cluster
            .jobs()
            .await
            .logs(request)
            .await
            .unwrap()
            .into_inner();
        let mut lines = Vec::new();
        while let Some(line) = stream.message().await.unwrap() {
            lines.push((line.text, line.lost_before, line.lost_after, line.damaged));
        }
        lines
    };
    let told = |text: &str, before, after, damaged| (text.to_owned(), before, after, damaged);
    let whole: Vec<_> = ["a", "b", "c", "d", "e", "f"]
        .iter()
        .map(|text| told(text, 0, 0, false))
        .collect();
    assert_eq!(read(0).await, whole);
    cluster
        .database
        .execute(
            "DELETE FROM log_lines WHERE text IN ('b', 'd', 'f'); UPDATE log_lines SET text = 'C' WHERE text = 'c'",
        )
        .await;
    let torn = [
        told("a", 0, 0, false),
        told("C", 1, 0, true),
        told("e", 1, 1, false),
    ];
    assert_eq!(read(0).await, torn);
    // What came before the first of the last lines was not asked for.
    assert_eq!(read(2).await, [told("C", 0, 0, true), torn[2].clone()]);
}
