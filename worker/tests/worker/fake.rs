//! A coordinator that remembers everything and decides nothing: the real gRPC services, driven by
//! the test.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use marquee_domain::artifact::{Digest, FileEntry, Manifest};
use marquee_proto::error::not_leading;
use marquee_proto::v1::artifacts_server::{Artifacts, ArtifactsServer};
use marquee_proto::v1::coordinator_message::Body as ToWorker;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::upload_blob_request::Part;
use marquee_proto::v1::worker_message::Body as FromWorker;
use marquee_proto::v1::worker_session_server::{WorkerSession, WorkerSessionServer};
use marquee_proto::v1::{self};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// How long a test waits for what must happen: far more than it takes, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

type Sender = mpsc::Sender<Result<v1::CoordinatorMessage, Status>>;

pub(crate) type Key = (i64, u32, u32);

/// What the coordinator has seen and how it shall behave.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) hellos: Vec<v1::Hello>,
    pub(crate) goodbyes: usize,
    /// The newest readings of GPUs, and how often some came.
    pub(crate) gpus: Vec<v1::GpuReading>,
    pub(crate) gpu_messages: usize,
    /// The newest heartbeat's list.
    pub(crate) held: Vec<v1::HeldRank>,
    /// Each rank's reports in order, each once.
    pub(crate) reports: BTreeMap<Key, Vec<v1::Report>>,
    /// Reports that came with a number above the next one.
    pub(crate) gaps: usize,
    /// Reports that came again.
    pub(crate) repeated: usize,
    pub(crate) blobs: HashMap<String, Vec<u8>>,
    /// (digest, offset) of each download.
    pub(crate) downloads: Vec<(String, u64)>,
    pub(crate) uploads: usize,
    /// What uploads that broke have left, by digest.
    pub(crate) begun: HashMap<String, Vec<u8>>,
    /// (digest, offset) of each upload that was begun.
    pub(crate) offsets: Vec<(String, u64)>,
    /// The next upload breaks after this many bytes, which stay.
    pub(crate) cut_upload_after: Option<usize>,
    /// Uploads that were refused since the disk is full.
    pub(crate) refusals: usize,
    /// How often it was asked which blobs it lacks.
    pub(crate) questions: usize,
    /// Outputs that it keeps, as its newest heartbeat says.
    pub(crate) kept: Vec<v1::KeptOutput>,
    pub(crate) rescued: Vec<v1::Rescued>,
    /// Its daemon is being stopped, as its newest heartbeat says.
    pub(crate) leaving: bool,
    /// How many ranks had ended when it first said so.
    pub(crate) ends_at_leaving: Option<usize>,
    /// The disk is full: uploads are refused.
    pub(crate) is_full: bool,
    /// No acknowledgements while set.
    pub(crate) silent: bool,
    /// Heartbeats are answered, and leases are so long.
    pub(crate) lease_ms: Option<u32>,
    /// The newest heartbeat says that the daemon will be replaced within so long.
    pub(crate) away_ms: u32,
    /// Downloads stop after this many bytes, without an end, and then hang.
    pub(crate) stall_after: Option<usize>,
    /// The next download breaks after this many bytes.
    pub(crate) break_after: Option<usize>,
    /// The epoch that its messages carry.
    pub(crate) epoch: u64,
    /// It stands by: a Hello is refused, with the address of the one that leads, if there is one.
    pub(crate) stands_by: Option<Option<String>>,
    /// Hellos that were refused.
    pub(crate) sent_away: usize,
    sender: Option<Sender>,
}

