//! The coordinator's program: parse, load the settings, start tracing, run.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use marquee_coordinator::config::{Config, ConfigError, Flags};
use marquee_coordinator::doctor;
use marquee_coordinator::election::{self, SteppedDown, TakenOver};
use marquee_coordinator::log::{self, Format};
use marquee_coordinator::postgres::launch;
use marquee_settings::{WRONG_SETTINGS, as_toml, variables};

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
    /// Look at the settings, without starting anything
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the manual page; for packages.
    #[command(hide = true)]
    Man,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read the settings as a start would; exit code 1, with the key and the way out, if they cannot be used
    Check,
    /// Print the settings in force as a settings file; passwords are not shown
    Show {
        /// Beside each value, where it was written
        #[arg(long)]
        origin: bool,
        /// One JSON array instead: of each key its value and its origin
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
            Some(Command::Config(command)) => settings(&args.flags, &command),
            Some(Command::Man) => manual(),
            None => run(&args).map(|()| ExitCode::SUCCESS),
        }
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<TakenOver>() || error.is::<SteppedDown>() {
                return ExitCode::from(election::TAKEN_OVER);
            }
            if error.is::<ConfigError>() {
                return ExitCode::from(WRONG_SETTINGS);
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

fn settings(flags: &Flags, command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    let listing = Config::listing(flags, variables())?;
    let text = match command {
        ConfigCommand::Check => "settings: ok\n".to_owned(),
        ConfigCommand::Show { json: true, .. } => {
            format!("{}\n", serde_json::to_string(&listing)?)
        }
        ConfigCommand::Show { origin, .. } => as_toml(&listing, *origin),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn manual() -> anyhow::Result<ExitCode> {
    let page = clap_mangen::Man::new(Args::command()).section("8");
    page.render(&mut std::io::stdout())?;
    Ok(ExitCode::SUCCESS)
}
