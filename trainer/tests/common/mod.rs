//! What the tests of whole runs share: small shards, specs, and ranks as real processes.

#![allow(unreachable_pub, reason = "helpers of the test program's own files")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use marquee_datasets::shards::{ShardLayout, ShardWriter};
use marquee_domain::FailureClass;
use marquee_domain::child::{ChildEvent, ChildSpec};
use marquee_domain::report::SourceNote;
use marquee_domain::resources::Device;
use marquee_domain::spec::{
    Backend, EvalSettings, GradientCompression, ImageEncoding, Learning, LrSchedule, Optimizer,
    Precision, TrainSettings, Transfer, Work,
};
use marquee_domain::{AttemptNumber, JobId};

/// Longest wait for anything that should happen at once, on a machine that others keep busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const CLASSES: [&str; 3] = ["red", "bright", "striped"];
pub const WIDTH: u32 = 16;
pub const HEIGHT: u32 = 24;

/// A small reproducible stream of numbers (an LCG): the tests need variety, not quality.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A noisy picture that shows its three labels: a red cast, brightness, horizontal stripes.
fn picture(labels: [u8; 3], (width, height): (u32, u32), dice: &mut Dice) -> Vec<u8> {
    let [red, bright, striped] = labels.map(|label| label == 1);
    let mut pixels = Vec::new();
    for y in 0..height {
        for _ in 0..width {
            let mut colour = [60_u64; 3].map(|base| base + dice.below(50));
            if red {
                colour[0] += 70;
            }
            if bright {
                colour = colour.map(|value| value + 60);
            }
            if striped && y % 4 < 2 {
                colour = colour.map(|value| value / 2);
            }
            pixels.extend(colour.map(|value| u8::try_from(value.min(255)).unwrap()));
        }
    }
    pixels
}

/// Writes shards with so many rows for train, validation and test.
pub fn write_shards(dir: &Path, rows: [usize; 3]) {
    write_shards_of(dir, rows, (WIDTH, HEIGHT));
}

/// The same, with pictures of another size.
pub fn write_shards_of(dir: &Path, rows: [usize; 3], size: (u32, u32)) {
    write_shards_from(7, dir, rows, size);
}

/// The same, with the pictures that `seed` draws, in their order: train first, test last.
pub fn write_shards_from(seed: u64, dir: &Path, rows: [usize; 3], (width, height): (u32, u32)) {
    std::fs::create_dir_all(dir).unwrap();
    let layout = ShardLayout {
        width,
        height,
        encoding: ImageEncoding::Raw,
        classes: CLASSES.map(str::to_owned).to_vec(),
        source: SourceNote {
            synthetic: true,
            ..SourceNote::default()
        },
        seed: 1,
        shard_bytes: 1 << 20,
        notes: BTreeMap::new(),
    };
    let mut writer = ShardWriter::create(dir, layout).unwrap();
    let mut dice = Dice::new(seed);
    for (split, rows) in ["train", "validation", "test"].into_iter().zip(rows) {
        for row in 0..rows {
            let labels = [(); 3].map(|()| u8::from(dice.below(5) < 2));
            let image = picture(labels, (width, height), &mut dice);
            writer
                .push(split, &format!("{split}-{row}"), &labels, &image)
                .unwrap();
        }
    }
    writer.finish().unwrap();
}

/// Settings that a test then changes.
pub fn settings() -> TrainSettings {
    TrainSettings {
        model: "simple-cnn".into(),
        epochs: 2,
        batch_size: 8,
        optimizer: Optimizer::Sgd {
            lr: 0.05,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 1e-4,
        },
        lr_schedule: LrSchedule::Cosine,
        warmup: None,
        clip_norm: None,
        accumulate: 1,
        ema_decay: None,
        precision: Precision::Fp32,
        channels_last: true,
        deterministic: false,
        backend: Backend::Auto,
        gradient_compression: GradientCompression::None,
        seed: 11,
        flip: true,
        dropout: 0.0,
        drop_path: 0.0,
        crop: None,
        colour: None,
        input_threads: 0,
        checkpoint_every_steps: 0,
        max_steps: None,
        learning: Learning::default(),
        transfer: Transfer::default(),
        tensorboard: false,
        collective_timeout_s: 60,
    }
}

