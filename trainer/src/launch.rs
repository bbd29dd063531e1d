//! `run --ranks N`: a whole gang on this machine, by hand, without coordinator or worker.
//!
//! This process serves the rendezvous store and starts one child a rank. Invariant: to whoever
//! reads its events it behaves like one child: those of the lowest rank that lives, and one last
//! word for all. What ranks print is for people, and goes to stderr. No rank outlives it: their stdin ends
//! when it does.
//!
//! With `--min-ranks`, ranks that are left go on by themselves when one is lost; this process then does
//! not end them, and takes the lost rank's failure for no failure of the job.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use marquee_domain::FailureClass;
use marquee_domain::child::{ChildEvent, ExitCode, env};
use marquee_domain::limits::STOP_GRACE;
use marquee_domain::resources::Device;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::RunError;
use crate::events::Events;
use crate::outcome::Outcome;
use crate::rendezvous::StoreServer;
use crate::run::read_spec;
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

impl RankProcess {
    /// Whether it has ended, and all that it said has been heard.
    fn has_ended(&self) -> bool {
        self.status.is_some() && self.reader.is_finished()
    }

    /// Whether it ended in a way that the other ranks may survive. A fault of the job itself, such as too
    /// little memory, would end them next.
    fn was_lost(&self) -> bool {
        self.status.is_some_and(|status| !is_in_order(status))
            && lock(&self.said)
                .failure
                .as_ref()
                .is_none_or(|(class, _)| class.spares_the_others())
    }
}

/// Done, or stopped as asked.
fn is_in_order(status: ExitStatus) -> bool {
    status.success() || status.code() == Some(ExitCode::STOPPED.0)
}

/// How many ranks to start, and with how few to go on.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub ranks: u32,
    /// None: all are needed.
    pub min_ranks: Option<u32>,
}

/// Runs the spec at `spec` with as many processes of this program as `size` says.
/// An error is that of the rank which knows most about the cause.
pub(crate) fn run_ranks(
    spec: &Path,
    size: Size,
    events: &Arc<Events>,
    stop: &Stop,
) -> Result<Outcome, RunError> {
    if let Some(least) = size.min_ranks.filter(|least| *least > size.ranks) {
        return Err(RunError::user(format!(
            "at least {least} ranks are asked for, but only {} are started; give --ranks {least} or more",
            size.ranks
        )));
    }
    let store = StoreServer::start(HOST, 0)?;
    let speaker = Arc::new(AtomicU32::new(0));
    let mut processes = Vec::new();
    for rank in 0..size.ranks {
        processes.push(start(spec, rank, size, &store, (&speaker, events))?);
    }
    wait_for_all(&mut processes, size, &speaker, stop)?;
    let mut results = Vec::new();
    for process in processes {
        let lost = process.was_lost();
        results.push((lost, outcome_of(process)));
    }
    outcome_of_all(results, size)
}

