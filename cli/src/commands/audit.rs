//! `marquee audit`: what happened on the cluster, and whether every rule was kept.

use std::io::IsTerminal as _;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;
use marquee_proto::convert::timestamp;
use marquee_proto::v1::{
    AuditFinding, AuditProgress, AuditSummary, ListAuditRequest, VerifyAuditRequest,
};
use marquee_view::audit::{Lines, Verified, line};
use marquee_view::{harmless_json, units};

use crate::client::Remote;
use crate::error::{CliError, Result};
use crate::output::Format;
use crate::say::say;
use crate::session::Session;
use crate::target::{Resolved, Target};
use crate::{clock, requests};

/// Lines that are shown where nobody says how many.
const LINES_DEFAULT: u32 = 1_000;

/// Check the cluster's history against the rules, or search it
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  marquee audit verify                      was anything lost, doubled, or given out twice?
  marquee audit verify -o json | jq .clean
  marquee audit log train                   what happened to a job, and who asked for it
  marquee audit log --worker gpu-2 --since 2h
  marquee audit log --who ada --since 2026-11-30T08:00:00Z -o json")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Verify(VerifyArgs),
    Log(LogArgs),
}

/// Hold all that ever happened, and all that is stored, against the rules of docs/reliability.md
///
/// Changes nothing and may run at any time, also while jobs run. Exit code 4: a rule was broken.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee audit verify
  marquee audit verify --no-files --output json")]
struct VerifyArgs {
    /// Do not look whether the files of every artifact are there
    #[arg(long)]
    no_files: bool,
    /// Nothing should be running: name also what is still open
    #[arg(long)]
    expect_quiet: bool,
}

/// Show what happened: grants, releases, commits, cancels, losses, and who asked
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee audit log p3
  marquee audit log --worker gpu-2 --since 2h
  marquee audit log --all --output json > audit.jsonl")]
struct LogArgs {
    /// Only of this job, or of all jobs of this pipeline
    target: Option<Target>,
    /// Only about this worker, by name or id
    #[arg(long, value_name = "NAME")]
    worker: Option<String>,
    /// Only what somebody asked for whose name holds this
    #[arg(long, value_name = "NAME")]
    who: Option<String>,
    /// From then on: 30m, 2h, 7d, or a time such as 2026-11-30T08:00:00Z [default: 1d; of a job: all]
    #[arg(long, value_name = "WHEN")]
    since: Option<Since>,
    /// Everything since the audit began, however much
    #[arg(long, conflicts_with_all = ["since", "limit"])]
    all: bool,
    /// The newest first
    #[arg(long)]
    newest: bool,
    /// At most so many lines, the oldest of those asked for; with --newest the newest
    #[arg(long, value_name = "LINES", default_value_t = LINES_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// A time, or how long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Ago(TimeDelta),
    At(DateTime<Utc>),
}

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write 30m, 2h, 7d, or a time such as 2026-11-30T08:00:00Z".to_owned();
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        let unit = text.chars().last().ok_or_else(wrong)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        // The last character is one of four letters by now, each of one byte.
        let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
        let ago = Duration::from_secs(u64::from(number) * seconds);
        TimeDelta::from_std(ago).map(Self::Ago).map_err(|_| wrong())
    }
}

impl Since {
    fn at(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now
                .checked_sub_signed(ago)
                .unwrap_or(DateTime::UNIX_EPOCH)
                // Nothing is older; and a time before the year 1 has no form on the wire.
                .max(DateTime::UNIX_EPOCH),
        }
    }
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    match args.command {
        Command::Verify(args) => verify(&args, session).await,
        Command::Log(args) => log(args, session).await,
    }
}

async fn verify(args: &VerifyArgs, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let request = VerifyAuditRequest {
        skip_files: args.no_files,
        expect_quiet: args.expect_quiet,
    };
    let (findings, summary) = check(&remote, session, request).await?;
    let verified = Verified {
        findings: &findings,
        summary: &summary,
    };
    session.output.show(&verified, clock::now())?;
    must_be_clean(&summary)
}