/// One run: its folders, and its spec.
pub struct Run {
    pub folder: tempfile::TempDir,
    pub spec: ChildSpec,
}

impl Run {
    pub fn train(shards: &Path, settings: TrainSettings) -> Self {
        Self::of(Work::Train(settings), [("shards", shards)])
    }

    /// An eval that scores pictures even if the model has learned from them.
    pub fn eval_in_spite<const N: usize>(inputs: [(&str, &Path); N]) -> Self {
        let mut run = Self::eval(inputs);
        if let Work::Eval(settings) = &mut run.spec.work {
            settings.allow_overlap = true;
        }
        run
    }

    pub fn eval<const N: usize>(inputs: [(&str, &Path); N]) -> Self {
        let settings = EvalSettings {
            batch_size: 64,
            thresholds: BTreeMap::new(),
            bootstrap_resamples: 0,
            gallery: 4,
            seed: 1,
            allow_overlap: false,
        };
        Self::of(Work::Eval(settings), inputs)
    }

    fn of<const N: usize>(work: Work, inputs: [(&str, &Path); N]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (output, checkpoints) = (make("output"), make("checkpoints"));
        let spec = ChildSpec {
            job: JobId(1),
            job_name: "train".parse().unwrap(),
            pipeline: None,
            attempt: AttemptNumber(1),
            work,
            element: None,
            inputs: inputs
                .into_iter()
                .map(|(name, path)| (name.to_owned(), path.to_owned()))
                .collect(),
            output,
            checkpoints,
            resume: None,
            rate: None,
            scratch: None,
            devices: vec![Device::Cpu { index: 0 }],
            threads: 1,
        };
        Self { folder, spec }
    }

    pub fn resuming(mut self, checkpoint: &Path) -> Self {
        self.spec.resume = Some(checkpoint.to_owned());
        self
    }

    pub fn write_spec(&self) -> PathBuf {
        let path = self.folder.path().join("spec.json");
        std::fs::write(&path, serde_json::to_string(&self.spec).unwrap()).unwrap();
        path
    }

    pub fn output(&self, file: &str) -> PathBuf {
        self.spec.output.join(file)
    }

    pub fn model_bytes(&self) -> Vec<u8> {
        std::fs::read(self.output("model.safetensors")).unwrap()
    }

    /// Starts this run's ranks as processes, as a worker would, with a store outside of them.
    pub fn start(&self, ranks: u32) -> Gang {
        let spec = self.write_spec();
        let store = (ranks > 1).then(StoreProcess::start);
        let ranks = (0..ranks)
            .map(|rank| {
                let mut command = trainer();
                command.arg("run").arg(&spec);
                if let Some(store) = &store {
                    command
                        .env("RANK", rank.to_string())
                        .env("WORLD_SIZE", ranks.to_string())
                        .env("MASTER_ADDR", "127.0.0.1")
                        .env("MASTER_PORT", store.port.to_string());
                }
                RankProcess::spawn(command)
            })
            .collect();
        Gang {
            ranks,
            _store: store,
        }
    }

    /// Runs to the end and expects success. Returns rank 0's events.
    pub fn succeed(&self, ranks: u32) -> Vec<ChildEvent> {
        let mut gang = self.start(ranks);
        let mut all = gang
            .ranks
            .iter_mut()
            .map(RankProcess::finish)
            .collect::<Vec<_>>();
        for (events, code) in &all {
            assert_eq!(*code, Some(0), "{events:#?}");
            assert!(
                matches!(events.last(), Some(ChildEvent::Finished { .. })),
                "{events:#?}"
            );
        }
        all.swap_remove(0).0
    }
}

pub fn trainer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_marquee-trainer"));
    for name in ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"] {
        command.env_remove(name);
    }
    command.env("MARQUEE_LOG", "warn").stdin(Stdio::null());
    command
}

pub struct Gang {
    pub ranks: Vec<RankProcess>,
    _store: Option<StoreProcess>,
}

/// `marquee-trainer store`, which ends with the test: its stdin does.
pub struct StoreProcess {
    pub port: u16,
    child: Child,
    stdin: Option<ChildStdin>,
}

