//! The binary `marquee-trainer`: a job's work as a child process, one a rank.
//!
//! Events go to stdout as JSON lines, words for people to stderr. Exit codes are those of
//! [`marquee_domain::child::ExitCode`].

use std::io::{BufRead, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use marquee_domain::FailureClass;
use marquee_domain::child::ExitCode;
use marquee_domain::zoo::MODELS;
use marquee_trainer::{
    Events, Facts, ModelCheck, Outcome, Place, RunError, Size, StepBench, StepBenchOptions,
    StepTimes, Stop, check_model, conclude, leave, make_shards, nccl_check, nccl_trial, read_spec,
    run, run_ranks, serve, write_vectors,
};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Ours, and what it links: a worker reports the latter as its flavour.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("MARQUEE_FLAVOUR"),
    ")"
);

/// Train and evaluate with libtorch: one process a rank
#[derive(Debug, Parser)]
#[command(name = "marquee-trainer", version = VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Do the work of a spec file; the rank is taken from RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT
    Run {
        /// The spec, as a worker writes it
        spec: PathBuf,
        /// Without RANK: start this many ranks on this machine, and a store for them to meet at
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
        ranks: u32,
        /// With --ranks: go on with as few as this when ranks are lost; without it, all are needed
        #[arg(long, requires = "ranks", value_parser = clap::value_parser!(u32).range(1..=64))]
        min_ranks: Option<u32>,
        /// Stop, as on SIGTERM, when stdin ends
        #[arg(long)]
        until_eof: bool,
    },
    /// Serve a store at which ranks meet, until SIGTERM; prints one JSON line with its address
    Store {
        /// The address to listen on, and on no other
        #[arg(long)]
        host: String,
        /// 0: any free one
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// Stop when stdin ends
        #[arg(long)]
        until_eof: bool,
    },
    /// Compare a model with what PyTorch computed; prints one JSON object of differences
    CheckModel {
        /// A name of the zoo
        model: String,
        /// Weights under timm's names (safetensors); their classifier says how many classes there are
        weights: PathBuf,
        /// x, and what PyTorch made of it: features, logits, logits_small of x_small, grad_x of target
        io: PathBuf,
        /// Exit 1 if an absolute difference is larger
        #[arg(long, default_value_t = 1e-5)]
        tolerance: f64,
        /// Also do one step of plain SGD, at the rate `lr` of IO, and compare with these weights
        #[arg(long)]
        stepped: Option<PathBuf>,
        /// Where to compute: the CPU, or the first GPU
        #[arg(long, default_value = "cpu", value_parser = ["cpu", "cuda"])]
        device: String,
    },
    /// Try NCCL on this host's GPUs: one rank each, all-reduce, abort; says what does not work and why
    NcclCheck {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Seconds after which a trial that hangs is ended
        #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=3600))]
        timeout_s: u32,
        /// The trial itself, without the process around it
        #[arg(long, hide = true)]
        inner: bool,
    },
    /// Time whole training steps on a batch that lies ready, for comparisons; ranks as for "run"
    BenchStep(BenchStep),
    /// Write raw shards of noise, to measure with
    MakeShards {
        /// The folder
        dir: PathBuf,
        /// Pictures
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rows: u32,
        /// Pixels of a side
        #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u32).range(16..=4_096))]
        side: u32,
    },
    /// Write weights drawn from a seed and what this build computes with them, for check-model of
    /// another build
    WriteVectors {
        /// A name of the zoo
        model: String,
        /// The folder for weights.safetensors and io.safetensors
        folder: PathBuf,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// List the models of the zoo
    Models,
    /// Say what this trainer is built on, for which GPUs, and whether CUDA's libraries load here
    Facts {
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
}

/// What `bench-step` is given.
#[derive(Debug, Args)]
struct BenchStep {
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

fn main() {
    marquee_trainer::prepare_process();
    let cli = Cli::parse();
    let asked_for = std::env::var("MARQUEE_LOG").ok();
    let filter: Targets = asked_for
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // The filter says what is logged.
        .with_max_level(LevelFilter::TRACE)
        .finish()
        .with(filter)
        .init();
    let code = match cli.command {
        Command::Run {
            spec,
            ranks,
            min_ranks,
            until_eof,
        } => run_command(&spec, Size { ranks, min_ranks }, until_eof),
        Command::Store {
            host,
            port,
            until_eof,
        } => store_command(&host, port, until_eof),
        Command::CheckModel {
            model,
            weights,
            io,
            tolerance,
            stepped,
            device,
        } => check_command(ModelCheck {
            model: &model,
            weights: &weights,
            io: &io,
            stepped: stepped.as_deref(),
            tolerance,
            on_gpu: device == "cuda",
        }),
        Command::NcclCheck {
            json,
            timeout_s,
            inner,
        } => nccl_command(json, Duration::from_secs(u64::from(timeout_s)), inner),
        Command::BenchStep(bench) => bench_command(&bench),
        Command::MakeShards { dir, rows, side } => shards_command(&dir, rows, side),
        Command::WriteVectors {
            model,
            folder,
            seed,
        } => match write_vectors(&model, seed, &folder) {
            Ok(()) => ExitCode::OK,
            Err(error) => {
                tracing::error!("{error}");
                ExitCode::FAILED
            }
        },
        Command::Models => {
            MODELS.iter().for_each(|name| say(name));
            ExitCode::OK
        }
        Command::Facts { json } => {
            let facts = Facts::of(env!("MARQUEE_FLAVOUR"));
            say(&if json { facts.json() } else { facts.text() });
            ExitCode::OK
        }
    };
    leave(code)
}

fn run_command(spec: &Path, size: Size, until_eof: bool) -> ExitCode {
    let events = Arc::new(Events::to_stdout());
    let result = catch_unwind(AssertUnwindSafe(|| {
        run_or_launch(spec, size, until_eof, &events)
    }));
    conclude(result.unwrap_or_else(|panic| Err(crash(&*panic))), &events)
}

fn run_or_launch(
    spec: &Path,
    size: Size,
    until_eof: bool,
    events: &Arc<Events>,
) -> Result<Outcome, RunError> {
    let stop = Stop::on_signals()?;
    if until_eof {
        marquee_trainer::when_stdin_ends()?;
    }
    let place = Place::from_env(|name| std::env::var(name).ok())?;
    if place.is_none() && (size.ranks > 1 || size.min_ranks.is_some()) {
        return run_ranks(spec, size, events, &stop);
    }
    run(
        &read_spec(spec)?,
        &place.unwrap_or_else(Place::alone),
        events,
        &stop,
    )
}

fn store_command(host: &str, port: u16, until_eof: bool) -> ExitCode {
    match serve(host, port, until_eof, say) {
        Ok(()) => ExitCode::OK,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILED
        }
    }
}

fn check_command(check: ModelCheck) -> ExitCode {
    let report = match check_model(check) {
        Ok(report) => report,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::FAILED;
        }
    };
    match serde_json::to_string(&report) {
        Ok(line) => say(&line),
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::FAILED;
        }
    }
    if report.ok {
        ExitCode::OK
    } else {
        ExitCode::FAILED
    }
}

