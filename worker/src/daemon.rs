//! The daemon's life: from its settings to its last word.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use marquee_domain::BootId;
use marquee_domain::limits::STOP_GRACE;
use marquee_domain::spec::JobKind;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::authorities;
use crate::blocking::blocking;
use crate::cache::Cache;
use crate::cages::{Cages, closed_to_others};
use crate::config::{Caging, Config, OnStop};
use crate::coordinators::Coordinators;
use crate::durable;
use crate::env::Env;
use crate::figures::Figures;
use crate::files;
use crate::gpus::{Gpus, series};
use crate::identity::{Identity, Membership};
use crate::kept::Kept;
use crate::lease::Lease;
use crate::neighbours;
use crate::notify::Notifier;
use crate::occupied::Occupied;
use crate::rank::base_env::BaseEnv;
use crate::rank::held::Host;
use crate::rank::walls::Walls;
use crate::reload::{self, Ending, Readings};
use crate::renewal;
use crate::session::{Session, Until};
use crate::supervisor::Supervisor;
use crate::transfer::Transfers;

/// After the grace: time for last checkpoints and for what does not want to die.
const STOP_MAX: Duration = Duration::from_secs(15);
/// How often kept outputs are looked at for those whose time is over.
const SWEEP_KEPT_EVERY: Duration = Duration::from_secs(3_600);
/// How often systemd is told that the daemon is still at its end: it would kill it after TimeoutStopSec.
const EXTEND_EVERY: Duration = Duration::from_secs(30);
/// How long last reports may wait for their acknowledgement; the spool keeps them.
const LAST_ACKS_MAX: Duration = Duration::from_secs(3);
/// How long the session may take to say goodbye.
const SESSION_END_MAX: Duration = Duration::from_secs(2);

/// Runs the daemon on this machine until SIGTERM or SIGINT; a second one of either kills what is left. At SIGHUP it
/// reads its settings anew, by `read`.
pub async fn run(config: Config, read: reload::Read) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (told, stop) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if told.send(()).await.is_err() {
                return;
            }
        }
    });
    // At a terminal it means that the terminal is closed, and ends the process, as it does others.
    let readings = if std::io::stdin().is_terminal() {
        Readings::none()
    } else {
        Readings::at_each_hangup(read)?
    };
    serve_reading(config, Env::real(), stop, readings).await
}

/// Runs the daemon in `env` until `stop` gives something; the second time, it hurries.
pub async fn serve(config: Config, env: Env, stop: mpsc::Receiver<()>) -> anyhow::Result<()> {
    serve_reading(config, env, stop, Readings::none()).await
}