/// Has the history checked; whoever waits at a terminal is told how far it is.
pub(super) async fn check(
    remote: &Remote,
    session: &Session,
    request: VerifyAuditRequest,
) -> Result<(Vec<AuditFinding>, AuditSummary)> {
    let shows_steps = session.output.is_for_people() && std::io::stderr().is_terminal();
    let mut last = String::new();
    let step = |step: &AuditProgress| {
        if shows_steps && step.phase != last {
            say!("looking at {} ...", step.phase);
            last.clone_from(&step.phase);
        }
    };
    requests::audit::verify(remote, request, step).await
}

/// The error of a history that breaks rules.
pub(super) fn must_be_clean(summary: &AuditSummary) -> Result<()> {
    if summary.findings == 0 {
        return Ok(());
    }
    Err(CliError::RulesBroken(format!(
        "the history of this cluster breaks its rules in {}; docs/reliability.md says what each rule means",
        units::plural(
            usize::try_from(summary.findings).unwrap_or(usize::MAX),
            "place"
        )
    )))
}

async fn log(args: LogArgs, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let (mut job_id, mut pipeline_id) = (0, 0);
    if let Some(target) = &args.target {
        match target.resolve(&remote).await? {
            Resolved::Job(id) => job_id = id,
            Resolved::Pipeline(id) => pipeline_id = id,
        }
    }
    let since = match (args.since, args.all, &args.target) {
        (Some(since), _, _) => Some(since),
        (None, true, _) | (None, false, Some(_)) => None,
        (None, false, None) => Some(Since::Ago(TimeDelta::days(1))),
    };
    // One more than is shown tells that there are more.
    let limit = if args.all {
        0
    } else {
        args.limit.saturating_add(1)
    };
    let request = ListAuditRequest {
        job_id,
        pipeline_id,
        worker: args.worker.unwrap_or_default(),
        actor: args.who.unwrap_or_default(),
        since: since.map(|since| timestamp(since.at(clock::now()))),
        limit,
        newest_first: args.newest,
        before: 0,
    };
    let shown_max = if args.all {
        usize::MAX
    } else {
        args.limit as usize
    };
    let (mut lines, mut count) = (Vec::new(), 0_usize);
    requests::audit::lines(&remote, &request, |next| {
        count += 1;
        if count > shown_max {
            return Ok(());
        }
        match session.output.format {
            // As many as there are: each is written as it comes.
            Format::Json => {
                let text = format!("{}\n", line(&next));
                session.output.text(&harmless_json(&text))?;
            }
            Format::Table | Format::Quiet => lines.push(next),
        }
        Ok(())
    })
    .await?;
    match session.output.format {
        Format::Json => {}
        Format::Table | Format::Quiet => session.output.show(&Lines(&lines), clock::now())?,
    }
    if session.output.is_for_people() {
        if count == 0 {
            say!("no such lines; --since 7d looks further back, --all at everything");
        } else if count > shown_max {
            say!("there are more than {shown_max} lines; --limit or --all shows them");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_given_by_itself_or_as_how_long_ago() {
        let now: DateTime<Utc> = "2026-11-30T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("90s", "2026-11-30T11:58:30Z"),
            ("30m", "2026-11-30T11:30:00Z"),
            ("2h", "2026-11-30T10:00:00Z"),
            ("7d", "2026-11-23T12:00:00Z"),
            ("2026-01-02T03:04:05+01:00", "2026-01-02T02:04:05Z"),
            // Longer ago than there is a calendar for.
            ("4294967295d", "1970-01-01T00:00:00Z"),
        ] {
            let since: Since = text.parse().unwrap();
            assert_eq!(
                since.at(now),
                expected.parse::<DateTime<Utc>>().unwrap(),
                "{text}"
            );
        }
        for wrong in ["", "h", "2", "2w", "-2h", "2.5h", "yesterday", "é"] {
            assert!(wrong.parse::<Since>().is_err(), "{wrong}");
        }
    }
}
