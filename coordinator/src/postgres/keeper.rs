//! The thread that keeps the server running, and stops it.
//!
//! A thread of its own and no async task, because the server is tied to the *thread* that started
//! it: when that ends, the kernel tells the server to stop.

use std::path::Path;
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use marquee_domain::backoff::Backoff;
use marquee_postgres::{Cluster, PostgresError, STOP_WITHIN, Server};
use tokio::sync::oneshot;

/// How often is looked whether it still runs.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// Waits before a server that died is started again: longer by each further death.
const RESTART: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
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
        for note in cluster.notes() {
            tracing::info!("{note}");
        }
        let (stop, stopped) = channel();
        let (ready, is_ready) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("postgres-keeper".into())
            .spawn(move || keep(&cluster, &stopped, ready))
            .map_err(PostgresError::io(
                "start a thread for",
                Path::new("postgres"),
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
    let start = || cluster.start(|wait| is_told_to_stop(stopped, wait));
    let mut server = match start() {
        Ok(server) => server,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    // Nobody waits any more when the start was given up; the closed channel then ends `watch`.
    let _ = ready.send(Ok(()));

    let mut backoff = RESTART;
    loop {
        let since = Instant::now();
        match watch(&mut server, stopped) {
            End::ToldToStop => return stop(server),
            End::Died(status) => {
                tracing::error!(%status, log = ?cluster.log(), "postgres died; starting it again");
            }
        }
        if since.elapsed() > RAN_WELL {
            backoff.reset();
        }
        server = loop {
            if is_told_to_stop(stopped, backoff.next_whole()) {
                return;
            }
            match start() {
                Ok(server) => break server,
                Err(error) => tracing::error!(%error, "postgres could not be started again"),
            }
        };
        tracing::info!("postgres runs again");
    }
}

fn watch(server: &mut Server, stopped: &Receiver<()>) -> End {
    loop {
        match server.ended() {
            Ok(Some(status)) => return End::Died(status),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "postgres cannot be waited for"),
        }
        // Asked and waited for in one: a server that is to stop is stopped within this time.
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

fn stop(server: Server) {
    for signal in server.stop() {
        tracing::warn!(signal, limit = ?STOP_WITHIN, "postgres did not stop in time");
    }
}
