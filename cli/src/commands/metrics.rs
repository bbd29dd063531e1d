//! `marquee metrics`.

use marquee_proto::v1::{self, MetricPoint};
use marquee_view::json;
use marquee_view::metrics::{Metrics, number};

use crate::clock;
use crate::error::Result;
use crate::output::{Format, Output};
use crate::requests::metrics::each;
use crate::say::say;
use crate::session::Session;
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
        say!("no metrics of this attempt");
    }
    Ok(())
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
