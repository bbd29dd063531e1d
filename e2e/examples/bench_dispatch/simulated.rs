//! Workers that only talk: what the coordinator and its Postgres can do when nothing is ever started. Real streams, real
//! rows; each rank is said to run and to have finished as soon as it is assigned.
//!
//! A connection carries many workers, since a coordinator takes no more than about a thousand of one address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use marquee_proto::v1;
use marquee_proto::v1::coordinator_message::Body as In;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::worker_message::Body as Out;
use marquee_proto::v1::worker_session_client::WorkerSessionClient;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::Options;
use crate::cluster::Cluster;
use crate::figure::{Figure, Goal, skip};
use crate::reference::{self, Reference};

/// Jobs that do nothing a second.
const RATE_MIN: f64 = 10_000.0;
/// Of that, what is left where a durable commit takes so long.
const SLOW_COMMITS_MIN: f64 = 0.5;
const SLOW_COMMIT_US: u32 = 4_000;
/// Workers, devices of each, and elements, of the rate.
pub(crate) const WORKERS: u32 = 16;
pub(crate) const SLOTS: u32 = 64;
const ELEMENTS: u32 = 20_000;
const QUICK_ELEMENTS: u32 = 5_000;
/// Workers that only say that they live, in steps.
const CROWDS: [u32; 3] = [100, 1_000, 10_000];
const QUICK_CROWDS: [u32; 2] = [100, 1_000];
/// A core that heartbeats of the largest crowd may cost, in CPU milliseconds a second.
const CROWD_MAX_MS: f64 = 500.0;
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
const ENDS_WITHIN: Duration = Duration::from_secs(180);
const ONLINE_WITHIN: Duration = Duration::from_secs(180);

pub(crate) async fn measure(options: &Options) -> Result<()> {
    rate(options).await?;
    let crowds: &[u32] = if options.is_quick {
        &QUICK_CROWDS
    } else {
        &CROWDS
    };
    for size in crowds {
        crowd(*size, options).await?;
    }
    Ok(())
}

async fn rate(options: &Options) -> Result<()> {
    let cluster = Cluster::without_worker(&options.bin).await?;
    let reference = Reference::measure(&cluster).await?;
    let crowd = Crowd::gather(&cluster, WORKERS, SLOTS).await?;
    array(&cluster, "warm-up", 200).await?;
    let elements = if options.is_quick {
        QUICK_ELEMENTS
    } else {
        ELEMENTS
    };
    let name = "no-op jobs on simulated workers";
    let Some((rate, ran)) = ended(&cluster, "measured", elements).await? else {
        skip(
            name,
            &format!("{elements} did not end within {ENDS_WITHIN:?}"),
        );
        return Ok(());
    };
    Figure {
        name: name.to_owned(),
        value: rate,
        unit: "jobs/s",
        is_less_better: false,
        reference: Some(("durable commits/s", reference.commits_per_s)),
        goal: Some(Goal::AtLeast(RATE_MIN)),
        ran: format!(
            "an array of {elements} from its submission to its end, on {WORKERS} workers of {SLOTS} devices that start nothing; {ran}"
        ),
    }
    .print();
    slow_commits(&cluster, rate, elements).await?;
    crowd.leave().await
}

/// The same where each durable commit takes as long as on a slow disk.
async fn slow_commits(cluster: &Cluster, rate: f64, elements: u32) -> Result<()> {
    for statement in [
        "alter system set commit_siblings = 0".to_owned(),
        format!("alter system set commit_delay = {SLOW_COMMIT_US}"),
        "select pg_reload_conf()".to_owned(),
    ] {
        cluster.psql(&statement)?;
    }
    // Connections hear of it with their next statement.
    array(cluster, "warm-up-slow", 200).await?;
    let commits_per_s = reference::commits(cluster)?;
    let name = format!(
        "no-op jobs where a commit takes {} ms",
        SLOW_COMMIT_US / 1_000
    );
    let Some((slow, ran)) = ended(cluster, "measured-slow", elements).await? else {
        skip(
            &name,
            &format!("{elements} did not end within {ENDS_WITHIN:?}"),
        );
        return Ok(());
    };
    Figure {
        name,
        value: slow / rate,
        unit: "of the rate without",
        is_less_better: false,
        reference: None,
        goal: Some(Goal::AtLeast(SLOW_COMMITS_MIN)),
        ran: format!(
            "{slow:.0} jobs/s beside {rate:.0}; one client makes {commits_per_s:.0} durable commits a second there (commit_delay); {ran}"
        ),
    }
    .print();
    Ok(())
}

