//! `marquee-prep`: fetch and preprocess as a child process, and the local catalogue.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod run;
mod serve;

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
    /// Serve generated films and posters as a TMDb-compatible API, until a signal comes
    ServeCatalogue(serve::ServeArgs),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    match args.command {
        Command::Run(args) => run::run(args).await,
        Command::ServeCatalogue(args) => serve::serve(args).await,
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is the system clock that others are given"
)]
fn system_clock() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}