async fn serve_reading(
    config: Config,
    env: Env,
    mut stop: mpsc::Receiver<()>,
    readings: Readings,
) -> anyhow::Result<()> {
    // Before anything is read: two daemons in one folder would both take over its ranks.
    let identity = Identity::claim(&config.data_dir, &env)?;
    let host = Arc::new(host(config, env, &identity).await?);
    // Before the session: its Hello lists what is held, and what it leaves out counts as lost.
    let supervisor = Supervisor::recover(Arc::clone(&host))
        .context("ranks of an earlier daemon cannot be taken over")?;

    let (ending, endings) = watch::channel(Ending::of(&host.config));
    tokio::spawn(readings.follow(Arc::clone(&host), ending));
    tokio::spawn(sweep_kept(Arc::clone(&host)));
    if let Some(address) = host.config.metrics_listen {
        let figures = Figures::listen(address).await;
        let figures = figures.with_context(|| {
            format!("metrics_listen = \"{address}\" in the worker's settings cannot be used")
        })?;
        tokio::spawn(figures.serve(Arc::clone(&host), Arc::clone(&supervisor)));
    }

    let (until, until_seen) = watch::channel(Until::Ever);
    let notifier = Notifier::new();
    let session = Session {
        host: Arc::clone(&host),
        supervisor: Arc::clone(&supervisor),
        worker_id: identity.worker.to_string(),
        instance: identity.instance,
        cluster: Membership::read(&host.config.data_dir)?,
        notifier,
        until: until_seen,
        epoch: 0,
    };
    let session = tokio::spawn(session.run());
    if !host.gpus.is_empty() {
        let gpus = host.gpus.clone();
        tokio::spawn(series::report(
            Arc::clone(&host),
            Arc::clone(&supervisor),
            gpus,
        ));
    }
    if let Some(folder) = host.config.tls.as_ref().and_then(|tls| tls.member.clone()) {
        tokio::spawn(neighbours::run(Arc::clone(&host), folder.clone()));
        tokio::spawn(authorities::run(Arc::clone(&host), folder.clone()));
        tokio::spawn(renewal::run(Arc::clone(&host), folder));
    }
    // Only now: whoever started the daemon, such as a package's upgrade, may count on it holding again what
    // it held.
    notifier.ready();
    info!(name = %host.config.name, worker = %identity.worker, coordinators = %host.config.coordinators.join(", "),
        cpu_slots = host.inventory.cpu_slots, gpus = host.inventory.gpus.len(),
        flavour = %host.inventory.flavour, address = %host.inventory.address, "worker is up");

    told(&mut stop).await;
    notifier.stopping();
    // Before anything is ended: a machine that goes down meanwhile was stopped all the same.
    note_end(&host);
    let ending = *endings.borrow();
    match ending.on_stop {
        OnStop::Keep => {
            info!(
                ranks = supervisor.ranks().len(),
                "stopping; children go on without the daemon"
            );
            end(session, &until, Until::Silence).await;
        }
        OnStop::Checkpoint | OnStop::Finish => {
            if ending.on_stop == OnStop::Finish {
                let within = Duration::from_secs(ending.finish_within_s.into());
                tokio::select! {
                    () = let_finish(&host, &supervisor, notifier, within) => {}
                    // Told twice: they have had their time.
                    () = told(&mut stop) => {}
                }
            }
            tokio::select! {
                () = stop_ranks(&host, &supervisor) => {}
                () = told(&mut stop) => hurry(&supervisor).await,
            }
            // With a limit: a store that does not die must not keep its host from a shutdown.
            if timeout(STOP_MAX, supervisor.finish()).await.is_err() {
                warn!("some rendezvous stores have not ended");
            }
            end(session, &until, Until::Goodbye).await;
        }
    }
    info!("stopped");
    Ok(())
}

/// Removes kept outputs whose time is over, for as long as the daemon lives.
async fn sweep_kept(host: Arc<Host>) {
    loop {
        let host = Arc::clone(&host);
        let swept = blocking(move || host.kept.sweep(host.env.clock.now())).await;
        if let Err(join) = swept {
            warn!(error = %join, "kept outputs were not looked at");
        }
        tokio::time::sleep(SWEEP_KEPT_EVERY).await;
    }
}

/// Comes back when the daemon is told to stop. Without anybody who could tell, never.
async fn told(stop: &mut mpsc::Receiver<()>) {
    if stop.recv().await.is_none() {
        std::future::pending().await
    }
}

async fn host(config: Config, env: Env, identity: &Identity) -> anyhow::Result<Host> {
    let coordinators = Coordinators::new(&config, Arc::clone(&env.net))?;
    let cache_dir = config.data_dir.join("cache");
    let cache = Cache::open(&cache_dir, config.cache_max_bytes)
        .with_context(|| format!("the artifact cache {cache_dir:?} cannot be used"))?;
    let inventory = env.machine.inventory(&config).await;
    // The coordinator would refuse it, again and again; here somebody is looking.
    inventory.check().map_err(|bad| {
        anyhow::anyhow!(
            "what this host would offer is not believed: {bad}; look at the worker's settings"
        )
    })?;
    let environment = env.machine.environment();
    let home = environment.get(OsStr::new("HOME"));
    if let Walls::None(why) = Walls::of(&config, home.map(OsString::as_os_str)) {
        info!(why, "command jobs can read and change each other's files");
    }
    let cages = cages(&config, &env)?;
    Ok(Host {
        cages,
        lease: Lease::open(&config.data_dir, identity.boot),
        host_was_stopped: was_stopped_in_order(&config, identity.boot),
        boot: identity.boot,
        worker_id: identity.worker,
        gpus: Gpus::start(&inventory.gpus, &config.data_dir, identity.boot),
        inventory,
        cache,
        base_env: BaseEnv::new(
            environment,
            config.command_secrets.clone(),
            config.fetch_secrets.clone(),
        ),
        transfers: Transfers::new(coordinators.clone(), Arc::clone(&env.random)),
        coordinators,
        kept: Kept::new(&config.data_dir),
        rescued: Mutex::default(),
        occupied: Occupied::default(),
        env,
        news: Notify::new(),
        config,
    })
}

