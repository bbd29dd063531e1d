//! `marquee logs`.

use marquee_proto::v1::{self, LogLine};
use marquee_view::json;

use crate::error::Result;
use crate::output::Format;
use crate::requests;
use crate::session::Session;
use crate::target::Target;

/// Show what a job printed
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee logs train --tail 20
  marquee logs -f train --rank 0
  marquee logs 17 --attempt 1 --output json")]
pub(super) struct Args {
    job: Target,
    /// Go on with new lines until the job has ended
    #[arg(long, short)]
    follow: bool,
    /// Only this rank
    #[arg(long)]
    rank: Option<u32>,
    /// This attempt [default: the newest]
    #[arg(long)]
    attempt: Option<u32>,
    /// Only the last so many stored lines
    #[arg(long, short = 'n', value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..))]
    tail: Option<u32>,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let request = v1::LogsRequest {
        job_id: args.job.resolve_job(&remote).await?,
        attempt: args.attempt.unwrap_or(0),
        rank: args.rank,
        follow: args.follow,
        tail: args.tail.unwrap_or(0),
    };
    let one_rank = request.rank.is_some();
    let output = session.output;
    requests::logs::each(&remote, request, |line| {
        Ok(output.text(&render(&line, output.format, one_rank))?)
    })
    .await
}

/// A line as printed; the rank stands before it unless one was asked for.
fn render(line: &LogLine, format: Format, one_rank: bool) -> String {
    match format {
        Format::Table if one_rank => format!("{}\n", line.text),
        Format::Table => format!("[{}] {}\n", line.rank, line.text),
        Format::Json => format!("{}\n", json::log_line(line)),
        Format::Quiet => format!("{}\n", line.text),
    }
}