fn start(
    spec: &Path,
    rank: u32,
    size: Size,
    store: &StoreServer,
    (speaker, events): (&Arc<AtomicU32>, &Arc<Events>),
) -> Result<RankProcess, RunError> {
    let failed =
        |error: std::io::Error| RunError::host(format!("cannot start rank {rank}: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    if let Some(least) = size.min_ranks {
        command.env(env::MIN_RANKS, least.to_string());
    }
    if let Some(gpu) = gpu_of(
        rank,
        uses_gpus(spec)?,
        std::env::var(env::CUDA_VISIBLE_DEVICES).ok(),
    )? {
        command.env(env::CUDA_VISIBLE_DEVICES, gpu);
    }
    // Inherited by this child alone: the next one is started when it is closed here.
    let (events_out, events_in) = std::io::pipe().map_err(failed)?;
    fcntl(&events_in, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| failed(e.into()))?;
    let people = std::io::stderr().as_fd().try_clone_to_owned();
    let child = command
        .args(["run", "--until-eof"])
        .arg(spec)
        .env(env::RANK, rank.to_string())
        .env(env::LOCAL_RANK, rank.to_string())
        .env(env::WORLD_SIZE, size.ranks.to_string())
        .env(env::MASTER_ADDR, &store.host)
        .env(env::MASTER_PORT, store.port.to_string())
        .env(env::EVENTS_FD, events_in.as_raw_fd().to_string())
        // Never written to: that it ends is how a rank learns that this process has died, whatever
        // killed it.
        .stdin(Stdio::piped())
        .stdout(people.map_err(failed)?)
        // Ctrl-C reaches this process alone, which passes it on once.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    tracing::info!(rank, pid = child.id(), "started");
    // The rank has the only end left, so that what it says ends with it.
    drop(events_in);
    let said = Arc::new(Mutex::new(LastWords::default()));
    let (words, speaker, events) = (said.clone(), speaker.clone(), events.clone());
    let reader = thread::Builder::new()
        .name(format!("rank-{rank}"))
        .spawn(move || {
            let speaks = || speaker.load(Ordering::Relaxed) == rank;
            listen(BufReader::new(events_out), rank, &words, &events, speaks);
        })
        .map_err(failed)?;
    Ok(RankProcess {
        rank,
        child,
        said,
        reader,
        status: None,
    })
}

/// Whether the spec gives its ranks a GPU each.
fn uses_gpus(spec: &Path) -> Result<bool, RunError> {
    Ok(read_spec(spec)?.devices.iter().any(|device| match device {
        Device::Gpu { .. } => true,
        Device::Cpu { .. } => false,
    }))
}

/// The one GPU that a rank gets, of those that this process may use; None for a rank on a CPU.
fn gpu_of(rank: u32, uses_gpus: bool, visible: Option<String>) -> Result<Option<String>, RunError> {
    if !uses_gpus {
        return Ok(None);
    }
    // Nothing was narrowed down by whoever started this: ranks take the host's GPUs in order.
    let Some(visible) = visible else {
        return Ok(Some(rank.to_string()));
    };
    let gpus: Vec<&str> = visible
        .split(',')
        .map(str::trim)
        .filter(|gpu| !gpu.is_empty())
        .collect();
    let place = usize::try_from(rank).unwrap_or(usize::MAX);
    match gpus.get(place) {
        Some(gpu) => Ok(Some((*gpu).to_owned())),
        None => Err(RunError::user(format!(
            "rank {rank} needs a GPU of its own, but {} is {visible:?}",
            env::CUDA_VISIBLE_DEVICES
        ))),
    }
}

/// Passes on the events of the rank that speaks, and keeps every rank's last words.
fn listen(
    lines: impl BufRead,
    rank: u32,
    said: &Mutex<LastWords>,
    events: &Events,
    speaks: impl Fn() -> bool,
) {
    for line in lines.lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(ChildEvent::Finished { summary }) => lock(said).summary = Some(summary),
            Ok(ChildEvent::Failed { class, message }) => {
                lock(said).failure = Some((class, message))
            }
            Ok(
                ChildEvent::Progress { .. }
                | ChildEvent::Metrics { .. }
                | ChildEvent::Checkpoint { .. }
                | ChildEvent::Regrouped { .. },
            ) => {
                if speaks() {
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

/// Waits until every rank has ended. Passes a wish to stop on; once a rank has failed without which
/// the others cannot go on, they have a little time to notice, and are then killed.
fn wait_for_all(
    processes: &mut [RankProcess],
    size: Size,
    speaker: &AtomicU32,
    stop: &Stop,
) -> Result<(), RunError> {
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
                Some(status) => process.status = Some(status),
                None => running += 1,
            }
        }
        if kill_at.is_none() && must_end(processes, size) {
            kill_at = Some(Instant::now() + STOP_GRACE);
        }
        // The lowest rank that lives speaks for all, as on a cluster: its events are those that go
        // on.
        if let Some(first) = processes.iter().find(|process| !process.was_lost()) {
            speaker.store(first.rank, Ordering::Relaxed);
        }
        if running == 0 && processes.iter().all(RankProcess::has_ended) {
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

/// Whether a rank has failed without which the others cannot go on.
fn must_end(processes: &[RankProcess], size: Size) -> bool {
    // Only once all that it said has been heard: its last word says whether the others can go on.
    let failed = |process: &&RankProcess| {
        process.has_ended() && process.status.is_some_and(|status| !status.success())
    };
    let lost = processes
        .iter()
        .filter(|process| process.was_lost())
        .count();
    let left = size
        .ranks
        .saturating_sub(u32::try_from(lost).unwrap_or(u32::MAX));
    processes
        .iter()
        .filter(failed)
        .any(|process| !(process.was_lost() && size.min_ranks.is_some_and(|least| left >= least)))
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
fn outcome_of(process: RankProcess) -> Result<Outcome, RunError> {
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
    // Its word goes before its status: a rank that said why may still die on its way out.
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

/// One result for all ranks: the failure that knows most, else a stop, else the lowest rank's
/// summary. What became of ranks that were lost counts only where too few were left.
fn outcome_of_all(
    results: Vec<(bool, Result<Outcome, RunError>)>,
    size: Size,
) -> Result<Outcome, RunError> {
    let kept = results.iter().filter(|(lost, _)| !lost).count();
    let suffices = size
        .min_ranks
        .is_some_and(|least| kept >= usize::try_from(least).unwrap_or(usize::MAX));
    let mut first = None;
    let mut stopped = false;
    let mut worst: Option<RunError> = None;
    for (lost, result) in results {
        match result {
            Ok(Outcome::Finished(summary)) => first = first.or(Some(summary)),
            Ok(Outcome::Stopped) => stopped = true,
            Err(error) if lost && suffices => {
                tracing::warn!(message = error.message, "the run went on without a rank");
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rank_sees_one_gpu_of_those_that_are_to_be_seen() {
        let gpu = |rank, visible: Option<&str>| gpu_of(rank, true, visible.map(str::to_owned));
        assert_eq!(gpu(1, None).unwrap().as_deref(), Some("1"));
        assert_eq!(gpu(1, Some("3, GPU-7")).unwrap().as_deref(), Some("GPU-7"));
        assert!(gpu(2, Some("3,5")).unwrap_err().message.contains("rank 2"));
        assert!(gpu_of(0, false, None).unwrap().is_none());
    }
}
