//! The commands, one file a family; here is what they share and the table of contents.

mod admin;
mod artifacts;
mod audit;
mod bench;
mod cancel;
mod chaos;
mod completions;
mod coordinators;
mod demo;
mod doctor;
mod drain;
mod each;
mod explain;
mod gc;
mod hold;
mod jobs;
mod login;
mod logs;
mod man;
mod metrics;
mod models;
mod project;
mod report;
mod retry;
mod rm;
mod schedule;
mod secret;
mod show;
mod submit;
mod top;
mod up;
mod wait;
mod weights;
mod window;
mod workers;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::cluster::launch;
use crate::error::Result;
use crate::output::{Format, Output};
use crate::session::Session;

const AFTER_HELP: &str = "\
Start here:
  marquee demo                          everything once, on generated posters
  marquee up                            run Marquee on this machine
  marquee submit examples/posters.toml  in another terminal

Jobs are named by number (17), by name (train: the newest of that name), or as a job of a
pipeline (p3/train); pipelines as p3.

Where the coordinator is: --addr, else MARQUEE_ADDR, else the context file
(~/.config/marquee/context.toml, or MARQUEE_CONTEXT), else that of the host
(/etc/marquee/context.toml), else 127.0.0.1:7700.

Exit codes:
  0    all well
  1    a job failed, or the coordinator refused
  2    the command line is wrong
  3    no coordinator answers
  4    the cluster's history breaks a rule (audit verify, chaos)
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
    /// The coordinator, as host:port or a URL; of several, with commas between them [or MARQUEE_ADDR, or the context file]
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        help_heading = "Global options"
    )]
    addr: Option<String>,
    /// How answers look on stdout: table (for people), json (for programs), quiet (ids alone)
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Args),
    Demo(demo::Args),
    Submit(submit::Args),
    Schedule(schedule::Args),
    Jobs(jobs::Args),
    Show(show::Args),
    Explain(explain::Args),
    Logs(logs::Args),
    Metrics(metrics::Args),
    Cancel(cancel::Args),
    Retry(retry::Args),
    Hold(hold::HoldArgs),
    Release(hold::ReleaseArgs),
    Move(hold::MoveArgs),
    Rm(rm::Args),
    Gc(gc::GcArgs),
    Keep(gc::KeepArgs),
    Wait(wait::Args),
    Top(top::Args),
    Workers(workers::Args),
    Coordinators(coordinators::Args),
    Drain(drain::DrainArgs),
    Resume(drain::ResumeArgs),
    Quarantine(drain::QuarantineArgs),
    BurnIn(drain::BurnInArgs),
    Window(window::Args),
    Project(project::Args),
    Quota(project::QuotaArgs),
    Secret(secret::Args),
    Models(models::Args),
    Doctor(doctor::Args),
    Artifacts(artifacts::Args),
    Audit(audit::Args),
    Admin(admin::Args),
    Login(login::LoginArgs),
    Logout(login::LogoutArgs),
    Whoami(login::WhoamiArgs),
    Chaos(chaos::Args),
    Report(report::Args),
    Bench(bench::Args),
    Weights(weights::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Man(man::Args),
    #[command(name = launch::COMMAND, hide = true)]
    Launch(launch::Args),
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
        Command::Schedule(args) => schedule::run(args, &session).await,
        Command::Jobs(args) => jobs::run(args, &session).await,
        Command::Show(args) => show::run(args, &session).await,
        Command::Explain(args) => explain::run(args, &session).await,
        Command::Logs(args) => logs::run(args, &session).await,
        Command::Metrics(args) => metrics::run(args, &session).await,
        Command::Cancel(args) => cancel::run(args, &session).await,
        Command::Retry(args) => retry::run(args, &session).await,
        Command::Hold(args) => hold::hold(args, &session).await,
        Command::Release(args) => hold::release(args, &session).await,
        Command::Move(args) => hold::move_away(args, &session).await,
        Command::Rm(args) => rm::run(args, &session).await,
        Command::Gc(args) => gc::gc(args, &session).await,
        Command::Keep(args) => gc::keep(args, &session).await,
        Command::Wait(args) => wait::run(args, &session).await,
        Command::Top(args) => top::run(args, &session).await,
        Command::Workers(args) => workers::run(args, &session).await,
        Command::Coordinators(args) => coordinators::run(args, &session).await,
        Command::Drain(args) => drain::drain(args, &session).await,
        Command::Resume(args) => drain::resume(args, &session).await,
        Command::Quarantine(args) => drain::quarantine(args, &session).await,
        Command::BurnIn(args) => drain::burn_in(args, &session).await,
        Command::Window(args) => window::run(args, &session).await,
        Command::Project(args) => project::run(args, &session).await,
        Command::Quota(args) => project::quota(args, &session).await,
        Command::Secret(args) => secret::run(args, &session).await,
        // Without a wait, as a few others here: what they say is in this program, and no
        // coordinator is needed for it.
        Command::Models(args) => models::run(&args, &session),
        Command::Doctor(args) => doctor::run(args, &session).await,
        Command::Artifacts(args) => artifacts::run(args, &session).await,
        Command::Audit(args) => audit::run(args, &session).await,
        Command::Admin(args) => admin::run(args, &session).await,
        Command::Login(args) => login::login(args, &session).await,
        Command::Logout(args) => login::logout(args, &session),
        Command::Whoami(args) => login::whoami(args, &session).await,
        Command::Chaos(args) => chaos::run(args, &session).await,
        Command::Report(args) => report::run(args, &session).await,
        Command::Bench(args) => bench::run(args, &session).await,
        Command::Weights(args) => weights::run(args, &session),
        Command::Completions(args) => completions::run(&args, Cli::command(), &session),
        Command::Man(args) => man::run(&args, Cli::command()),
        Command::Launch(args) => launch::run(&args),
    }
}

