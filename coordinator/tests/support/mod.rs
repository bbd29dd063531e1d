//! A coordinator in this process, on a database of its own, tried from the outside: over gRPC.

#![allow(unreachable_pub, reason = "what tests share reads as an API")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(missing_debug_implementations, reason = "no test prints them")]

pub mod worker;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use marquee_coordinator::app::CHANGES_MAX;
use marquee_coordinator::backup::dumps::Dumps;
use marquee_coordinator::blobs::BlobStore;
use marquee_coordinator::env::{Env, Listener};
use marquee_coordinator::faults::Faults;
use marquee_coordinator::rates::Rates;
use marquee_coordinator::role::Role;
use marquee_coordinator::secrets::SecretKeys;
use marquee_coordinator::session::{Counter, Sessions};
use marquee_coordinator::trust::authority::Files;
use marquee_coordinator::walls::Walls;
use marquee_coordinator::{App, Settings, background, rpc};
use marquee_domain::artifact::Digest;
use marquee_domain::limits::ELEMENTS_AHEAD;
use marquee_proto::v1;
use marquee_proto::v1::JobState;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_store::testing::TestDatabase;
use tokio::sync::{Notify, broadcast};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use worker::FakeWorker;

/// How long anything that must happen may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);
pub const LEASE: Duration = Duration::from_millis(1500);
/// The file for keys of secrets, which is not there until a test makes it.
const SECRETS_KEY: &str = "secrets.key";

/// A coordinator and all it stands on.
pub struct Cluster {
    pub database: TestDatabase,
    pub running: Running,
    blobs: tempfile::TempDir,
    ground: Ground,
}

/// What a test gives to a coordinator beside Postgres and its surroundings.
#[derive(Clone, Default)]
pub struct Ground {
    /// Where it keeps files; None: in a folder.
    pub blobs: Option<BlobStore>,
    /// The authority by which workers join.
    pub authority: Option<Files>,
    /// For how long GPUs in quarantine are tested by themselves.
    pub burn_in_minutes: Option<u32>,
    /// How many elements of an array are jobs before their turn.
    pub elements_ahead: Option<u32>,
    /// Where its Postgres' programs are said to be; None: they are found.
    pub postgres_bin: Option<std::path::PathBuf>,
}

