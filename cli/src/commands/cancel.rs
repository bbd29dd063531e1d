//! `marquee cancel`.

use marquee_proto::v1;
use marquee_view::jobs::Jobs;
use marquee_view::words;

use crate::client::{Repeat, quick};
use crate::clock;
use crate::error::Result;
use crate::say::say;
use crate::session::Session;
use crate::target::{Resolved, Target};

/// Ask jobs to stop
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee cancel 17
  marquee cancel p3     every job of the pipeline that has not ended

A running job gets time to write a checkpoint; it is cancelled when nothing of it is left.")]
pub(super) struct Args {
    /// Jobs and pipelines
    #[arg(required = true, value_name = "JOB|PIPELINE")]
    targets: Vec<Target>,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let mut jobs = Vec::new();
    for target in &args.targets {
        match target.resolve(&remote).await? {
            Resolved::Job(id) => jobs.push(
                remote
                    .call(Repeat::Unsafe, async || {
                        remote
                            .jobs()
                            .cancel_job(quick(v1::CancelJobRequest { id }))
                            .await
                    })
                    .await?,
            ),
            // To cancel a pipeline twice does the same as once, so this may be repeated.
            Resolved::Pipeline(id) => jobs.extend(
                remote
                    .call(Repeat::Safe, async || {
                        remote
                            .jobs()
                            .cancel_pipeline(quick(v1::CancelPipelineRequest { id }))
                            .await
                    })
                    .await?
                    .jobs,
            ),
        }
    }
    session.output.show(&Jobs(&jobs), clock::now())?;
    if session.output.is_for_people() && jobs.iter().any(|job| !words::has_ended(job)) {
        say!("\"marquee wait\" tells when they have stopped");
    }
    Ok(())
}