impl State {
    /// Ranks that have ended.
    fn ends(&self) -> usize {
        let is_last =
            |body: &Body| matches!(body, Body::Finished(_) | Body::Failed(_) | Body::Stopped(_));
        let ended = self.reports.keys().filter(|key| has(self, **key, is_last));
        ended.count()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
    server: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
            changed: Arc::new(watch::Sender::new(0)),
            server: Arc::default(),
        };
        fake.serve(listener);
        fake
    }

    fn serve(&self, listener: TcpListener) {
        let server = tonic::transport::Server::builder()
            .add_service(WorkerSessionServer::new(self.clone()).max_decoding_message_size(1 << 23))
            .add_service(ArtifactsServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { server.await.unwrap() });
        *self.server.lock().unwrap() = Some(task);
    }

    /// Goes away with all its connections; what it stored it keeps.
    pub(crate) async fn go_away(&self) {
        let server = self.server.lock().unwrap().take().unwrap();
        server.abort();
        let _aborted = server.await;
        self.break_session();
    }

    pub(crate) async fn come_back(&self) {
        for _ in 0..100 {
            match TcpListener::bind(self.address).await {
                Ok(listener) => return self.serve(listener),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("the port is taken");
    }

    /// Ends the worker's session; it may come back at once.
    pub(crate) fn break_session(&self) {
        self.change(|state| state.sender = None);
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_modify(|n| *n += 1);
    }

    /// Waits until something is true of the state.
    pub(crate) async fn until(&self, what: &str, is_true: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            while !is_true(&self.state()) {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("waited in vain for {what}; state: {:#?}", self.summary());
        }
    }

    fn summary(&self) -> BTreeMap<Key, Vec<String>> {
        let state = self.state();
        let of = |r: &v1::Report| format!("{:?}", r.body).chars().take(200).collect();
        state
            .reports
            .iter()
            .map(|(k, v)| (*k, v.iter().rev().take(10).map(of).collect()))
            .collect()
    }

    pub(crate) async fn tell(&self, body: ToWorker) {
        self.until("a session", |state| state.sender.is_some())
            .await;
        let (sender, epoch) = {
            let state = self.state();
            (state.sender.clone().unwrap(), state.epoch)
        };
        sender
            .send(Ok(v1::CoordinatorMessage {
                body: Some(body),
                epoch,
            }))
            .await
            .unwrap();
    }

    /// Stores a file as the coordinator would.
    pub(crate) fn put(&self, path: &str, bytes: &[u8]) -> FileEntry {
        let digest = Digest::of(bytes);
        self.state()
            .blobs
            .insert(digest.to_string(), bytes.to_vec());
        FileEntry {
            path: path.into(),
            size_bytes: bytes.len() as u64,
            digest,
        }
    }

    pub(crate) fn bodies(&self, key: Key) -> Vec<Body> {
        let state = self.state();
        let reports = state.reports.get(&key).into_iter().flatten();
        reports.filter_map(|report| report.body.clone()).collect()
    }

    pub(crate) async fn until_prepared(&self, key: Key) -> Option<v1::Rendezvous> {
        self.until("RankPrepared", |state| {
            has(state, key, |body| matches!(body, Body::Prepared(_)))
        })
        .await;
        let prepared = self.bodies(key).into_iter().find_map(|body| match body {
            Body::Prepared(prepared) => Some(prepared),
            _ => None,
        });
        prepared.unwrap().rendezvous
    }

    pub(crate) async fn until_running(&self, key: Key) -> u32 {
        self.until("RankStarted", |state| {
            has(state, key, |body| matches!(body, Body::Started(_)))
        })
        .await;
        let started = self.bodies(key).into_iter().find_map(|body| match body {
            Body::Started(started) => Some(started.pid),
            _ => None,
        });
        started.unwrap()
    }

    /// Waits for a rank's last report.
    pub(crate) async fn until_ended(&self, key: Key) -> Body {
        let is_last =
            |body: &Body| matches!(body, Body::Finished(_) | Body::Failed(_) | Body::Stopped(_));
        self.until("a last report", |state| has(state, key, is_last))
            .await;
        let bodies = self.bodies(key);
        assert_eq!(
            bodies.iter().filter(|body| is_last(body)).count(),
            1,
            "one end"
        );
        assert!(
            is_last(bodies.last().unwrap()),
            "the end is the last report"
        );
        bodies.last().unwrap().clone()
    }

    pub(crate) async fn until_nothing_is_held(&self) {
        self.until("an empty heartbeat", |state| state.held.is_empty())
            .await;
    }

    /// A rank's log lines of both streams.
    pub(crate) fn log(&self, key: Key) -> Vec<String> {
        let lines = self.bodies(key).into_iter().filter_map(|body| match body {
            Body::Log(log) => Some(log.lines),
            _ => None,
        });
        lines.flatten().collect()
    }

    /// The files of a manifest, as stored.
    pub(crate) fn files(&self, manifest: &v1::Manifest) -> BTreeMap<String, String> {
        let state = self.state();
        let file = |entry: &v1::FileEntry| {
            let bytes = state
                .blobs
                .get(&entry.digest)
                .expect("the blob was uploaded first");
            (
                entry.path.clone(),
                String::from_utf8(bytes.clone()).unwrap(),
            )
        };
        manifest.files.iter().map(file).collect()
    }

    /// Answers Hello; only then may the test speak to the worker.
    async fn greet(&self, hello: v1::Hello, sender: &Sender) {
        let lease_ms = self.state().lease_ms;
        let welcome = v1::Welcome {
            heartbeat_every_ms: 100,
            lease_ms: lease_ms.unwrap_or(10_000),
            keeps_leases: lease_ms.is_some(),
            version: "test".into(),
            ..v1::Welcome::default()
        };
        let stored = |rank: &v1::HeldRank| {
            let key = (rank.job_id, rank.attempt, rank.rank);
            let stored = self.state().reports.get(&key).map_or(0, Vec::len);
            ToWorker::Ack(ack((key, stored as u64)))
        };
        let acks: Vec<ToWorker> = hello.held.iter().map(stored).collect();
        let epoch = self.state().epoch;
        send(
            sender,
            epoch,
            std::iter::once(ToWorker::Welcome(welcome)).chain(acks),
        )
        .await;
        self.change(|state| {
            state.held = hello.held.clone();
            state.hellos.push(hello);
            state.sender = Some(sender.clone());
        });
    }

    fn take(&self, reports: Vec<v1::Report>) -> Vec<v1::Ack> {
        let mut acks = BTreeMap::new();
        self.change(|state| {
            for report in reports {
                let key = (report.job_id, report.attempt, report.rank);
                let stored = state.reports.entry(key).or_default();
                let next = stored.len() as u64 + 1;
                match report.sequence.cmp(&next) {
                    std::cmp::Ordering::Equal => stored.push(report),
                    std::cmp::Ordering::Less => state.repeated += 1,
                    std::cmp::Ordering::Greater => state.gaps += 1,
                }
                acks.insert(key, state.reports[&key].len() as u64);
            }
        });
        acks.into_iter().map(ack).collect()
    }
}

fn ack((key, sequence): (Key, u64)) -> v1::Ack {
    v1::Ack {
        job_id: key.0,
        attempt: key.1,
        rank: key.2,
        sequence,
    }
}

async fn send(sender: &Sender, epoch: u64, bodies: impl IntoIterator<Item = ToWorker>) {
    for body in bodies {
        // A worker that left hears nothing.
        let _sent = sender
            .send(Ok(v1::CoordinatorMessage {
                body: Some(body),
                epoch,
            }))
            .await;
    }
}

pub(crate) fn has(state: &State, key: Key, fits: impl Fn(&Body) -> bool) -> bool {
    let reports = state.reports.get(&key).into_iter().flatten();
    reports.filter_map(|report| report.body.as_ref()).any(fits)
}

pub(crate) fn manifest(files: Vec<FileEntry>) -> Manifest {
    Manifest::new(files).unwrap()
}

#[tonic::async_trait]
impl WorkerSession for Fake {
    type ConnectStream = ReceiverStream<Result<v1::CoordinatorMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let leader = self.state().stands_by.clone();
        if let Some(leader) = leader {
            self.change(|state| state.sent_away += 1);
            return Err(not_leading("this one stands by", leader.as_deref()));
        }
        let (sender, receiver) = mpsc::channel(64);
        let (fake, mut stream) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let Some(Ok(message)) = stream.next().await else {
                return;
            };
            let Some(FromWorker::Hello(hello)) = message.body else {
                panic!("not Hello first")
            };
            fake.greet(hello, &sender).await;
            while let Some(Ok(message)) = stream.next().await {
                // Only the session that is current may speak: a broken one ends here.
                let current = fake.state().sender.clone();
                if !current.is_some_and(|current| current.same_channel(&sender)) {
                    return;
                }
                match message.body.unwrap() {
                    FromWorker::Hello(_) => panic!("a second Hello"),
                    FromWorker::Heartbeat(beat) => {
                        let (keeps_leases, epoch) = {
                            let state = fake.state();
                            (state.lease_ms.is_some(), state.epoch)
                        };
                        if keeps_leases {
                            let sequence = beat.sequence;
                            let seen = v1::HeartbeatSeen { sequence };
                            send(&sender, epoch, [ToWorker::HeartbeatSeen(seen)]).await;
                        }
                        fake.change(|state| {
                            state.away_ms = beat.away_ms;
                            state.held = beat.held;
                            state.kept = beat.kept;
                            state.leaving = beat.leaving;
                            let ends = state.ends();
                            if beat.leaving {
                                state.ends_at_leaving.get_or_insert(ends);
                            }
                        });
                    }
                    FromWorker::Rescued(rescued) => {
                        fake.change(|state| state.rescued.push(rescued));
                    }
                    FromWorker::Reports(reports) => {
                        let acks = fake.take(reports.reports);
                        let (silent, epoch) = {
                            let state = fake.state();
                            (state.silent, state.epoch)
                        };
                        if !silent {
                            send(&sender, epoch, acks.into_iter().map(ToWorker::Ack)).await;
                        }
                    }
                    FromWorker::Gpus(readings) => fake.change(|state| {
                        state.gpus = readings.gpus;
                        state.gpu_messages += 1;
                    }),
                    FromWorker::Goodbye(_) => {
                        fake.change(|state| state.goodbyes += 1);
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

type Chunks =
    std::pin::Pin<Box<dyn Stream<Item = Result<v1::DownloadBlobResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Artifacts for Fake {
    type DownloadBlobStream = Chunks;

    async fn list_artifacts(
        &self,
        _: Request<v1::ListArtifactsRequest>,
    ) -> Result<Response<v1::ListArtifactsResponse>, Status> {
        Err(Status::unimplemented("no worker asks"))
    }

    async fn get_artifact(
        &self,
        _: Request<v1::GetArtifactRequest>,
    ) -> Result<Response<v1::Artifact>, Status> {
        Err(Status::unimplemented("no worker asks"))
    }

    async fn find_missing_blobs(
        &self,
        request: Request<v1::FindMissingBlobsRequest>,
    ) -> Result<Response<v1::FindMissingBlobsResponse>, Status> {
        self.change(|state| state.questions += 1);
        let state = self.state();
        let v1::FindMissingBlobsRequest {
            digests,
            with_begun,
        } = request.into_inner();
        let digests: Vec<String> = digests
            .into_iter()
            .filter(|digest| !state.blobs.contains_key(digest))
            .collect();
        let begun = digests.iter().filter(|_| with_begun).filter_map(|digest| {
            let received_bytes = state.begun.get(digest)?.len() as u64;
            let digest = digest.clone();
            Some(v1::BegunBlob {
                digest,
                received_bytes,
            })
        });
        let begun = begun.collect();
        Ok(Response::new(v1::FindMissingBlobsResponse {
            digests,
            begun,
        }))
    }

    async fn upload_blob(
        &self,
        request: Request<Streaming<v1::UploadBlobRequest>>,
    ) -> Result<Response<v1::UploadBlobResponse>, Status> {
        let mut stream = request.into_inner();
        let (mut header, mut bytes) = (None, Vec::new());
        while let Some(message) = stream.message().await? {
            match message.part.unwrap() {
                Part::Header(first) => {
                    self.change(|state| {
                        state.offsets.push((first.digest.clone(), first.offset));
                        bytes = state.begun.remove(&first.digest).unwrap_or_default();
                    });
                    if bytes.len() as u64 != first.offset {
                        return Err(Status::unavailable("it stands elsewhere"));
                    }
                    header = Some(first);
                }
                Part::Chunk(chunk) => bytes.extend(chunk),
            }
            let cut = self.state().cut_upload_after;
            if let (Some(after), Some(header)) = (cut, &header)
                && bytes.len() >= after
            {
                bytes.truncate(after);
                self.change(|state| {
                    state.cut_upload_after = None;
                    state.begun.insert(header.digest.clone(), bytes);
                });
                return Err(Status::unavailable("the connection broke"));
            }
        }
        let header = header.ok_or_else(|| Status::invalid_argument("no header"))?;
        if self.state().is_full {
            self.change(|state| state.refusals += 1);
            return Err(Status::resource_exhausted("no room for 75 MiB"));
        }
        if header.size_bytes != bytes.len() as u64 || header.digest != Digest::of(&bytes).as_str() {
            return Err(Status::data_loss("not what was announced"));
        }
        self.change(|state| {
            state.uploads += 1;
            state.blobs.insert(header.digest, bytes);
        });
        Ok(Response::new(v1::UploadBlobResponse {}))
    }

    async fn remove_artifact(
        &self,
        _: Request<v1::RemoveArtifactRequest>,
    ) -> Result<Response<v1::Removed>, Status> {
        Err(Status::unimplemented("no worker asks"))
    }

    async fn rescue_output(
        &self,
        _: Request<v1::RescueOutputRequest>,
    ) -> Result<Response<v1::Artifact>, Status> {
        Err(Status::unimplemented("no worker asks"))
    }

    async fn download_blob(
        &self,
        request: Request<v1::DownloadBlobRequest>,
    ) -> Result<Response<Chunks>, Status> {
        let request = request.into_inner();
        let mut end = None;
        let mut bytes = Vec::new();
        self.change(|state| {
            state
                .downloads
                .push((request.digest.clone(), request.offset));
            let blob = state.blobs.get(&request.digest).cloned();
            end = blob.is_none().then(|| Status::not_found("no such blob"));
            bytes = blob
                .unwrap_or_default()
                .split_off(usize::try_from(request.offset).unwrap());
            if let Some(after) = state.break_after.take() {
                bytes.truncate(after);
                end = Some(Status::unavailable("the connection broke"));
            }
        });
        let stall_after = self.state().stall_after;
        if let Some(after) = stall_after {
            bytes.truncate(after);
        }
        let chunks: Vec<_> = bytes
            .chunks(256 * 1024)
            .map(|chunk| {
                Ok(v1::DownloadBlobResponse {
                    chunk: Bytes::copy_from_slice(chunk),
                })
            })
            .chain(end.map(Err))
            .collect();
        let stream = tokio_stream::iter(chunks);
        if stall_after.is_some() {
            return Ok(Response::new(Box::pin(
                stream.chain(tokio_stream::pending()),
            )));
        }
        Ok(Response::new(Box::pin(stream)))
    }
}
