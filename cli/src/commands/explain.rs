//! `marquee explain`: why a job is where it is, and what a person can do about it.

use marquee_view::explain::Explanation;

use crate::error::Result;
use crate::session::Session;
use crate::target::Target;
use crate::{clock, requests};

/// Say why a job waits or failed, and what to do
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee explain train
  marquee explain 17")]
pub(super) struct Args {
    job: Target,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let id = args.job.resolve_job(&remote).await?;
    let detail = requests::jobs::get(&remote, id).await?;
    let needs = match &detail.job {
        Some(job) if !job.needs.is_empty() => {
            let pipeline = requests::jobs::get_pipeline(&remote, job.pipeline_id).await?;
            pipeline
                .jobs
                .into_iter()
                .filter(|other| job.needs.contains(&other.name))
                .collect()
        }
        Some(_) | None => Vec::new(),
    };
    session.output.show(
        &Explanation {
            detail: &detail,
            needs: &needs,
        },
        clock::now(),
    )?;
    Ok(())
}
