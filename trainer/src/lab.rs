//! The lab: commands with which builds, hosts and other frameworks are measured and compared. No job
//! ever runs them, so nothing of them stands in the files of the training path; what they measure is
//! that very path.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use marquee_domain::child::ExitCode;

use crate::error::RunError;
use crate::stdout::say;

mod bench_step;
mod check_model;
mod make_shards;
mod nccl_check;
mod write_vectors;

use bench_step::BenchStep;
use check_model::ModelCheck;

/// A command of the lab, as it is typed.
#[derive(Debug, Subcommand)]
pub enum Lab {
    /// Compare a model with what PyTorch computed; prints one JSON object of differences
    CheckModel(ModelCheck),
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
}

impl Lab {
    /// Does what the command says, and gives the exit code.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        match self {
            Self::CheckModel(check) => check_model::command(check),
            Self::NcclCheck {
                json,
                timeout_s,
                inner,
            } => {
                let limit = Duration::from_secs(u64::from(*timeout_s));
                if *inner {
                    nccl_check::trial(limit, say);
                    return ExitCode::OK;
                }
                nccl_check::command(limit, *json)
            }
            Self::BenchStep(bench) => exit(bench_step::command(bench)),
            Self::MakeShards { dir, rows, side } => {
                exit(make_shards::make_shards(dir, *rows, *side))
            }
            Self::WriteVectors {
                model,
                folder,
                seed,
            } => exit(write_vectors::write_vectors(model, *seed, folder)),
        }
    }
}

fn exit(result: Result<(), RunError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::OK,
        Err(error) => {
            tracing::error!("{}", error.message);
            ExitCode::FAILED
        }
    }
}
