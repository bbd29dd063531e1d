//! `marquee-trainer bench-step`: whole training steps on one batch that lies ready, timed.
//!
//! Invariant: the steps are those of train jobs, by the same [`Stepper`], with nothing left out but
//! the way of the pictures into memory. So a figure of this program is a figure of training, and two
//! programs that are given the same weights and the same batch report the same losses.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use marquee_domain::report::PhaseTimes;
use marquee_domain::spec::{Backend, TrainSettings};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;
use serde_json::json;
use tch::Device;

use crate::data::{Batch, StepPlan};
use crate::device;
use crate::error::RunError;
use crate::ffi;
use crate::learner::freeze::Rules;
use crate::learner::{Blueprint, Inputs, Learner};
use crate::loss::Loss;
use crate::models::Chance;
use crate::optimizer::Optimizer;
use crate::parameters::Start;
use crate::rendezvous::{Exchange, Peers, Place};
use crate::stdout::say;
use crate::stop::Stop;
use crate::tensors;
use crate::train::{Numbers, Recipe, StepInput, StepResult, Stepper, kind_of};

/// Seconds that a rank waits for the others in a step: they may be far slower.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(600);

mod options;
mod writing;

use options::{SEED, StepBenchOptions};
use writing::Writing;

/// What `bench-step` is given.
#[derive(Debug, Args)]
pub struct BenchStep {
    #[command(flatten)]
    what: StepBenchOptions,
    /// Steps that are timed
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    steps: u32,
    /// Steps before them that are not
    #[arg(long, default_value_t = 2)]
    warmup: u32,
    /// Instead of --steps: take N steps for each line "go N" of stdin, and answer with one JSON line.
    /// After "phases off" steps do not measure what forward, backward and the optimizer take; after
    /// "phases on" they do again. After "write FOLDER" each "go" begins with a checkpoint that is written
    /// there meanwhile, and tells TensorBoard; after "quiet" it does not
    #[arg(long, conflicts_with_all = ["steps", "json"])]
    serve: bool,
    /// Write the weights at the end
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// One JSON object instead of a line for people
    #[arg(long)]
    json: bool,
}

/// Takes the steps and prints what they took.
pub(super) fn command(bench: &BenchStep) -> Result<(), RunError> {
    let place = Place::from_env(|name| std::env::var(name).ok())?.unwrap_or_else(Place::alone);
    let Some(mut steps) = StepBench::prepare(&bench.what, &place, &Stop::default())? else {
        return Ok(());
    };
    if bench.serve {
        serve(&mut steps)?;
    } else {
        if bench.warmup > 0 {
            steps.run(bench.warmup)?;
        }
        let times = steps.run(bench.steps)?;
        if bench.json {
            say_times(&times);
        } else {
            say(&times.line());
        }
    }
    if let Some(path) = &bench.save {
        steps.save(path)?;
    }
    steps.leave()
}

/// Does what the lines of stdin say until it ends.
fn serve(steps: &mut StepBench) -> Result<(), RunError> {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match (word, rest) {
            ("phases", "on") => steps.time_phases(true),
            ("phases", "off") => steps.time_phases(false),
            ("write", folder) if !folder.is_empty() => steps.write(Some(Path::new(folder)))?,
            ("quiet", "") => steps.write(None)?,
            ("go", count) if let Ok(count) = count.parse() => say_times(&steps.run(count)?),
            _ => tracing::warn!(
                line,
                "this is none of \"go N\", \"phases on\", \"phases off\", \"write FOLDER\" and \"quiet\""
            ),
        }
    }
    Ok(())
}

fn say_times(times: &StepTimes) {
    match serde_json::to_string(times) {
        Ok(line) => say(&line),
        Err(error) => tracing::error!("{error}"),
    }
}

/// Steps that can be taken again and again.
#[derive(Debug)]
struct StepBench {
    stepper: Stepper,
    peers: Peers,
    batch: Batch,
    lr: f64,
    device: Device,
    settings: TrainSettings,
    writing: Option<Writing>,
    done: u64,
    about: serde_json::Value,
}

