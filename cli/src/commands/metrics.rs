//! `marquee metrics`.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_proto::v1::{self, MetricPoint};
use serde_json::Value;
use tonic::Status;

use super::Session;
use super::logs::{Patience, Resume};
use crate::client::{Remote, is_passing};
use crate::clock;
use crate::error::Result;
use crate::output::table::{left, right};
use crate::output::{Format, Output, Page, Show, json, words};
use crate::target::Target;

/// Points a person is shown of one metric: the newest. --output json has all.
const POINTS_SHOWN: usize = 10;

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
        let at = words::time(point.at.as_ref()).unwrap_or_default();
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

/// Six significant digits at most, without noise.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || (1e-3..1e6).contains(&magnitude) {
        let text = format!("{value:.4}");
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    } else {
        format!("{value:.3e}")
    }
}

/// Stored points, in the order they came.
struct Metrics<'a>(&'a [MetricPoint]);

impl Metrics<'_> {
    fn by_series(&self) -> BTreeMap<(&str, u32), Vec<&MetricPoint>> {
        let mut series: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for point in self.0 {
            series
                .entry((point.name.as_str(), point.rank))
                .or_default()
                .push(point);
        }
        series
    }
}

impl Show for Metrics<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        if self.0.is_empty() {
            return;
        }
        let heads = [
            left("METRIC"),
            right("RANK"),
            right("POINTS"),
            right("STEP"),
            right("LAST"),
            right("MIN"),
            right("MAX"),
            left("NEWEST, OLDEST FIRST"),
        ];
        let rows = self
            .by_series()
            .into_iter()
            .filter_map(|((name, rank), points)| {
                let last = points.last()?;
                let values = || points.iter().map(|point| point.value);
                let newest = &points[points.len().saturating_sub(POINTS_SHOWN)..];
                let newest: Vec<String> = newest.iter().map(|point| number(point.value)).collect();
                Some(vec![
                    name.into(),
                    rank.to_string().into(),
                    words::count(points.len() as u64).into(),
                    words::count(last.step).into(),
                    number(last.value).into(),
                    number(values().fold(f64::INFINITY, f64::min)).into(),
                    number(values().fold(f64::NEG_INFINITY, f64::max)).into(),
                    newest.join(" ").into(),
                ])
            });
        page.table(&heads, rows.collect());
    }

    fn json(&self) -> Value {
        self.0.iter().map(json::metric).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.by_series()
            .into_keys()
            .map(|(name, _)| name.to_owned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_true() {
        let all = [0.0, 0.5, 0.123_456, 1_234.5, 1e-5, -2.0, 100.0, 3e7].map(number);
        assert_eq!(
            all,
            [
                "0", "0.5", "0.1235", "1234.5", "1.000e-5", "-2", "100", "3.000e7"
            ]
        );
    }

    #[test]
    fn metrics_are_summed_up_by_name_and_rank() {
        let point = |rank, name: &str, step, value| MetricPoint {
            attempt: 1,
            rank,
            name: name.into(),
            step,
            value,
            at: None,
        };
        let points = [
            point(0, "train/loss", 10, 0.7),
            point(1, "train/loss", 10, 0.72),
            point(0, "train/loss", 20, 0.51),
            point(0, "validation/f1_micro", 20, 0.4),
        ];
        let mut page = Page::new(false, None);
        Metrics(&points).page(&mut page, DateTime::UNIX_EPOCH);
        insta::assert_snapshot!(page.finish(), @r#"
        METRIC               RANK  POINTS  STEP  LAST   MIN   MAX  NEWEST, OLDEST FIRST
        train/loss              0       2    20  0.51  0.51   0.7  0.7 0.51
        train/loss              1       1    10  0.72  0.72  0.72  0.72
        validation/f1_micro     0       1    20   0.4   0.4   0.4  0.4
        "#);
    }
}
