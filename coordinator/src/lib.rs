//! gRPC in, decisions, gRPC out.
//!
//! `rpc` decodes and encodes, `lifecycle` changes jobs, `scheduler` decides where they run,
//! `background` looks at the world and puts it right, `session` speaks with workers. What is true
//! lives in Postgres (`marquee-store`) and in the blob folder (`blobs`); killing this process
//! loses nothing. [`run`] puts the parts together.

pub mod access;
pub mod app;
pub mod background;
pub mod blobs;
pub mod caller;
mod certificate;
pub mod config;
pub mod database;
pub mod doctor;
mod doorman;
#[cfg(test)]
mod draw;
pub mod env;
pub mod index;
pub mod lifecycle;
pub mod lock;
pub mod log;
pub mod postgres;
pub mod rates;
pub mod rpc;
pub mod scheduler;
pub mod session;
pub mod systemd;
pub mod tls;
pub mod walls;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::ServerTlsConfig;

pub use app::{App, Settings};
use marquee_store::Db;
use marquee_store::lock::DatabaseLock;

use crate::access::Access;
use crate::blobs::BlobStore;
use crate::config::Config;
use crate::database::Database;
use crate::env::{Env, Listener};
use crate::walls::{SAFE_MODE_FOR, STEADY, Starts, Walls};

/// How long streams and requests may take to end when we are asked to stop. Clients go on with
/// the next coordinator, so this is politeness, not safety.
const STREAMS_END_WITHIN: Duration = Duration::from_secs(5);
/// The same for the loops, each of which is in the middle of one short transaction at most.
const LOOPS_END_WITHIN: Duration = Duration::from_secs(2);

/// Runs a coordinator on this machine until SIGTERM or SIGINT.
pub async fn run(config: Config) -> anyhow::Result<()> {
    run_in(config, Env::system(), cancelled_by_signals()?).await
}

/// Runs a coordinator in the surroundings that it is given until `shutdown` is cancelled.
pub async fn run_in(config: Config, env: Env, shutdown: CancellationToken) -> anyhow::Result<()> {
    let _data_folder = lock::data_folder(&config.data_dir)?;
    let (mut starts, walls) = Starts::begin(&config.data_dir)
        .with_context(|| format!("could not write in data_dir {:?}", config.data_dir))?;
    let result = run_within(&config, &env, &shutdown, walls, &mut starts).await;
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
) -> anyhow::Result<()> {
    let tls = config.tls.as_ref().map(tls::server_config).transpose()?;
    let listener = env.net.listen(config.listen).await.with_context(|| {
        format!(
            "could not listen on {}; choose another address with --listen",
            config.listen
        )
    })?;
    let walls = Walls {
        access: Access::new(config.access.clone()),
        ..walls
    };
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
    let assembled = assemble(config, env, &database, walls, shutdown.clone());
    let result = match unless(shutdown, assembled).await {
        Some(Ok((app, lock))) => serve(app, lock, listener, tls, starts).await,
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    systemd::stopping();
    database.stop().await;
    result
}

async fn assemble(
    config: &Config,
    env: &Env,
    database: &Database,
    walls: Walls,
    shutdown: CancellationToken,
) -> anyhow::Result<(App, DatabaseLock)> {
    let (db, lock) = database.open(env.random.uuid()).await?;
    let mut conn = db.read().await?;
    let rates = rates::Rates::load(&mut conn, env.clock.now()).await?;
    let cluster = marquee_store::cluster::get_cluster_id(&mut conn).await?;
    drop(conn);
    lock::note_cluster(&config.data_dir, cluster)?;
    let app = App {
        db,
        blobs: BlobStore::open(config.data_dir.join("blobs")).await?,
        clock: env.clock.clone(),
        random: env.random.clone(),
        wake: Arc::new(Notify::new()),
        changes: broadcast::channel(app::CHANGES_MAX).0,
        index: Arc::default(),
        reports: session::Counter::default(),
        sessions: session::Sessions::default(),
        rates,
        cluster,
        settings: config.settings,
        walls,
        shutdown,
    };
    Ok((app, lock))
}

/// Serves until `app.shutdown` is cancelled, or something fails that only a new start can mend.
async fn serve(
    app: App,
    lock: DatabaseLock,
    listener: Listener,
    tls: Option<ServerTlsConfig>,
    starts: &mut Starts,
) -> anyhow::Result<()> {
    let Listener {
        address,
        connections,
    } = listener;
    let shutdown = app.shutdown.clone();
    let server = rpc::server(&app, tls)
        .await
        .context("could not set up the server")?;
    let server =
        server.serve_with_incoming_shutdown(connections, shutdown.clone().cancelled_owned());
    let mut server = tokio::spawn(server);
    let loops = match &app.walls.safe_mode {
        None => background::start(&app),
        Some(why) => {
            tracing::error!("{why}");
            background::alive_only(&app)
        }
    };
    announce(address)?;

    let is_safe = app.walls.safe_mode.is_some();
    let safe_mode_over = async {
        if !is_safe {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(SAFE_MODE_FOR).await;
    };
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
        error = lock.keep() => Err(error.into()),
        () = is_steady => Ok(()),
        () = safe_mode_over => Err(anyhow::anyhow!("the safe mode has lasted long enough; the next start tries again")),
    };
    if let Err(error) = &result {
        tracing::error!(%error, "stopping");
    }
    shutdown.cancel();
    end(server, loops, &app.db).await;
    result
}

/// Tells whoever started us that requests are taken, and where.
fn announce(address: std::net::SocketAddr) -> anyhow::Result<()> {
    let line = serde_json::json!({ "event": "listening", "address": address.to_string() });
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

async fn end(
    mut server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    mut loops: JoinSet<()>,
    db: &Db,
) {
    if !server.is_finished() && timeout(STREAMS_END_WITHIN, &mut server).await.is_err() {
        tracing::warn!(limit = ?STREAMS_END_WITHIN, "some streams did not end; closing them");
        server.abort();
    }
    let all = async { while loops.join_next().await.is_some() {} };
    if timeout(LOOPS_END_WITHIN, all).await.is_err() {
        tracing::warn!(limit = ?LOOPS_END_WITHIN, "some loops did not end; dropping them");
        loops.abort_all();
    }
    // Says goodbye to Postgres; what is still in use is cut off with us.
    let _ = timeout(LOOPS_END_WITHIN, db.close()).await;
}

/// A token that SIGTERM or SIGINT cancels.
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
