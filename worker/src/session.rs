//! The session with the coordinator: one stream, made anew whenever it breaks.
//!
//! Invariant: nothing a rank does depends on it. A coordinator that is away only makes spools
//! grow.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use marquee_domain::RankKey;
use marquee_domain::limits::{HEARTBEAT_EVERY, MESSAGE_MAX_BYTES};
use marquee_proto::error;
use marquee_proto::v1;
use marquee_proto::v1::coordinator_message::Body as FromCoordinator;
use marquee_proto::v1::worker_message::Body as ToCoordinator;
use marquee_proto::v1::worker_session_client::WorkerSessionClient;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{info, warn};
use uuid::Uuid;

use self::beats::{Beats, More};
use self::orders::{Order, Orders};
use self::outbox::Outbox;
use crate::blocking::blocking;
use crate::connect;
use crate::gpus::SAMPLE_EVERY;
use crate::identity::Membership;
use crate::notify::Notifier;
use crate::rank::held::Host;
use crate::supervisor::Supervisor;

mod beats;
mod orders;
mod outbox;

/// How long a connection may take to come up, until the coordinator's answer to Hello.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// A session that lasted this long was a good one: the next try need not wait.
const STEADY: Duration = Duration::from_secs(5);
/// Messages that wait for the stream to take them.
const MESSAGES_AHEAD: usize = 16;
/// How often the loop wakes without a cause: for resends, and as a sign of life to systemd.
const PULSE: Duration = Duration::from_millis(500);
/// How long a goodbye may take to be sent.
const GOODBYE_MAX: Duration = Duration::from_millis(500);

/// How long the next daemon may take to come, where ranks go on without one: an upgrade of a package with slow disks.
const AWAY: Duration = Duration::from_secs(120);
/// A moment for the connection to carry that, where nothing comes back.
const AWAY_SENT: Duration = Duration::from_millis(200);

/// How long the session shall go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// For as long as the daemon lives.
    Ever,
    /// End it, and say that nothing is held any more.
    Goodbye,
    /// End it without a word: the ranks go on, and so will the next daemon.
    Silence,
}

/// What a session needs to know of its worker.
#[derive(Debug)]
pub struct Session {
    pub host: Arc<Host>,
    pub supervisor: Arc<Supervisor>,
    pub worker_id: String,
    pub instance: Uuid,
    pub cluster: Membership,
    pub notifier: Notifier,
    pub until: watch::Receiver<Until>,
    /// The highest epoch of a coordinator that was followed. In memory alone: whoever welcomes a new daemon has just
    /// stored that under the fence of its own epoch, so that it does lead; and a database that was restored from a
    /// backup begins with lower epochs, which a number on the disk would have refused for ever.
    pub epoch: u64,
}

/// A coordinator that has said Welcome.
struct Connected {
    stream: Streaming<v1::CoordinatorMessage>,
    sender: mpsc::Sender<v1::WorkerMessage>,
    welcome: v1::Welcome,
    epoch: u64,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Connection(String),
    #[error("the coordinator refused: {}", .0.message())]
    Refused(Status),
    #[error("the coordinator closed the session")]
    Closed,
    #[error("the coordinator did not answer in time")]
    Silent,
    #[error(
        "the coordinator is of cluster {theirs}, and this worker's data folder belongs to cluster {ours}; give it the address of its own coordinator, or another --data-dir (docs/errors/MQ0305.md)"
    )]
    OtherCluster { ours: String, theirs: String },
    #[error(
        "a coordinator that leads as epoch {theirs} has ordered something, and this worker has followed epoch {ours}: another one has taken over from it; nothing of that is done (docs/errors/MQ0320.md)"
    )]
    Superseded { ours: u64, theirs: u64 },
    /// Its own certificate cannot be shown.
    #[error("{0}")]
    Certificate(String),
    #[error("this worker's certificate was renewed, and the new one is shown from now on")]
    Renewed,
    #[error("{0}")]
    Local(#[from] io::Error),
}

impl From<Status> for Broken {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "every other code is a refusal, also those to come"
    )]
    fn from(status: Status) -> Self {
        // First: whatever its code is, such an answer names the coordinator to ask next.
        match status.code() {
            _ if error::leader_elsewhere(&status).is_some() => Self::Refused(status),
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled => {
                Self::Connection(connect::why(&status))
            }
            _ => Self::Refused(status),
        }
    }
}

