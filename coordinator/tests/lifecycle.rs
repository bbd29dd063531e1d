//! Jobs from submission to their end, with a worker that does as the test says.

use crate::support;
use crate::support::worker::key_of;
use crate::support::{Cluster, request};
use marquee_coordinator::lifecycle;
use marquee_domain::ids::JobId;
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::{FailureClass, JobState};
use marquee_store::testing::TestDatabase;

const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";
const CHAIN: &str = "
    [jobs.fetch]
    kind = \"command\"
    argv = [\"true\"]
    [jobs.train]
    kind = \"command\"
    argv = [\"true\"]
    needs = [\"fetch\"]
    inputs = { data = \"fetch.output\" }
    [jobs.eval]
    kind = \"command\"
    argv = [\"true\"]
    needs = [\"train\"]
";
const GANG: &str = "[jobs.gang]\nkind = \"command\"\nargv = [\"true\"]\nranks = 2\n";

#[tokio::test]
async fn a_pipeline_runs_from_submission_to_its_last_artifact() {
    let cluster = Cluster::start().await;
    let jobs = cluster.submit(CHAIN).await;
    let [fetch, train, eval] = [jobs[0].id, jobs[1].id, jobs[2].id];
    let waiting = cluster
        .wait_until(fetch, "queued with a reason", |j| !j.reason.is_empty())
        .await;
    assert_eq!(
        waiting.reason,
        "no worker is online; start one with \"marquee-worker\""
    );
    assert_eq!(
        cluster.job(train).await.reason,
        "waits for \"fetch\" to succeed"
    );

    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    assert_eq!(key, (fetch, 1, 0));
    let values = [("loss".to_owned(), 0.25)].into();
    worker
        .report(key, Body::Metrics(v1::RankMetrics { step: 3, values }))
        .await;
    worker.log(key, &["one", "two"]).await;
    let output = cluster.output("data.txt", b"films").await;
    worker.finish(key, Some(output.clone())).await;
    let done = cluster.wait_for(fetch, JobState::Succeeded).await;
    assert_eq!(done.artifact_digest.len(), 64);

    // The next job is given what this one committed.
    let assign = worker.take().await;
    assert_eq!(assign.job_id, train);
    assert_eq!(assign.inputs[0].manifest, Some(output));
    worker.prepare(&assign).await;
    worker.started(key_of(&assign)).await;
    worker.finish(key_of(&assign), None).await;
    let key = worker.take_and_start().await;
    worker.finish(key, None).await;
    cluster.wait_for(eval, JobState::Succeeded).await;

    let logs = v1::LogsRequest {
        job_id: fetch,
        follow: true,
        ..Default::default()
    };
    assert_eq!(cluster.logs(logs).await, ["one", "two"]);
    assert_eq!(
        cluster.logs(v1::LogsRequest { tail: 1, ..logs }).await,
        ["two"]
    );
    let metrics = v1::MetricsRequest {
        job_id: fetch,
        ..Default::default()
    };
    let mut points = cluster
        .jobs()
        .await
        .metrics(metrics)
        .await
        .unwrap()
        .into_inner();
    let point = points.message().await.unwrap().unwrap();
    assert_eq!(
        (point.name.as_str(), point.step, point.value),
        ("loss", 3, 0.25)
    );
    assert_eq!(points.message().await.unwrap(), None);
}

#[tokio::test]
async fn a_gang_starts_together_and_meets_where_rank_0_says() {
    let cluster = Cluster::start().await;
    let mut first = cluster.worker("w1").await;
    let mut second = cluster.worker("w2").await;
    // Each worker has two slots; these take one each, so that the gang needs both workers.
    let busy = cluster
        .submit(&format!("{ONE}{}", ONE.replace("one", "two")))
        .await;
    let held = [first.take_and_start().await, first.take_and_start().await];
    assert_eq!(held.map(|key| key.0), [busy[0].id, busy[1].id]);
    let more = cluster.submit(ONE).await;
    let third = second.take_and_start().await;
    assert_eq!(third.0, more[0].id);

    let gang = cluster.submit(GANG).await[0].id;
    let reason = cluster
        .wait_until(gang, "explained", |j| !j.reason.is_empty())
        .await
        .reason;
    assert!(
        reason.starts_with("needs 2 cpu devices, 1 of 4 are free"),
        "{reason}"
    );
    first.finish(held[0], None).await;

    let (one, two) = (first.take().await, second.take().await);
    assert_eq!([one.job_id, two.job_id], [gang, gang]);
    // What it waited for stays with its attempt.
    let waited = cluster.detail(gang).await.attempts.remove(0).waited_for;
    assert!(waited.starts_with("needs 2 devices"), "{waited}");
    let at_once = cluster.detail(busy[0].id).await.attempts.remove(0);
    assert_eq!(at_once.waited_for, "");
    let (zero, other) = if one.rank == 0 {
        (one, two)
    } else {
        (two, one)
    };
    assert!(zero.hosts_rendezvous && !other.hosts_rendezvous);
    assert_eq!([zero.rank, other.rank], [0, 1]);
    for worker in [&mut first, &mut second] {
        let own = if worker.holds(key_of(&zero)) {
            &zero
        } else {
            &other
        };
        assert_eq!(
            cluster.detail(gang).await.attempts[0].state(),
            v1::AttemptState::Assigned
        );
        worker.prepare(own).await;
    }
    for worker in [&mut first, &mut second] {
        let own = if worker.holds(key_of(&zero)) {
            &zero
        } else {
            &other
        };
        let start = worker.started(key_of(own)).await;
        assert_eq!(start.rendezvous.unwrap().port, 4711);
    }
    for worker in [&mut first, &mut second] {
        let own = if worker.holds(key_of(&zero)) {
            &zero
        } else {
            &other
        };
        assert_ne!(cluster.job(gang).await.state(), JobState::Succeeded);
        worker.finish(key_of(own), None).await;
    }
    cluster.wait_for(gang, JobState::Succeeded).await;
}

#[tokio::test]
async fn an_output_that_was_not_uploaded_is_never_committed() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(&format!("{ONE}max_attempts = 1\n")).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    worker
        .finish(key, Some(support::manifest("model.bin", b"never sent")))
        .await;
    let job = cluster.wait_for(id, JobState::Failed).await;
    assert_eq!(job.artifact_digest, "");
    let message = job.failure.unwrap().message;
    assert!(
        message.contains("not uploaded") && message.contains("model.bin"),
        "{message}"
    );
}

#[tokio::test]
async fn a_failed_rank_fails_its_gang_and_the_retry_goes_on_from_the_checkpoint() {
    let cluster = Cluster::start().await;
    let digest = commit_something(&cluster).await;
    let train = format!(
        "
        [jobs.train]
        kind = \"train\"
        model = \"simple-cnn\"
        ranks = 2
        epochs = 1
        batch_size = 8
        optimizer = {{ name = \"sgd\", lr = 0.1 }}
        inputs = {{ shards = \"artifact:{digest}\" }}
        "
    );
    let id = cluster.submit(&train).await[0].id;
    let mut worker = cluster.worker("w9").await;
    let (zero, one) = start_gang(&mut worker).await;

    // Step 20 was not uploaded whole: it must be passed over.
    let good = cluster.output("weights", b"step 10").await;
    let broken = support::manifest("weights", b"step 20, lost");
    for (step, manifest) in [(10, good.clone()), (20, broken)] {
        let manifest = Some(manifest);
        worker
            .report(
                zero,
                Body::Checkpoint(v1::CheckpointSaved { step, manifest }),
            )
            .await;
    }
    // The peer loses its connection a moment before the cause is known.
    worker
        .fail(one, FailureClass::Network, "connection reset")
        .await;
    worker
        .fail(zero, FailureClass::OutOfMemory, "cannot allocate 9 GB")
        .await;

    let assign = worker.take().await;
    assert_eq!((assign.job_id, assign.attempt), (id, 2));
    let resume = assign.resume.unwrap();
    assert_eq!((resume.step, resume.manifest), (10, Some(good)));
    let detail = cluster.detail(id).await;
    let failure = detail.attempts[0].failure.clone().unwrap();
    assert_eq!(failure.class(), FailureClass::OutOfMemory);
    assert_eq!(
        failure.message,
        "rank 0 on worker \"w9\": cannot allocate 9 GB"
    );
    assert_eq!(detail.attempts[1].resumed_from_step, Some(10));
}

#[tokio::test]
async fn peers_of_a_failed_rank_are_stopped_and_hold_their_devices_until_then() {
    let cluster = Cluster::start().await;
    let gang = format!("{GANG}max_attempts = 1\n");
    let id = cluster.submit(&gang).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let (zero, one) = start_gang(&mut worker).await;
    worker
        .fail(zero, FailureClass::UserError, "exit status 1")
        .await;
    let job = cluster.wait_for(id, JobState::Failed).await;
    assert_eq!(job.failure.unwrap().class(), FailureClass::UserError);
    assert_eq!(
        cluster.workers().await[0].ranks.len(),
        1,
        "rank 1 still runs"
    );
    let stop = worker.stop(one).await;
    assert!(!stop.forget, "its last reports are welcome");
    assert_eq!(cluster.workers().await[0].ranks.len(), 0);
}

#[tokio::test]
async fn an_attempt_that_runs_too_long_is_stopped_and_not_tried_again() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(&format!("{ONE}timeout = \"1s\"\n")).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    let job = cluster.wait_for(id, JobState::Failed).await;
    assert_eq!(job.failure.unwrap().class(), FailureClass::Timeout);
    worker.stop(key).await;
}

#[tokio::test]
async fn a_cancel_takes_effect_in_every_state() {
    let cluster = Cluster::start().await;
    let jobs = cluster.submit(CHAIN).await;
    let [fetch, train, eval] = [jobs[0].id, jobs[1].id, jobs[2].id];
    let mut client = cluster.jobs().await;

    // Waiting: at once, and with it what needs it.
    let request = v1::CancelJobRequest { id: train };
    let cancelled = client.cancel_job(request).await.unwrap().into_inner();
    assert_eq!(cancelled.state(), JobState::Cancelled);
    assert_eq!(cancelled.reason, "cancelled by a user");
    let reason = cluster.job(eval).await.reason;
    let named = format!("job {train} (\"train\"), which it needs, was cancelled");
    assert!(reason.starts_with(&named), "{reason}");

    // Running: when nothing of it is left.
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    let request = v1::CancelJobRequest { id: fetch };
    let asked = client.cancel_job(request).await.unwrap().into_inner();
    assert_eq!(
        (asked.state(), asked.cancel_requested),
        (JobState::Running, true)
    );
    worker.stop(key).await;
    cluster.wait_for(fetch, JobState::Cancelled).await;

    // Ended: refused, with the state.
    let refused = client.cancel_job(request).await.unwrap_err();
    assert_eq!(PublicError::from(&refused).code.as_deref(), Some("MQ0301"));

    // Queued: at once.
    worker.goodbye().await;
    let id = cluster.submit(ONE).await[0].id;
    let pipeline = v1::CancelPipelineRequest {
        id: cluster.job(id).await.pipeline_id,
    };
    let pipeline = client.cancel_pipeline(pipeline).await.unwrap().into_inner();
    assert_eq!(pipeline.jobs[0].state(), JobState::Cancelled);
}

#[tokio::test]
async fn a_retry_brings_back_what_was_cancelled_for_its_sake() {
    let cluster = Cluster::start().await;
    let jobs = cluster.submit(CHAIN).await;
    let [fetch, train, eval] = [jobs[0].id, jobs[1].id, jobs[2].id];
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    worker
        .fail(key, FailureClass::UserError, "no such file: labels.csv")
        .await;
    cluster.wait_for(fetch, JobState::Failed).await;
    cluster.wait_for(eval, JobState::Cancelled).await;

    let mut client = cluster.jobs().await;
    let refused = client
        .retry_job(v1::RetryJobRequest { id: train })
        .await
        .unwrap_err();
    let retry_fetch = format!("retry that one: \"marquee retry {fetch}\"");
    assert!(
        refused.message().contains(&retry_fetch),
        "{}",
        refused.message()
    );

    let again = client
        .retry_job(v1::RetryJobRequest { id: fetch })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.failure, None);
    assert_eq!(cluster.job(eval).await.state(), JobState::Waiting);
    for id in [fetch, train, eval] {
        let key = worker.take_and_start().await;
        assert_eq!(key.0, id);
        worker.finish(key, None).await;
    }
    cluster.wait_for(eval, JobState::Succeeded).await;
    assert_eq!(cluster.job(fetch).await.attempt, 2);
}

#[tokio::test]
async fn the_same_request_is_the_same_pipeline_also_when_many_come_at_once() {
    let cluster = Cluster::start().await;
    let submits = (0..8).map(|_| async {
        let mut client = cluster.jobs().await;
        client
            .submit_pipeline(request("same", ONE))
            .await
            .unwrap()
            .into_inner()
    });
    let answers = futures::future::join_all(submits).await;
    assert_eq!(
        answers
            .iter()
            .filter(|answer| !answer.repeated_request)
            .count(),
        1
    );
    assert!(
        answers
            .iter()
            .all(|answer| answer.jobs[0].id == answers[0].jobs[0].id)
    );

    let mut client = cluster.jobs().await;
    let other = client
        .submit_pipeline(request("same", CHAIN))
        .await
        .unwrap_err();
    assert_eq!(PublicError::from(&other).code.as_deref(), Some("MQ0103"));
    let listed = client
        .list_jobs(v1::ListJobsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.jobs.len(), 1);
}

#[tokio::test]
async fn a_wrong_document_is_refused_whole_with_every_field_named() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker("w1").await;
    let nowhere = "ab".repeat(32);
    let body = format!("{ONE}inputs = {{ data = \"artifact:{nowhere}\" }}\n");
    let mut client = cluster.jobs().await;
    let refused = client
        .submit_pipeline(request("a", &body))
        .await
        .unwrap_err();
    let error = PublicError::from(&refused);
    assert_eq!(error.code.as_deref(), Some("MQ0101"));
    assert_eq!(error.fields[0].field, "jobs.one.inputs.data");

    let body = format!("{ONE}ranks = 9\nprority = 3\n");
    let refused = client
        .submit_pipeline(request("b", &body))
        .await
        .unwrap_err();
    let fields: Vec<_> = PublicError::from(&refused)
        .fields
        .into_iter()
        .map(|f| f.field)
        .collect();
    assert_eq!(fields.len(), 2, "{fields:?}");
    let listed = client
        .list_jobs(v1::ListJobsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.jobs, []);
}

/// Runs one job to a committed artifact, and gives the artifact's digest.
async fn commit_something(cluster: &Cluster) -> String {
    let id = cluster.submit(&ONE.replace("one", "shards")).await[0].id;
    let mut worker = cluster.worker("w0").await;
    let key = worker.take_and_start().await;
    let output = cluster.output("shards.json", b"{}").await;
    worker.finish(key, Some(output)).await;
    let digest = cluster
        .wait_for(id, JobState::Succeeded)
        .await
        .artifact_digest;
    worker.goodbye().await;
    digest
}

/// Starts a gang of two on one worker.
async fn start_gang(
    worker: &mut support::worker::FakeWorker,
) -> (support::worker::Key, support::worker::Key) {
    let (zero, one) = (worker.take().await, worker.take().await);
    assert_eq!((zero.rank, one.rank), (0, 1));
    worker.prepare(&zero).await;
    worker.prepare(&one).await;
    worker.started(key_of(&zero)).await;
    worker.started(key_of(&one)).await;
    (key_of(&zero), key_of(&one))
}

/// Ranks report without the pipeline's lock: what is seen of the attempt, here where its ranks meet, must
/// not be older than what is seen of the ranks.
#[tokio::test]
async fn a_gang_whose_last_rank_is_prepared_while_it_is_judged_starts() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let job = cluster.submit(GANG).await[0].clone();
    let assigned = [worker.take().await, worker.take().await];
    let last = assigned.iter().find(|assign| assign.rank == 1).unwrap();
    worker.prepare(last).await;
    worker.ack(key_of(last)).await;

    // The judge gets past the looks that it takes before it has the lock, and is held back.
    let database = &cluster.database;
    let mut gate = database.db.write("gate").await.unwrap();
    let pipeline = job.pipeline_id;
    let hold = format!("SELECT id FROM pipelines WHERE id = {pipeline} FOR UPDATE");
    gate.execute_raw(&hold).await.unwrap();
    let app = cluster.app().clone();
    let judging = tokio::spawn(async move { lifecycle::advance(&app, &[JobId(job.id)]).await });
    waits_for_a_lock(database, "%pipelines%FOR NO KEY UPDATE%").await;
    // It has the lock, but comes to the ranks only when rank 0 has reported.
    let mut report = database.db.write("report").await.unwrap();
    let hold = "LOCK TABLE attempt_ranks IN ACCESS EXCLUSIVE MODE";
    report.execute_raw(hold).await.unwrap();
    drop(gate);
    waits_for_a_lock(database, "%AS worker_name%").await;
    for change in [
        "UPDATE attempts SET rendezvous_host = '127.0.0.1', rendezvous_port = 4711 WHERE",
        "UPDATE attempt_ranks SET state = 'prepared' WHERE rank = 0 AND",
    ] {
        let change = format!("{change} job_id = {}", job.id);
        assert_eq!(report.execute_raw(&change).await.unwrap(), 1, "{change}");
    }
    report.commit().await.unwrap();
    judging.await.unwrap().unwrap();

    let attempts = cluster.detail(job.id).await.attempts;
    let attempt = &attempts[0];
    assert_eq!(attempt.state(), v1::AttemptState::Running, "{attempt:?}");
}

/// Returns once a query like `pattern` waits for a lock.
async fn waits_for_a_lock(database: &TestDatabase, pattern: &str) {
    let waiting = async {
        let query = format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'
               AND query LIKE '{pattern}'"
        );
        while database.number(&query).await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(support::SOON, waiting)
        .await
        .unwrap_or_else(|_| panic!("nothing like {pattern:?} waits for a lock"));
}
