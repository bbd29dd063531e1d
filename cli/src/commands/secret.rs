//! `marquee secret`: what jobs may know and nobody is shown.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use marquee_domain::JobName;
use marquee_domain::secret::{SecretName, VALUE_MAX_BYTES, wrong_value};
use marquee_proto::v1;
use marquee_view::secrets::{Rekeyed, Secrets};

use super::admin::confirm;
use super::project::parse_name as parse_project;
use crate::error::{CliError, Result};
use crate::session::Session;
use crate::{clock, requests};

/// Keep secrets for the jobs of a project: tokens, keys, passwords
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee secret set HF_TOKEN --project vision < token
  marquee secret set HF_TOKEN --project vision --job train --file token
  marquee secret list
  marquee secret remove HF_TOKEN --project vision

A job names those that it wants (secrets = [\"HF_TOKEN\"]) and finds each in the variable of that name. The coordinator
keeps them encrypted; it takes an administrator of the project to set one, and no command shows one.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Set(Set),
    List(List),
    Remove(Remove),
    Rekey(Rekey),
}

/// Keep a secret, in place of the one that is there; its value comes from stdin or a file
///
/// Jobs that start from now on get it; those that run keep what they have. A line feed at the value's end is left out.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee secret set HF_TOKEN --project vision < token
  pass show hf | marquee secret set HF_TOKEN --project vision --job train
  marquee secret set TMDB_TOKEN --project films --file token")]
struct Set {
    #[command(flatten)]
    place: Place,
    // No option takes the value itself: command lines stand in the list of processes and in the
    // history of the shell.
    /// The file with its value, 64 KiB at most [default: stdin]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// List secrets: names, whose they are, and who set them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee secret list
  marquee secret list --project vision --output json")]
struct List {
    /// Only those of this project
    #[arg(long, value_name = "PROJECT", value_parser = parse_project)]
    project: Option<String>,
}

/// Remove a secret; jobs that name it are refused from then on, and fail where they wait
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee secret remove HF_TOKEN --project vision
  marquee secret remove HF_TOKEN --project vision --job train --yes

Jobs that run keep it. A token that others may have seen is to be revoked where it came from.")]
struct Remove {
    #[command(flatten)]
    place: Place,
    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Encrypt all secrets by the key that comes first in the coordinator's secrets_key
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee secret rekey

After a new key's line was put before the others (\"marquee-coordinator secrets-key\" prints one). Then the old lines may go.")]
struct Rekey {}

#[derive(Debug, clap::Args)]
struct Place {
    /// The variable that jobs find it in: A-Z, a-z, 0-9 and _, no digit first
    #[arg(value_name = "NAME", value_parser = parse_secret)]
    name: String,
    /// Whose jobs may have it
    #[arg(long, value_name = "PROJECT", value_parser = parse_project)]
    project: String,
    /// Only jobs of this name [default: all of the project]
    #[arg(long, value_name = "JOB", value_parser = parse_job)]
    job: Option<String>,
}

fn parse_secret(text: &str) -> Result<String, String> {
    let name: SecretName = text
        .parse()
        .map_err(|why| format!("a secret's name {why}"))?;
    Ok(name.to_string())
}

fn parse_job(text: &str) -> Result<String, String> {
    let name: JobName = text.parse().map_err(|why| format!("a job's name {why}"))?;
    Ok(name.to_string())
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    match args.command {
        Command::Set(args) => set(args, session).await,
        Command::List(List { project }) => {
            let remote = session.remote()?;
            let secrets = requests::secrets::list(&remote, project.as_deref()).await?;
            session.output.show(&Secrets(&secrets), clock::now())?;
            Ok(())
        }
        Command::Remove(args) => remove(args, session).await,
        Command::Rekey(Rekey {}) => {
            let done = requests::secrets::rekey(&session.remote()?).await?;
            session.output.show(&Rekeyed(&done), clock::now())?;
            Ok(())
        }
    }
}

async fn set(args: Set, session: &Session) -> Result<()> {
    let value = match &args.file {
        Some(file) => of_file(file)?,
        None if std::io::stdin().is_terminal() => {
            let text = "a secret is not typed where it is shown: give it by stdin (< FILE, or a pipe) or --file FILE";
            return Err(CliError::Usage(text.to_owned()));
        }
        None => read(std::io::stdin()).context("cannot read the secret from stdin")?,
    };
    let value = trimmed(value);
    // The coordinator looks as well. Here it is said before the value travels.
    if let Some(why) = wrong_value(&value) {
        return Err(CliError::Usage(format!("the value {why}")));
    }
    let request = v1::SetSecretRequest {
        project: args.place.project,
        job: args.place.job.unwrap_or_default(),
        name: args.place.name,
        value,
    };
    let secret = requests::secrets::set(&session.remote()?, request).await?;
    session.output.show(&Secrets(&[secret]), clock::now())?;
    Ok(())
}

fn of_file(file: &Path) -> Result<Vec<u8>> {
    let why = || format!("cannot read the secret from {}", file.display());
    let opened = std::fs::File::open(file).with_context(why)?;
    Ok(read(opened).with_context(why)?)
}

/// As much as a secret may have, and two bytes more: a line feed that is left out, and what tells a longer one.
fn read(from: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut value = Vec::new();
    from.take(VALUE_MAX_BYTES as u64 + 2)
        .read_to_end(&mut value)?;
    Ok(value)
}

/// Without the line feed that an editor leaves.
fn trimmed(mut value: Vec<u8>) -> Vec<u8> {
    // One alone: those before it may be the value's own, as in a key of several lines.
    if value.ends_with(b"\n") {
        value.pop();
    }
    value
}

async fn remove(args: Remove, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let Place { name, project, job } = args.place;
    let job = job.unwrap_or_default();
    let all = requests::secrets::list(&remote, Some(&project)).await?;
    // By its place: a project may keep the same name for one job and for all of them.
    let own: Vec<v1::Secret> = all
        .into_iter()
        .filter(|secret| secret.name == name && secret.job == job)
        .collect();
    if args.dry_run {
        session.output.show(&Secrets(&own), clock::now())?;
        return Ok(());
    }
    // One that is not there is for the coordinator to refuse.
    if !own.is_empty() && !args.yes {
        let line = format!("secret {name} of project {project} would go, for good");
        confirm(&[line], "nothing was removed")?;
    }
    let request = v1::RemoveSecretRequest { project, job, name };
    requests::secrets::remove(&remote, request).await?;
    session.output.show(&Secrets(&own), clock::now())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_whole_without_its_last_line_feed_or_refused() {
        let of = |bytes: &[u8]| trimmed(read(bytes).unwrap());
        assert_eq!(of(b"value\n"), b"value");
        assert_eq!(of(b"a\nb\n\n"), b"a\nb\n");
        let most = vec![b'x'; VALUE_MAX_BYTES];
        assert_eq!(wrong_value(&of(&[&most[..], b"\n"].concat())), None);
        assert!(wrong_value(&of(&[&most[..], b"x\n"].concat())).is_some());
        assert!(wrong_value(&of(b"\n")).is_some());
        for odd in ["", "a b", "RANK", "A=b"] {
            assert!(parse_secret(odd).unwrap_err().contains("a secret's name"));
        }
    }
}