impl Broken {
    /// The coordinator that it named as the one that leads.
    fn leader(&self) -> Option<String> {
        let Self::Refused(status) = self else {
            return None;
        };
        error::leader_elsewhere(status).flatten()
    }
}

impl Session {
    /// Keeps a session with the coordinator until it is told to end.
    pub async fn run(mut self) {
        let mut backoff = connect::backoff();
        while self.goes_on() {
            let coordinator = self.host.coordinators.current();
            let connected = tokio::select! {
                connected = timeout(CONNECT_MAX, self.connect(&coordinator)) => {
                    connected.unwrap_or(Err(Broken::Silent))
                }
                () = self.pulse_for_ever() => return,
                () = ended(self.until.clone()) => return,
            };
            let broken = match connected {
                Ok(Connected { welcome, .. }) if !self.admits(&welcome.cluster_id) => {
                    Broken::OtherCluster {
                        ours: self.cluster.to_wire(),
                        theirs: welcome.cluster_id,
                    }
                }
                // Before its Welcome counts for anything: a coordinator that was stopped for an hour still says
                // Welcome as if it led.
                Ok(connected) if self.is_superseded(connected.epoch) => Broken::Superseded {
                    ours: self.epoch,
                    theirs: connected.epoch,
                },
                Ok(Connected {
                    stream,
                    sender,
                    welcome,
                    epoch,
                }) => {
                    let since = Instant::now();
                    self.epoch = self.epoch.max(epoch);
                    self.host.coordinators.settle();
                    info!(%coordinator, version = %welcome.version, epoch = self.epoch, "connected");
                    match self.converse(stream, &sender, &welcome).await {
                        Ok(()) => return,
                        Err(broken) => {
                            // One that breaks as soon as it is made must not be made anew at full speed.
                            if since.elapsed() >= STEADY {
                                backoff.reset();
                            }
                            broken
                        }
                    }
                }
                Err(broken) => broken,
            };
            if self
                .host
                .coordinators
                .turn(&coordinator, broken.leader().as_deref())
            {
                let next = self.host.coordinators.current();
                // Without a pause: `turn` asks for one as soon as all coordinators were asked in
                // vain.
                warn!(%coordinator, cause = %broken, %next, "not connected; ranks go on, and another coordinator is asked");
                continue;
            }
            // Spread, since all workers lose a coordinator in the same instant.
            let wait = backoff.next_spread(self.host.env.random.unit());
            warn!(%coordinator, cause = %broken, ?wait,
                "not connected; ranks go on, and so do the tries");
            self.notifier.status(&format!("not connected: {broken}"));
            tokio::select! {
                () = sleep(wait) => {}
                () = self.pulse_for_ever() => return,
                () = ended(self.until.clone()) => {}
            }
        }
    }

    /// Before anything that this coordinator says is followed.
    fn admits(&mut self, cluster_id: &str) -> bool {
        self.cluster.admits(cluster_id).unwrap_or_else(|error| {
            // A full disk must not keep a worker from its coordinator.
            warn!(%error, "which cluster this worker belongs to cannot be written down; tried again at the next connection");
            true
        })
    }

    fn goes_on(&self) -> bool {
        *self.until.borrow() == Until::Ever
    }

    /// Never ends; keeps systemd's watchdog quiet meanwhile.
    async fn pulse_for_ever(&self) {
        loop {
            self.notifier.alive();
            sleep(PULSE).await;
        }
    }

