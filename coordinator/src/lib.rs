//! gRPC in, decisions, gRPC out.
//!
//! `rpc` decodes and encodes, `lifecycle` changes jobs, `scheduler` decides where they run,
//! `background` looks at the world and puts it right, `session` speaks with workers. What is true
//! lives in Postgres (`marquee-store`) and in the blob folder (`blobs`); killing this process
//! loses nothing. [`run`] puts the parts together.

pub mod access;
pub mod app;
pub mod audit;
pub mod background;
pub mod backup;
pub mod blobs;
mod blocking;
pub mod caller;
mod certificate;
pub mod config;
mod cron;
pub mod database;
pub mod doctor;
mod doorman;
#[cfg(test)]
mod draw;
pub mod election;
pub mod env;
pub mod faults;
pub mod forecast;
pub mod index;
pub mod lifecycle;
pub mod listing;
pub mod lock;
pub mod log;
mod metrics;
pub mod migrate;
pub mod objects;
pub mod postgres;
pub mod rates;
pub mod reload;
pub mod role;
pub mod rpc;
pub mod scheduler;
pub mod secrets;
pub mod session;
pub mod systemd;
pub mod tls;
pub mod trust;
pub mod users;
pub mod walls;
mod web;

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use app::{App, Settings};
use marquee_store::Db;
use marquee_store::leader::Post;

use crate::access::Access;
use crate::config::{Config, TlsFiles};
use crate::database::Database;
use crate::election::{Election, Terms};
use crate::env::{Env, Listener};
use crate::listing::Listing;
use crate::role::Role;
use crate::tls::Tls;
use crate::trust::authority::{self, Authority, Files};
use crate::walls::{SAFE_MODE_FOR, STEADY, Starts, Walls};

/// How long streams and requests may take to end when we are asked to stop. Clients go on with
/// the next coordinator, so this is politeness, not safety.
const STREAMS_END_WITHIN: Duration = Duration::from_secs(5);
/// The same for the loops, each of which is in the middle of one short transaction at most.
const LOOPS_END_WITHIN: Duration = Duration::from_secs(2);

/// Runs a coordinator on this machine until SIGTERM or SIGINT. At SIGHUP it reads its settings anew, by `read`.
pub async fn run(config: Config, read: reload::Read) -> anyhow::Result<()> {
    let shutdown = cancelled_by_signals()?;
    // At a terminal it means that the terminal is closed, and ends the process, as it does others.
    let readings = if std::io::stdin().is_terminal() {
        mpsc::channel(1).1
    } else {
        reload::at_each_hangup(read, shutdown.clone())?
    };
    run_reading(config, Env::system(), shutdown, readings).await
}

/// Runs a coordinator in the surroundings that it is given until `shutdown` is cancelled.
pub async fn run_in(config: Config, env: Env, shutdown: CancellationToken) -> anyhow::Result<()> {
    let (_, readings) = mpsc::channel(1);
    run_reading(config, env, shutdown, readings).await
}

async fn run_reading(
    config: Config,
    env: Env,
    shutdown: CancellationToken,
    readings: mpsc::Receiver<Config>,
) -> anyhow::Result<()> {
    // The lock before anything is written or asked: what follows is done by one process of this folder at a
    // time.
    let data_folder = lock::data_folder(&config.data_dir)?;
    let seat = lock::seat(&data_folder)?;
    let (mut starts, walls) = Starts::begin(&config.data_dir)
        .with_context(|| format!("could not write in data_dir {:?}", config.data_dir))?;
    let access = access_of(&config);
    let walls = Walls {
        access: access.clone(),
        listing: Listing::new(config.listing.clone()),
        ..walls
    };
    tokio::spawn(reload::follow(access, walls.listing.clone(), readings));
    let result = run_within(&config, &env, &shutdown, walls, &mut starts, seat).await;
    // In order, whatever came of it: what an error says needs no other mode.
    starts.is_well();
    result
}

