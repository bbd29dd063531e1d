//! Postgres away: nothing is lost, nobody is judged, and all goes on by itself when it is back.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use marquee_proto::v1;
use marquee_proto::v1::{JobState, WorkerState};
use marquee_store::Db;
use marquee_store::testing::TestDatabase;
use support::worker::FakeWorker;
use support::{Cluster, LEASE};
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
