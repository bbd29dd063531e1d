//! `marquee report`.

use marquee_domain::PipelineId;

use crate::clock;
use crate::error::Result;
use crate::report::gather;
use crate::session::Session;
use crate::target::parse_pipeline;

/// Sum up a pipeline: scores beside ceiling and baselines, speed, where the time went
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee report p3
  marquee report p3 --output json | jq .f1_micro

The whole report with its gallery is a file of the eval job's artifact:
  marquee artifacts get eval report.html --to .")]
pub(super) struct Args {
    #[arg(value_name = "PIPELINE", value_parser = parse_pipeline)]
    pipeline: PipelineId,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let summary = gather(&remote, args.pipeline.0).await?;
    session.output.show(&summary, clock::now())?;
    Ok(())
}
