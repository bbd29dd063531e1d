//! `marquee-catalogue`: a TMDb-compatible server to fetch from, and what tries and measures the data
//! path: the fuzzer and the benchmarks that `cargo xtask` runs.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use marquee_catalogue::ServeArgs;

mod commands;

use commands::{bench, fuzz, serve};

/// Serves generated films and posters, and tries and measures what fetches and reads them.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve generated films and posters as a TMDb-compatible API, until a signal comes
    Serve(ServeArgs),
    /// Try a reader on inputs that are made to break it
    Fuzz(fuzz::FuzzArgs),
    /// Measure a part of the data path
    Bench(bench::BenchArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    // Set to nothing it counts as not set, says no-color.org.
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !is_plain)
        .init();
    match args.command {
        Command::Serve(args) => runtime()?.block_on(serve::serve(args)),
        Command::Fuzz(args) => fuzz::fuzz(&args),
        Command::Bench(args) => bench::bench(&args),
    }
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
