//! What a job printed, line by line.

use std::time::Duration;

use marquee_proto::v1::{self, LogLine};
use marquee_view::units;
use tonic::Status;

use super::resume::{Patience, Resume};
use crate::client::Remote;
use crate::error::Result;

/// Hands each line on as it comes, over broken connections, none twice.
pub(crate) async fn each(
    remote: &Remote,
    mut request: v1::LogsRequest,
    mut take: impl FnMut(LogLine) -> Result<()>,
) -> Result<()> {
    let mut seen = Resume::default();
    let mut patience = Patience::new(remote.is_quiet());
    loop {
        let status = match stream(remote, &request, &mut take, &mut seen, &mut patience).await? {
            Ok(()) => return Ok(()),
            Err(status) => status,
        };
        if !remote.may_pass(&status) || patience.is_over() {
            return Err(remote.error(&status, patience.tries(), Duration::ZERO));
        }
        // From here on all lines are asked for, and those shown already are left out: the last N lines
        // are others by now.
        if seen.any() {
            request.tail = 0;
        }
        patience.pause().await;
    }
}

async fn stream(
    remote: &Remote,
    request: &v1::LogsRequest,
    take: &mut impl FnMut(LogLine) -> Result<()>,
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
            take(line)?;
        }
    }
}

/// The last stored lines of a job.
pub(crate) async fn last_lines(
    remote: &Remote,
    job_id: i64,
    count: u32,
) -> Result<Vec<LogLine>, Status> {
    let request = v1::LogsRequest {
        job_id,
        tail: count,
        ..v1::LogsRequest::default()
    };
    // Asked once: it only completes the words of a failure, and whoever reads those should not wait
    // for them.
    let mut stream = remote.jobs().logs(request).await?.into_inner();
    let mut lines = Vec::new();
    while let Some(line) = stream.message().await? {
        lines.push(line);
    }
    Ok(lines)
}
