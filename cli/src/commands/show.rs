//! `marquee show`.

use marquee_view::{job, pipeline};

use crate::error::Result;
use crate::session::Session;
use crate::target::{Resolved, Target};
use crate::{clock, requests};

/// Show a job with its attempts and history, or a pipeline with its jobs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee show train
  marquee show p3
  marquee show 17 --output json | jq .spec")]
pub(super) struct Args {
    /// A job or a pipeline
    #[arg(value_name = "JOB|PIPELINE")]
    target: Target,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    match args.target.resolve(&remote).await? {
        Resolved::Job(id) => {
            let detail = requests::jobs::get(&remote, id).await?;
            session.output.show(&job::Job(&detail), clock::now())?;
        }
        Resolved::Pipeline(id) => {
            let found = requests::jobs::get_pipeline(&remote, id).await?;
            session
                .output
                .show(&pipeline::Pipeline(&found), clock::now())?;
        }
    }
    Ok(())
}
