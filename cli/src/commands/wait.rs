//! `marquee wait`, and the following that `submit --wait` shares.

use marquee_view::jobs::Jobs;

use crate::client::Remote;
use crate::clock;
use crate::error::{CliError, Result};
use crate::session::Session;
use crate::signals::Signals;
use crate::target::{Resolved, Target};
use crate::{progress, watch};

/// Follow jobs or a pipeline until they have ended; exit 1 unless all succeed
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee wait p3
  marquee wait 17 18
  marquee wait train && marquee report p3

Ctrl-C stops following, not the jobs.")]
pub(super) struct Args {
    /// One pipeline (p3), or any number of jobs
    #[arg(required = true, value_name = "JOB|PIPELINE")]
    targets: Vec<Target>,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let mut targets = Vec::with_capacity(args.targets.len());
    for target in &args.targets {
        targets.push(target.resolve(&remote).await?);
    }
    follow(&remote, &targets, session).await
}

/// Shows progress until all have ended, then the jobs as they are.
pub(super) async fn follow(remote: &Remote, targets: &[Resolved], session: &Session) -> Result<()> {
    let request = watch::request(targets)?;
    let mut reporter = progress::to_stderr();
    let mut signals = Signals::catch()?;
    let jobs = tokio::select! {
        jobs = watch::until_ended(remote, request, reporter.as_mut()) => jobs?,
        () = signals.next() => {
            reporter.finish(clock::now());
            // Never a cancel: whoever closes his terminal means to stop watching, not to lose a night's training.
            return Err(CliError::Interrupted { hint: Some(still_running(targets)) });
        }
    };
    if !session.output.is_for_people() {
        session.output.show(&Jobs(&jobs), clock::now())?;
    }
    watch::verdict(&jobs)
}

fn still_running(targets: &[Resolved]) -> String {
    let names: Vec<String> = targets
        .iter()
        .map(|target| match target {
            Resolved::Job(id) => id.to_string(),
            Resolved::Pipeline(id) => format!("p{id}"),
        })
        .collect();
    let names = names.join(" ");
    format!(
        "the jobs go on: \"marquee wait {names}\" follows them again, \"marquee cancel {names}\" \
         stops them"
    )
}
