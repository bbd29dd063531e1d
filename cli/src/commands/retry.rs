//! `marquee retry`.

use marquee_proto::v1;

use super::each::each;
use crate::client::{Repeat, quick};
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
    let ids = Target::resolve_jobs(&args.jobs, &remote).await?;
    let done = each(ids, async |id| {
        let job = remote
            // When a second request arrives the job may be queued again, and its retry is refused;
            // or it may have failed again, and gets a retry that nobody asked for.
            .call(Repeat::Unsafe, async || {
                remote
                    .jobs()
                    .retry_job(quick(v1::RetryJobRequest { id }))
                    .await
            })
            .await?;
        Ok(vec![job])
    });
    done.await.show(session)?;
    Ok(())
}
