//! The coordinator's program: parse, load the settings, start tracing, run.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use marquee_coordinator::config::{Config, Flags};
use marquee_coordinator::doctor;
use marquee_coordinator::election::{self, TakenOver};
use marquee_coordinator::log::{self, Format};
use marquee_coordinator::postgres::launch;
use marquee_settings::variables;

/// Keeps the jobs of a Marquee cluster, schedules them, and speaks with its workers.
#[derive(Debug, Parser)]
#[command(name = "marquee-coordinator", version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
    /// Form of the log on stderr; MARQUEE_LOG says what is in it
    #[arg(long, value_enum, default_value = "text")]
    log_format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at this host: what a coordinator needs, what is wrong, and the cure; exit code 1 if it will not work
    Doctor {
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    // Before anything else, above all before any thread: see postgres::launch.
    let raw: Vec<OsString> = std::env::args_os().collect();
    let result = if raw.get(1).is_some_and(|arg| arg == launch::SUBCOMMAND) {
        Err(launch::become_program(&raw[2..]).into())
    } else {
        let args = Args::parse();
        match args.command {
            Some(Command::Doctor { json }) => look(&args.flags, json),
            None => run(&args).map(|()| ExitCode::SUCCESS),
        }
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<TakenOver>() {
                return ExitCode::from(election::TAKEN_OVER);
            }
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    log::start(args.log_format);
    let config = Config::load(&args.flags, variables())?;
    tokio::runtime::Runtime::new()?.block_on(marquee_coordinator::run(config))
}

fn look(flags: &Flags, json: bool) -> anyhow::Result<ExitCode> {
    let report = tokio::runtime::Runtime::new()?.block_on(doctor::run(flags, variables()));
    let text = if json {
        format!("{}\n", serde_json::to_string(&report)?)
    } else {
        report.text()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(if report.has_failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