/// Jobs a second of an array, and what they cost; None where they do not end in time.
async fn ended(cluster: &Cluster, name: &str, elements: u32) -> Result<Option<(f64, String)>> {
    let counts = cluster.count()?;
    let start = Instant::now();
    let ran = tokio::time::timeout(ENDS_WITHIN, array(cluster, name, elements)).await;
    let Ok(ran) = ran else { return Ok(None) };
    ran?;
    let rate = f64::from(elements) / start.elapsed().as_secs_f64();
    let counted = counts.stop(cluster)?;
    let each = |all: f64| all / f64::from(elements);
    let ran = format!(
        "a job: {}, {:.2} writing transactions, {:.1} KiB of log, {}; most often: {}; longest in all: {}",
        counted
            .statements
            .map_or("statements not counted".to_owned(), |all| format!(
                "{:.2} statements",
                each(all)
            )),
        each(counted.writes),
        each(counted.wal_bytes) / 1024.0,
        counted.cpu.over(f64::from(elements)),
        counted.most,
        counted.longest,
    );
    Ok(Some((rate, ran)))
}

/// What it costs to hear that many workers live.
async fn crowd(size: u32, options: &Options) -> Result<()> {
    let cluster = Cluster::without_worker(&options.bin).await?;
    let start = Instant::now();
    let name = format!("{size} workers that are idle");
    let gathered = tokio::time::timeout(ONLINE_WITHIN, Crowd::gather(&cluster, size, 1)).await;
    let crowd = match gathered {
        Ok(crowd) => crowd?,
        Err(_) => {
            skip(
                &name,
                &format!("not all were there within {ONLINE_WITHIN:?}"),
            );
            return Ok(());
        }
    };
    let joined = start.elapsed().as_secs_f64();
    // What their coming set in motion is over.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let counts = cluster.count()?;
    let (before, lost) = (crowd.beats(), crowd.lost());
    tokio::time::sleep(options.window / 3).await;
    let beats = crowd.beats() - before;
    let counted = counts.stop(&cluster)?;
    ensure!(crowd.lost() == lost, "sessions of idle workers ended");
    #[allow(clippy::cast_precision_loss, reason = "some thousands")]
    let a_second = beats as f64 / counted.seconds;
    Figure {
        name,
        value: counted.cpu.total() / counted.seconds,
        unit: "CPU ms a second",
        is_less_better: true,
        reference: None,
        goal: (size == CROWDS[CROWDS.len() - 1]).then_some(Goal::AtMost(CROWD_MAX_MS)),
        ran: format!(
            "{a_second:.0} heartbeats/s; all were there after {joined:.1} s; a second: {}, {}, {:.1} writing transactions; the coordinator holds {:.0} MiB; most often: {}",
            counted.cpu.over(counted.seconds),
            counted
                .statements
                .map_or("statements not counted".to_owned(), |all| format!(
                    "{:.0} statements",
                    all / counted.seconds
                )),
            counted.writes / counted.seconds,
            cluster.coordinator_mib(),
            counted.most,
        ),
    }
    .print();
    crowd.leave().await
}

pub(crate) async fn array(cluster: &Cluster, name: &str, size: u32) -> Result<()> {
    let document = format!(
        "name = \"{name}\"\n[jobs.work]\nkind = \"command\"\nargv = [\"true\"]\narray = {size}\n"
    );
    let submitted = cluster.submit(name, &document).await?;
    let job = submitted.jobs.first().context("no job")?.id;
    let job = cluster.follow(job).await?;
    ensure!(
        job.state() == v1::JobState::Succeeded,
        "array {name} did not succeed: {job:?}"
    );
    Ok(())
}

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

    fn beats(&self) -> u64 {
        self.tally.beats.load(Ordering::Relaxed)
    }

    fn lost(&self) -> u64 {
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

type Held = Mutex<Ranks>;

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
    let mut every = tokio::time::interval(CHAT_EVERY);
    for round in 1_u64.. {
        every.tick().await;
        let mut reports = Vec::new();
        {
            let mut held = lock(held);
            let Ranks { held, chatty, .. } = &mut *held;
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

fn lock(held: &Held) -> MutexGuard<'_, Ranks> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
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
            let held = lock(held);
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
    let mut held = lock(held);
    match message.body {
        Some(In::Assign(to)) => {
            let key = (to.job_id, to.attempt, to.rank);
            held.assignments += 1;
            if held.held.contains_key(&key) {
                return;
            }
            let is_chatty = to.spec_json.contains(&format!("\"{CHAT}\""));
            let mut bodies = vec![Body::Started(v1::RankStarted { pid: 1 })];
            if is_chatty {
                held.chatty.insert(key);
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
            held.held.insert(key, rank);
        }
        Some(In::Ack(ack)) => {
            let key = (ack.job_id, ack.attempt, ack.rank);
            if ack.sequence >= 2 && !held.chatty.contains(&key) {
                held.held.remove(&key);
            }
        }
        Some(In::Stop(stop)) => {
            let key = (stop.job_id, stop.attempt, stop.rank);
            held.held.remove(&key);
            held.chatty.remove(&key);
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