/// What some steps took.
#[derive(Debug, Serialize)]
struct StepTimes {
    /// What ran.
    about: serde_json::Value,
    steps: usize,
    /// Of each step.
    wall_s: Vec<f64>,
    /// Of each step, of all threads of this process.
    cpu_s: Vec<f64>,
    /// Mean over this rank's share of the batch and its classes, of each step.
    losses: Vec<f64>,
    wall_median_s: f64,
    wall_min_s: f64,
    cpu_median_s: f64,
    cpu_min_s: f64,
    /// Sums over all steps.
    phases: PhaseTimes,
    /// The most that this process has had in memory.
    peak_memory_bytes: u64,
    /// The most that tensors have taken of the GPU's memory; None on CPUs.
    peak_device_bytes: Option<u64>,
}

impl StepBench {
    /// Builds model, optimizer and batch, and joins the other ranks if `place` has any: each of them
    /// takes its share of the batch. None if asked to stop before all were there.
    fn prepare(
        options: &StepBenchOptions,
        place: &Place,
        stop: &Stop,
    ) -> Result<Option<Self>, RunError> {
        let device = options.device()?;
        let settings = options.settings()?;
        device::choose_kernels(device, false, options.precision)?;
        let mut batch = options.batch()?;
        let (size, classes) = options::sizes(&batch)?;
        let kind = kind_of(options.precision);
        let blueprint = Blueprint::of(&Inputs::new(), &settings)?;
        let mut learner = Learner::build(&blueprint, classes, Start::Seed(SEED), kind, device)?;
        learner.check_size(size.0, size.1)?;
        if let Some(path) = &options.weights {
            let whence = path.display().to_string();
            learner.parameters.load(&tensors::read(path)?, &whence)?;
        }
        if !options.channels_last {
            learner.use_channels_first()?;
        }
        let rules = Rules::new(&settings.transfer, &learner)?;
        let steps_per_epoch = StepPlan::new(&settings, batch.global, 0, 1).steps_per_epoch();
        let optimizer = Optimizer::new(
            settings.optimizer,
            &learner.parameters,
            rules.of_weights(),
            steps_per_epoch,
        )?;
        let recipe = Recipe {
            numbers: Numbers::of(options.precision, device)?,
            parts: settings.accumulate,
            clip_norm: None,
            half_gradients: false,
            size,
        };
        let about = json!({
            "model": learner.model,
            "parameters": learner.parameters.count(),
            "batch": batch.global,
            "ranks": place.world_size,
            "width": size.0,
            "height": size.1,
            "classes": classes,
            "precision": options.precision.as_str(),
            "channels_last": options.channels_last,
            "device": options.device,
            "threads": options.threads,
            "optimizer": options.optimizer,
        });
        if device.is_cuda() {
            batch.pixels = ffi::pin(&batch.pixels)?;
            batch.labels = ffi::pin(&batch.labels)?;
        }
        let exchange = Exchange {
            device,
            backend: Backend::Auto,
            timeout: EXCHANGE_TIMEOUT,
        };
        let Some(peers) = Peers::join(&options.attempt()?, place, exchange, stop)? else {
            return Ok(None);
        };
        peers.copy_from_first(&learner.parameters.tensors())?;
        let batch = share_of(&batch, &peers)?;
        let mut stepper = Stepper::new(learner, optimizer, None, Loss::plain(), recipe)?;
        stepper.hook(&peers)?;
        Ok(Some(Self {
            stepper,
            peers,
            batch,
            lr: options.lr,
            device,
            settings,
            writing: None,
            done: 0,
            about,
        }))
    }

    /// Whether steps from now on measure what forward, backward and the optimizer take, as those of train
    /// jobs always do.
    fn time_phases(&mut self, timed: bool) {
        self.stepper.time_phases(timed);
    }

    /// From now on the steps of a [`run`](Self::run) begin with a checkpoint, which is written into `folder`
    /// while they are taken, and tell TensorBoard as those of train jobs do; without a folder they write
    /// nothing.
    fn write(&mut self, folder: Option<&Path>) -> Result<(), RunError> {
        let start = |folder| Writing::start(folder, &self.settings, self.batch.global);
        self.writing = folder.map(start).transpose()?;
        Ok(())
    }

