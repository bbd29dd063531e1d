//! A damaged artifact is made again by the job that made it, and who needs it goes on with the new one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support::worker::{FakeWorker, Key, key_of};
use crate::support::{Cluster, channel};
use marquee_domain::limits::MADE_AGAIN_MAX;
use marquee_proto::v1;
use marquee_proto::v1::verify_audit_response::Body as Answer;
use marquee_proto::v1::{AttemptState, FailureClass, JobState};
use serde_json::json;

const CHAIN: &str = "
    [jobs.make]
    kind = \"command\"
    argv = [\"true\"]
    [jobs.also]
    kind = \"command\"
    argv = [\"true\"]
    inputs = { data = \"make.output\" }
    [jobs.take]
    kind = \"command\"
    argv = [\"true\"]
    inputs = { data = \"make.output\" }
    [jobs.last]
    kind = \"command\"
    argv = [\"true\"]
    needs = [\"make\", \"take\"]
";
const PAIR: &str = "
    [jobs.make]
    kind = \"command\"
    argv = [\"true\"]
    [jobs.take]
    kind = \"command\"
    argv = [\"true\"]
    inputs = { data = \"make.output\" }
";

/// What a worker says that could not fetch an input.
async fn cannot_be_had(worker: &mut FakeWorker, assign: &v1::Assign) {
    let key = key_of(assign);
    let message = "input \"data\" cannot be had: it is damaged";
    worker.fail(key, FailureClass::BadInput, message).await;
    worker.forget(key);
}

/// Does a job's work with this output.
async fn done(
    cluster: &Cluster,
    worker: &mut FakeWorker,
    job: i64,
    contents: &'static [u8],
) -> Key {
    let assign = worker.take().await;
    assert_eq!(assign.job_id, job);
    let key = key_of(&assign);
    worker.prepare(&assign).await;
    worker.started(key).await;
    let output = cluster.output("model.bin", contents).await;
    worker.finish(key, Some(output)).await;
    cluster.wait_for(job, JobState::Succeeded).await;
    key
}

fn damage(cluster: &Cluster, contents: &[u8]) {
    std::fs::write(cluster.blob(contents), b"short").unwrap();
}

fn files(assign: &v1::Assign) -> Vec<u64> {
    let manifest = assign.inputs[0].manifest.as_ref().unwrap();
    manifest.files.iter().map(|file| file.size_bytes).collect()
}

async fn events(cluster: &Cluster, job: i64) -> String {
    let detail = cluster.detail(job).await;
    let texts: Vec<String> = detail.events.into_iter().map(|event| event.text).collect();
    texts.join("\n")
}

/// The history of the cluster keeps every rule.
async fn history_is_clean(cluster: &Cluster) {
    let mut client = v1::audit_client::AuditClient::new(channel(&cluster.running.address).await);
    let request = v1::VerifyAuditRequest::default();
    let mut answers = client.verify(request).await.unwrap().into_inner();
    while let Some(answer) = answers.message().await.unwrap() {
        if let Some(Answer::Finding(finding)) = answer.body {
            panic!("{finding:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_input_is_made_again_and_whoever_needs_it_waits_for_it_at_no_cost() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let jobs = cluster.submit(CHAIN).await;
    let [make, also, take, last] = [0, 1, 2, 3].map(|at: usize| jobs[at].id);
    done(&cluster, &mut worker, make, b"first weights").await;
    let running = worker.take().await;
    assert_eq!(running.job_id, also);
    worker.prepare(&running).await;
    worker.started(key_of(&running)).await;
    let unlucky = worker.take().await;
    assert_eq!(unlucky.job_id, take);
    damage(&cluster, b"first weights");
    cannot_be_had(&mut worker, &unlucky).await;

    let waiting = cluster.wait_for(take, JobState::Waiting).await;
    assert_eq!(waiting.reason, "waits for \"make\" to succeed");
    let detail = cluster.detail(take).await;
    assert_eq!(detail.attempts[0].state(), AttemptState::Interrupted);
    let said = events(&cluster, take).await;
    assert!(
        said.contains("input \"data\" is damaged at the coordinator (\"model.bin\"")
            && said.contains(&format!("job {make} (\"make\") makes it again")),
        "{said}"
    );
    let said = events(&cluster, make).await;
    assert!(
        said.contains("made again, since its artifact is damaged")
            && said.contains(&format!("job {take} needs it; time 1 of at most 3")),
        "{said}"
    );
    assert_eq!(cluster.job(also).await.state(), JobState::Running);
    assert_eq!(
        cluster.job(last).await.reason,
        "waits for \"make\" and \"take\" to succeed"
    );

    // The work comes out otherwise this time: its artifact takes the place of the old one.
    let again = done(&cluster, &mut worker, make, b"other weights!").await;
    assert_eq!(again.1, 2);
    worker.finish(key_of(&running), None).await;
    cluster.wait_for(also, JobState::Succeeded).await;
    let second = worker.take().await;
    assert_eq!((second.job_id, second.attempt), (take, 2));
    assert_eq!(files(&second), [14]);
    worker.prepare(&second).await;
    worker.started(key_of(&second)).await;
    // The last one needs both, and was counted off for one of them twice.
    assert_eq!(cluster.job(last).await.state(), JobState::Waiting);
    worker.finish(key_of(&second), None).await;
    cluster.wait_for(take, JobState::Succeeded).await;
    let third = worker.take().await;
    assert_eq!(third.job_id, last);
    worker.prepare(&third).await;
    worker.started(key_of(&third)).await;
    worker.finish(key_of(&third), None).await;
    cluster.wait_for(last, JobState::Succeeded).await;
    history_is_clean(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_damages_everything_is_believed_in_the_end_and_a_user_may_ask_again() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let jobs = cluster.submit(PAIR).await;
    let [make, take] = [jobs[0].id, jobs[1].id];
    done(&cluster, &mut worker, make, b"weights").await;
    for time in 0..=MADE_AGAIN_MAX {
        let assign = worker.take().await;
        assert_eq!(assign.job_id, take);
        damage(&cluster, b"weights");
        cannot_be_had(&mut worker, &assign).await;
        if time < MADE_AGAIN_MAX {
            done(&cluster, &mut worker, make, b"weights").await;
        }
    }
    let failed = cluster.wait_for(take, JobState::Failed).await;
    let failure = failed.failure.unwrap();
    assert_eq!(failure.class(), FailureClass::BadInput);
    assert!(
        failure.message.contains("cannot be had")
            && failure.message.contains("3 times already")
            && failure
                .message
                .contains(&format!("\"marquee retry {make}\"")),
        "{failure:?}"
    );
    let retry = async |id| {
        let mut jobs = cluster.jobs().await;
        jobs.retry_job(v1::RetryJobRequest { id }).await
    };
    retry(make).await.unwrap();
    done(&cluster, &mut worker, make, b"weights").await;
    // What is whole is not made again.
    let refused = retry(make).await.unwrap_err();
    assert!(refused.message().contains("is damaged"), "{refused}");
    retry(take).await.unwrap();
    let assign = worker.take().await;
    assert_eq!(assign.job_id, take);
    // Now it may be made again by itself, too.
    damage(&cluster, b"weights");
    cannot_be_had(&mut worker, &assign).await;
    done(&cluster, &mut worker, make, b"weights").await;
    history_is_clean(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_again_fails_and_says_the_way_out() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let jobs = cluster.submit(PAIR).await;
    let [make, take] = [jobs[0].id, jobs[1].id];
    done(&cluster, &mut worker, make, b"weights").await;
    let digest = cluster.job(make).await.artifact_digest;
    let assign = worker.take().await;
    // The input is whole: its worker has another trouble.
    cannot_be_had(&mut worker, &assign).await;
    let failed = cluster.wait_for(take, JobState::Failed).await;
    let message = failed.failure.unwrap().message;
    assert!(!message.contains("made again"), "{message}");

    // By a digest: only the very same bytes would do.
    let body = format!(
        "[jobs.other]\nkind = \"command\"\nargv = [\"true\"]\ninputs = {{ data = \"artifact:{digest}\" }}\n"
    );
    let other = cluster.submit(&body).await[0].id;
    let assign = worker.take().await;
    damage(&cluster, b"weights");
    cannot_be_had(&mut worker, &assign).await;
    let failed = cluster.wait_for(other, JobState::Failed).await;
    let failure = failed.failure.unwrap();
    assert_eq!(failure.class(), FailureClass::BadInput);
    assert!(
        failure.message.contains("named by its digest")
            && failure.message.contains("marquee retry"),
        "{failure:?}"
    );

    // The work that is done again fails: who waits for it is cancelled, and comes back with it.
    let retry = async |id| {
        let mut jobs = cluster.jobs().await;
        jobs.retry_job(v1::RetryJobRequest { id }).await.unwrap();
    };
    retry(take).await;
    let assign = worker.take().await;
    cannot_be_had(&mut worker, &assign).await;
    let again = worker.take_and_start().await;
    assert_eq!(again.0, make);
    worker.fail(again, FailureClass::UserError, "no").await;
    worker.forget(again);
    cluster.wait_for(make, JobState::Failed).await;
    cluster.wait_for(take, JobState::Cancelled).await;
    retry(make).await;
    done(&cluster, &mut worker, make, b"weights").await;
    done(&cluster, &mut worker, take, b"done").await;
    history_is_clean(&cluster).await;
}

const ARRAY: &str = "
    [jobs.make]
    kind = \"command\"
    argv = [\"true\"]
    array = 2
    [jobs.take]
    kind = \"command\"
    argv = [\"true\"]
    array = 2
    inputs = { data = \"make.output\" }
";

#[tokio::test(flavor = "multi_thread")]
async fn of_an_array_the_damaged_element_alone_is_made_again_and_elements_wait_like_jobs() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let jobs = cluster.submit(ARRAY).await;
    let [make, take] = [jobs[0].id, jobs[1].id];
    let mut made = Vec::new();
    for contents in [b"zero".as_slice(), b"one"] {
        let key = worker.take_and_start().await;
        let output = cluster.output("data", contents).await;
        worker.finish(key, Some(output)).await;
        cluster.wait_for(key.0, JobState::Succeeded).await;
        made.push(key.0);
    }
    cluster.wait_for(make, JobState::Succeeded).await;
    let (lucky, unlucky) = (worker.take().await, worker.take().await);
    worker.prepare(&lucky).await;
    worker.started(key_of(&lucky)).await;
    damage(&cluster, b"one");
    cannot_be_had(&mut worker, &unlucky).await;
    cluster.wait_for(unlucky.job_id, JobState::Waiting).await;
    let array = cluster.job(make).await;
    assert_eq!(array.elements.unwrap().succeeded, 1);
    let key = worker.take_and_start().await;
    assert_eq!((key.0, key.1), (made[1], 2));
    // The neighbour has its input, and is counted like any other.
    worker.finish(key_of(&lucky), None).await;
    cluster.wait_for(lucky.job_id, JobState::Succeeded).await;
    let output = cluster.output("data", b"anew").await;
    worker.finish(key, Some(output)).await;
    cluster.wait_for(make, JobState::Succeeded).await;
    let again = worker.take().await;
    assert_eq!((again.job_id, again.attempt), (unlucky.job_id, 2));
    assert_eq!(files(&again), [4, 4]);
    worker.prepare(&again).await;
    worker.started(key_of(&again)).await;
    worker.finish(key_of(&again), None).await;
    cluster.wait_for(take, JobState::Succeeded).await;
    history_is_clean(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_result_that_is_damaged_is_made_by_the_job_that_had_taken_it() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let fetch =
        "[jobs.fetch]\nkind = \"fetch\"\nsource = { type = \"folder\", path = \"/data\" }\n";
    let fetched = cluster.submit(fetch).await[0].id;
    done(&cluster, &mut worker, fetched, b"films").await;
    let dataset = cluster.job(fetched).await.artifact_digest;
    let body = format!(
        "[jobs.preprocess]\nkind = \"preprocess\"\nwidth = 64\nheight = 64\n\
         inputs = {{ dataset = \"artifact:{dataset}\" }}\n\
         [jobs.after]\nkind = \"command\"\nargv = [\"true\"]\ninputs = {{ shards = \"preprocess.shards\" }}\n"
    );
    let summary = json!({ "code": "code-1" }).to_string();
    let work = async |worker: &mut FakeWorker, job: i64| {
        let key = worker.take_and_start().await;
        assert_eq!(key.0, job);
        let output = cluster.output("shards.json", b"shards").await;
        worker.finish_with(key, &summary, Some(output)).await;
        cluster.wait_for(job, JobState::Succeeded).await;
    };
    let first = cluster.submit(&body).await;
    work(&mut worker, first[0].id).await;
    done(&cluster, &mut worker, first[1].id, b"one").await;
    let second = cluster.submit(&body).await;
    let reused = cluster.wait_for(second[0].id, JobState::Succeeded).await;
    assert_eq!(reused.reused_from_job_id, first[0].id);
    let assign = worker.take().await;
    damage(&cluster, b"shards");
    cannot_be_had(&mut worker, &assign).await;
    work(&mut worker, second[0].id).await;
    assert_eq!(cluster.job(second[0].id).await.reused_from_job_id, 0);
    // The same bytes came out, so that what it was taken from is whole again.
    done(&cluster, &mut worker, second[1].id, b"two").await;
    let third = cluster.submit(&body).await;
    let reused = cluster.wait_for(third[0].id, JobState::Succeeded).await;
    assert!(reused.reused_from_job_id > 0);
    history_is_clean(&cluster).await;
}
