//! `marquee window`: times at which a host is to be empty.

use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use marquee_view::workers::{Windows, Workers};

use super::drain::{When, parse_when};
use crate::client::{Repeat, quick};
use crate::clock;
use crate::error::Result;
use crate::requests;
use crate::session::Session;

/// Set times at which a host is to be empty, and plan around them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee window add gpu-3 --from 2027-03-01T06:00:00+01:00 --for 4h --reason \"new power supply\"
  marquee window add gpu-3 --from 2h --for 30m
  marquee window list
  marquee window remove gpu-3 1

A job is placed on the host only if it ends before, by its timeout or by how long earlier runs of
its step took; one of unknown length is kept off from 4 hours before. What runs there when the
window begins gets TERM and time to write a checkpoint, and is queued again at its old place; no
attempt is spent. \"marquee explain JOB\" says who waits for a window.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Add(AddArgs),
    List(ListArgs),
    Remove(RemoveArgs),
}

/// Set a time at which a worker is to be empty
#[derive(Debug, clap::Args)]
struct AddArgs {
    /// The worker's name
    #[arg(value_name = "WORKER")]
    worker: String,
    /// When it begins: a span from now (2h, 1d) or a time (2027-03-01T06:00:00Z), at most a year ahead
    #[arg(long, value_name = "SPAN|TIME", value_parser = parse_when)]
    from: When,
    /// How long it lasts, or when it ends: a span (30m, 4h) or a time; at most 30 days
    #[arg(long = "for", value_name = "SPAN|TIME", value_parser = parse_when)]
    lasts: When,
    /// Why, for whoever looks
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

/// List the windows that are in force or to come, with who set them
#[derive(Debug, clap::Args)]
struct ListArgs {}

/// Take a window away: the worker takes work as before
#[derive(Debug, clap::Args)]
struct RemoveArgs {
    /// The worker's name
    #[arg(value_name = "WORKER")]
    worker: String,
    /// The window's number, as "marquee window list" shows it
    #[arg(value_name = "NUMBER")]
    number: u32,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    match args.command {
        Command::Add(args) => add(args, session).await,
        Command::List(ListArgs {}) => list(session).await,
        Command::Remove(args) => remove(args, session).await,
    }
}

async fn add(args: AddArgs, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    // Both ends as moments, made once: sent again it is the same window, which the coordinator then
    // has once.
    let from = args.from.from(clock::now());
    let request = v1::AddWindowRequest {
        worker_name: args.worker,
        from: Some(timestamp(from)),
        until: Some(timestamp(args.lasts.from(from))),
        reason: args.reason,
    };
    let worker = remote
        .call(Repeat::Safe, async || {
            remote.workers().add_window(quick(request.clone())).await
        })
        .await?;
    show(&worker, session)
}

async fn list(session: &Session) -> Result<()> {
    let workers = requests::workers::list(&session.remote()?).await?;
    session.output.show(&Windows(&workers), clock::now())?;
    Ok(())
}

async fn remove(args: RemoveArgs, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let request = v1::RemoveWindowRequest {
        worker_name: args.worker,
        number: args.number,
    };
    let worker = remote
        // Not sent twice: the second would find no such window, and call what went well a failure.
        .call(Repeat::Unsafe, async || {
            remote.workers().remove_window(quick(request.clone())).await
        })
        .await?;
    show(&worker, session)
}

fn show(worker: &v1::Worker, session: &Session) -> Result<()> {
    let workers = std::slice::from_ref(worker);
    if session.output.is_for_people() && !worker.windows.is_empty() {
        session.output.show(&Windows(workers), clock::now())?;
    } else {
        session.output.show(&Workers(workers), clock::now())?;
    }
    Ok(())
}
