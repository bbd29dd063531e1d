//! `marquee cancel`.

use marquee_proto::v1;
use marquee_view::words;

use super::each::each;
use crate::client::{Repeat, quick};
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
    let mut found = Vec::with_capacity(args.targets.len());
    for target in &args.targets {
        found.push(target.resolve(&remote).await?);
    }
    let done = each(found, async |one| {
        Ok(match one {
            Resolved::Job(id) => vec![
                remote
                    // A job that has ended cannot be cancelled: sent twice, the second would call
                    // the first a failure.
                    .call(Repeat::Unsafe, async || {
                        remote
                            .jobs()
                            .cancel_job(quick(v1::CancelJobRequest { id }))
                            .await
                    })
                    .await?,
            ],
            // To cancel a pipeline twice does the same as once, so this may be repeated.
            Resolved::Pipeline(id) => {
                remote
                    .call(Repeat::Safe, async || {
                        remote
                            .jobs()
                            .cancel_pipeline(quick(v1::CancelPipelineRequest { id }))
                            .await
                    })
                    .await?
                    .jobs
            }
        })
    });
    let jobs = done.await.show(session)?;
    if session.output.is_for_people() && jobs.iter().any(|job| !words::has_ended(job)) {
        say!("\"marquee wait\" tells when they have stopped");
    }
    Ok(())
}
