//! A whole coordinator in surroundings that the test makes: its clock, its chance, its network.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{SOON, channel, request};
use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use marquee_coordinator::Settings;
use marquee_coordinator::config::{Config, DatabaseUrl};
use marquee_coordinator::env::{Clock, Env, Listener, Net, Random, SystemNet};
use marquee_proto::convert::timestamp;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_store::testing::TestDatabase;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A time of day that stands still.
#[derive(Debug)]
struct Stopped(DateTime<Utc>);

impl Clock for Stopped {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// 1, 2, 3 and so on.
#[derive(Debug, Default)]
struct Counted(AtomicU64);

impl Random for Counted {
    fn uuid(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.0.fetch_add(1, Ordering::Relaxed)) + 1)
    }
}

/// The host's network, which tells where it listens and counts who comes.
#[derive(Debug, Clone)]
struct Watched {
    listens: mpsc::UnboundedSender<SocketAddr>,
    came: Arc<AtomicUsize>,
}

impl Net for Watched {
    fn listen(&self, at: SocketAddr) -> BoxFuture<'static, io::Result<Listener>> {
        let Self { listens, came } = self.clone();
        Box::pin(async move {
            let listener = SystemNet.listen(at).await?;
            listens.send(listener.address).unwrap();
            let connections = listener.connections.inspect(move |connection| {
                assert!(connection.is_ok(), "{connection:?}");
                came.fetch_add(1, Ordering::Relaxed);
            });
            Ok(Listener {
                address: listener.address,
                connections: connections.boxed(),
            })
        })
    }
}

#[tokio::test]
async fn a_coordinator_lives_by_the_clock_chance_and_network_that_it_is_given() {
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        address: None,
        data_dir: folder.path().to_owned(),
        artifacts_dir: folder.path().join("blobs"),
        object_store: None,
        leader_lease: Duration::from_secs(3),
        database_url: Some(DatabaseUrl(database.url.clone())),
        postgres_bin: None,
        secrets_key: None,
        tls: None,
        access: marquee_coordinator::access::Rule::default(),
        settings: Settings::default(),
        listing: Vec::new(),
    };
    let (listens, mut address) = mpsc::unbounded_channel();
    let came = Arc::new(AtomicUsize::new(0));
    let now = DateTime::from_timestamp(2_000_000_000, 0).unwrap();
    let env = Env {
        clock: Arc::new(Stopped(now)),
        random: Arc::new(Counted::default()),
        net: Arc::new(Watched {
            listens,
            came: came.clone(),
        }),
        ..Env::system()
    };
    let shutdown = CancellationToken::new();
    let coordinator = marquee_coordinator::run_in(config, env, shutdown.clone());
    let client = async {
        let address = address.recv().await.unwrap();
        let mut jobs = JobsClient::new(channel(&format!("http://{address}")).await);
        let body = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";
        let submitted = jobs.submit_pipeline(request("request", body)).await;
        let job = submitted.unwrap().into_inner().jobs.remove(0);
        assert_eq!(job.created_at, Some(timestamp(now)));
        assert_eq!(came.load(Ordering::Relaxed), 1);
        let process = Uuid::from_u128(1).simple();
        let connections = format!(
            "SELECT LEAST(count(*), 1) FROM pg_stat_activity WHERE application_name = 'marquee {process}'"
        );
        assert_eq!(database.number(&connections).await, 1);
        shutdown.cancel();
    };
    // One task drives both, as a simulated host does.
    let both = async { tokio::join!(coordinator, client) };
    let (ended, ()) = timeout(SOON, both).await.unwrap();
    ended.unwrap();
}