    async fn connect(&self, coordinator: &str) -> Result<Connected, Broken> {
        let now = self.host.env.clock.now();
        let name = &self.host.config.name;
        if let Some(why) = self.host.coordinators.unusable(now, name) {
            return Err(Broken::Certificate(why));
        }
        let endpoint = self.host.coordinators.endpoint(coordinator);
        let endpoint = endpoint.map_err(|e| Broken::Connection(connect::with_causes(&e)))?;
        let env = &self.host.env;
        let channel = env
            .net
            .connect(endpoint)
            .await
            .map_err(|e| Broken::Connection(connect::with_causes(&e)))?;
        let mut client = WorkerSessionClient::new(channel)
            .max_decoding_message_size(MESSAGE_MAX_BYTES)
            .max_encoding_message_size(MESSAGE_MAX_BYTES);
        let (sender, messages) = mpsc::channel(MESSAGES_AHEAD);
        // Asked at each connect, since the program may have been replaced.
        let prep_code = env.machine.prep_code(&self.host.config.bin_dir).await;
        let hello = self.hello(prep_code);
        // The lease runs from when Hello was sent, not from when it was answered: the coordinator counts from when it
        // heard.
        let said = env.clock.monotonic();
        // There is room: the channel is new.
        let _sent = sender.try_send(message(ToCoordinator::Hello(hello)));
        let greeting = async {
            let mut stream = client
                .connect(ReceiverStream::new(messages))
                .await?
                .into_inner();
            let first = stream.message().await?.ok_or(Broken::Closed)?;
            match first.body {
                Some(FromCoordinator::Welcome(welcome)) => Ok((stream, welcome, first.epoch)),
                Some(
                    FromCoordinator::Assign(_)
                    | FromCoordinator::Start(_)
                    | FromCoordinator::RanksLost(_)
                    | FromCoordinator::Stop(_)
                    | FromCoordinator::Ack(_)
                    | FromCoordinator::RateShares(_)
                    | FromCoordinator::Rescue(_)
                    | FromCoordinator::HeartbeatSeen(_)
                    | FromCoordinator::Notice(_),
                )
                | None => Err(Broken::Connection(
                    "the coordinator did not begin with Welcome".into(),
                )),
            }
        };
        let (stream, welcome, epoch) = greeting.await?;
        // An older one answers no heartbeat: a lease would run out while all is well.
        if welcome.keeps_leases {
            self.renew(said, &welcome);
        } else {
            self.host.lease.forget();
        }
        Ok(Connected {
            stream,
            sender,
            welcome,
            epoch,
        })
    }

    /// Whether a message of this epoch is one to follow. Those of a coordinator that was taken over from may still lie
    /// in a stream, or come from a process that was stopped and goes on.
    fn follow(&mut self, epoch: u64) -> Result<(), Broken> {
        if self.is_superseded(epoch) {
            return Err(Broken::Superseded {
                ours: self.epoch,
                theirs: epoch,
            });
        }
        self.epoch = self.epoch.max(epoch);
        Ok(())
    }

    fn is_superseded(&self, epoch: u64) -> bool {
        #[cfg(feature = "planted")]
        if marquee_domain::planted::is("lower-epoch-followed") {
            return false;
        }
        // An older coordinator does not say: 0.
        epoch != 0 && epoch < self.epoch
    }

    fn hello(&self, prep_code: String) -> v1::Hello {
        v1::Hello {
            worker_id: self.worker_id.clone(),
            name: self.host.config.name.clone(),
            boot_id: self.host.boot.to_string(),
            instance_id: self.instance.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            inventory: Some(v1::Inventory::from(&self.host.inventory)),
            held: self.held(),
            gpus: self.gpus(),
            prep_code,
            features: vec![
                v1::WorkerFeature::StartWithAssign.into(),
                v1::WorkerFeature::Lease.into(),
                v1::WorkerFeature::Secrets.into(),
                v1::WorkerFeature::BurnIn.into(),
            ],
            cluster_id: self.cluster.to_wire(),
            leaving: self.supervisor.is_leaving(),
            kept: self.host.kept.to_wire(),
            epoch: self.epoch,
        }
    }

    /// What was said at `sent` has come to the coordinator.
    fn renew(&self, sent: Duration, welcome: &v1::Welcome) {
        let length = Duration::from_millis(u64::from(welcome.lease_ms));
        let is_kept = self.supervisor.stops_with_lease();
        self.host.lease.renew(sent, length, is_kept);
    }

    fn held(&self) -> Vec<v1::HeldRank> {
        self.supervisor
            .ranks()
            .iter()
            .map(|rank| rank.to_wire(self.host.env.clock.as_ref()))
            .collect()
    }

