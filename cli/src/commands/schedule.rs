//! `marquee schedule`: pipelines that are submitted at the times of a cron pattern.

use std::path::PathBuf;

use clap::ValueEnum;
use marquee_domain::ids::JobName;
use marquee_proto::v1;
use marquee_view::schedules::{ScheduleView, Schedules};

use super::submit::{parse_override, project, read_document};
use crate::client::{Remote, Repeat, quick};
use crate::error::Result;
use crate::say::say;
use crate::session::Session;
use crate::{clock, source_paths};

/// Submit a pipeline again and again, at the times of a cron pattern
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee schedule add nightly pipeline.toml --cron \"30 2 * * *\" --tz Europe/Berlin
  marquee schedule add hourly pipeline.toml --cron \"0 * * * *\" --overlap queue --missed none
  marquee schedule list
  marquee schedule pause nightly
  marquee schedule remove nightly

The coordinator that leads submits the pipeline, as the file was when it was added. A time that a
clock skips is due when it goes on; one that it shows twice is due once (\"*\" and \"*/n\" as hours
go through both).")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Add(Box<AddArgs>),
    List(ListArgs),
    Show(ShowArgs),
    Pause(PauseArgs),
    Resume(ResumeArgs),
    Remove(RemoveArgs),
}

/// Add a schedule
#[derive(Debug, clap::Args)]
struct AddArgs {
    /// What to call it
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,
    /// A TOML file, or JSON if it ends in .json; "-" reads TOML from stdin
    file: PathBuf,
    /// Minute, hour, day of the month, month, day of the week, such as "30 6 * * MON-FRI"
    #[arg(long, value_name = "PATTERN")]
    cron: String,
    /// The time zone of the pattern, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    tz: String,
    /// What becomes of a due time while the run before it has not ended
    #[arg(long, value_enum, default_value_t)]
    overlap: Overlap,
    /// What becomes of due times at which no coordinator led
    #[arg(long, value_enum, default_value_t)]
    missed: Missed,
    /// Put a value into the file before it is read, such as jobs.train.epochs=3
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_override)]
    set: Vec<v1::Override>,
    /// The project that its jobs belong to [or MARQUEE_PROJECT, where the file names none]
    #[arg(long, value_name = "PROJECT", value_parser = super::project::parse_name)]
    project: Option<String>,
    /// Replace the schedule of this name, if there is one
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Overlap {
    /// It is left out
    #[default]
    Skip,
    /// It waits for that end; one waits, those that come meanwhile are left out
    Queue,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Missed {
    /// One run stands for all of them
    #[default]
    One,
    /// They are left out
    None,
}

/// List schedules, when they are due next, and what became of their last due times
#[derive(Debug, clap::Args)]
struct ListArgs {}

/// Show a schedule: what it submits, and what became of its due times
#[derive(Debug, clap::Args)]
struct ShowArgs {
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,
}

/// Let due times pass until it is resumed
#[derive(Debug, clap::Args)]
struct PauseArgs {
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,
}

/// Go on with the next due time
#[derive(Debug, clap::Args)]
struct ResumeArgs {
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,
}

/// Remove a schedule; pipelines that it submitted stay
#[derive(Debug, clap::Args)]
struct RemoveArgs {
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,
}

fn parse_name(text: &str) -> Result<String, String> {
    let name: JobName = text
        .parse()
        .map_err(|why| format!("a schedule's name {why}"))?;
    Ok(name.to_string())
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    match args.command {
        Command::Add(args) => add(*args, session).await,
        Command::List(ListArgs {}) => list(session).await,
        Command::Show(args) => show(args.name, session).await,
        Command::Pause(args) => pause(args.name, false, session).await,
        Command::Resume(args) => pause(args.name, true, session).await,
        Command::Remove(args) => remove(args.name, session).await,
    }
}

async fn add(args: AddArgs, session: &Session) -> Result<()> {
    let document = read_document(&args.file)?;
    let place = session.place()?;
    // Made absolute now: the coordinator submits it at night, and knows nothing of the folder that
    // this was typed in.
    let mut set = source_paths::absolute(&document, &args.file, args.set, &place)?;
    let remote = Remote::new(place)?;
    set.extend(project(args.project, &document)?);
    let overlap = match args.overlap {
        Overlap::Skip => "skip",
        Overlap::Queue => "queue",
    };
    let missed = match args.missed {
        Missed::One => "one",
        Missed::None => "none",
    };
    let request = v1::AddScheduleRequest {
        name: args.name,
        cron: args.cron,
        time_zone: args.tz,
        document: Some(document),
        overrides: set,
        overlap: overlap.to_owned(),
        missed: missed.to_owned(),
        replace: args.replace,
    };
    let repeat = if args.replace {
        Repeat::Safe
    } else {
        // Sent twice it would find itself there.
        Repeat::Unsafe
    };
    let schedule = remote
        .call(repeat, async || {
            remote
                .schedules()
                .add_schedule(quick(request.clone()))
                .await
        })
        .await?;
    print(&schedule, session)
}

async fn list(session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let answer = remote
        .call(Repeat::Safe, async || {
            let request = v1::ListSchedulesRequest {};
            remote.schedules().list_schedules(quick(request)).await
        })
        .await?;
    session
        .output
        .show(&Schedules(&answer.schedules), clock::now())?;
    Ok(())
}

async fn show(name: String, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let request = v1::GetScheduleRequest { name };
    let schedule = remote
        .call(Repeat::Safe, async || {
            remote
                .schedules()
                .get_schedule(quick(request.clone()))
                .await
        })
        .await?;
    session
        .output
        .show(&ScheduleView(&schedule), clock::now())?;
    Ok(())
}

async fn pause(name: String, resume: bool, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let request = v1::PauseScheduleRequest { name, resume };
    let schedule = remote
        .call(Repeat::Safe, async || {
            remote
                .schedules()
                .pause_schedule(quick(request.clone()))
                .await
        })
        .await?;
    print(&schedule, session)
}

async fn remove(name: String, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let request = v1::RemoveScheduleRequest { name: name.clone() };
    remote
        // Not sent twice: the second would find nothing, and call what went well a failure.
        .call(Repeat::Unsafe, async || {
            remote
                .schedules()
                .remove_schedule(quick(request.clone()))
                .await
        })
        .await?;
    if session.output.is_for_people() {
        say!("schedule {name} is removed; pipelines that it submitted stay");
    }
    Ok(())
}

fn print(schedule: &v1::Schedule, session: &Session) -> Result<()> {
    session
        .output
        .show(&Schedules(std::slice::from_ref(schedule)), clock::now())?;
    Ok(())
}