async fn run_within(
    config: &Config,
    env: &Env,
    shutdown: &CancellationToken,
    walls: Walls,
    starts: &mut Starts,
    seat: String,
) -> anyhow::Result<()> {
    let authority = own_authority(config)?;
    let tls = config.tls.as_ref().map(Tls::open).transpose()?;
    // Before all that takes time: an address that is in use is told at once, and who connects early waits
    // instead of being refused.
    let listener = env.net.listen(config.listen).await.with_context(|| {
        format!(
            "could not listen on {}; choose another address with --listen",
            config.listen
        )
    })?;
    let walls = Walls { authority, ..walls };
    if config.is_insecure() {
        tracing::warn!(
            listen = %config.listen,
            "insecure: whoever reaches this address may run programs on the workers (access.insecure_network = true); run \"marquee-coordinator init\" and leave that key out"
        );
    }
    if walls.access.is_blind() {
        tracing::warn!(
            "every account of this host may use this coordinator: in a user namespace of its own (PrivateUsers=yes) it cannot tell them apart; install the unit of this version"
        );
    }
    let listener = walls.access.watch(listener);

    let Some(database) = unless(shutdown, Database::start(config))
        .await
        .transpose()?
    else {
        return Ok(());
    };
    let address = address_of(config, listener.address);
    let me = (seat, address);
    // Cut short where it is asked to stop meanwhile: a coordinator that waits for its Postgres must be able
    // to end.
    let assembled = assemble(config, env, &database, walls, me, shutdown.clone());
    let result = match unless(shutdown, assembled).await {
        Some(Ok((app, election))) => serve(app, election, listener, tls, starts).await,
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    systemd::stopping();
    // Last of all: until here somebody may have something to store.
    database.stop().await;
    result
}

/// Who may ask, by the settings.
fn access_of(config: &Config) -> Access {
    let access = Access::new(config.access.clone());
    if config.tls.as_ref().is_some_and(TlsFiles::is_own) {
        access.with_own_authority()
    } else {
        access
    }
}

/// The coordinator's own authority, where its certificates are of that, looked at before anything is started.
fn own_authority(config: &Config) -> anyhow::Result<Option<Files>> {
    let is_own = config.tls.as_ref().is_some_and(TlsFiles::is_own);
    let Some(files) = is_own.then(|| Files::of(&config.data_dir)) else {
        return Ok(None);
    };
    authority::check_modes(&files)?;
    // Whoever has joined goes on without the authority: only new certificates need it.
    if let Err(error) = Authority::open(&files) {
        tracing::error!(
            error = format!("{error:#}"),
            "workers cannot join or renew their certificates"
        );
    }
    Ok(Some(files))
}

/// Where workers and clients reach this coordinator.
fn address_of(config: &Config, listening: SocketAddr) -> String {
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let at = match &config.address {
        Some(address) => address.clone(),
        // Others cannot connect to 0.0.0.0: they are told the host's name.
        None if listening.ip().is_unspecified() => match nix::unistd::gethostname() {
            Ok(name) => format!("{}:{}", name.to_string_lossy(), listening.port()),
            Err(_) => listening.to_string(),
        },
        None => listening.to_string(),
    };
    format!("{scheme}://{at}")
}

async fn assemble(
    config: &Config,
    env: &Env,
    database: &Database,
    walls: Walls,
    (seat, address): (String, String),
    shutdown: CancellationToken,
) -> anyhow::Result<(App, Election)> {
    let process = env.random.uuid();
    let (db, schema) = database.open(process).await?;
    let (blobs, storage) = objects::open(config, env.random.uuid()).await?;
    let me = election::candidate(process, seat, address, storage);
    let role = Role::default();
    let terms = Terms {
        schema,
        lease: config.leader_lease,
        is_alone: database.is_private(),
        is_passive: walls.safe_mode.is_some(),
    };
    let post = Post::new(&database.url, me, config.leader_lease, &env.clock)?;
    // Before the cluster's id is read: where the tables are older, only the one that leads may bring them up
    // to date.
    let election = Election::begin(post, db.clone(), role.clone(), terms).await?;
    let mut conn = db.read().await?;
    let cluster = marquee_store::cluster::get_cluster_id(&mut conn).await?;
    drop(conn);
    // Only now: the database alone knows which cluster this is.
    blobs.claim(cluster).await?;
    lock::note_cluster(&config.data_dir, cluster)?;
    let app = App {
        db,
        blobs,
        clock: env.clock.clone(),
        random: env.random.clone(),
        planner: env.planner,
        wake: Arc::new(Notify::new()),
        changes: broadcast::channel(app::CHANGES_MAX).0,
        index: Arc::default(),
        reports: session::Counter::default(),
        sessions: session::Sessions::default(),
        rates: rates::Rates::default(),
        faults: faults::Faults::default(),
        secret_keys: secret_keys(config),
        dumps: backup::dumps(config, &database.url),
        cluster,
        process,
        settings: config.settings,
        role,
        walls,
        shutdown,
    };
    Ok((app, election))
}

/// The keys for secrets. Without them everything else works, so that is only said.
fn secret_keys(config: &Config) -> secrets::SecretKeys {
    let keys = secrets::SecretKeys::at(config.secrets_key.clone());
    if keys.are_named()
        && let Err(error) = keys.read()
    {
        tracing::warn!(%error, "jobs that name secrets fail until this is mended");
    }
    keys
}

/// Serves until `app.shutdown` is cancelled, or something fails that only a new start can mend.
async fn serve(
    app: App,
    mut election: Election,
    listener: Listener,
    tls: Option<Tls>,
    starts: &mut Starts,
) -> anyhow::Result<()> {
    let Listener {
        address,
        connections,
    } = listener;
    let shutdown = app.shutdown.clone();
    if let Some(why) = &app.walls.safe_mode {
        tracing::error!("{why}");
    }
    let mut loops = JoinSet::new();
    match unless(&shutdown, election.start(&app, &mut loops)).await {
        Some(started) => started?,
        None => {
            election.leave().await;
            return Ok(());
        }
    }
    let server = rpc::server(&app, tls.is_some())
        .await
        .context("could not set up the server")?;
    let stop = shutdown.clone().cancelled_owned();
    let mut server = match tls {
        None => tokio::spawn(server.serve_with_incoming_shutdown(connections, stop)),
        Some(tls) => {
            let connections = tls.accept(connections);
            tokio::spawn(tls.follow(app.walls.trust_news.clone(), shutdown.clone()));
            tokio::spawn(server.serve_with_incoming_shutdown(connections, stop))
        }
    };
    if let Some(files) = app.walls.authority.clone() {
        tokio::spawn(trust::keep(app.clone(), files));
        tokio::spawn(trust::follow(app.clone()));
    }
    announce(address, &election)?;

    let is_safe = app.walls.safe_mode.is_some();
    // A safe mode without an end would need a person to leave it: the cause may have gone by itself.
    let safe_mode_over = async {
        if !is_safe {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(SAFE_MODE_FOR).await;
    };
    // Not at an orderly end alone: a start that has lasted this long is no crash, whatever ends the process
    // later.
    let is_steady = async {
        tokio::time::sleep(STEADY).await;
        starts.is_well();
        std::future::pending::<()>().await;
    };
    let result = tokio::select! {
        // In order: asked to stop, the loops end too, and that is no failure.
        biased;
        () = shutdown.cancelled() => Ok(()),
        ended = &mut server => Err(anyhow::anyhow!("the server ended: {ended:?}")),
        error = election.run(&app, &mut loops) => Err(error),
        () = is_steady => Ok(()),
        () = safe_mode_over => Err(anyhow::anyhow!("the safe mode has lasted long enough; the next start tries again")),
    };
    if let Err(error) = &result {
        tracing::error!(%error, "stopping");
    }
    // First, so that everything that looks at it ends while there still is a database.
    shutdown.cancel();
    end_loops(loops).await;
    // Before the streams, whose readers may take their time: who stands by can begin.
    election.leave().await;
    end(server, &app.db).await;
    result
}

/// Tells whoever started us that requests are taken, and where.
fn announce(address: SocketAddr, election: &Election) -> anyhow::Result<()> {
    let line = serde_json::json!({
        "event": "listening",
        "address": address.to_string(),
        "leads": election.leads(),
    });
    let mut stdout = std::io::stdout();
    // A reader that went away after the start is no reason to stop.
    if writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .is_err()
    {
        tracing::debug!("nobody reads stdout");
    }
    tracing::info!(%address, "listening");
    systemd::ready();
    Ok(())
}

async fn end_loops(mut loops: JoinSet<()>) {
    let all = async { while loops.join_next().await.is_some() {} };
    if timeout(LOOPS_END_WITHIN, all).await.is_err() {
        tracing::warn!(limit = ?LOOPS_END_WITHIN, "some loops did not end; dropping them");
        // Each is in the middle of one transaction at most, which is rolled back.
        loops.abort_all();
    }
}

async fn end(mut server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>, db: &Db) {
    if !server.is_finished() && timeout(STREAMS_END_WITHIN, &mut server).await.is_err() {
        tracing::warn!(limit = ?STREAMS_END_WITHIN, "some streams did not end; closing them");
        server.abort();
    }
    // Says goodbye to Postgres; what is still in use is cut off with us.
    let _ = timeout(LOOPS_END_WITHIN, db.close()).await;
}

/// A token that SIGTERM or SIGINT cancels. SIGHUP is for `reload`.
fn cancelled_by_signals() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let cancelled = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "asked to stop");
        cancelled.cancel();
    });
    Ok(token)
}

/// What `work` gives, or None when the token is cancelled before.
async fn unless<T>(token: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        () = token.cancelled() => None,
        result = work => Some(result),
    }
}