    /// Ranks that have not ended, in spite of all.
    fn left(&self) -> Vec<v1::HeldRank> {
        let clock = self.host.env.clock.as_ref();
        let left = self.supervisor.unclosed();
        left.iter().map(|rank| rank.to_wire(clock)).collect()
    }

    /// Speaks and listens until the stream breaks (an error) or the session shall end.
    async fn converse(
        &mut self,
        stream: Streaming<v1::CoordinatorMessage>,
        sender: &mpsc::Sender<v1::WorkerMessage>,
        welcome: &v1::Welcome,
    ) -> Result<(), Broken> {
        // Orders write to the disk, which may be slow; heartbeats must go out meanwhile.
        let orders = Orders::follow(Arc::clone(&self.supervisor));
        let end = self.turn(stream, sender, welcome, &orders).await;
        orders.finish().await;
        end
    }

    /// The session's loop.
    async fn turn(
        &mut self,
        mut stream: Streaming<v1::CoordinatorMessage>,
        sender: &mpsc::Sender<v1::WorkerMessage>,
        welcome: &v1::Welcome,
        orders: &Orders,
    ) -> Result<(), Broken> {
        let mut outbox = Outbox::new(&self.supervisor.ranks(), Instant::now());
        let every = match welcome.heartbeat_every_ms {
            0 => HEARTBEAT_EVERY,
            ms => Duration::from_millis(u64::from(ms)),
        };
        let mut heartbeat = interval(every);
        // After a pause of this process one heartbeat says all that the missed ones would have.
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pulse = interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut gpus = self.host.gpus.clone();
        // A sampler that hangs publishes nothing: that, too, has to be said.
        let mut gpu_pulse = interval(2 * SAMPLE_EVERY);
        gpu_pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = Beats::new(Arc::clone(&self.host.env.clock));
        loop {
            // What has its time goes first, so that no flood of reports or orders keeps it back.
            tokio::select! {
                biased;
                _ = self.until.changed() => {
                    if *self.until.borrow() == Until::Silence {
                        // That its leases are not to end for it: the next daemon will be here soon.
                        let more = More { away: AWAY, ..self.more(orders) };
                        let away = message(beats.next(self.held(), more));
                        let _in_time = timeout(GOODBYE_MAX, sender.send(away)).await;
                        let _sent = timeout(AWAY_SENT, stream.message()).await;
                    }
                    if *self.until.borrow() == Until::Goodbye {
                        let goodbye = message(ToCoordinator::Goodbye(v1::Goodbye { held: self.left() }));
                        let _in_time = timeout(GOODBYE_MAX, sender.send(goodbye)).await;
                        // The stream closes behind it; give the connection a moment to carry it.
                        let _closed = timeout(GOODBYE_MAX, stream.message()).await;
                    }
                    return Ok(());
                }
                _ = heartbeat.tick() => {
                    let (more, held) = (self.more(orders), self.held());
                    self.notifier.status(&format!("connected; {} ranks held", held.len()));
                    send(sender, beats.next(held, more)).await?;
                }
                _ = pulse.tick() => {
                    self.notifier.alive();
                    let (more, held) = (self.more(orders), self.held());
                    if beats.has_news(&held) {
                        send(sender, beats.next(held, more)).await?;
                    }
                    outbox = self.send_reports(outbox, sender).await?;
                }
                // An open connection goes on showing the old one.
                () = self.host.coordinators.certificate_changed() => return Err(Broken::Renewed),
                () = gpus.changed() => self.send_gpus(sender).await?,
                _ = gpu_pulse.tick(), if !gpus.is_empty() => self.send_gpus(sender).await?,
                incoming = next_order(orders, &mut stream) => {
                    let (room, v1::CoordinatorMessage { body, epoch }) = incoming?;
                    self.follow(epoch)?;
                    let Some(body) = body else {
                        warn!("a message of a kind that this version does not know was ignored");
                        continue;
                    };
                    if let FromCoordinator::Ack(ack) = &body {
                        // Here too, though the spool hears of it later: it makes room for more reports to go
                        // out.
                        let key = RankKey::new(ack.job_id, ack.attempt, ack.rank);
                        outbox.acked(key, ack.sequence, Instant::now());
                        self.host.news.notify_one();
                    }
                    if let FromCoordinator::HeartbeatSeen(seen) = &body {
                        if let Some(sent) = beats.sent_at(seen.sequence) {
                            self.renew(sent, welcome);
                        }
                        continue;
                    }
                    let until_ms = match &body {
                        FromCoordinator::RateShares(shares) => beats.end_of(shares),
                        FromCoordinator::Welcome(_)
                        | FromCoordinator::Assign(_)
                        | FromCoordinator::Start(_)
                        | FromCoordinator::Stop(_)
                        | FromCoordinator::RanksLost(_)
                        | FromCoordinator::Ack(_)
                        | FromCoordinator::Rescue(_)
                        | FromCoordinator::HeartbeatSeen(_)
                        | FromCoordinator::Notice(_) => 0,
                    };
                    room.send(Order { body, until_ms });
                }
                () = self.host.news.notified() => {
                    if self.supervisor.is_leaving() && !beats.have_said_leaving() {
                        // Before its ranks report their ends: what they leave is not to be placed here again.
                        let (more, held) = (self.more(orders), self.held());
                        send(sender, beats.next(held, more)).await?;
                    }
                    for rescued in self.rescued() {
                        send(sender, ToCoordinator::Rescued(rescued)).await?;
                    }
                    outbox = self.send_reports(outbox, sender).await?;
                }
            }
        }
    }

