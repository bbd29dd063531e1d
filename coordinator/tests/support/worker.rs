//! A worker that does what the test says and speaks the real protocol.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a test waits for one message of many"
)]

mod ranks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeFrom;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use marquee_domain::ids::WorkerId;
use marquee_proto::v1;
use marquee_proto::v1::RankState;
use marquee_proto::v1::coordinator_message::Body as In;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::worker_message::Body as Out;
use marquee_proto::v1::worker_session_client::WorkerSessionClient;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::SOON;

/// What the `marquee-prep` of fake workers says of its code.
const CODE: &str = "code-1";

/// (job, attempt, rank)
pub type Key = (i64, u32, u32);
type Held = Arc<Mutex<BTreeMap<Key, v1::HeldRank>>>;
type More = Arc<Mutex<v1::Heartbeat>>;

/// A worker with two CPU slots.
pub struct FakeWorker {
    pub name: String,
    id: String,
    /// Of this start of the daemon.
    instance: Uuid,
    held: Held,
    /// What its heartbeats say besides.
    more: More,
    outbox: mpsc::Sender<v1::WorkerMessage>,
    inbox: Streaming<v1::CoordinatorMessage>,
    /// Assignments that came while it waited for something else, in order.
    given: VecDeque<v1::Assign>,
    /// Ranks that it has taken before: an assignment that was on its way twice is none of another one.
    taken: BTreeSet<Key>,
    heartbeats: JoinHandle<()>,
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        self.heartbeats.abort();
    }
}

/// What a worker with two CPU slots says of itself.
pub fn hello(name: &str) -> v1::Hello {
    v1::Hello {
        worker_id: Uuid::new_v4().to_string(),
        name: name.into(),
        boot_id: Uuid::from_u128(1).to_string(),
        instance_id: Uuid::new_v4().to_string(),
        version: "test".into(),
        inventory: Some(v1::Inventory {
            hostname: name.into(),
            cpu_threads: 2,
            cpu_slots: 2,
            threads_per_slot: 1,
            address: "127.0.0.1".into(),
            flavour: "libtorch-2.11.0".into(),
            ..v1::Inventory::default()
        }),
        prep_code: CODE.into(),
        ..v1::Hello::default()
    }
}

/// Says any message first, and gives the answer where it was let in.
pub async fn say_first(
    address: &str,
    message: v1::WorkerMessage,
) -> Result<Streaming<v1::CoordinatorMessage>, Status> {
    let mut client = WorkerSessionClient::new(super::channel(address).await);
    let (outbox, outbound) = mpsc::channel(1);
    outbox.send(message).await.unwrap();
    let stream = client.connect(ReceiverStream::new(outbound)).await?;
    Ok(stream.into_inner())
}

/// Of a host: no GPUs and no labels.
const NOTHING: (Vec<v1::Gpu>, Vec<String>) = (Vec::new(), Vec::new());

impl FakeWorker {
    pub async fn connect(address: &str, name: &str) -> Self {
        Self::connect_with_code(address, name, CODE).await
    }

    /// Connects with a `marquee-prep` of this code.
    pub async fn connect_with_code(address: &str, name: &str, code: &str) -> Self {
        let id = Uuid::new_v4().to_string();
        let daemon = (id, Uuid::new_v4());
        Self::connect_as(address, name, daemon, code, Held::default(), NOTHING)
            .await
            .unwrap()
    }

    /// A worker whose host has GPUs besides.
    pub async fn connect_with_gpus(address: &str, name: &str, gpus: Vec<v1::Gpu>) -> Self {
        let id = Uuid::new_v4().to_string();
        let daemon = (id, Uuid::new_v4());
        Self::connect_as(
            address,
            name,
            daemon,
            CODE,
            Held::default(),
            (gpus, Vec::new()),
        )
        .await
        .unwrap()
    }

    /// A worker whose settings give its host labels.
    pub async fn connect_with_labels(address: &str, name: &str, labels: &[&str]) -> Self {
        let daemon = (Uuid::new_v4().to_string(), Uuid::new_v4());
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Self::connect_as(
            address,
            name,
            daemon,
            CODE,
            Held::default(),
            (Vec::new(), labels),
        )
        .await
        .unwrap()
    }

    /// Says what its GPUs are like.
    pub async fn say_gpus(&self, gpus: Vec<v1::GpuReading>) {
        let body = Some(Out::Gpus(v1::GpuReadings { gpus }));
        self.outbox.send(v1::WorkerMessage { body }).await.unwrap();
    }

