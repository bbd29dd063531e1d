//! `marquee metrics`.

use marquee_proto::v1::{self, MetricPoint};
use marquee_view::metrics::{Metrics, number};
use marquee_view::{harmless_json, harmless_line, json};

use crate::clock;
use crate::error::Result;
use crate::output::Format;
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
    // Each point as it comes: a table has to know them all before it can be drawn, and a job may
    // run for days.
    if args.follow || output.format == Format::Json {
        return each(&remote, request, |point| {
            Ok(output.text(&line(&point, output.format))?)
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

fn line(point: &MetricPoint, format: Format) -> String {
    match format {
        Format::Table => {
            let MetricPoint {
                rank,
                name,
                step,
                value,
                ..
            } = point;
            let name = harmless_line(name);
            format!("[{rank}] step {step:>6}  {name} {}\n", number(*value))
        }
        Format::Json => format!("{}\n", harmless_json(&json::metric(point).to_string())),
        Format::Quiet => format!("{}\n", point.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str, value: f64) -> MetricPoint {
        MetricPoint {
            rank: 3,
            name: name.into(),
            step: 250,
            value,
            attempt: 1,
            at: None,
        }
    }

    #[test]
    fn a_point_is_one_line_in_every_format() {
        let plain = point("train/loss", 0.123_456);
        assert_eq!(
            line(&plain, Format::Table),
            "[3] step    250  train/loss 0.1235\n"
        );
        assert_eq!(line(&plain, Format::Quiet), "0.123456\n");
        let json: serde_json::Value = serde_json::from_str(&line(&plain, Format::Json)).unwrap();
        assert_eq!(json["name"], "train/loss");
        assert_eq!(json["at"], serde_json::Value::Null);
        for value in [f64::NAN, f64::INFINITY, f64::MIN, -0.0] {
            for format in [Format::Table, Format::Json, Format::Quiet] {
                let text = line(&point("loss", value), format);
                assert_eq!(text.matches('\n').count(), 1, "{value}: {text:?}");
            }
        }
    }

    #[test]
    fn a_name_that_a_program_chose_steers_no_terminal() {
        let odd = point("\u{1b}[2Jloss\u{9b}1m\u{202e}", 1.0);
        for format in [Format::Table, Format::Json, Format::Quiet] {
            let text = line(&odd, format);
            let obeyed = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
            assert!(!text.contains(obeyed), "{text:?}");
        }
        // A program reads the name as it was.
        let json: serde_json::Value = serde_json::from_str(&line(&odd, Format::Json)).unwrap();
        assert_eq!(json["name"], odd.name);
    }
}