fn shards_command(dir: &Path, rows: u32, side: u32) -> ExitCode {
    match make_shards(dir, rows, side) {
        Ok(()) => ExitCode::OK,
        Err(error) => {
            tracing::error!("{}", error.message);
            ExitCode::FAILED
        }
    }
}

fn nccl_command(json: bool, limit: Duration, inner: bool) -> ExitCode {
    if inner {
        nccl_trial(limit, say);
        return ExitCode::OK;
    }
    let report = nccl_check(limit);
    match serde_json::to_string(&report) {
        Ok(line) if json => say(&line),
        Ok(_) | Err(_) => say(&report.words()),
    }
    if report.usable {
        ExitCode::OK
    } else {
        ExitCode::FAILED
    }
}

fn bench_command(bench: &BenchStep) -> ExitCode {
    match time_steps(bench) {
        Ok(()) => ExitCode::OK,
        Err(error) => {
            tracing::error!("{}", error.message);
            ExitCode::FAILED
        }
    }
}

fn time_steps(bench: &BenchStep) -> Result<(), RunError> {
    let place = Place::from_env(|name| std::env::var(name).ok())?.unwrap_or_else(Place::alone);
    let Some(mut steps) = StepBench::prepare(&bench.what, &place, &Stop::default())? else {
        return Ok(());
    };
    if bench.serve {
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

fn say_times(times: &StepTimes) {
    match serde_json::to_string(times) {
        Ok(line) => say(&line),
        Err(error) => tracing::error!("{error}"),
    }
}

/// A line for whoever reads our stdout. If nobody does, there is nobody to tell.
fn say(line: &str) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// The last word of a rank that panicked: tch's plain calls do so on errors of libtorch.
fn crash(panic: &(dyn std::any::Any + Send)) -> RunError {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    RunError {
        class: FailureClass::Crash,
        message: format!("the trainer panicked: {text}"),
    }
}
