//! Postgres away: nothing is lost, nobody is judged, and all goes on by itself when it is back.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::worker::FakeWorker;
use crate::support::{Cluster, LEASE};
use marquee_proto::v1;
use marquee_proto::v1::{JobState, WorkerState};
use marquee_store::testing::TestDatabase;
use marquee_store::{Db, When};
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";
/// The name that Postgres' clients look for in a socket folder.
const SOCKET: &str = ".s.PGSQL.5432";

/// A wire to Postgres that can be cut.
struct Wire {
    folder: tempfile::TempDir,
    postgres: PathBuf,
    connections: JoinHandle<()>,
}

impl Wire {
    fn to(postgres: PathBuf) -> Self {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let connections = tokio::spawn(async {});
        let mut wire = Self {
            folder,
            postgres,
            connections,
        };
        wire.mend();
        wire
    }

    fn mend(&mut self) {
        let listener = UnixListener::bind(self.folder.path().join(SOCKET)).unwrap();
        let postgres = self.postgres.clone();
        self.connections = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let postgres = postgres.clone();
                open.spawn(async move {
                    let mut far = UnixStream::connect(postgres).await.unwrap();
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
    }

    /// Breaks every connection and takes no new one.
    async fn cut(&mut self) {
        self.connections.abort();
        let _ = (&mut self.connections).await;
        std::fs::remove_file(self.folder.path().join(SOCKET)).unwrap();
    }
}

async fn cluster() -> (Cluster, Wire) {
    let direct = TestDatabase::create().await;
    let (name, folder) = direct.url.split_once("?host=").unwrap();
    let wire = Wire::to(PathBuf::from(folder).join(SOCKET));
    let url = format!("{name}?host={}", wire.folder.path().display());
    let db = Db::connect(&url, uuid::Uuid::nil())
        .await
        .unwrap()
        .without_election();
    (Cluster::start_on(TestDatabase { db, url }).await, wire)
}

#[tokio::test]
async fn what_happens_while_postgres_is_away_is_stored_when_it_is_back() {
    let (cluster, mut wire) = cluster().await;
    let jobs = cluster
        .submit(&format!("{ONE}{}", ONE.replace("one", "two")))
        .await;
    let [id, next] = [jobs[0].id, jobs[1].id];
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    worker.log(key, &["before"]).await;
    while worker.ack(key).await < 3 {}

    wire.cut().await;
    worker.log(key, &["meanwhile"]).await;
    let refused = cluster.jobs().await.get_job(v1::GetJobRequest { id }).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::Unavailable);
    let strange = FakeWorker::try_connect(&cluster.running.address, "w2").await;
    assert_eq!(strange.err().unwrap().code(), tonic::Code::Unavailable);
    // Longer than a lease: the silence is ours.
    tokio::time::sleep(LEASE + Duration::from_millis(500)).await;
    wire.mend();

    worker.finish(key, None).await;
    let done = cluster.wait_for(id, JobState::Succeeded).await;
    assert_eq!(done.attempt, 1);
    let logs = v1::LogsRequest {
        job_id: id,
        follow: true,
        ..Default::default()
    };
    assert_eq!(cluster.logs(logs).await, ["before", "meanwhile"]);
    assert_eq!(cluster.workers().await[0].state(), WorkerState::Online);
    // The loops go on too.
    let key = worker.take_and_start().await;
    assert_eq!(key.0, next);
}

/// Backends are ended under every piece of work, again and again, as by an administrator or a failover.
#[tokio::test]
async fn backends_that_are_ended_in_the_middle_of_work_lose_and_double_nothing() {
    const JOBS: usize = 12;
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let url = cluster.database.url.clone();
    let storm = tokio::spawn(async move {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let mut ended = 0;
        loop {
            ended += marquee_store::testing::number(&url, end).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
            if ended > 200 {
                return ended;
            }
        }
    });
    let mut ids = Vec::new();
    for number in 0..JOBS {
        let request = support::request(&format!("storm {number}"), ONE);
        // As the CLI does: the same request again, for as long as it may pass.
        let job = loop {
            match cluster.jobs().await.submit_pipeline(request.clone()).await {
                Ok(answer) => break answer.into_inner().jobs.remove(0),
                Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        ids.push(job.id);
        let key = worker.take_and_start().await;
        worker.log(key, &["one line"]).await;
        worker.finish(key, None).await;
    }
    for id in &ids {
        let done = until_succeeded(&cluster, *id).await;
        assert_eq!(done.attempt, 1, "job {id}");
    }
    storm.abort();
    let stored = "SELECT count(*) FROM jobs";
    assert_eq!(cluster.database.number(stored).await, JOBS as i64);
    for id in ids {
        let logs = v1::LogsRequest {
            job_id: id,
            ..Default::default()
        };
        assert_eq!(cluster.logs(logs).await, ["one line"]);
    }
    assert_eq!(cluster.workers().await[0].state(), WorkerState::Online);
}

/// Asks until it has succeeded, whatever stands in the way of an answer.
async fn until_succeeded(cluster: &Cluster, id: i64) -> v1::Job {
    let asks = async {
        loop {
            let answer = cluster.jobs().await.get_job(v1::GetJobRequest { id }).await;
            if let Ok(detail) = answer {
                let job = detail.into_inner().job.unwrap();
                if job.state() == JobState::Succeeded {
                    return job;
                }
                assert_ne!(job.state(), JobState::Failed, "{job:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(support::SOON * 3, asks).await.unwrap()
}

/// For each kind of write on a job's way: its COMMIT is stored and not answered, breaks before, or meets another one.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_safe_to_try_again() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let db = &cluster.database.db;
    for when in [When::AfterCommit, When::BeforeCommit, When::Conflict] {
        for operation in ["submit", "place", "reports", "advance", "worker heartbeats"] {
            let before = cluster.database.number("SELECT count(*) FROM jobs").await;
            db.fail_next(operation, when);
            let request = support::request(&format!("{operation} {when:?}"), ONE);
            let mut refused = 0;
            let job = loop {
                match cluster.jobs().await.submit_pipeline(request.clone()).await {
                    Ok(answer) => break answer.into_inner().jobs.remove(0),
                    Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status}"),
                }
                refused += 1;
                assert!(refused < 10, "{operation} {when:?}");
            };
            // Of two that are in each other's way, one is tried again before anybody is told.
            let is_told = operation == "submit" && when != When::Conflict;
            assert_eq!(refused, i32::from(is_told), "{operation} {when:?}");
            let key = worker.take_and_start().await;
            worker.log(key, &["one line"]).await;
            worker.finish(key, None).await;
            let done = cluster.wait_for(job.id, JobState::Succeeded).await;
            assert_eq!(done.attempt, 1, "{operation} {when:?}");
            let logs = v1::LogsRequest {
                job_id: job.id,
                ..Default::default()
            };
            assert_eq!(
                cluster.logs(logs).await,
                ["one line"],
                "{operation} {when:?}"
            );
            let after = cluster.database.number("SELECT count(*) FROM jobs").await;
            assert_eq!(after, before + 1, "{operation} {when:?}");
        }
        for operation in ["cancel", "retry"] {
            let job = cluster.submit(ONE).await.remove(0);
            let key = worker.take_and_start().await;
            if operation == "retry" {
                let cancel = v1::CancelJobRequest { id: job.id };
                cluster.jobs().await.cancel_job(cancel).await.unwrap();
                worker.stop(key).await;
                cluster.wait_for(job.id, JobState::Cancelled).await;
            }
            db.fail_next(operation, when);
            let ask = async || {
                let id = job.id;
                let mut jobs = cluster.jobs().await;
                match operation {
                    "cancel" => jobs.cancel_job(v1::CancelJobRequest { id }).await,
                    _ => jobs.retry_job(v1::RetryJobRequest { id }).await,
                }
            };
            let first = ask().await;
            if when == When::Conflict {
                first.unwrap();
            } else {
                assert_eq!(first.unwrap_err().code(), tonic::Code::Unavailable);
                let again = ask().await;
                // What was stored although nobody heard so is there, and says so.
                let is_stored = when == When::AfterCommit;
                assert!(
                    again.is_ok() || (is_stored && again.is_err()),
                    "{operation} {when:?}"
                );
            }
            if operation == "cancel" {
                worker.stop(key).await;
                cluster.wait_for(job.id, JobState::Cancelled).await;
            } else {
                let key = worker.take_and_start().await;
                worker.finish(key, None).await;
                let done = cluster.wait_for(job.id, JobState::Succeeded).await;
                assert_eq!(done.attempt, 2, "retried once: {when:?}");
            }
        }
    }
}

/// A placement is stored, and the scheduler hears that it failed; at the same moment another job comes that goes first.
#[tokio::test]
async fn devices_of_a_placement_whose_answer_is_lost_are_given_to_nobody_else() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let both = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\nranks = 2\n";
    for round in 0..5 {
        cluster.database.db.fail_next("place", When::AfterCommit);
        let first = cluster.submit(both).await.remove(0);
        let held = "SELECT count(*) FROM held_ranks";
        let stored = async {
            while cluster.database.number(held).await == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(support::SOON, stored).await.unwrap();
        let next = cluster.submit(&format!("{both}priority = 9\n")).await;
        for _ in 0..2 {
            let assign = worker.take().await;
            assert_eq!(assign.job_id, first.id, "round {round}");
            worker.prepare(&assign).await;
        }
        assert_eq!(cluster.job(next[0].id).await.attempt, 0, "round {round}");
        for job in [first.id, next[0].id] {
            if job != first.id {
                for _ in 0..2 {
                    let assign = worker.take().await;
                    worker.prepare(&assign).await;
                }
            }
            for rank in 0..2 {
                worker.started((job, 1, rank)).await;
            }
            for rank in 0..2 {
                worker.finish((job, 1, rank), None).await;
            }
            cluster.wait_for(job, JobState::Succeeded).await;
        }
    }
}

#[tokio::test]
async fn a_pool_that_is_exhausted_is_told_and_recovers() {
    let cluster = Cluster::start().await;
    let job = cluster.submit(ONE).await.remove(0);
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    let db = &cluster.database.db;
    let mut held = Vec::new();
    // Sessions and loops take their turns between: all that come free.
    while let Ok(Ok(conn)) = tokio::time::timeout(Duration::from_secs(2), db.read()).await {
        held.push(conn);
    }
    let id = job.id;
    let refused = cluster.jobs().await.get_job(v1::GetJobRequest { id }).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::Unavailable);
    worker.log(key, &["meanwhile"]).await;
    tokio::time::sleep(LEASE + Duration::from_millis(500)).await;
    drop(held);
    worker.finish(key, None).await;
    let done = cluster.wait_for(id, JobState::Succeeded).await;
    assert_eq!(done.attempt, 1);
    let logs = v1::LogsRequest {
        job_id: id,
        ..Default::default()
    };
    assert_eq!(cluster.logs(logs).await, ["meanwhile"]);
    assert_eq!(cluster.workers().await[0].state(), WorkerState::Online);
}

/// Longer than any back-off of ours, and than a lease of the default length many times over.
#[tokio::test]
async fn after_a_minute_without_postgres_all_goes_on() {
    let (cluster, mut wire) = cluster().await;
    let id = cluster.submit(ONE).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    wire.cut().await;
    for second in 0..60 {
        worker.log(key, &[&format!("second {second}")]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    wire.mend();
    worker.finish(key, None).await;
    let done = until_succeeded(&cluster, id).await;
    assert_eq!(done.attempt, 1);
    let logs = v1::LogsRequest {
        job_id: id,
        ..Default::default()
    };
    let expected: Vec<String> = (0..60).map(|second| format!("second {second}")).collect();
    assert_eq!(cluster.logs(logs).await, expected);
    assert_eq!(cluster.workers().await[0].state(), WorkerState::Online);
}
