//! `marquee workers`.

use marquee_proto::v1::Worker;
use marquee_view::gpus::Gpus;
use marquee_view::workers::Workers;

use crate::error::Result;
use crate::say::say;
use crate::session::Session;
use crate::{clock, requests};

/// List the hosts that take work, and what they do now
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee workers
  marquee workers --gpus
  marquee workers --output json | jq '.[].inventory.gpus'
  marquee workers --gpus --output json | jq '.[] | select(.healthy == false)'")]
pub(super) struct Args {
    /// Show each GPU instead: load, memory, power, heat, clocks, errors, processes, and its health
    #[arg(long)]
    gpus: bool,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let workers = requests::workers::list(&remote).await?;
    if args.gpus {
        session.output.show(&Gpus(&workers), clock::now())?;
    } else {
        session.output.show(&Workers(&workers), clock::now())?;
    }
    if session.output.is_for_people() {
        let has_gpu = |worker: &Worker| {
            let offered = worker
                .inventory
                .as_ref()
                .is_some_and(|host| !host.gpus.is_empty());
            offered || !worker.gpus.is_empty()
        };
        if workers.is_empty() {
            say!("no workers; start marquee-worker on a host, or \"marquee up\" here");
        } else if args.gpus && !workers.iter().any(has_gpu) {
            say!("no worker has a GPU; if one should, run \"marquee-worker doctor\" on its host");
        }
    }
    Ok(())
}
