//! `marquee retry`.

use marquee_proto::v1;
use marquee_view::jobs::Jobs;

use crate::client::{Repeat, quick};
use crate::clock;
use crate::error::Result;
use crate::session::Session;
use crate::target::Target;

/// Queue failed or cancelled jobs again, and jobs whose artifact is damaged
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee retry 17
  marquee retry p3/train

Jobs that were cancelled because this one failed come back with it. A train job goes on from its
newest checkpoint.")]
pub(super) struct Args {
    /// Jobs that have failed or were cancelled, or whose artifact is damaged
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<Target>,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let mut jobs = Vec::with_capacity(args.jobs.len());
    for target in &args.jobs {
        let id = target.resolve_job(&remote).await?;
        let job = remote
            .call(Repeat::Unsafe, async || {
                remote
                    .jobs()
                    .retry_job(quick(v1::RetryJobRequest { id }))
                    .await
            })
            .await?;
        jobs.push(job);
    }
    session.output.show(&Jobs(&jobs), clock::now())?;
    Ok(())
}