    /// Connects again as the same worker, holding what it held.
    pub async fn reconnect(&self, address: &str) -> Result<Self, Status> {
        let (daemon, held) = ((self.id.clone(), self.instance), self.held.clone());
        Self::connect_as(address, &self.name, daemon, CODE, held, NOTHING).await
    }

    /// The same with these GPUs.
    pub async fn reconnect_with_gpus(&self, address: &str, gpus: Vec<v1::Gpu>) -> Self {
        let (daemon, held) = ((self.id.clone(), self.instance), self.held.clone());
        let host = (gpus, Vec::new());
        Self::connect_as(address, &self.name, daemon, CODE, held, host)
            .await
            .unwrap()
    }

    /// Why the coordinator ended the stream.
    pub async fn told_to_go(&mut self) -> Status {
        loop {
            match self.inbox.message().await {
                Ok(message) => assert!(message.is_some(), "the stream ends with a word"),
                Err(status) => return status,
            }
        }
    }

    /// Another daemon with this one's data folder says Hello, holding what this one holds.
    pub async fn connect_clone(&self, address: &str) -> Result<Self, Status> {
        let (daemon, held) = ((self.id.clone(), Uuid::new_v4()), self.held.clone());
        Self::connect_as(address, &self.name, daemon, CODE, held, NOTHING).await
    }

    /// What the coordinator has to say to whoever looks after this worker.
    pub async fn notice(&mut self) -> String {
        self.wait("notice", |body| match body {
            In::Notice(notice) => Some(notice.text),
            _ => None,
        })
        .await
    }

    /// A Hello that was on its way for long comes now, from a time when it held nothing. Gives the answer's stream, in
    /// which it says nothing more.
    pub async fn late_hello(&self, address: &str) -> Streaming<v1::CoordinatorMessage> {
        let hello = v1::Hello {
            worker_id: self.id.clone(),
            instance_id: self.instance.to_string(),
            ..hello(&self.name)
        };
        let body = Some(Out::Hello(hello));
        say_first(address, v1::WorkerMessage { body })
            .await
            .unwrap()
    }

    pub async fn try_connect(address: &str, name: &str) -> Result<Self, Status> {
        let daemon = (Uuid::new_v4().to_string(), Uuid::new_v4());
        Self::connect_as(address, name, daemon, CODE, Held::default(), NOTHING).await
    }

    async fn connect_as(
        address: &str,
        name: &str,
        (id, instance): (String, Uuid),
        code: &str,
        held: Held,
        (gpus, labels): (Vec<v1::Gpu>, Vec<String>),
    ) -> Result<Self, Status> {
        let mut client = WorkerSessionClient::new(super::channel(address).await);
        let (outbox, outbound) = mpsc::channel(64);
        let mut hello = v1::Hello {
            worker_id: id.clone(),
            instance_id: instance.to_string(),
            held: held.lock().unwrap().values().cloned().collect(),
            prep_code: code.into(),
            features: vec![
                v1::WorkerFeature::Secrets.into(),
                v1::WorkerFeature::BurnIn.into(),
            ],
            ..hello(name)
        };
        if let Some(inventory) = &mut hello.inventory {
            inventory.gpus = gpus;
            inventory.labels = labels;
        }
        outbox
            .send(v1::WorkerMessage {
                body: Some(Out::Hello(hello)),
            })
            .await
            .unwrap();
        let inbox = client
            .connect(ReceiverStream::new(outbound))
            .await?
            .into_inner();
        let mut worker = Self {
            given: VecDeque::new(),
            taken: BTreeSet::new(),
            name: name.into(),
            id,
            instance,
            held: held.clone(),
            more: More::default(),
            heartbeats: tokio::spawn(async {}),
            outbox: outbox.clone(),
            inbox,
        };
        let every = worker
            .wait("welcome", |body| match body {
                In::Welcome(welcome) => Some(welcome.heartbeat_every_ms),
                _ => None,
            })
            .await;
        let more = worker.more.clone();
        worker.heartbeats = tokio::spawn(heartbeats(outbox, held, more, 1.., every));
        Ok(worker)
    }

