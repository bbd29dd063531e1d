//! The binary `marquee-trainer`: a job's work as a child process, one a rank.
//!
//! Events go to the channel that `MARQUEE_EVENTS_FD` names, else to stdout, as JSON lines; words for people
//! go to stderr. Exit codes are those of [`marquee_domain::child::ExitCode`].

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use marquee_domain::child::ExitCode;
use marquee_domain::zoo::MODELS;
use marquee_trainer::{BurnIn, Facts, Lab, Size, leave, run_as_child, say, serve};
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
    /// Test a GPU: memory, products against the CPU's, a short training; exit 1 where something is wrong
    BurnIn(BurnIn),
    #[command(flatten)]
    Lab(Lab),
    /// List the models of the zoo
    Models,
    /// Say what this trainer is built on, for which GPUs, and whether CUDA's libraries load here
    Facts {
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
}

fn main() {
    // Before anything else, the parser included: variables may be set only while there is one
    // thread.
    marquee_trainer::prepare_process();
    let cli = Cli::parse();
    let asked_for = std::env::var("MARQUEE_LOG").ok();
    let filter: Targets = asked_for
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !is_plain)
        // The filter says what is logged.
        .with_max_level(LevelFilter::TRACE)
        .finish()
        .with(filter)
        .init();
    leave(cli.command.execute())
}

impl Command {
    fn execute(self) -> ExitCode {
        match self {
            Self::Run {
                spec,
                ranks,
                min_ranks,
                until_eof,
            } => run_as_child(&spec, Size { ranks, min_ranks }, until_eof),
            Self::Store {
                host,
                port,
                until_eof,
            } => match serve(&host, port, until_eof, say) {
                Ok(()) => ExitCode::OK,
                Err(error) => {
                    tracing::error!("{error}");
                    ExitCode::FAILED
                }
            },
            Self::BurnIn(burn_in) => burn_in.run(),
            Self::Lab(lab) => lab.run(),
            Self::Models => {
                MODELS.iter().for_each(|name| say(name));
                ExitCode::OK
            }
            Self::Facts { json } => {
                let facts = Facts::of(env!("MARQUEE_FLAVOUR"));
                say(&if json { facts.json() } else { facts.text() });
                ExitCode::OK
            }
        }
    }
}
