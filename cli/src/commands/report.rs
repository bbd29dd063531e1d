//! `marquee report`.

use crate::clock;
use crate::error::Result;
use crate::report::gather;
use crate::session::Session;
use crate::target::Target;

/// Sum up a pipeline: scores beside ceiling and baselines, speed, where the time went
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee report p3
  marquee report posters
  marquee report p3 --output json | jq .f1_micro

The whole report with its gallery is a file of the eval job's artifact:
  marquee artifacts get eval report.html --to .")]
pub(super) struct Args {
    /// A pipeline, or a job of it
    #[arg(value_name = "JOB|PIPELINE")]
    target: Target,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let pipeline = args.target.resolve_pipeline(&remote).await?;
    let summary = gather(&remote, pipeline).await?;
    session.output.show(&summary, clock::now())?;
    Ok(())
}
