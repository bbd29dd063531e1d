//! `run --ranks N`: a whole gang on this machine, by hand, without coordinator or worker.
//!
//! This process serves the rendezvous store and starts one child a rank. Invariant: to whoever
//! reads its stdout it behaves like one child: rank 0's events, and one last word for all. No rank
//! outlives it: their stdin ends when it does.

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use marquee_domain::FailureClass;
use marquee_domain::child::{ChildEvent, ExitCode, env};
use marquee_domain::limits::STOP_GRACE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::RunError;
use crate::events::Events;
use crate::rendezvous::StoreServer;
use crate::run::Outcome;
use crate::stop::Stop;

/// Where the ranks meet.
const HOST: &str = "127.0.0.1";
/// Time between two looks at the ranks.
const POLL: Duration = Duration::from_millis(20);

/// A rank's last words.
#[derive(Debug, Default)]
struct LastWords {
    summary: Option<serde_json::Value>,
    failure: Option<(FailureClass, String)>,
}

struct RankProcess {
    rank: u32,
    child: Child,
    said: Arc<Mutex<LastWords>>,
    reader: thread::JoinHandle<()>,
    status: Option<ExitStatus>,
}

/// Runs the spec at `spec` with `ranks` processes of this program.
///
/// # Errors
/// [`RunError`]: that of the rank which knows most about the cause.
pub fn run_ranks(
    spec: &Path,
    ranks: u32,
    events: &Arc<Events>,
    stop: &Stop,
) -> Result<Outcome, RunError> {
    let store = StoreServer::start(HOST, 0)?;
    let mut processes = Vec::new();
    for rank in 0..ranks {
        processes.push(start(spec, rank, ranks, &store, events)?);
    }
    wait_for_all(&mut processes, stop)?;
    let mut results = Vec::new();
    for process in processes {
        results.push(verdict(process));
    }
    conclude(results)
}

fn start(
    spec: &Path,
    rank: u32,
    ranks: u32,
    store: &StoreServer,
    events: &Arc<Events>,
) -> Result<RankProcess, RunError> {
    let failed =
        |error: std::io::Error| RunError::host(format!("cannot start rank {rank}: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(program)
        .args(["run", "--until-eof"])
        .arg(spec)
        .env(env::RANK, rank.to_string())
        .env(env::LOCAL_RANK, rank.to_string())
        .env(env::WORLD_SIZE, ranks.to_string())
        .env(env::MASTER_ADDR, &store.host)
        .env(env::MASTER_PORT, store.port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C reaches this process alone, which passes it on once.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    tracing::info!(rank, pid = child.id(), "started");
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| RunError::host(format!("rank {rank} has no stdout")))?;
    let said = Arc::new(Mutex::new(LastWords::default()));
    let (words, events) = (said.clone(), events.clone());
    let reader = thread::Builder::new()
        .name(format!("rank-{rank}"))
        .spawn(move || listen(BufReader::new(stdout), rank, &words, &events))
        .map_err(failed)?;
    Ok(RankProcess {
        rank,
        child,
        said,
        reader,
        status: None,
    })
}

/// Passes rank 0's events on, and keeps every rank's last words.
fn listen(lines: impl BufRead, rank: u32, said: &Mutex<LastWords>, events: &Events) {
    for line in lines.lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(ChildEvent::Finished { summary }) => lock(said).summary = Some(summary),
            Ok(ChildEvent::Failed { class, message }) => {
                lock(said).failure = Some((class, message))
            }
            Ok(
                ChildEvent::Progress { .. }
                | ChildEvent::Metrics { .. }
                | ChildEvent::Checkpoint { .. },
            ) => {
                if rank == 0 {
                    events.forward(&line);
                }
            }
            Err(error) => tracing::warn!(rank, %error, line, "a line that is no event"),
        }
    }
}

fn lock(said: &Mutex<LastWords>) -> std::sync::MutexGuard<'_, LastWords> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until every rank has ended. Passes a wish to stop on; once one rank has failed the others
/// have a little time to notice, and are then killed.
fn wait_for_all(processes: &mut [RankProcess], stop: &Stop) -> Result<(), RunError> {
    let mut told = false;
    let mut kill_at: Option<Instant> = None;
    loop {
        let mut running = 0;
        for process in processes
            .iter_mut()
            .filter(|process| process.status.is_none())
        {
            let polled = process.child.try_wait().map_err(|error| {
                RunError::host(format!("cannot wait for rank {}: {error}", process.rank))
            })?;
            match polled {
                Some(status) => {
                    process.status = Some(status);
                    if !status.success() {
                        kill_at.get_or_insert(Instant::now() + STOP_GRACE);
                    }
                }
                None => running += 1,
            }
        }
        if running == 0 {
            return Ok(());
        }
        if stop.is_requested() && !told {
            told = true;
            signal_running(processes, Signal::SIGTERM);
            kill_at.get_or_insert(Instant::now() + STOP_GRACE);
        }
        if kill_at.is_some_and(|at| Instant::now() > at) {
            tracing::warn!("ranks that did not end in time are killed");
            signal_running(processes, Signal::SIGKILL);
            kill_at = None;
        }
        thread::sleep(POLL);
    }
}

fn signal_running(processes: &[RankProcess], signal: Signal) {
    for process in processes.iter().filter(|process| process.status.is_none()) {
        let Ok(pid) = i32::try_from(process.child.id()) else {
            continue;
        };
        if let Err(error) = kill(Pid::from_raw(pid), signal) {
            tracing::warn!(rank = process.rank, %error, "cannot signal");
        }
    }
}

/// What became of a rank.
fn verdict(process: RankProcess) -> Result<Outcome, RunError> {
    let RankProcess {
        rank,
        child,
        said,
        reader,
        status,
    } = process;
    drop(child);
    if reader.join().is_err() {
        return Err(RunError::host(format!(
            "the reader of rank {rank} panicked"
        )));
    }
    let words = std::mem::take(&mut *lock(&said));
    let status = status.ok_or_else(|| RunError::host(format!("rank {rank} was not waited for")))?;
    let code = status.code().map(ExitCode);
    if let Some((class, message)) = words.failure {
        return Err(RunError::new(class, format!("rank {rank}: {message}")));
    }
    if code == Some(ExitCode::STOPPED) {
        return Ok(Outcome::Stopped);
    }
    if let (Some(ExitCode::OK), Some(summary)) = (code, words.summary) {
        return Ok(Outcome::Finished(summary));
    }
    Err(RunError::host(match (status.signal(), code) {
        (Some(signal), _) => format!("rank {rank} died by signal {signal}"),
        (None, code) => format!(
            "rank {rank} left with exit code {} and no last word",
            code.map_or(-1, |code| code.0)
        ),
    }))
}

/// One result for all ranks: the failure that knows most, else a stop, else rank 0's summary.
fn conclude(results: Vec<Result<Outcome, RunError>>) -> Result<Outcome, RunError> {
    let mut first = None;
    let mut stopped = false;
    let mut worst: Option<RunError> = None;
    for result in results {
        match result {
            Ok(Outcome::Finished(summary)) => first = first.or(Some(summary)),
            Ok(Outcome::Stopped) => stopped = true,
            Err(error) => {
                if worst
                    .as_ref()
                    .is_none_or(|known| error.class.precedence() > known.class.precedence())
                {
                    worst = Some(error);
                }
            }
        }
    }
    match (worst, first) {
        (Some(error), _) => Err(error),
        (None, Some(summary)) if !stopped => Ok(Outcome::Finished(summary)),
        (None, _) => Ok(Outcome::Stopped),
    }
}
