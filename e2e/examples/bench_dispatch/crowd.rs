//! Workers that only talk: real streams, and each rank is said to run and to have finished as soon as it is assigned.
//!
//! A connection carries many workers, since a coordinator takes no more than about a thousand of one address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use marquee_proto::v1;
use marquee_proto::v1::coordinator_message::Body as In;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::worker_message::Body as Out;
use marquee_proto::v1::worker_session_client::WorkerSessionClient;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::Cluster;

/// Workers of one connection: fewer than the streams that it may carry.
const ON_CONNECTION: u32 = 200;
/// Hellos under way at once.
const HELLOS_AT_ONCE: usize = 16;
/// One that is turned away comes again, as a worker would.
const HELLO_TRIES: u32 = 20;
const HELLO_AGAIN: Duration = Duration::from_millis(500);
/// Times within a heartbeat's pause at which they come.
const SPREAD: u32 = 97;
/// The program of a job that never ends and says something all the time. All others end at once.
pub(crate) const CHAT: &str = "chat";
/// How often it does, and with how many lines; each so many times it reports a metric too.
pub(crate) const CHAT_EVERY: Duration = Duration::from_millis(100);
pub(crate) const CHAT_LINES: u32 = 5;
const CHATS_OF_A_METRIC: u64 = 10;
/// Reports of one message, as a worker's.
const MESSAGE_REPORTS: usize = 256;

/// Many workers, each a stream of its own.
#[derive(Debug)]
pub(crate) struct Crowd {
    workers: JoinSet<Result<()>>,
    tally: Arc<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    beats: AtomicU64,
    lost: AtomicU64,
}

impl Crowd {
    /// Comes back when all of them have been welcomed.
    pub(crate) async fn gather(cluster: &Cluster, size: u32, slots: u32) -> Result<Self> {
        let tally = Arc::new(Tally::default());
        let mut workers = JoinSet::new();
        let mut greeted = JoinSet::new();
        let mut channel = None;
        let mut welcomes = Vec::new();
        for number in 0..size {
            if number % ON_CONNECTION == 0 || channel.is_none() {
                let endpoint = Endpoint::from_shared(cluster.url().to_owned())?;
                channel = Some(endpoint.connect().await?);
            }
            let Some(channel) = channel.clone() else {
                continue;
            };
            greeted.spawn(Simulated::greet(channel, number, slots));
            if greeted.len() >= HELLOS_AT_ONCE
                && let Some(welcome) = greeted.join_next().await
            {
                welcomes.push(welcome??);
            }
            for worker in welcomes.drain(..) {
                workers.spawn(Self::run(worker, Arc::clone(&tally)));
            }
        }
        while let Some(welcome) = greeted.join_next().await {
            workers.spawn(Self::run(welcome??, Arc::clone(&tally)));
        }
        Ok(Self { workers, tally })
    }

    async fn run(worker: Simulated, tally: Arc<Tally>) -> Result<()> {
        let done = worker.run(&tally).await;
        tally.lost.fetch_add(1, Ordering::Relaxed);
        done
    }

    pub(crate) fn beats(&self) -> u64 {
        self.tally.beats.load(Ordering::Relaxed)
    }

    pub(crate) fn lost(&self) -> u64 {
        self.tally.lost.load(Ordering::Relaxed)
    }

    pub(crate) async fn leave(mut self) -> Result<()> {
        self.workers.shutdown().await;
        Ok(())
    }
}

/// (job, attempt, rank)
type Key = (i64, u32, u32);

/// One worker that starts nothing.
#[derive(Debug)]
struct Simulated {
    outbox: mpsc::Sender<v1::WorkerMessage>,
    inbox: Streaming<v1::CoordinatorMessage>,
    every: Duration,
    number: u32,
}

/// What one worker holds.
#[derive(Debug, Default)]
struct Ranks {
    /// What the coordinator has not acknowledged the end of.
    held: BTreeMap<Key, v1::HeldRank>,
    /// How many assignments were followed.
    assignments: u64,
    /// Those that never end.
    chatty: BTreeSet<Key>,
}