/// One life of a coordinator.
pub struct Running {
    pub app: App,
    pub address: String,
    server: JoinHandle<()>,
    loops: JoinSet<()>,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_on(TestDatabase::create().await).await
    }

    pub async fn start_on(database: TestDatabase) -> Self {
        Self::start_in(database, Env::system()).await
    }

    /// Starts a coordinator in surroundings of the test's own.
    pub async fn start_in(database: TestDatabase, env: Env) -> Self {
        Self::start_with(database, env, Ground::default()).await
    }

    /// Starts a coordinator on what the test gives.
    pub async fn start_with(database: TestDatabase, env: Env, ground: Ground) -> Self {
        let blobs = tempfile::tempdir().unwrap();
        let running = run(&database, &blobs, env, &ground).await;
        Self {
            database,
            running,
            blobs,
            ground,
        }
    }

    /// Starts another coordinator on what a killed one left.
    pub async fn start_again(&mut self) {
        self.running = run(&self.database, &self.blobs, Env::system(), &self.ground).await;
    }

    /// Where a stored file lies.
    pub fn blob(&self, contents: &[u8]) -> std::path::PathBuf {
        self.app().blobs.path(&Digest::of(contents))
    }

    /// The keys for secrets from now on.
    pub fn write_keys(&self, lines: &[&str]) {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.blobs.path().join(SECRETS_KEY);
        std::fs::write(&file, lines.join("\n")).unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Starts another coordinator that answers, and does nothing by itself.
    pub async fn start_idle(&mut self) {
        self.start_idle_in(Env::system()).await;
    }

    /// The same in surroundings of the test's own.
    pub async fn start_idle_in(&mut self, env: Env) {
        self.running = run(&self.database, &self.blobs, env, &self.ground).await;
        self.running.loops.shutdown().await;
    }

    /// Ends every task of the coordinator where it stands.
    pub async fn kill(&mut self) {
        self.running.loops.shutdown().await;
        self.running.server.abort();
        self.running.app.shutdown.cancel();
        let _ = (&mut self.running.server).await;
    }

    pub fn app(&self) -> &App {
        &self.running.app
    }

    pub async fn jobs(&self) -> JobsClient<Channel> {
        JobsClient::new(channel(&self.running.address).await)
    }

    pub async fn worker(&self, name: &str) -> FakeWorker {
        FakeWorker::connect(&self.running.address, name).await
    }

    /// A worker whose `marquee-prep` says that it has this code.
    pub async fn worker_with_code(&self, name: &str, code: &str) -> FakeWorker {
        FakeWorker::connect_with_code(&self.running.address, name, code).await
    }

    /// Takes a stored file away, as a broken disk would.
    pub fn lose_blob(&self, contents: &[u8]) {
        let digest = Digest::of(contents);
        let mut folders = vec![self.blobs.path().to_owned()];
        let mut lost = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.to_string_lossy().ends_with(&digest.as_str()[8..]) {
                    std::fs::remove_file(path).unwrap();
                    lost += 1;
                }
            }
        }
        assert_eq!(lost, 1, "the file was there");
    }

    /// Submits a pipeline of command jobs; `body` stands under `[jobs]`.
    pub async fn submit(&self, body: &str) -> Vec<v1::Job> {
        let request = request(&format!("request-{}", uuid::Uuid::new_v4()), body);
        self.jobs()
            .await
            .submit_pipeline(request)
            .await
            .unwrap()
            .into_inner()
            .jobs
    }

    pub async fn job(&self, id: i64) -> v1::Job {
        self.detail(id).await.job.unwrap()
    }

    /// The elements of an array that are jobs, in the order of their indexes.
    pub async fn elements(&self, array: i64) -> Vec<v1::Job> {
        let request = v1::ListJobsRequest {
            array_job_id: array,
            ..Default::default()
        };
        let listed = self.jobs().await.list_jobs(request).await.unwrap();
        let mut jobs = listed.into_inner().jobs;
        jobs.reverse();
        jobs
    }

    pub async fn cancel(&self, id: i64) -> Result<v1::Job, Status> {
        let request = v1::CancelJobRequest { id };
        let answer = self.jobs().await.cancel_job(request).await?;
        Ok(answer.into_inner())
    }

    pub async fn retry(&self, id: i64) -> Result<v1::Job, Status> {
        let request = v1::RetryJobRequest { id };
        let answer = self.jobs().await.retry_job(request).await?;
        Ok(answer.into_inner())
    }

    pub async fn detail(&self, id: i64) -> v1::JobDetail {
        self.jobs()
            .await
            .get_job(v1::GetJobRequest { id })
            .await
            .unwrap()
            .into_inner()
    }

    /// Waits until a job is in `state`, by watching it.
    pub async fn wait_for(&self, id: i64, state: JobState) -> v1::Job {
        self.wait_until(id, state.as_str_name(), |job| job.state() == state)
            .await
    }

    /// Waits until a job is as `wanted` says.
    pub async fn wait_until(
        &self,
        id: i64,
        what: &str,
        wanted: impl Fn(&v1::Job) -> bool,
    ) -> v1::Job {
        let request = v1::WatchRequest {
            job_ids: vec![id],
            keep_open: true,
            pipeline_id: 0,
        };
        let mut stream = self.jobs().await.watch(request).await.unwrap().into_inner();
        let mut last = None;
        let found = timeout(SOON, async {
            while let Some(update) = stream.message().await.unwrap() {
                let job = update.job.unwrap();
                if wanted(&job) {
                    return job;
                }
                last = Some(job);
            }
            panic!("the watch ended before job {id} was {what}");
        });
        found
            .await
            .unwrap_or_else(|_| panic!("job {id} was not {what} in time; last: {last:?}"))
    }

    /// Stores a file as an upload would, and gives its manifest.
    pub async fn output(&self, path: &str, contents: &'static [u8]) -> v1::Manifest {
        let digest = Digest::of(contents);
        let size_bytes = contents.len() as u64;
        let mut blob = self
            .app()
            .blobs
            .write(digest.clone(), size_bytes)
            .await
            .unwrap();
        blob.push(Bytes::from_static(contents)).await.unwrap();
        blob.finish().await.unwrap();
        manifest(path, contents)
    }

    pub async fn workers(&self) -> Vec<v1::Worker> {
        let mut client = WorkersClient::new(channel(&self.running.address).await);
        let request = v1::ListWorkersRequest {};
        client
            .list_workers(request)
            .await
            .unwrap()
            .into_inner()
            .workers
    }

    pub async fn logs(&self, request: v1::LogsRequest) -> Vec<String> {
        let mut stream = self.jobs().await.logs(request).await.unwrap().into_inner();
        let mut lines = Vec::new();
        let all = async {
            while let Some(line) = stream.message().await.unwrap() {
                lines.push(line.text);
            }
        };
        timeout(SOON, all).await.expect("the stream of lines ends");
        lines
    }
}