/// Under whose accounts jobs run, which nobody should have to guess.
fn cages(config: &Config, env: &Env) -> anyhow::Result<Option<Cages>> {
    match Cages::find(config, env.launcher.as_ref()) {
        Ok(cages) => {
            let users = cages.users();
            if cages.are_for(JobKind::Train) {
                info!(
                    users,
                    "each project's jobs run under an account of their own"
                );
                if let Some(why) = closed_to_others(&config.bin_dir) {
                    warn!(%why, "but for command jobs they will not start");
                }
            } else {
                info!(
                    users,
                    "each project's command jobs run under an account of their own, and others under this worker's"
                );
            }
            Ok(Some(cages))
        }
        Err(why) if config.cage == Caging::On => anyhow::bail!(
            "jobs cannot run under accounts of their own: {why}; or set cage = \"auto\" in the worker's settings"
        ),
        Err(why) => {
            info!(%why, "jobs are not caged: they run under this worker's account");
            Ok(None)
        }
    }
}

/// Lets ranks that run come to their end by themselves, for a while. Nothing new is begun.
async fn let_finish(host: &Host, supervisor: &Supervisor, notifier: Notifier, within: Duration) {
    info!(
        ranks = supervisor.ranks().len(),
        ?within,
        "stopping; ranks that run may finish"
    );
    let reason = format!("worker {:?} is being stopped", host.config.name);
    // First no more, then the wait: each new rank would make it longer.
    supervisor.begin_nothing_more(&reason);
    let ends = async {
        let mut pulse = tokio::time::interval(EXTEND_EVERY);
        let closed = supervisor.all_closed();
        tokio::pin!(closed);
        loop {
            tokio::select! {
                () = &mut closed => return,
                _ = pulse.tick() => notifier.still_stopping(2 * EXTEND_EVERY),
            }
        }
    };
    if timeout(within, ends).await.is_err() {
        warn!(
            left = supervisor.ranks().len(),
            "not all ranks have finished in time"
        );
    }
}

/// Notes that this daemon was told to end, in this boot of the host.
fn note_end(host: &Host) {
    let note = StoppedInOrder { boot: host.boot };
    if let Err(error) = durable::write_json(&stopped_file(&host.config.data_dir), &note) {
        warn!(%error, "that this daemon was stopped in order cannot be noted");
    }
}

/// Whether the daemon before this one was told to end. The note is of no use once it was read.
fn was_stopped_in_order(config: &Config, boot: BootId) -> bool {
    let file = stopped_file(&config.data_dir);
    let note = files::read_json::<StoppedInOrder>(&file).ok().flatten();
    // In the same boot ranks went on, or ended with a word of their own.
    let was = note.is_some_and(|note| note.boot != boot);
    durable::remove_or_leave(&file);
    was
}

/// The note of a daemon that was told to end.
#[derive(Debug, Serialize, Deserialize)]
struct StoppedInOrder {
    boot: BootId,
}

fn stopped_file(data_dir: &Path) -> PathBuf {
    data_dir.join("stopped-in-order.json")
}

/// Stops all children in order, and waits until the coordinator knows.
async fn stop_ranks(host: &Host, supervisor: &Supervisor) {
    info!(
        ranks = supervisor.ranks().len(),
        "stopping; children are told to leave"
    );
    supervisor.stop_all(
        STOP_GRACE,
        &format!("worker {:?} is being stopped", host.config.name),
    );
    if timeout(STOP_GRACE + STOP_MAX, supervisor.all_closed())
        .await
        .is_err()
    {
        warn!("some ranks have not ended; the next daemon will see to them");
    }
    if timeout(LAST_ACKS_MAX, supervisor.all_gone()).await.is_err() {
        warn!(
            "the coordinator has not acknowledged the last reports; the next daemon sends them again"
        );
    }
}

/// Told twice: no grace any more.
async fn hurry(supervisor: &Supervisor) {
    warn!("told to stop again: killing what is left");
    supervisor.stop_all(Duration::ZERO, "the worker was told twice to stop");
    let _in_time = timeout(STOP_MAX, supervisor.all_closed()).await;
}

async fn end(session: JoinHandle<()>, until: &watch::Sender<Until>, how: Until) {
    until.send_replace(how);
    let _in_time = timeout(SESSION_END_MAX, session).await;
}
