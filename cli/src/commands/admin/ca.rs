//! `marquee admin ca`: the authority behind the cluster's certificates, and the one that follows it.

use std::path::Path;

use anyhow::Context as _;
use clap::Subcommand;
use marquee_proto::certificate::bundle;
use marquee_proto::v1;
use marquee_proto::v1::RotationStep;
use marquee_view::rotation::RotationOf;
use marquee_view::trust::AuthorityOf;

use super::confirm;
use crate::clock;
use crate::context;
use crate::error::{CliError, Result};
use crate::requests::trust;
use crate::say::say;
use crate::session::Session;

/// Show the authority of the cluster's certificates, put another one in its place, and keep what this host believes
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  marquee admin ca
  marquee admin ca --output json | jq -r .certificates > ca.pem
  marquee admin ca save                 the file that this host's context names
  marquee admin ca rotate begin"
)]
pub(in crate::commands) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Save(Save),
    Rotate(Rotate),
}

/// Write the authorities that the cluster believes into the file that the context names as its ca
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin ca save --dry-run
  marquee admin ca save
  sudo marquee admin ca save            where the context is the host's, /etc/marquee/context.toml

What the coordinator says is believed since its certificate is of an authority that this host believes already: do it
between \"rotate begin\" and \"rotate switch\". Later, copy the file from the coordinator's host (\"marquee-coordinator ca\").")]
struct Save {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Put another authority in the place of the one that signs, while the cluster is at work: begin, switch, finish
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin ca rotate begin         a next authority is made, and everybody comes to believe it
  marquee admin ca rotate status        who has still to come along
  marquee admin ca rotate switch        it signs; workers get new certificates by themselves
  marquee admin ca rotate finish        the one before is believed no more

Nobody is shut out by a step unless it is forced. After \"begin\", let people and programs on other hosts take the new
ca.pem (\"marquee admin ca save\"), and copy tls/next.key to coordinators that stand by.")]
struct Rotate {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Make the next authority; everybody comes to believe it beside the one that signs
    Begin(Take),
    /// Let the next authority sign; join tokens that were made before end
    Switch(TakeOrForce),
    /// Believe the authority before no more
    Finish(TakeOrForce),
    /// Give the next authority up, before the switch
    Abandon(Take),
    /// Say how far it is, and who has still to come along
    Status,
}

#[derive(Debug, clap::Args)]
struct Take {
    /// Only say what would be done, and what is in the way
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
struct TakeOrForce {
    #[command(flatten)]
    take: Take,
    /// Also where somebody is shut out by it: whoever has not come along must join again
    #[arg(long)]
    force: bool,
}

pub(in crate::commands) async fn run(args: Args, session: &Session) -> Result<()> {
    match args.command {
        None => {
            let authority = trust::authority(&session.remote()?).await?;
            session
                .output
                .show(&AuthorityOf(&authority), clock::now())?;
            Ok(())
        }
        Some(Command::Save(Save { dry_run })) => save(dry_run, session).await,
        Some(Command::Rotate(Rotate { step })) => rotate(step, session).await,
    }
}

async fn rotate(step: Step, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let (step, take, force, text) = match step {
        Step::Status => {
            let rotation = trust::rotation(&remote).await?;
            session.output.show(&RotationOf(&rotation), clock::now())?;
            return Ok(());
        }
        Step::Begin(take) => (
            RotationStep::Begin,
            take,
            false,
            "a next authority is made, and believed beside the one that signs",
        ),
        Step::Switch(TakeOrForce { take, force }) => (
            RotationStep::Switch,
            take,
            force,
            "the next authority signs: workers get new certificates, join tokens end, and whoever does not believe it \
             is shut out",
        ),
        Step::Finish(TakeOrForce { take, force }) => (
            RotationStep::Finish,
            take,
            force,
            "the authority before is believed no more: whoever shows a certificate of it is shut out",
        ),
        Step::Abandon(take) => (
            RotationStep::Abandon,
            take,
            false,
            "the next authority is given up, and its key is removed",
        ),
    };
    let request = v1::RotateAuthorityRequest {
        step: step.into(),
        force,
        dry_run: true,
    };
    if take.dry_run || !take.yes {
        // Asked first: what is not the next step is said before anybody is asked whether he means it.
        let rotation = trust::rotate(&remote, request).await?;
        if take.dry_run {
            say!("would be done: {text}");
            session.output.show(&RotationOf(&rotation), clock::now())?;
            return Ok(());
        }
        let mut lines = vec![text.to_owned()];
        // What is in the way is of the step forward alone: who begins or abandons shuts nobody out.
        if matches!(step, RotationStep::Switch | RotationStep::Finish) {
            lines.extend(rotation.hindrances.into_iter().map(|one| one.text));
        }
        confirm(&lines, "nothing was done")?;
    }
    let request = v1::RotateAuthorityRequest {
        dry_run: false,
        ..request
    };
    let rotation = trust::rotate(&remote, request).await?;
    session.output.show(&RotationOf(&rotation), clock::now())?;
    // Beside the answer and not in it: a program reads the phase there.
    if session.output.is_for_people() {
        say!("{}", next_of(step));
    }
    Ok(())
}

/// What whoever took a step does next.
fn next_of(step: RotationStep) -> &'static str {
    match step {
        RotationStep::Begin => {
            "next: on hosts of people and programs \"marquee admin ca save\"; tls/next.key to coordinators that stand by; then \"marquee admin ca rotate switch\""
        }
        RotationStep::Switch => {
            "next: when \"marquee admin ca rotate status\" names nobody any more, \"marquee admin ca rotate finish\""
        }
        RotationStep::Finish => {
            "it is done; keep the new tls/ca.key of the coordinator's data folder in a backup"
        }
        RotationStep::Abandon | RotationStep::Unspecified => "everything is as it was before",
    }
}

async fn save(dry_run: bool, session: &Session) -> Result<()> {
    let place = session.place()?;
    let Some(tls) = &place.tls else {
        return Err(CliError::Usage(format!(
            "{} ({}) has no [tls] with `ca` in the context file: there is no file to keep",
            place.addr, place.origin
        )));
    };
    let file = tls.ca.clone();
    let authority = trust::authority(&session.remote()?).await?;
    let news = read("what the coordinator gave", &authority.certificates)?;
    // It is there: by it the coordinator was believed just now.
    let there = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}", file.display()))?;
    let before = read(&file.display().to_string(), &there)?;
    // Added and not put in its place: an authority that somebody wrote there himself stays, unless
    // the cluster says that it is believed no more.
    let after = bundle::merged(before.clone(), news, &authority.dropped);
    if after == before {
        say!("{} has all of it already", file.display());
    } else if dry_run {
        say!("would be written: {}", file.display());
    } else {
        write(&file, &bundle::text(&after))?;
        say!("written: {}", file.display());
    }
    session
        .output
        .show(&AuthorityOf(&authority), clock::now())?;
    Ok(())
}

fn read(what: &str, pem: &str) -> Result<Vec<bundle::Authority>> {
    let read = bundle::read(pem);
    read.map_err(|why| CliError::Usage(format!("{what} {why}")))
}

/// Replaces the file whole, and leaves open to others what was.
fn write(file: &Path, text: &str) -> Result<()> {
    // Certificates are no secret, and other accounts may read this file; what is written anew is
    // its owner's alone at first. Killed in between, it is whole and needs a chmod.
    let mode = std::fs::metadata(file)?.permissions();
    context::write_private(file, text)
        .and_then(|()| std::fs::set_permissions(file, mode))
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(())
}