/// The elements of an array: waiting, queued, running, succeeded, failed, cancelled.
pub fn counts(array: &v1::Job) -> [u32; 6] {
    let of = array.elements.expect("an array has counts");
    [
        of.waiting,
        of.queued,
        of.running,
        of.succeeded,
        of.failed,
        of.cancelled,
    ]
}

pub async fn channel(address: &str) -> Channel {
    Endpoint::from_shared(address.to_owned())
        .unwrap()
        .connect()
        .await
        .unwrap()
}

/// A manifest of one file.
pub fn manifest(path: &str, contents: &[u8]) -> v1::Manifest {
    let digest = Digest::of(contents).to_string();
    let size_bytes = contents.len() as u64;
    v1::Manifest {
        files: vec![v1::FileEntry {
            path: path.into(),
            size_bytes,
            digest,
        }],
        ..v1::Manifest::default()
    }
}

pub fn request(request_id: &str, body: &str) -> v1::SubmitPipelineRequest {
    let toml = format!("name = \"test\"\n{body}");
    v1::SubmitPipelineRequest {
        request_id: request_id.into(),
        document: Some(v1::Document {
            format: Some(v1::document::Format::Toml(toml)),
        }),
        overrides: vec![],
        dry_run: false,
    }
}

async fn run(
    database: &TestDatabase,
    blobs: &tempfile::TempDir,
    env: Env,
    ground: &Ground,
) -> Running {
    let mut conn = database.db.read().await.unwrap();
    let rates = Rates::load(&mut conn, env.clock.now()).await.unwrap();
    let cluster = marquee_store::cluster::get_cluster_id(&mut conn)
        .await
        .unwrap();
    drop(conn);
    let app = App {
        db: database.db.clone(),
        blobs: match &ground.blobs {
            Some(given) => given.clone(),
            None => BlobStore::open(blobs.path().join("blobs")).await.unwrap(),
        },
        clock: env.clock.clone(),
        random: env.random.clone(),
        planner: env.planner,
        wake: Arc::new(Notify::new()),
        changes: broadcast::channel(CHANGES_MAX).0,
        index: Arc::default(),
        reports: Counter::default(),
        sessions: Sessions::default(),
        rates,
        faults: Faults::default(),
        secret_keys: SecretKeys::at(Some(blobs.path().join(SECRETS_KEY))),
        dumps: Dumps::elsewhere(
            &database.url,
            blobs.path().to_owned(),
            ground.postgres_bin.clone(),
        ),
        cluster,
        process: env.random.uuid(),
        settings: Settings {
            lease: LEASE,
            heartbeat_every: Duration::from_millis(100),
            poll_every: Duration::from_millis(100),
            stop_grace: Duration::from_millis(100),
            settle: Duration::from_millis(300),
            burn_in_minutes: ground.burn_in_minutes,
            elements_ahead: ground.elements_ahead.unwrap_or(ELEMENTS_AHEAD),
            ..Settings::default()
        },
        role: Role::default(),
        walls: Walls {
            authority: ground.authority.clone(),
            ..Walls::default()
        },
        shutdown: CancellationToken::new(),
    };
    let at = "127.0.0.1:0".parse().unwrap();
    let listener = env.net.listen(at).await.unwrap();
    // As the program does: where there are users, its own account stays in.
    let Listener {
        address,
        connections,
    } = app.walls.access.watch(listener);
    let address = format!("http://{address}");
    let router = rpc::server(&app, false).await.unwrap();
    let stop = app.shutdown.clone().cancelled_owned();
    let server = async move {
        router
            .serve_with_incoming_shutdown(connections, stop)
            .await
            .unwrap();
    };
    let loops = background::start(&app);
    Running {
        app,
        address,
        server: tokio::spawn(server),
        loops,
    }
}