impl StoreProcess {
    pub fn start() -> Self {
        let mut child = trainer()
            .args(["store", "--host", "127.0.0.1", "--until-eof"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let listening: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&listening["event"], &listening["host"]),
            (&"listening".into(), &"127.0.0.1".into())
        );
        let port = u16::try_from(listening["port"].as_u64().unwrap()).unwrap();
        Self {
            port,
            stdin: child.stdin.take(),
            child,
        }
    }

    pub fn end_stdin(mut self) -> std::process::ExitStatus {
        drop(self.stdin.take());
        self.child.wait().unwrap()
    }
}

impl Drop for StoreProcess {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.child.wait().unwrap();
    }
}

/// One rank. Its events are read by a thread, so that it never blocks on a full pipe.
pub struct RankProcess {
    pub child: Child,
    events: Receiver<ChildEvent>,
    seen: Vec<ChildEvent>,
}

impl RankProcess {
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (sender, events) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let event =
                    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            events,
            seen: Vec::new(),
        }
    }

    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Waits for an event of which `wanted` gives something.
    pub fn wait_for<T>(&mut self, wanted: impl Fn(&ChildEvent) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(event) => {
                    let found = wanted(&event);
                    self.seen.push(event);
                    if let Some(found) = found {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("not in time; seen: {:#?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended before; seen: {:#?}", self.seen)
                }
            }
        }
    }

    /// Waits for the checkpoint of `step`, or a later one.
    pub fn wait_for_checkpoint(&mut self, at_least: u64) -> PathBuf {
        self.wait_for(|event| {
            let (step, path) = checkpoint_in(event)?;
            (step >= at_least).then(|| path.to_owned())
        })
    }

    /// Waits for the end, and returns all events and the exit code.
    pub fn finish(&mut self) -> (Vec<ChildEvent>, Option<i32>) {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(event) = self
            .events
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.seen.push(event);
        }
        assert!(
            Instant::now() < deadline,
            "did not end in time; seen: {:#?}",
            self.seen
        );
        let code = self.child.wait().unwrap().code();
        (std::mem::take(&mut self.seen), code)
    }

    /// Waits for the end, and expects a failure of which class and message are returned.
    pub fn fail(&mut self) -> (FailureClass, String) {
        let (events, code) = self.finish();
        assert_eq!(code, Some(1), "{events:#?}");
        match events.last() {
            Some(ChildEvent::Failed { class, message }) => (*class, message.clone()),
            other => panic!("the last word is {other:?}"),
        }
    }
}

impl Drop for RankProcess {
    fn drop(&mut self) {
        // Already gone, most times.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process of a rank that `run --ranks` started: the child of `launcher` with that RANK.
pub fn rank_of(launcher: nix::unistd::Pid, rank: u32) -> nix::unistd::Pid {
    let children =
        std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
    let is_rank = |pid: &&str| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == format!("RANK={rank}").as_bytes())
    };
    let pid = children.split_whitespace().find(is_rank).unwrap();
    nix::unistd::Pid::from_raw(pid.parse().unwrap())
}

/// Step and folder of a checkpoint event.
pub fn checkpoint_in(event: &ChildEvent) -> Option<(u64, &Path)> {
    if let ChildEvent::Checkpoint { step, path } = event {
        Some((*step, path))
    } else {
        None
    }
}

/// The largest difference between the weights of two models, and the largest weight.
pub fn weights_apart(a: &[u8], b: &[u8]) -> (f64, f64) {
    let (a, b) = (f64_tensors(a), f64_tensors(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let (mut apart, mut largest) = (0.0_f64, 0.0_f64);
    for (name, values) in &a {
        for (x, y) in values.iter().zip(&b[name]) {
            apart = apart.max((x - y).abs());
            largest = largest.max(x.abs());
        }
    }
    (apart, largest)
}

fn f64_tensors(bytes: &[u8]) -> BTreeMap<String, Vec<f64>> {
    let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let values = if view.dtype() == safetensors::Dtype::F32 {
                let cells = view.data().chunks_exact(4);
                cells
                    .map(|cell| f64::from(f32::from_le_bytes(cell.try_into().unwrap())))
                    .collect()
            } else {
                assert_eq!(view.dtype(), safetensors::Dtype::F64);
                let cells = view.data().chunks_exact(8);
                cells
                    .map(|cell| f64::from_le_bytes(cell.try_into().unwrap()))
                    .collect()
            };
            (name, values)
        })
        .collect()
}