    /// To be asked before the ranks that are held: what is counted here is among them.
    fn more(&self, orders: &Orders) -> More {
        More {
            assignments: orders.assignments(),
            leaving: self.supervisor.is_leaving(),
            kept: self.host.kept.to_wire(),
            away: Duration::ZERO,
            cache: self.host.cache.to_wire(),
        }
    }

    fn rescued(&self) -> Vec<v1::Rescued> {
        let mut rescued = self
            .host
            .rescued
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *rescued)
    }

    fn gpus(&self) -> Vec<v1::GpuReading> {
        let readings = self.host.gpus.readings();
        readings.into_iter().map(Into::into).collect()
    }

    async fn send_gpus(&self, sender: &mpsc::Sender<v1::WorkerMessage>) -> Result<(), Broken> {
        let gpus = self.gpus();
        send(sender, ToCoordinator::Gpus(v1::GpuReadings { gpus })).await
    }

    /// Sends what there is to send and room for. Spools are on disk, so this may block.
    async fn send_reports(
        &self,
        outbox: Outbox,
        sender: &mpsc::Sender<v1::WorkerMessage>,
    ) -> Result<Outbox, Broken> {
        let mut outbox = outbox;
        loop {
            let (supervisor, host) = (Arc::clone(&self.supervisor), Arc::clone(&self.host));
            let read = blocking(move || {
                let clock = host.env.clock.as_ref();
                let next = outbox.next(&supervisor.ranks(), Instant::now(), clock);
                (outbox, next)
            });
            let next;
            (outbox, next) = read.await.map_err(io::Error::other)?;
            match next {
                Some(reports) => send(sender, ToCoordinator::Reports(reports)).await?,
                None => return Ok(outbox),
            }
            // What is reported from now on rings again: to look once more for nothing is a change of threads.
            if !outbox.has_more() {
                return Ok(outbox);
            }
        }
    }
}

/// The next message, once there is room for it.
async fn next_order<'a>(
    orders: &'a Orders,
    stream: &mut Streaming<v1::CoordinatorMessage>,
) -> Result<(mpsc::Permit<'a, Order>, v1::CoordinatorMessage), Broken> {
    // Room first: a message that was taken from the stream and then finds none would be lost, when another
    // branch of the loop is quicker.
    let room = orders.room().await.ok_or(Broken::Closed)?;
    let message = stream.message().await?.ok_or(Broken::Closed)?;
    Ok((room, message))
}

async fn ended(mut until: watch::Receiver<Until>) {
    if until.wait_for(|until| *until != Until::Ever).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn message(body: ToCoordinator) -> v1::WorkerMessage {
    v1::WorkerMessage { body: Some(body) }
}

async fn send(sender: &mpsc::Sender<v1::WorkerMessage>, body: ToCoordinator) -> Result<(), Broken> {
    sender.send(message(body)).await.map_err(|_| Broken::Closed)
}
