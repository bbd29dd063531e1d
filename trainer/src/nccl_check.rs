//! `marquee-trainer nccl-check`: whether ranks on this host's GPUs can exchange gradients by NCCL, and
//! if not, why not and what helps.
//!
//! The trial runs in a process of its own, one rank a visible GPU, each a thread: NCCL and drivers may
//! end a process or hang it, and a verdict must come all the same. Invariant: whatever happens there
//! is one [`NcclReport`] here.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tch::{Cuda, Device, Kind, Tensor};

use crate::error::{RunError, TorchError};
use crate::ffi::{self, Group, Nccl, Store};
use crate::rendezvous::StoreServer;

/// Where the ranks meet, and by which address.
const HOST: &str = "127.0.0.1";
/// Numbers that are summed: 64 MiB, enough to see the connection's speed.
const NUMBERS: i64 = 1 << 24;
/// Of what the process wrote to stderr, the end that a report quotes.
const QUOTED_BYTES: usize = 600;
/// What installing looks like, for each part that may be missing.
const RUNTIME_CURE: &str =
    "install the GPU runtime beside the trainer's libtorch, see \"GPU hosts\" in docs/deploy.md";

/// The verdict on NCCL, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NcclReport {
    pub usable: bool,
    /// Where it ended: "libtorch", "shim", "driver", "init", "all_reduce", "abort", "regroup" or
    /// "done".
    pub stage: String,
    /// What was found, in words.
    pub reason: String,
    /// What to do about it; empty where nothing is to be done.
    pub cure: String,
    /// GPUs that this process sees, each of which was a rank.
    pub gpus: u32,
    /// NCCL's version, where it was loaded.
    pub nccl: Option<String>,
    /// The shared object that carries NCCL, where it was loaded.
    pub shim: Option<String>,
    /// Seconds from forming the group to the end of its first all-reduce.
    pub init_s: Option<f64>,
    /// Seconds of one all-reduce of `bytes` bytes after that.
    pub all_reduce_s: Option<f64>,
    pub bytes: Option<u64>,
    /// Seconds in which the group was aborted.
    pub abort_s: Option<f64>,
}

impl NcclReport {
    fn failed(stage: &str, reason: impl Into<String>, cure: &str) -> Self {
        Self {
            stage: stage.to_owned(),
            reason: reason.into(),
            cure: cure.to_owned(),
            ..Self::default()
        }
    }

    /// The verdict as lines for people.
    #[must_use]
    pub fn words(&self) -> String {
        let verdict = if self.usable {
            format!("NCCL works: {}", self.reason)
        } else {
            format!("NCCL cannot be used: {}", self.reason)
        };
        if self.cure.is_empty() {
            verdict
        } else {
            format!("{verdict}\n  {}", self.cure)
        }
    }
}

/// A line of the trial's process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// What comes next.
    Stage(String),
    /// The last word.
    Report(NcclReport),
}

/// Tries NCCL in a process of its own, for `limit` at most.
#[must_use]
pub fn nccl_check(limit: Duration) -> NcclReport {
    let started = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .args(["nccl-check", "--inner"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    });
    match started {
        Ok(child) => follow(child, limit),
        Err(error) => NcclReport::failed(
            "start",
            format!("the trial's process cannot be started: {error}"),
            "",
        ),
    }
}

