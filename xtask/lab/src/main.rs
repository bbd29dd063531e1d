//! The lab: measurements and comparisons, run as `cargo xtask <task>`.
//!
//! They take minutes to hours and need what nobody else needs: other programs to compare with, real pictures,
//! a GPU. What they share with the daily tasks is in `marquee-xtask`.

mod args;
mod bench;
mod cluster;
mod cluster_test;
mod data;
mod dist;
mod gpu_check;
mod help;
mod sample;
mod study;
mod trainer;
mod transfer;
mod weights_check;
mod zoo_check;

use std::io::Write;
use std::process::ExitCode;

use args::Task;
use marquee_xtask::workspace::Workspace;

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
        Task::Trainer(options) => trainer::run(&workspace, &options),
        Task::Dist(options) => dist::run(&workspace, &options),
        Task::ClusterTest(options) => cluster_test::run(&workspace, &options),
        Task::DataCheck => data::check(&workspace),
        Task::Fuzz(options) => data::fuzz(&workspace, &options),
        Task::Bench(options) => bench::run(&workspace, &options),
        Task::ZooCheck(options) => zoo_check::run(&workspace, &options),
        Task::GpuCheck(options) => gpu_check::run(&workspace, &options),
        Task::WeightsCheck { trained } => weights_check::run(&workspace, trained.as_deref()),
        Task::Transfer { to } => transfer::run(&workspace, to.as_deref()),
        Task::Study { names } => study::run(&workspace, &names),
        Task::SampleClipart { to } => sample::clipart(&workspace, to.as_deref()),
    }
}
