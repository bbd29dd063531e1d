//! `marquee hold`, `marquee release` and `marquee move`.

use marquee_proto::v1;

use super::each::each;
use crate::client::{Repeat, quick};
use crate::error::Result;
use crate::session::Session;
use crate::target::Target;

/// Keep jobs that wait or are queued from being placed
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee hold 17
  marquee hold p3/train     also before what it needs has succeeded

Of an array, the elements that run go on and no further one starts. \"marquee release\" lets it go, at its
old place in the queue.")]
pub(super) struct HoldArgs {
    /// Jobs
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<Target>,
}

/// Let held jobs be placed again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee release 17
  marquee release train")]
pub(super) struct ReleaseArgs {
    /// Jobs
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<Target>,
}

/// Move running jobs to other hosts: they write a checkpoint and go on there
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee move 17
  marquee move sweep[3]

It costs the job no attempt, only what it did since its newest checkpoint. Where no other host would do, it
comes back to the one it had.")]
pub(super) struct MoveArgs {
    /// Jobs
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<Target>,
}

pub(super) async fn move_away(args: MoveArgs, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let ids = Target::resolve_jobs(&args.jobs, &remote).await?;
    let done = each(ids, async |id| {
        let request = v1::MoveJobRequest { id };
        // Sent twice it might move the job twice.
        let job = remote
            .call(Repeat::Unsafe, async || {
                remote.jobs().move_job(quick(request)).await
            })
            .await?;
        Ok(vec![job])
    });
    done.await.show(session)?;
    Ok(())
}

pub(super) async fn hold(args: HoldArgs, session: &Session) -> Result<()> {
    set(&args.jobs, true, session).await
}

pub(super) async fn release(args: ReleaseArgs, session: &Session) -> Result<()> {
    set(&args.jobs, false, session).await
}

/// Both do the same when they are sent twice.
async fn set(targets: &[Target], hold: bool, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let ids = Target::resolve_jobs(targets, &remote).await?;
    let done = each(ids, async |id| {
        let request = v1::HoldJobRequest { id };
        let job = remote
            .call(Repeat::Safe, async || {
                let request = quick(request);
                if hold {
                    remote.jobs().hold_job(request).await
                } else {
                    remote.jobs().release_job(request).await
                }
            })
            .await?;
        Ok(vec![job])
    });
    done.await.show(session)?;
    Ok(())
}
