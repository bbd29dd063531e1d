//! The trial of `nccl-check`, in a process of its own: one rank a visible GPU, each a thread.

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use tch::{Cuda, Device, Kind, Tensor};

use super::{NcclReport, TrialLine};
use crate::error::{RunError, TorchError};
use crate::ffi::{self, Group, Nccl, Store};
use crate::rendezvous::StoreServer;

/// Where the ranks meet, and by which address.
const HOST: &str = "127.0.0.1";
/// Numbers that are summed: 64 MiB, enough to see the connection's speed.
const NUMBERS: i64 = 1 << 24;
/// The cure where a part of CUDA or NCCL is missing.
const RUNTIME_CURE: &str =
    "install the GPU runtime beside the trainer's libtorch, see \"GPU hosts\" in docs/deploy.md";

/// What the trial's process does: tries, and passes lines of JSON to `say`.
pub(in crate::lab) fn trial(limit: Duration, say: impl Fn(&str)) {
    let tell = |line: &TrialLine| {
        if let Ok(text) = serde_json::to_string(line) {
            say(&text);
        }
    };
    let stage = |name: &str| tell(&TrialLine::Stage(name.to_owned()));
    let report = try_nccl(limit, &stage).unwrap_or_else(|report| *report);
    tell(&TrialLine::Report(report));
}

fn try_nccl(limit: Duration, stage: &dyn Fn(&str)) -> Result<NcclReport, Box<NcclReport>> {
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
    // The ranks hold the others: the loop below ends when the last of them has.
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