#[cfg(test)]
mod tests {
    mod admin;
    mod downloads;
    mod follow;
    mod lines;
    mod names;
    mod requests;
    mod strange;

    use clap::FromArgMatches as _;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let matches = Cli::command().try_get_matches_from(line.split(' '))?;
        Cli::from_arg_matches(&matches)
    }

    /// The help of a command and of those below it, as on a terminal of 100 columns.
    fn help_of(command: &mut clap::Command, path: &str, text: &mut String) {
        let path = format!("{path} {}", command.get_name()).trim().to_owned();
        let help = command.clone().term_width(100).render_long_help();
        text.push_str(&format!("$ {path} --help\n{help}\n\n"));
        for below in command
            .get_subcommands_mut()
            .filter(|below| !below.is_hide_set())
        {
            help_of(below, &path, text);
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_explains_itself_with_examples() {
        let mut command = Cli::command();
        command.build();
        for below in command
            .get_subcommands()
            .filter(|below| !below.is_hide_set())
        {
            let after = below
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                after.contains("marquee "),
                "{} has no example",
                below.get_name()
            );
        }
        let mut text = String::new();
        help_of(&mut command, "", &mut text);
        let text: Vec<&str> = text.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(text.join("\n"));
    }

    #[test]
    fn wrong_arguments_are_refused_by_name() {
        for (line, kind, named) in [
            (
                "marquee",
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
                "Usage",
            ),
            ("marquee sumbit x", ErrorKind::InvalidSubcommand, "submit"),
            (
                "marquee submit",
                ErrorKind::MissingRequiredArgument,
                "<FILE>",
            ),
            (
                "marquee submit f --set epochs",
                ErrorKind::ValueValidation,
                "KEY=VALUE",
            ),
            (
                "marquee jobs --state done",
                ErrorKind::InvalidValue,
                "succeeded",
            ),
            ("marquee show Train", ErrorKind::ValueValidation, "p3/train"),
            ("marquee report Train", ErrorKind::ValueValidation, "p3"),
            (
                "marquee logs 17 --tail 0",
                ErrorKind::ValueValidation,
                "--tail",
            ),
            (
                "marquee up --workers 0",
                ErrorKind::ValueValidation,
                "--workers",
            ),
            (
                "marquee project set Vision",
                ErrorKind::ValueValidation,
                "NAME",
            ),
            (
                "marquee project set vision --weight NaN",
                ErrorKind::ValueValidation,
                "--weight",
            ),
            (
                "marquee drain gpu-3 --deadline soon",
                ErrorKind::ValueValidation,
                "--deadline",
            ),
            (
                "marquee window add gpu-3 --from now --for 2h",
                ErrorKind::ValueValidation,
                "--from",
            ),
            (
                "marquee jobs --output yaml",
                ErrorKind::InvalidValue,
                "quiet",
            ),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.kind(), kind, "{line}");
            assert!(error.to_string().contains(named), "{line}: {error}");
        }
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for line in [
            "marquee -o json --addr h:1 jobs",
            "marquee jobs --addr h:1 -o json",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.global.output, Format::Json, "{line}");
            assert_eq!(cli.global.addr.as_deref(), Some("h:1"), "{line}");
        }
    }
}
