//! The coordinator's program: parse, load the settings, start tracing, run.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use marquee_coordinator::config::{Config, Flags};
use marquee_coordinator::log::{self, Format};
use marquee_coordinator::postgres::launch;

/// Keeps the jobs of a Marquee cluster, schedules them, and speaks with its workers.
#[derive(Debug, Parser)]
#[command(name = "marquee-coordinator", version)]
struct Args {
    #[command(flatten)]
    flags: Flags,
    /// Form of the log on stderr; MARQUEE_LOG says what is in it
    #[arg(long, value_enum, default_value = "text")]
    log_format: Format,
}

fn main() -> ExitCode {
    // Before anything else, above all before any thread: see postgres::launch.
    let raw: Vec<OsString> = std::env::args_os().collect();
    let result = if raw.get(1).is_some_and(|arg| arg == launch::SUBCOMMAND) {
        Err(launch::become_program(&raw[2..]))
    } else {
        run(&Args::parse())
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    log::start(args.log_format);
    // A variable that is no text is none of ours.
    let as_text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let config = Config::load(
        &args.flags,
        std::env::vars_os().filter_map(as_text).collect(),
    )?;
    tokio::runtime::Runtime::new()?.block_on(marquee_coordinator::run(config))
}