    /// Takes so many steps, one at least, and waits until the device has done them. On GPUs the time of
    /// a step is that from one being asked for to the next, and the last one has the wait: they add up.
    fn run(&mut self, steps: u32) -> Result<StepTimes, RunError> {
        let mut phases = PhaseTimes::default();
        let (mut wall_s, mut cpu_s, mut told) = (Vec::new(), Vec::new(), Vec::new());
        let steps = steps.max(1);
        for taken in 1..=steps {
            let step = self.done;
            let chance = |first| Chance::new(SEED, step, first);
            let (started, cpu) = (Instant::now(), cpu_time()?);
            if let Some(writing) = &mut self.writing {
                writing.before(step, taken == 1, &self.stepper, &mut phases)?;
            }
            let input = StepInput {
                peers: &self.peers,
                lr: self.lr,
                wants_stop: false,
                waited_s: 0.0,
            };
            told.extend(
                self.stepper
                    .step(&self.batch, &chance, input, &mut phases)?,
            );
            // Without the wait a GPU would have been asked for steps that it has not done, and look
            // faster than it is.
            if taken == steps {
                told.extend(self.stepper.drain(&self.peers, &mut phases)?);
            }
            let seconds = started.elapsed().as_secs_f64();
            phases.step_s += seconds;
            wall_s.push(seconds);
            cpu_s.push((cpu_time()? - cpu).as_secs_f64());
            self.done += 1;
        }
        if let Some(writing) = &mut self.writing {
            writing.settle()?;
        }
        let loss = |step: &StepResult| step.loss_sum / self.batch.counted as f64;
        let losses = told.iter().map(loss).collect();
        Ok(StepTimes {
            about: self.about.clone(),
            steps: wall_s.len(),
            // Median and least: on a machine with other work the mean tells of that work.
            wall_median_s: median(&wall_s),
            wall_min_s: least(&wall_s),
            cpu_median_s: median(&cpu_s),
            cpu_min_s: least(&cpu_s),
            wall_s,
            cpu_s,
            losses,
            phases,
            peak_memory_bytes: peak_memory_bytes(),
            peak_device_bytes: match self.device {
                Device::Cuda(index) => ffi::peak_memory(index).ok().map(|memory| memory.allocated),
                Device::Cpu | Device::Mps | Device::Vulkan => None,
            },
        })
    }

    /// Leaves the other ranks in order.
    fn leave(mut self) -> Result<(), RunError> {
        self.peers.meet()?;
        self.stepper.unhook()?;
        self.peers.leave();
        Ok(())
    }

    /// Writes the weights as they are now.
    fn save(&self, path: &Path) -> Result<(), RunError> {
        let bytes = tensors::encode(self.stepper.learner().parameters.state())?;
        std::fs::write(path, bytes).map_err(|error| {
            RunError::host(format!("{} cannot be written: {error}", path.display()))
        })
    }
}

/// What this rank computes of the batch.
fn share_of(batch: &Batch, peers: &Peers) -> Result<Batch, RunError> {
    let (rows, rank, ranks) = (
        batch.pixels.size()[0],
        i64::from(peers.rank),
        i64::from(peers.world_size),
    );
    if rows < ranks {
        return Err(RunError::user(format!(
            "a batch of {rows} is too small for {ranks} ranks"
        )));
    }
    // No share is more than one row larger than another: in each step all wait for the slowest
    // rank.
    let (from, to) = (rows * rank / ranks, rows * (rank + 1) / ranks);
    Ok(Batch {
        pixels: batch.pixels.f_narrow(0, from, to - from)?,
        labels: batch.labels.f_narrow(0, from, to - from)?,
        counted: (to - from).unsigned_abs(),
        global: batch.global,
        first: from.unsigned_abs(),
    })
}

