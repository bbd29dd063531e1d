//! `marquee-prep`: fetch and preprocess as a child process, and export.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[path = "export_command.rs"]
mod export;
#[path = "helper_command.rs"]
mod helper;
mod run;

/// Prepares data for training: fetches pictures and packs them into shards.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Do the fetch or preprocess job that a spec file describes
    Run(run::RunArgs),
    /// Write a dataset as a .zip of pictures and a table, for people and other programs
    Export(export::ExportArgs),
    /// Say the version of this code: steps done by equal code may stand for one another
    Code,
    /// Decode pictures for another process of this program
    #[command(hide = true)]
    DecodeHelper(helper::HelperArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    // A worker stores what we write, and shows it to people on other terminals.
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !is_plain)
        .init();
    match args.command {
        Command::Run(args) => runtime()?.block_on(run::run(args)),
        Command::Export(args) => export::export(&args),
        Command::Code => say_code(),
        Command::DecodeHelper(args) => helper::serve(&args),
    }
}

#[allow(clippy::print_stdout, reason = "this is what was asked for")]
fn say_code() -> anyhow::Result<ExitCode> {
    println!("{}", marquee_datasets::code::code());
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is the system clock that others are given"
)]
fn system_clock() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}
