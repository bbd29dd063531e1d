//! `marquee metrics`.

use std::time::Duration;

use marquee_proto::v1::{self, MetricPoint};
use marquee_view::metrics::{Metrics, number};
use marquee_view::{json, units};
use tonic::Status;

use super::Session;
use super::logs::{Patience, Resume};
use crate::client::{Remote, is_passing};
use crate::clock;
use crate::error::Result;
use crate::output::{Format, Output};
use crate::target::Target;

/// Show what a job measured: losses, scores, phase times
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee metrics train
  marquee metrics train --name train/loss --name validation/f1_micro
  marquee metrics -f train --rank 0
  marquee metrics train --output json > metrics.jsonl     (one point a line)")]
pub(super) struct Args {
    job: Target,
    /// Go on with new points until the job has ended
    #[arg(long, short)]
    follow: bool,
    /// Only this metric; may be given several times
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Only this rank
    #[arg(long)]
    rank: Option<u32>,
    /// This attempt [default: the newest]
    #[arg(long)]
    attempt: Option<u32>,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let request = v1::MetricsRequest {
        job_id: args.job.resolve_job(&remote).await?,
        attempt: args.attempt.unwrap_or(0),
        rank: args.rank,
        names: args.name,
        follow: args.follow,
    };
    let output = session.output;
    if args.follow || output.format == Format::Json {
        return each(&remote, request, |point| {
            Ok(output.text(&line(&point, output))?)
        })
        .await;
    }
    let mut points = Vec::new();
    each(&remote, request, |point| {
        points.push(point);
        Ok(())
    })
    .await?;
    output.show(&Metrics(&points), clock::now())?;
    if output.is_for_people() && points.is_empty() {
        eprintln!("no metrics of this attempt");
    }
    Ok(())
}

/// Hands each point on as it comes, over broken connections, none twice.
pub(crate) async fn each(
    remote: &Remote,
    request: v1::MetricsRequest,
    mut take: impl FnMut(MetricPoint) -> Result<()>,
) -> Result<()> {
    let mut seen = Resume::default();
    let mut patience = Patience::default();
    loop {
        let status = match stream(remote, &request, &mut take, &mut seen, &mut patience).await? {
            Ok(()) => return Ok(()),
            Err(status) => status,
        };
        if !is_passing(&status) || patience.is_over() {
            return Err(remote.error(&status, patience.tries(), Duration::ZERO));
        }
        patience.pause().await;
    }
}

async fn stream(
    remote: &Remote,
    request: &v1::MetricsRequest,
    take: &mut impl FnMut(MetricPoint) -> Result<()>,
    seen: &mut Resume<(u32, u32, String)>,
    patience: &mut Patience,
) -> Result<Result<(), Status>> {
    let mut points = match remote.jobs().metrics(request.clone()).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    seen.start_over();
    loop {
        let point = match points.message().await {
            Ok(Some(point)) => point,
            Ok(None) => return Ok(Ok(())),
            Err(status) => return Ok(Err(status)),
        };
        patience.renew();
        let at = units::time(point.at.as_ref()).unwrap_or_default();
        if seen.is_new((point.attempt, point.rank, point.name.clone()), at) {
            take(point)?;
        }
    }
}

fn line(point: &MetricPoint, output: Output) -> String {
    match output.format {
        Format::Table => {
            let MetricPoint {
                rank,
                name,
                step,
                value,
                ..
            } = point;
            format!("[{rank}] step {step:>6}  {name} {}\n", number(*value))
        }
        Format::Json => format!("{}\n", json::metric(point)),
        Format::Quiet => format!("{}\n", point.value),
    }
}