impl StepTimes {
    /// The same for people.
    fn line(&self) -> String {
        let ms = |seconds: f64| format!("{:.1} ms", 1e3 * seconds);
        let mean = |seconds: f64| ms(seconds / self.steps.max(1) as f64);
        format!(
            "{} steps, wall {} (median; least {}), CPU {} (median; least {}); forward {}, backward {}, \
             optimizer {}; peak memory {} MB; last loss {:.6}",
            self.steps,
            ms(self.wall_median_s),
            ms(self.wall_min_s),
            ms(self.cpu_median_s),
            ms(self.cpu_min_s),
            mean(self.phases.forward_s),
            mean(self.phases.backward_s),
            mean(self.phases.optimizer_s),
            self.peak_device_bytes.unwrap_or(self.peak_memory_bytes) / 1_000_000,
            self.losses.last().copied().unwrap_or(f64::NAN),
        )
    }
}

/// What all threads of this process have computed so far.
fn cpu_time() -> Result<Duration, RunError> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)
        .map_err(|error| RunError::host(format!("the time used cannot be read: {error}")))?;
    let used = usage.user_time() + usage.system_time();
    Ok(Duration::from_micros(
        u64::try_from(used.num_microseconds()).unwrap_or(0),
    ))
}

/// `VmHWM` of /proc/self/status; 0 where there is none.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use marquee_domain::spec::Precision;

    use super::options::{LABELS, PIXELS};
    use super::*;

    fn options(precision: Precision, channels_last: bool) -> StepBenchOptions {
        StepBenchOptions {
            model: "simple-cnn".to_owned(),
            weights: None,
            data: None,
            batch: 8,
            width: 16,
            height: 24,
            classes: 3,
            precision,
            channels_last,
            device: "cpu".to_owned(),
            threads: 1,
            optimizer: "sgd".to_owned(),
            lr: 0.05,
        }
    }

    fn prepare(options: &StepBenchOptions) -> Result<StepBench, RunError> {
        StepBench::prepare(options, &Place::alone(), &Stop::default())
            .map(|bench| bench.expect("nobody stops it"))
    }

    #[test]
    fn steps_learn_the_batch_and_their_phases_make_up_their_time() {
        let mut bench = prepare(&options(Precision::Fp32, true)).unwrap();
        let times = bench.run(30).unwrap();
        assert_eq!((times.steps, times.losses.len()), (30, 30));
        assert!(times.losses[29] < times.losses[0], "{:?}", times.losses);
        let phases = times.phases;
        let parts = phases.forward_s + phases.backward_s + phases.optimizer_s;
        assert!(parts <= phases.step_s, "{phases:?}");
        assert!(times.wall_min_s <= times.wall_median_s && times.cpu_min_s > 0.0);
        assert!(times.peak_memory_bytes > 1 << 20);
    }

    #[test]
    fn a_batch_and_weights_from_files_give_the_same_losses_in_either_layout() {
        let folder = tempfile::tempdir().unwrap();
        let mut bench = prepare(&options(Precision::Fp64, true)).unwrap();
        let weights = folder.path().join("weights.safetensors");
        bench.save(&weights).unwrap();
        let data = folder.path().join("data.safetensors");
        let tensors = [(PIXELS, &bench.batch.pixels), (LABELS, &bench.batch.labels)];
        std::fs::write(&data, tensors::encode(tensors).unwrap()).unwrap();
        let first = bench.run(3).unwrap().losses;

        let given = StepBenchOptions {
            weights: Some(weights),
            data: Some(data),
            batch: 1,
            ..options(Precision::Fp64, false)
        };
        let again = prepare(&given).unwrap().run(3).unwrap().losses;
        for (a, b) in first.iter().zip(&again) {
            assert!((a - b).abs() < 1e-12, "{first:?} {again:?}");
        }
    }

    #[test]
    fn what_cannot_be_timed_is_refused_by_name() {
        let auto = prepare(&options(Precision::Auto, true)).unwrap_err();
        assert!(auto.message.contains("fp32"), "{}", auto.message);
        let other = StepBenchOptions {
            optimizer: "adam".to_owned(),
            ..options(Precision::Fp32, true)
        };
        let message = prepare(&other).unwrap_err().message;
        assert!(message.contains("\"adam\""), "{message}");
    }
}
