//! The commands, one file a family; here is what they share and the table of contents.

pub(crate) mod artifacts;
mod cancel;
mod completions;
mod demo;
pub(crate) mod explain;
mod jobs;
pub(crate) mod logs;
mod metrics;
mod report;
mod retry;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod show;
pub(crate) mod submit;
mod up;
mod wait;
mod workers;

pub(crate) use jobs::table as jobs_table;

use clap::{Parser, Subcommand};

use crate::client::Remote;
use crate::cluster::launch;
use crate::context::{self, Place};
use crate::error::Result;
use crate::output::{Format, Output};

const AFTER_HELP: &str = "\
Start here:
  marquee demo                          everything once, on generated posters
  marquee up                            run Marquee on this machine
  marquee submit examples/posters.toml  in another terminal

Jobs are named by number (17), by name (train: the newest of that name), or as a job of a
pipeline (p3/train); pipelines as p3.

Where the coordinator is: --addr, else MARQUEE_ADDR, else the context file
(~/.config/marquee/context.toml, or MARQUEE_CONTEXT), else 127.0.0.1:7700.

Exit codes:
  0    all well
  1    a job failed, or the coordinator refused
  2    the command line is wrong
  3    no coordinator answers
  130  interrupted";

/// Train models on your own hosts: submit, watch and steer jobs
#[derive(Debug, Parser)]
#[command(name = "marquee", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
struct Global {
    /// The coordinator, as host:port or a URL [or MARQUEE_ADDR, or the context file]
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        help_heading = "Global options"
    )]
    addr: Option<String>,
    /// How answers look on stdout
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        help_heading = "Global options"
    )]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Args),
    Demo(demo::Args),
    Submit(submit::Args),
    Jobs(jobs::Args),
    Show(show::Args),
    Explain(explain::Args),
    Logs(logs::Args),
    Metrics(metrics::Args),
    Cancel(cancel::Args),
    Retry(retry::Args),
    Wait(wait::Args),
    Workers(workers::Args),
    Artifacts(artifacts::Args),
    Report(report::Args),
    Completions(completions::Args),
    #[command(name = launch::COMMAND, hide = true)]
    Launch(launch::Args),
}

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Session {
    addr: Option<String>,
    pub output: Output,
}

impl Session {
    /// Where the coordinator is.
    pub(crate) fn place(&self) -> Result<Place> {
        let env = std::env::var("MARQUEE_ADDR").ok();
        context::find(
            self.addr.as_deref(),
            env.as_deref(),
            context::default_path().as_deref(),
        )
    }

    /// A handle on the coordinator.
    pub(crate) fn remote(&self) -> Result<Remote> {
        Remote::new(self.place()?)
    }
}

/// Runs what the command line says.
pub(crate) async fn run(cli: Cli) -> Result<()> {
    let Global { addr, output } = cli.global;
    let session = Session {
        addr,
        output: Output::stdout(output),
    };
    match cli.command {
        Command::Up(args) => up::run(args, &session).await,
        Command::Demo(args) => demo::run(args, &session).await,
        Command::Submit(args) => submit::run(args, &session).await,
        Command::Jobs(args) => jobs::run(args, &session).await,
        Command::Show(args) => show::run(args, &session).await,
        Command::Explain(args) => explain::run(args, &session).await,
        Command::Logs(args) => logs::run(args, &session).await,
        Command::Metrics(args) => metrics::run(args, &session).await,
        Command::Cancel(args) => cancel::run(args, &session).await,
        Command::Retry(args) => retry::run(args, &session).await,
        Command::Wait(args) => wait::run(args, &session).await,
        Command::Workers(args) => workers::run(args, &session).await,
        Command::Artifacts(args) => artifacts::run(args, &session).await,
        Command::Report(args) => report::run(args, &session).await,
        Command::Completions(args) => completions::run(&args, &session),
        Command::Launch(args) => launch::run(&args),
    }
}
