//! The thread that keeps the server running, and stops it.
//!
//! A thread of its own and no async task, because the server is tied to the *thread* that started
//! it: when that ends, the kernel tells the server to stop.

use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use super::{Cluster, PostgresError, io_error};

/// How long the server may take to become ready: recovery after a crash replays at most one
/// checkpoint interval, seconds for ours.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often its state is looked at while that is about to change, and else.
const POLL_EVERY: Duration = Duration::from_millis(10);
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// How long a fast shutdown may take, and then a quit, before the next stronger means.
const STOP_WITHIN: Duration = Duration::from_secs(8);
/// First wait before a server that died is started again; doubled by each further death.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(5);
/// A server that ran for this long has started well: the next wait is the first again.
const RAN_WELL: Duration = Duration::from_secs(30);

/// A running server. Dropping it stops the server and waits for that.
#[derive(Debug)]
pub struct Keeper {
    /// Dropped to stop the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the server, and returns when it takes connections.
    pub async fn start(cluster: Cluster) -> Result<Self, PostgresError> {
        let (stop, stopped) = channel();
        let (ready, is_ready) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("postgres-keeper".into())
            .spawn(move || keep(&cluster, &stopped, ready))
            .map_err(io_error(
                "start a thread for",
                std::path::Path::new("postgres"),
            ))?;
        let keeper = Self {
            stop: Some(stop),
            thread: Some(thread),
        };
        match is_ready.await {
            Ok(result) => result.map(|()| keeper),
            Err(_) => {
                let why = "its keeper ended".into();
                Err(PostgresError::NotReady {
                    why,
                    log: "postgres.log".into(),
                })
            }
        }
    }

    /// Stops the server in order.
    pub async fn stop(self) {
        // Dropping waits, which an async thread must not.
        if let Err(error) = tokio::task::spawn_blocking(move || drop(self)).await {
            tracing::error!(%error, "postgres could not be stopped");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that keeps postgres panicked");
        }
    }
}

type Ready = oneshot::Sender<Result<(), PostgresError>>;

/// What ended a server's run.
enum End {
    ToldToStop,
    Died(ExitStatus),
}

fn keep(cluster: &Cluster, stopped: &Receiver<()>, ready: Ready) {
    let mut child = match start(cluster, stopped) {
        Ok(child) => child,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    // Nobody waits any more when the start was given up; the closed channel then ends `watch`.
    let _ = ready.send(Ok(()));

    let mut wait = RESTART_FIRST;
    loop {
        let since = Instant::now();
        match watch(&mut child, stopped) {
            End::ToldToStop => return stop(child),
            End::Died(status) => {
                tracing::error!(%status, log = ?cluster.log, "postgres died; starting it again");
            }
        }
        if since.elapsed() > RAN_WELL {
            wait = RESTART_FIRST;
        }
        child = loop {
            if is_told_to_stop(stopped, wait) {
                return;
            }
            wait = (wait * 2).min(RESTART_MAX);
            match start(cluster, stopped) {
                Ok(child) => break child,
                Err(error) => tracing::error!(%error, "postgres could not be started again"),
            }
        };
        tracing::info!("postgres runs again");
    }
}

/// Starts the server and waits until it takes connections.
fn start(cluster: &Cluster, stopped: &Receiver<()>) -> Result<Child, PostgresError> {
    let mut command = cluster.server()?;
    let program = std::path::PathBuf::from(command.get_program());
    let mut child = command.spawn().map_err(io_error("start", &program))?;
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let not_ready = |why: String| PostgresError::NotReady {
            why,
            log: cluster.log.clone(),
        };
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return Err(not_ready(format!("it ended with {status}"))),
            Err(error) => return Err(io_error("wait for", &program)(error)),
        }
        if cluster.is_ready(child.id()) {
            return Ok(child);
        }
        let given_up = is_told_to_stop(stopped, POLL_EVERY);
        if given_up || Instant::now() > deadline {
            stop(child);
            let why = if given_up {
                "it was told to stop"
            } else {
                "it took too long"
            };
            return Err(not_ready(why.into()));
        }
    }
}

fn watch(child: &mut Child, stopped: &Receiver<()>) -> End {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return End::Died(status),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "postgres cannot be waited for"),
        }
        if is_told_to_stop(stopped, WATCH_EVERY) {
            return End::ToldToStop;
        }
    }
}

/// Waits for `wait`, or until we are told to stop.
fn is_told_to_stop(stopped: &Receiver<()>, wait: Duration) -> bool {
    match stopped.recv_timeout(wait) {
        Err(RecvTimeoutError::Timeout) => false,
        Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
    }
}

fn stop(mut child: Child) {
    let pid = i32::try_from(child.id()).map(Pid::from_raw);
    for signal in Cluster::STOP.into_iter().chain([Signal::SIGKILL]) {
        if let Ok(pid) = pid {
            let _ = kill(pid, signal);
        }
        let deadline = Instant::now() + STOP_WITHIN;
        while Instant::now() < deadline {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(POLL_EVERY),
                Ok(Some(_)) => return,
                Err(error) => return tracing::error!(%error, "postgres cannot be waited for"),
            }
        }
        tracing::warn!(%signal, "postgres does not stop");
    }
}
