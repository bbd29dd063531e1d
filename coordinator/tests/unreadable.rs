//! Rows that this version cannot read, as a newer one or a broken disk would leave them: each stops itself
//! and nothing else.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support::Cluster;
use marquee_proto::v1;
use marquee_proto::v1::{FailureClass, JobState};

const FOUR: &str = "
    [jobs.good]
    kind = \"command\"
    argv = [\"true\"]
    [jobs.bad]
    kind = \"command\"
    argv = [\"true\"]
    [jobs.needs_bad]
    kind = \"command\"
    argv = [\"true\"]
    needs = [\"bad\"]
    [jobs.needs_good]
    kind = \"command\"
    argv = [\"true\"]
    needs = [\"good\"]
";

/// What a later version may store: its number, and words that mean nothing here.
const LATER: &str = "'{\"document_version\": 99, \"orbit\": \"low\"}'";

impl Cluster {
    /// Changes a table under a coordinator that is away, and starts the next one on it.
    async fn start_again_after(&mut self, statement: &str) {
        self.kill().await;
        self.database.execute(statement).await;
        self.start_again().await;
    }
}

fn failure(job: &v1::Job) -> (FailureClass, String) {
    let failure = job.failure.clone().unwrap();
    (failure.class(), failure.message)
}

#[tokio::test]
async fn a_queued_job_that_cannot_be_read_fails_with_the_way_out_and_the_others_run() {
    let mut cluster = Cluster::start().await;
    let jobs = cluster.submit(FOUR).await;
    let id = |name: &str| jobs.iter().find(|job| job.name == name).unwrap().id;
    let bad = id("bad");
    let statement = format!("UPDATE jobs SET spec = {LATER} WHERE id = {bad}");
    cluster.start_again_after(&statement).await;

    let failed = cluster.wait_for(bad, JobState::Failed).await;
    let (class, message) = failure(&failed);
    assert_eq!(class, FailureClass::BadInput);
    for part in [
        "cannot be read",
        "spec",
        &format!("\"marquee retry {bad}\""),
        "submit it again",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    let cancelled = cluster.wait_for(id("needs_bad"), JobState::Cancelled).await;
    assert!(cancelled.reason.contains("\"bad\""), "{}", cancelled.reason);
    let mut worker = cluster.worker("w1").await;
    for name in ["good", "needs_good"] {
        let key = worker.take_and_start().await;
        assert_eq!(key.0, id(name));
        worker.finish(key, None).await;
        cluster.wait_for(key.0, JobState::Succeeded).await;
    }

    // Whoever asks is told, and sees all the rest of it.
    let detail = cluster.detail(bad).await;
    assert!(
        detail.spec_unreadable.contains("jobs.spec"),
        "{}",
        detail.spec_unreadable
    );
    assert_eq!(detail.spec_json, "");
    assert!(
        detail
            .events
            .iter()
            .any(|event| event.text.contains("cannot be read"))
    );

    // The version that can read it is back: a retry runs it.
    let repair = format!(
        "UPDATE jobs SET spec = (SELECT spec FROM jobs WHERE id = {}) WHERE id = {bad}",
        id("good")
    );
    cluster.database.execute(&repair).await;
    let retry = v1::RetryJobRequest { id: bad };
    cluster.jobs().await.retry_job(retry).await.unwrap();
    let key = worker.take_and_start().await;
    assert_eq!(key.0, bad);
}

#[tokio::test]
async fn an_array_that_cannot_be_read_fails_with_its_elements_and_nobody_else() {
    let mut cluster = Cluster::start().await;
    let array = "[jobs.many]\nkind = \"command\"\nargv = [\"true\"]\narray = 3\n";
    let many = cluster.submit(array).await[0].id;
    let other = cluster
        .submit("[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n")
        .await[0]
        .id;
    let statement = format!("UPDATE jobs SET spec = {LATER} WHERE id = {many}");
    cluster.start_again_after(&statement).await;
    let failed = cluster.wait_for(many, JobState::Failed).await;
    assert_eq!(failure(&failed).0, FailureClass::BadInput);
    assert_eq!(failed.elements.unwrap().cancelled, 3);
    let mut worker = cluster.worker("w1").await;
    assert_eq!(worker.take_and_start().await.0, other);
}

#[tokio::test]
async fn a_running_job_that_cannot_be_read_ends_by_its_result() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let id = cluster
        .submit("[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n")
        .await[0]
        .id;
    let key = worker.take_and_start().await;
    let statement = format!("UPDATE jobs SET spec = {LATER} WHERE id = {id}");
    cluster.start_again_after(&statement).await;
    let mut back = worker.reconnect(&cluster.running.address).await.unwrap();
    back.finish(key, None).await;
    let done = cluster.wait_for(id, JobState::Succeeded).await;
    assert_eq!(done.attempt, 1);
}

#[tokio::test]
async fn a_running_job_that_cannot_be_read_is_stopped_by_its_time() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let timed = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\ntimeout = \"1s\"\n";
    let id = cluster.submit(timed).await[0].id;
    let key = worker.take_and_start().await;
    let later = format!("UPDATE jobs SET spec = spec || {LATER} WHERE id = {id}");
    cluster.start_again_after(&later).await;
    let mut back = worker.reconnect(&cluster.running.address).await.unwrap();
    back.stop(key).await;
    let failed = cluster.wait_for(id, JobState::Failed).await;
    assert_eq!(failure(&failed).0, FailureClass::Timeout);

    // Tried again, it is queued, and fails for what it is.
    let retry = v1::RetryJobRequest { id };
    cluster.jobs().await.retry_job(retry).await.unwrap();
    let failed = cluster.wait_for(id, JobState::Failed).await;
    assert_eq!(
        (failed.attempt, failure(&failed).0),
        (1, FailureClass::BadInput)
    );
}

#[tokio::test]
async fn a_worker_that_cannot_be_read_is_shown_so_until_it_says_hello_again() {
    let mut cluster = Cluster::start().await;
    let old = cluster.worker("old").await;
    let gone = cluster.worker("gone").await;
    gone.goodbye().await;
    let statement = format!("UPDATE workers SET inventory = {LATER}");
    cluster.start_again_after(&statement).await;
    // Nobody can be asked what the hosts offer: a job waits, and is taken by the first that can be read.
    let jobs = cluster.submit(FOUR).await;
    for worker in cluster.workers().await {
        assert!(
            worker.unreadable.contains("workers.inventory"),
            "{worker:?}"
        );
        assert_eq!(worker.inventory, None);
    }
    let mut new = cluster.worker("new").await;
    let key = new.take_and_start().await;
    assert!(jobs.iter().any(|job| job.id == key.0));

    // The new one has no more room.
    let _second = new.take_and_start().await;
    let more = cluster.submit(FOUR).await;
    let mut back = old.reconnect(&cluster.running.address).await.unwrap();
    let key = back.take_and_start().await;
    assert!(more.iter().any(|job| job.id == key.0));
    let workers = cluster.workers().await;
    let unreadable = workers
        .iter()
        .filter(|worker| !worker.unreadable.is_empty());
    assert_eq!(
        unreadable
            .map(|worker| worker.name.as_str())
            .collect::<Vec<_>>(),
        ["gone"]
    );
}

#[tokio::test]
async fn why_a_job_waits_is_said_before_the_first_round_too() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let wide = "[jobs.wide]\nkind = \"command\"\nargv = [\"true\"]\nranks = 2\n";
    let first = cluster.submit(wide).await[0].id;
    assert_eq!(worker.take().await.job_id, first);
    let id = cluster.submit(wide).await[0].id;
    let before = cluster
        .wait_until(id, "explained", |job| !job.reason.is_empty())
        .await
        .reason;
    assert!(before.contains(&format!("job {first}")), "{before}");
    // Nothing has been read into the new coordinator's memory: the stored class speaks.
    cluster.kill().await;
    cluster.start_idle().await;
    let stored = cluster.job(id).await.reason;
    assert!(stored.contains("needs 2 devices"), "{stored}");
}