    /// The first message that `wanted` takes; others are passed over.
    async fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(In) -> Option<T>) -> T {
        let found = timeout(SOON, async {
            loop {
                let message = self
                    .inbox
                    .message()
                    .await
                    .unwrap()
                    .expect("the stream goes on");
                let body = message.body.unwrap();
                if let Some(found) = wanted(body.clone()) {
                    return found;
                }
                if let In::Assign(assign) = body {
                    self.given.push_back(assign);
                }
            }
        });
        found
            .await
            .unwrap_or_else(|_| panic!("worker {} got no {what} in time", self.name))
    }

    /// Takes the next assignment of a rank that it does not hold yet.
    pub async fn take(&mut self) -> v1::Assign {
        let (held, taken) = (self.held.clone(), self.taken.clone());
        let is_new = |assign: &v1::Assign| {
            let key = key_of(assign);
            !held.lock().unwrap().contains_key(&key) && !taken.contains(&key)
        };
        self.given.retain(is_new);
        let assign = match self.given.pop_front() {
            Some(assign) => assign,
            None => {
                self.wait("assignment", |body| match body {
                    In::Assign(assign) => is_new(&assign).then_some(assign),
                    _ => None,
                })
                .await
            }
        };
        self.taken.insert(key_of(&assign));
        let (job_id, attempt, rank) = key_of(&assign);
        let state = RankState::Assigned.into();
        let rank = v1::HeldRank {
            job_id,
            attempt,
            rank,
            state,
            last_sequence: 0,
            ..v1::HeldRank::default()
        };
        self.held.lock().unwrap().insert(key_of(&assign), rank);
        assign
    }

    /// The next assignment that comes, of whatever rank.
    pub async fn next_assignment(&mut self) -> v1::Assign {
        self.wait("assignment", |body| match body {
            In::Assign(assign) => Some(assign),
            _ => None,
        })
        .await
    }

    pub fn id(&self) -> WorkerId {
        self.id.parse().unwrap()
    }

    /// Takes the next assignment, prepares it, and waits for its start.
    pub async fn take_and_start(&mut self) -> Key {
        let assign = self.take().await;
        let key = key_of(&assign);
        self.prepare(&assign).await;
        self.started(key).await;
        self.stored(key).await;
        key
    }

    pub async fn prepare(&mut self, assign: &v1::Assign) {
        let at = v1::Rendezvous {
            host: "127.0.0.1".into(),
            port: 4711,
        };
        let rendezvous = assign.hosts_rendezvous.then_some(at);
        self.report(
            key_of(assign),
            Body::Prepared(v1::RankPrepared { rendezvous }),
        )
        .await;
    }

    /// Waits for a Start and reports that the child runs.
    pub async fn started(&mut self, key: Key) -> v1::Start {
        let start = self
            .wait("start", |body| match body {
                In::Start(s) => ((s.job_id, s.attempt, s.rank) == key).then_some(s),
                _ => None,
            })
            .await;
        self.report(key, Body::Started(v1::RankStarted { pid: 42 }))
            .await;
        start
    }

    pub async fn send(&mut self, body: Out) {
        self.outbox
            .send(v1::WorkerMessage { body: Some(body) })
            .await
            .unwrap();
    }
}

async fn heartbeats(
    outbox: mpsc::Sender<v1::WorkerMessage>,
    held: Held,
    more: More,
    numbers: RangeFrom<u64>,
    every_ms: u32,
) {
    for sequence in numbers {
        tokio::time::sleep(Duration::from_millis(every_ms.into())).await;
        let held = held.lock().unwrap().values().cloned().collect();
        let heartbeat = v1::Heartbeat {
            sequence,
            held,
            ..more.lock().unwrap().clone()
        };
        let message = v1::WorkerMessage {
            body: Some(Out::Heartbeat(heartbeat)),
        };
        if outbox.send(message).await.is_err() {
            return;
        }
    }
}

pub fn key_of(assign: &v1::Assign) -> Key {
    (assign.job_id, assign.attempt, assign.rank)
}

fn state_after(body: &Body) -> Option<RankState> {
    match body {
        Body::Prepared(_) => Some(RankState::Prepared),
        Body::Started(_) => Some(RankState::Running),
        Body::Finished(_) => Some(RankState::Finished),
        Body::Failed(_) => Some(RankState::Failed),
        Body::Stopped(_) => Some(RankState::Stopped),
        Body::Progress(_)
        | Body::Metrics(_)
        | Body::Log(_)
        | Body::Checkpoint(_)
        | Body::Regrouped(_) => None,
    }
}

#[allow(clippy::disallowed_methods, reason = "the test is the worker's clock")]
fn now() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}