/// Waits for the last word, or makes one up from how the process ended.
fn follow(mut child: Child, limit: Duration) -> NcclReport {
    let said = child.stderr.take().map(|mut stderr| {
        thread::spawn(move || {
            let mut text = Vec::new();
            // What cannot be read cannot be quoted; the verdict stands without.
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let lines = child.stdout.take().map(listen);
    let deadline = Instant::now() + limit;
    let mut stage = "start".to_owned();
    let timed_out = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.as_ref().map(|lines| lines.recv_timeout(left)) {
            Some(Ok(Line::Stage(next))) => stage = next,
            Some(Ok(Line::Report(report))) => {
                // It has said its last word: what it does after that is of no interest.
                end(&mut child);
                return report;
            }
            Some(Err(RecvTimeoutError::Timeout)) => break true,
            Some(Err(RecvTimeoutError::Disconnected)) | None => break false,
        }
    };
    let status = if timed_out {
        end(&mut child);
        None
    } else {
        child.wait().ok()
    };
    let said = said.and_then(|said| said.join().ok()).unwrap_or_default();
    NcclReport::failed(
        &stage,
        format!("{}{}", ending(status, &stage, limit), quote(&said)),
        "see the end of its messages; NCCL_DEBUG=INFO makes NCCL tell more",
    )
}

fn end(child: &mut Child) {
    // Either may fail because it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

fn ending(status: Option<ExitStatus>, stage: &str, limit: Duration) -> String {
    match status {
        None => format!(
            "the trial did not end within {} s, in its stage {stage:?}",
            limit.as_secs()
        ),
        Some(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => {
                format!("the trial was ended by signal {signal} in its stage {stage:?}")
            }
            (None, code) => format!(
                "the trial left with exit code {} and no verdict, in its stage {stage:?}",
                code.unwrap_or(-1)
            ),
        },
    }
}

/// The end of what was said, on one line.
fn quote(said: &str) -> String {
    let said = said.trim();
    if said.is_empty() {
        return String::new();
    }
    let mut from = said.len().saturating_sub(QUOTED_BYTES);
    while !said.is_char_boundary(from) {
        from += 1;
    }
    format!("; it said: {}", said[from..].replace('\n', " / "))
}

/// The lines of `stdout`, from a thread; it ends with the stream.
fn listen(stdout: impl Read + Send + 'static) -> Receiver<Line> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for text in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Libraries may write to stdout, too.
            if let Ok(line) = serde_json::from_str(&text)
                && sender.send(line).is_err()
            {
                return;
            }
        }
    });
    lines
}

/// What the trial's process does: tries, and passes lines of JSON to `say`.
pub fn nccl_trial(limit: Duration, say: impl Fn(&str)) {
    let tell = |line: &Line| {
        if let Ok(text) = serde_json::to_string(line) {
            say(&text);
        }
    };
    let stage = |name: &str| tell(&Line::Stage(name.to_owned()));
    let report = trial(limit, &stage).unwrap_or_else(|report| *report);
    tell(&Line::Report(report));
}

fn trial(limit: Duration, stage: &dyn Fn(&str)) -> Result<NcclReport, Box<NcclReport>> {
    let fail =
        |stage: &str, reason: String, cure: &str| Box::new(NcclReport::failed(stage, reason, cure));
    stage("libtorch");
    ffi::load_cuda().map_err(|error| {
        let reason = format!("libtorch's CUDA half cannot be loaded: {error}");
        fail("libtorch", reason, RUNTIME_CURE)
    })?;
    stage("shim");
    let nccl = Nccl::load().map_err(|reason| fail("shim", reason, ""))?;
    stage("driver");
    let gpus = usize::try_from(Cuda::device_count()).unwrap_or(0);
    let mut report = NcclReport {
        gpus: u32::try_from(gpus).unwrap_or(u32::MAX),
        nccl: Some(nccl.version.clone()),
        shim: Some(nccl.path.display().to_string()),
        ..NcclReport::default()
    };
    if gpus == 0 {
        "driver".clone_into(&mut report.stage);
        report.reason = format!(
            "libtorch finds no GPU that it can use{}",
            without_gpus(&nccl, limit)
        );
        "check the NVIDIA driver with nvidia-smi, and CUDA_VISIBLE_DEVICES"
            .clone_into(&mut report.cure);
        return Ok(report);
    }
    match exchange(gpus, &nccl, limit, stage) {
        Ok(times) => {
            times.enter(&mut report);
            report.usable = true;
            "done".clone_into(&mut report.stage);
            report.reason = format!(
                "{gpus} rank(s), NCCL {}: ready after {:.1} s, all-reduce of {} MB in {:.1} ms, aborted in {:.1} \
                 s, and formed anew",
                nccl.version,
                times.init.as_secs_f64(),
                bytes() / 1_000_000,
                1e3 * times.all_reduce.as_secs_f64(),
                times.abort.as_secs_f64()
            );
        }
        Err((at, error)) => {
            report.stage = at.to_owned();
            report.reason = error.message;
            "NCCL_DEBUG=INFO makes NCCL tell more; with one GPU a rank, also look at /dev/shm and memlock"
                .clone_into(&mut report.cure);
        }
    }
    Ok(report)
}

/// What NCCL's backend itself says on a host without GPUs.
fn without_gpus(nccl: &Nccl, limit: Duration) -> String {
    let form = || -> Result<(), RunError> {
        let server = StoreServer::start(HOST, 0)?;
        let store = Store::connect(HOST, server.port, limit)?;
        let group = Group::gloo(&store, 0, 1, HOST, limit)?;
        Ok(group.carry_gpus_by_nccl(nccl, &store, 0, 1)?)
    };
    match form() {
        Ok(()) => String::new(),
        Err(error) => format!(" ({})", error.message),
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Times {
    init: Duration,
    all_reduce: Duration,
    abort: Duration,
}

impl Times {
    fn enter(&self, report: &mut NcclReport) {
        report.init_s = Some(self.init.as_secs_f64());
        report.all_reduce_s = Some(self.all_reduce.as_secs_f64());
        report.abort_s = Some(self.abort.as_secs_f64());
        report.bytes = Some(bytes());
    }
}

fn bytes() -> u64 {
    4 * NUMBERS.unsigned_abs()
}

/// A group of one rank a GPU: forms it, sums, aborts it, and forms another, as after a lost rank.
fn exchange(
    gpus: usize,
    nccl: &Nccl,
    limit: Duration,
    stage: &dyn Fn(&str),
) -> Result<Times, (&'static str, RunError)> {
    stage("init");
    let server = StoreServer::start(HOST, 0).map_err(|error| ("init", error))?;
    let (sender, stages) = channel();
    let ranks: Vec<_> = (0..gpus)
        .map(|index| {
            let (nccl, sender, port) = (nccl.clone(), sender.clone(), server.port);
            thread::spawn(move || {
                Rank {
                    index,
                    gpus,
                    nccl,
                    port,
                    limit,
                }
                .run(&|stage| {
                    // Nobody listens any more once another rank has failed.
                    let _ = sender.send(stage);
                })
            })
        })
        .collect();
    drop(sender);
    let mut last = "init";
    while let Ok(next) = stages.recv() {
        if next != last {
            stage(next);
            last = next;
        }
    }
    let mut times = Times::default();
    for rank in ranks {
        let panicked = || (last, RunError::host("a rank of the trial panicked"));
        let own = rank
            .join()
            .map_err(|_| panicked())?
            .map_err(|error| (last, error))?;
        times.init = times.init.max(own.init);
        times.all_reduce = times.all_reduce.max(own.all_reduce);
        times.abort = times.abort.max(own.abort);
    }
    Ok(times)
}

/// One rank of the trial.
struct Rank {
    index: usize,
    gpus: usize,
    nccl: Nccl,
    port: u16,
    limit: Duration,
}

impl Rank {
    fn run(&self, stage: &dyn Fn(&'static str)) -> Result<Times, RunError> {
        let store = Store::connect(HOST, self.port, self.limit)?;
        let started = Instant::now();
        let first = self.form(&store.prefixed("first")?)?;
        self.sum_is_right(&first)?;
        let init = started.elapsed();
        stage("all_reduce");
        let started = Instant::now();
        self.sum_is_right(&first)?;
        let all_reduce = started.elapsed();
        stage("abort");
        let started = Instant::now();
        first.abort()?;
        let abort = started.elapsed();
        stage("regroup");
        let second = self.form(&store.prefixed("second")?)?;
        self.sum_is_right(&second)?;
        Ok(Times {
            init,
            all_reduce,
            abort,
        })
    }

    fn form(&self, store: &Store) -> Result<Group, TorchError> {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (rank, size) = (number(self.index), number(self.gpus));
        let group = Group::gloo(store, rank, size, HOST, self.limit)?;
        group.carry_gpus_by_nccl(&self.nccl, store, rank, size)?;
        Ok(group)
    }

    /// Sums each rank's number, from 1, over all of them.
    fn sum_is_right(&self, group: &Group) -> Result<(), RunError> {
        let device = Device::Cuda(self.index);
        let tensor = Tensor::f_full([NUMBERS], (self.index + 1) as f64, (Kind::Float, device))?;
        group.all_reduce_sum(&tensor)?;
        let expected = (self.gpus * (self.gpus + 1) / 2) as f64;
        let (least, most) = tensor.f_aminmax(None, false)?;
        let found = (least.f_double_value(&[])?, most.f_double_value(&[])?);
        if found == (expected, expected) {
            return Ok(());
        }
        Err(RunError::host(format!(
            "the sum over {} rank(s) came out as {found:?} instead of {expected}",
            self.gpus
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow_shell(script: &str, limit: Duration) -> NcclReport {
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        follow(child, limit)
    }

    #[test]
    fn a_crash_a_hang_and_a_silent_end_are_verdicts_with_their_stage() {
        let long = Duration::from_secs(60);
        let crash = follow_shell(
            "echo '{\"stage\":\"init\"}'; echo 'NCCL WARN no way' >&2; kill -ABRT $$",
            long,
        );
        assert!(!crash.usable);
        assert_eq!(crash.stage, "init");
        assert!(crash.reason.contains("signal 6"), "{}", crash.reason);
        assert!(crash.reason.contains("no way"), "{}", crash.reason);

        let hang = follow_shell(
            "echo '{\"stage\":\"all_reduce\"}'; exec sleep 600",
            Duration::from_millis(300),
        );
        assert_eq!(hang.stage, "all_reduce");
        assert!(hang.reason.contains("did not end"), "{}", hang.reason);

        let silent = follow_shell("echo noise; exit 3", long);
        assert!(silent.reason.contains("exit code 3"), "{}", silent.reason);
    }

    #[test]
    fn the_last_word_of_the_trial_is_the_verdict() {
        let report = NcclReport {
            usable: true,
            stage: "done".to_owned(),
            gpus: 2,
            ..NcclReport::default()
        };
        let line = serde_json::to_string(&Line::Report(report.clone())).unwrap();
        let script = format!("echo '{line}'; sleep 600");
        assert_eq!(follow_shell(&script, Duration::from_secs(60)), report);
    }
}
