//! `marquee show`.

use marquee_proto::v1::{self, JobDetail, Pipeline};
use marquee_view::{job, pipeline};

use super::Session;
use crate::client::{Remote, Repeat, quick};
use crate::clock;
use crate::error::Result;
use crate::target::{Resolved, Target};

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
            let detail = get_job(&remote, id).await?;
            session.output.show(&job::Job(&detail), clock::now())?;
        }
        Resolved::Pipeline(id) => {
            let found = get_pipeline(&remote, id).await?;
            session
                .output
                .show(&pipeline::Pipeline(&found), clock::now())?;
        }
    }
    Ok(())
}

/// One job with its history.
pub(crate) async fn get_job(remote: &Remote, id: i64) -> Result<JobDetail> {
    remote
        .call(Repeat::Safe, async || {
            remote.jobs().get_job(quick(v1::GetJobRequest { id })).await
        })
        .await
}

/// One pipeline with its jobs.
pub(crate) async fn get_pipeline(remote: &Remote, id: i64) -> Result<Pipeline> {
    remote
        .call(Repeat::Safe, async || {
            remote
                .jobs()
                .get_pipeline(quick(v1::GetPipelineRequest { id }))
                .await
        })
        .await
}
