//! Development tasks, run as `cargo xtask <task>`; `cargo xtask help` lists them.
//!
//! A task prints what it does to stderr and leaves stdout to data, so that the last line of
//! `cargo xtask demo --json` is the JSON object and nothing else.
//!
//! Architecture Invariant: xtask knows the other crates only as packages to build and binaries to
//! run, so that it compiles in seconds; it depends on none of them but `marquee-postgres`, which is small
//! and starts the private Postgres of a task. What a demo does is in the CLI (`marquee demo`).

mod args;
mod bench;
mod check;
mod cluster;
mod data;
mod demo;
mod gpu_check;
mod nccl_shim;
mod pg;
mod process;
mod report;
mod sample;
mod setup;
mod sqlx;
mod study;
mod test;
mod trainer;
mod transfer;
mod weights_check;
mod workspace;
mod zoo_check;

use std::io::Write;
use std::process::ExitCode;

use args::Task;
use workspace::Workspace;

fn main() -> ExitCode {
    match args::parse(std::env::args().skip(1)).and_then(run) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    if let Task::Help(text) = task {
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let workspace = Workspace::load()?;
    match task {
        Task::Help(_) => Ok(ExitCode::SUCCESS),
        Task::Setup => setup::print_environment(),
        Task::Demo(options) => demo::run(&workspace, &options),
        Task::Test { filter } => test::run(&workspace, &filter),
        Task::Check { names } => check::run(&workspace, &names),
        Task::Trainer(options) => trainer::run(&workspace, &options),
        Task::DataCheck => data::check(&workspace),
        Task::Fuzz(options) => data::fuzz(&workspace, &options),
        Task::Bench(options) => bench::run(&workspace, &options),
        Task::ZooCheck(options) => zoo_check::run(&workspace, &options),
        Task::GpuCheck(options) => gpu_check::run(&workspace, &options),
        Task::NcclShim { to } => nccl_shim::run(&workspace, to.as_deref()),
        Task::WeightsCheck { trained } => weights_check::run(&workspace, trained.as_deref()),
        Task::Transfer { to } => transfer::run(&workspace, to.as_deref()),
        Task::Study { names } => study::run(&workspace, &names),
        Task::SampleClipart { to } => sample::clipart(&workspace, to.as_deref()),
        Task::SqlxPrepare { check: false } => sqlx::prepare(&workspace),
        Task::SqlxPrepare { check: true } => sqlx::check(&workspace),
    }
}
