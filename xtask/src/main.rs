//! `cargo xtask`: reads the command line and runs the task.

mod args;
mod help;

use std::io::Write;
use std::process::ExitCode;

use args::Task;
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{chaos, check, demo, lab, nccl_shim, setup, sim, sqlx, test, web};

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
        Task::Chaos(words) => chaos::run(&workspace, &words),
        Task::Check { names } => check::run(&workspace, &names),
        Task::Sim(options) => sim::run(&workspace, &options),
        Task::Notice => {
            check::licences::write(&workspace)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::NcclShim { to } => nccl_shim::run(&workspace, to.as_deref()),
        Task::Web => web::run(&workspace),
        Task::SqlxPrepare { check: false } => sqlx::prepare(&workspace),
        Task::SqlxPrepare { check: true } => sqlx::check(&workspace),
        Task::Lab(words) => lab::run(&workspace, &words),
    }
}