#[derive(Debug, Default)]
struct Held {
    ranks: Mutex<Ranks>,
    /// Rung when the first of those that never end begins.
    talks: Notify,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Ranks> {
        self.ranks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Simulated {
    async fn greet(channel: Channel, number: u32, slots: u32) -> Result<Self> {
        for _ in 1..HELLO_TRIES {
            match Self::try_greet(channel.clone(), number, slots).await {
                Ok(welcome) => return Ok(welcome),
                // A crowd that comes all at once may find no connection to Postgres free.
                Err(_) => tokio::time::sleep(HELLO_AGAIN).await,
            }
        }
        Self::try_greet(channel, number, slots).await
    }

    async fn try_greet(channel: Channel, number: u32, slots: u32) -> Result<Self> {
        let mut client = WorkerSessionClient::new(channel);
        let (outbox, outbound) = mpsc::channel(64);
        let hello = v1::Hello {
            worker_id: format!("00000000-0000-4000-8000-{number:012x}"),
            name: format!("simulated-{number}"),
            boot_id: format!("00000000-0000-4000-9000-{number:012x}"),
            instance_id: format!("00000000-0000-4000-a000-{number:012x}"),
            version: env!("CARGO_PKG_VERSION").into(),
            inventory: Some(v1::Inventory {
                hostname: format!("simulated-{number}"),
                cpu_threads: slots,
                cpu_slots: slots,
                threads_per_slot: 1,
                address: "127.0.0.1".into(),
                ..v1::Inventory::default()
            }),
            features: vec![
                v1::WorkerFeature::StartWithAssign.into(),
                v1::WorkerFeature::Lease.into(),
            ],
            ..v1::Hello::default()
        };
        outbox.send(message(Out::Hello(hello))).await?;
        let stream = client.connect(ReceiverStream::new(outbound)).await?;
        let mut inbox = stream.into_inner();
        let welcome = inbox.message().await?.context("the stream ended at once")?;
        let Some(In::Welcome(welcome)) = welcome.body else {
            anyhow::bail!("the coordinator did not begin with Welcome");
        };
        Ok(Self {
            outbox,
            inbox,
            every: Duration::from_millis(welcome.heartbeat_every_ms.into()),
            number,
        })
    }

    async fn run(mut self, tally: &Tally) -> Result<()> {
        let held = Held::default();
        let pace = (self.every, self.number);
        let beats = heartbeats(self.outbox.clone(), &held, pace, tally);
        let chat = chat(self.outbox.clone(), &held);
        let work = async {
            while let Some(first) = self.inbox.message().await? {
                let mut reports = Vec::new();
                take(&held, first, &mut reports);
                // What has come meanwhile goes with it, as it would from a worker's spools.
                while reports.len() < MESSAGE_REPORTS
                    && let Some(next) = self.inbox.message().now_or_never()
                {
                    match next? {
                        Some(next) => take(&held, next, &mut reports),
                        None => break,
                    }
                }
                if !reports.is_empty() {
                    let reports = Out::Reports(v1::Reports { reports });
                    self.outbox.send(message(reports)).await?;
                }
            }
            Ok(())
        };
        tokio::select! {
            done = work => done,
            done = beats => done,
            done = chat => done,
        }
    }
}

/// Says what those that never end have to say.
async fn chat(outbox: mpsc::Sender<v1::WorkerMessage>, held: &Held) -> Result<()> {
    // Of ten thousand workers that have nothing to say none wakes up for it.
    held.talks.notified().await;
    let mut every = tokio::time::interval(CHAT_EVERY);
    for round in 1_u64.. {
        every.tick().await;
        let mut reports = Vec::new();
        {
            let mut ranks = held.lock();
            let Ranks { held, chatty, .. } = &mut *ranks;
            for key in chatty.iter() {
                let Some(rank) = held.get_mut(key) else {
                    continue;
                };
                let lines = (0..CHAT_LINES).map(|line| {
                    format!("step {round}: batch {line} took 0.0{line} s, loss 0.69{round}")
                });
                let mut bodies = vec![Body::Log(v1::RankLog {
                    stream: v1::log_line::Stream::Stdout.into(),
                    lines: lines.collect(),
                })];
                if round % CHATS_OF_A_METRIC == 0 {
                    bodies.push(Body::Metrics(v1::RankMetrics {
                        step: round,
                        values: [("loss".to_owned(), 0.69)].into(),
                    }));
                }
                for body in bodies {
                    rank.last_sequence += 1;
                    reports.push(report(*key, rank.last_sequence, body));
                }
            }
        }
        if !reports.is_empty() {
            let reports = Out::Reports(v1::Reports { reports });
            outbox.send(message(reports)).await?;
        }
    }
    Ok(())
}

fn report((job_id, attempt, rank): Key, sequence: u64, body: Body) -> v1::Report {
    v1::Report {
        job_id,
        attempt,
        rank,
        sequence,
        at: Some(marquee_proto::convert::timestamp(now())),
        body: Some(body),
    }
}

/// Says again and again what is held.
async fn heartbeats(
    outbox: mpsc::Sender<v1::WorkerMessage>,
    held: &Held,
    (every, number): (Duration, u32),
    tally: &Tally,
) -> Result<()> {
    for sequence in 1.. {
        let heartbeat = {
            let held = held.lock();
            v1::Heartbeat {
                sequence,
                held: held.held.values().cloned().collect(),
                assignments: Some(held.assignments),
                ..v1::Heartbeat::default()
            }
        };
        outbox.send(message(Out::Heartbeat(heartbeat))).await?;
        tally.beats.fetch_add(1, Ordering::Relaxed);
        // The first comes at once: before it nothing is assigned. From then on they are spread, as the starts of hosts
        // are.
        let wait = if sequence == 1 {
            every * (number % SPREAD + 1) / SPREAD
        } else {
            every
        };
        tokio::time::sleep(wait).await;
    }
    Ok(())
}

/// Follows one message, and adds what is to be said to it.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "a worker without children has two messages to follow"
)]
fn take(held: &Held, message: v1::CoordinatorMessage, reports: &mut Vec<v1::Report>) {
    let mut ranks = held.lock();
    match message.body {
        Some(In::Assign(to)) => {
            let key = (to.job_id, to.attempt, to.rank);
            ranks.assignments += 1;
            if ranks.held.contains_key(&key) {
                return;
            }
            let is_chatty = to.spec_json.contains(&format!("\"{CHAT}\""));
            let mut bodies = vec![Body::Started(v1::RankStarted { pid: 1 })];
            if is_chatty {
                ranks.chatty.insert(key);
                held.talks.notify_one();
            } else {
                bodies.push(Body::Finished(v1::RankFinished {
                    summary_json: "{}".into(),
                    output: None,
                }));
            }
            let said = bodies.len() as u64;
            reports.extend(
                (1..)
                    .zip(bodies)
                    .map(|(sequence, body)| report(key, sequence, body)),
            );
            let state = if is_chatty {
                v1::RankState::Running
            } else {
                v1::RankState::Finished
            };
            let rank = v1::HeldRank {
                job_id: key.0,
                attempt: key.1,
                rank: key.2,
                state: state.into(),
                last_sequence: said,
                ..v1::HeldRank::default()
            };
            ranks.held.insert(key, rank);
        }
        Some(In::Ack(ack)) => {
            let key = (ack.job_id, ack.attempt, ack.rank);
            if ack.sequence >= 2 && !ranks.chatty.contains(&key) {
                ranks.held.remove(&key);
            }
        }
        Some(In::Stop(stop)) => {
            let key = (stop.job_id, stop.attempt, stop.rank);
            ranks.held.remove(&key);
            ranks.chatty.remove(&key);
        }
        _ => {}
    }
}

fn message(body: Out) -> v1::WorkerMessage {
    v1::WorkerMessage { body: Some(body) }
}

#[allow(clippy::disallowed_methods, reason = "these workers' own clock")]
fn now() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}
