//! `marquee logs`.

use std::time::Duration;

use marquee_proto::v1::{self, LogLine};
use marquee_view::{json, units};
use tonic::Status;

use super::Session;
use crate::client::{Remote, is_passing};
use crate::error::Result;
use crate::output::{Format, Output};
use crate::target::Target;

mod resume;

pub(super) use resume::{Patience, Resume};

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
    print(&remote, request, session.output).await
}

/// Writes lines as they come, over broken connections, none twice.
async fn print(remote: &Remote, mut request: v1::LogsRequest, output: Output) -> Result<()> {
    let mut seen = Resume::default();
    let mut patience = Patience::default();
    loop {
        let status = match stream(remote, &request, output, &mut seen, &mut patience).await? {
            Ok(()) => return Ok(()),
            Err(status) => status,
        };
        if !is_passing(&status) || patience.is_over() {
            return Err(remote.error(&status, patience.tries(), Duration::ZERO));
        }
        // What was seen is left out by its time; a tail would begin somewhere else now.
        if seen.any() {
            request.tail = 0;
        }
        patience.pause().await;
    }
}

async fn stream(
    remote: &Remote,
    request: &v1::LogsRequest,
    output: Output,
    seen: &mut Resume<(u32, u32, i32)>,
    patience: &mut Patience,
) -> Result<Result<(), Status>> {
    let mut lines = match remote.jobs().logs(*request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    seen.start_over();
    loop {
        let line = match lines.message().await {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(Ok(())),
            Err(status) => return Ok(Err(status)),
        };
        patience.renew();
        let at = units::time(line.at.as_ref()).unwrap_or_default();
        if seen.is_new((line.attempt, line.rank, line.stream), at) {
            output.text(&render(&line, output.format, request.rank.is_some()))?;
        }
    }
}

/// A line as printed; the rank stands before it unless one was asked for.
pub(crate) fn render(line: &LogLine, format: Format, one_rank: bool) -> String {
    match format {
        Format::Table if one_rank => format!("{}\n", line.text),
        Format::Table => format!("[{}] {}\n", line.rank, line.text),
        Format::Json => format!("{}\n", json::log_line(line)),
        Format::Quiet => format!("{}\n", line.text),
    }
}

/// The last stored lines of a job, for those who tell of its failure.
pub(crate) async fn last_lines(
    remote: &Remote,
    job_id: i64,
    count: u32,
) -> Result<Vec<String>, Status> {
    let request = v1::LogsRequest {
        job_id,
        tail: count,
        ..v1::LogsRequest::default()
    };
    let mut stream = remote.jobs().logs(request).await?.into_inner();
    let mut lines = Vec::new();
    while let Some(line) = stream.message().await? {
        lines.push(render(&line, Format::Table, false).trim_end().to_owned());
    }
    Ok(lines)
}
