//! `marquee drain`, `resume`, `quarantine` and `burn-in`: hosts and GPUs that take no new work, and how they come back.

use chrono::{DateTime, TimeDelta, Utc};
use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use marquee_view::workers::{BurnIn, Workers};
use uuid::Uuid;

use crate::client::{Remote, Repeat, quick};
use crate::clock;
use crate::error::Result;
use crate::say::say;
use crate::session::Session;

/// Place nothing new on a worker; what runs finishes, or is moved at a deadline
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee drain gpu-3
  marquee drain gpu-3 --deadline 30m --reason \"new power supply\"
  marquee drain gpu-3 --deadline 2027-03-01T06:00:00+01:00

At the deadline what still runs there gets TERM and time to write a checkpoint, and is queued again at its
old place; no attempt is spent. \"marquee resume\" ends the drain.")]
pub(super) struct DrainArgs {
    /// The worker's name
    #[arg(value_name = "WORKER")]
    worker: String,
    /// What runs by then is moved: a span (30m, 2h, 1d) or a time (2027-03-01T06:00:00Z)
    #[arg(long, value_name = "SPAN|TIME", value_parser = parse_when)]
    deadline: Option<When>,
    /// Why, for whoever looks
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

/// Let a drained worker take work again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee resume gpu-3")]
pub(super) struct ResumeArgs {
    /// The worker's name
    #[arg(value_name = "WORKER")]
    worker: String,
}

/// Use a worker, or one of its GPUs, for nothing new
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee quarantine gpu-3/2 --reason \"fan is loud\"     GPU 2 of gpu-3
  marquee quarantine gpu-3
  marquee quarantine gpu-3/2 --lift

What runs there goes on. A quarantine stays over restarts of the host, the worker and the coordinator.")]
pub(super) struct QuarantineArgs {
    /// A worker, or one of its GPUs
    #[arg(value_name = "WORKER[/GPU]", value_parser = parse_place)]
    place: Place,
    /// Why, for whoever looks
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// End the quarantine
    #[arg(long)]
    lift: bool,
}

/// Test a GPU in quarantine, and bring it back if it passes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee burn-in gpu-3/2
  marquee burn-in gpu-3/2 --minutes 60
  marquee burn-in gpu-3/2 -o quiet | xargs marquee wait

It is an ordinary job on that GPU alone: \"marquee logs\" shows how far it is, and \"marquee cancel\" ends it. The
quarantine stays unless it passes (docs/gpu-health.md).")]
pub(super) struct BurnInArgs {
    /// A GPU of a worker
    #[arg(value_name = "WORKER/GPU", value_parser = parse_gpu)]
    place: Place,
    /// For how long its products are compared with the CPU's
    #[arg(long, default_value_t = 10, value_name = "M", value_parser = clap::value_parser!(u32).range(1..=1_440))]
    minutes: u32,
}

/// A time, or a span from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    In(TimeDelta),
    At(DateTime<Utc>),
}

impl When {
    pub(super) fn from(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::In(span) => now + span,
            Self::At(at) => at,
        }
    }
}

/// Longest span that is taken: beyond a year a slip of the hand is likelier than a wish.
const SPAN_MAX_S: i64 = 365 * 24 * 3600;

pub(super) fn parse_when(text: &str) -> Result<When, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(When::At(at.to_utc()));
    }
    let unit_s = match text.chars().last() {
        Some('s') => Some(1),
        Some('m') => Some(60),
        Some('h') => Some(3600),
        Some('d') => Some(24 * 3600),
        Some(_) | None => None,
    };
    let seconds = unit_s.and_then(|unit_s: i64| {
        let count: i64 = text[..text.len() - 1].parse().ok()?;
        // A number with 18 digits in front of a "d" is a slip, and no overflow.
        count.checked_mul(unit_s)
    });
    let seconds = seconds.filter(|seconds| (0..=SPAN_MAX_S).contains(seconds));
    seconds
        .map(|seconds| When::In(TimeDelta::seconds(seconds)))
        .ok_or_else(|| {
            "write a span of up to a year (90s, 30m, 2h, 1d), or a time with its offset from UTC \
         (2027-03-01T06:00:00+01:00)"
                .to_owned()
        })
}

/// A worker, or one of its GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    worker: String,
    gpu: Option<u32>,
}

fn parse_place(text: &str) -> Result<Place, String> {
    let (worker, gpu) = match text.split_once('/') {
        None => (text, None),
        Some((worker, gpu)) => {
            let index = gpu.parse().map_err(|_| {
                format!("{gpu:?} is no GPU's number; write WORKER, or WORKER/2 for its GPU 2")
            })?;
            (worker, Some(index))
        }
    };
    if worker.is_empty() {
        return Err("the worker's name is missing; \"marquee workers\" lists them".to_owned());
    }
    Ok(Place {
        worker: worker.to_owned(),
        gpu,
    })
}

fn parse_gpu(text: &str) -> Result<Place, String> {
    let place = parse_place(text)?;
    if place.gpu.is_none() {
        return Err("which GPU is missing; write WORKER/2 for its GPU 2".to_owned());
    }
    Ok(place)
}

pub(super) async fn drain(args: DrainArgs, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    // A moment and not a span: sent again it is the same deadline, and not a later one.
    let deadline = args.deadline.map(|when| timestamp(when.from(clock::now())));
    let request = v1::DrainWorkerRequest {
        name: args.worker,
        deadline,
        reason: args.reason,
    };
    let worker = remote
        .call(Repeat::Safe, async || {
            remote.workers().drain_worker(quick(request.clone())).await
        })
        .await?;
    show(&worker, session)?;
    if session.output.is_for_people() && !worker.ranks.is_empty() {
        let jobs = marquee_view::units::plural(worker.ranks.len(), "rank");
        say!("{jobs} still there; \"marquee workers\" tells when it is empty");
    }
    Ok(())
}

pub(super) async fn resume(args: ResumeArgs, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let request = v1::ResumeWorkerRequest { name: args.worker };
    let worker = remote
        .call(Repeat::Safe, async || {
            remote.workers().resume_worker(quick(request.clone())).await
        })
        .await?;
    show(&worker, session)
}

pub(super) async fn quarantine(args: QuarantineArgs, session: &Session) -> Result<()> {
    let remote: Remote = session.remote()?;
    let request = v1::QuarantineWorkerRequest {
        name: args.place.worker,
        gpu: args.place.gpu,
        reason: args.reason,
        lift: args.lift,
    };
    let worker = remote
        .call(Repeat::Safe, async || {
            remote
                .workers()
                .quarantine_worker(quick(request.clone()))
                .await
        })
        .await?;
    show(&worker, session)
}

pub(super) async fn burn_in(args: BurnInArgs, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let gpu = args.place.gpu.unwrap_or_default();
    let request = v1::BurnInRequest {
        worker_name: args.place.worker,
        gpu,
        minutes: args.minutes,
        // Sent again it is the same job.
        request_id: Uuid::new_v4().to_string(),
    };
    let submitted = remote
        .call(Repeat::Safe, async || {
            remote.workers().burn_in(quick(request.clone())).await
        })
        .await?;
    session.output.show(
        &BurnIn {
            job: submitted.job_id,
            worker: &request.worker_name,
            gpu,
            minutes: args.minutes,
        },
        clock::now(),
    )?;
    Ok(())
}

fn show(worker: &v1::Worker, session: &Session) -> Result<()> {
    session
        .output
        .show(&Workers(std::slice::from_ref(worker)), clock::now())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_a_span_or_a_time_with_its_offset() {
        assert_eq!(parse_when("30m"), Ok(When::In(TimeDelta::minutes(30))));
        let at = "2027-03-01T05:00:00Z".parse().unwrap();
        assert_eq!(parse_when("2027-03-01T06:00:00+01:00"), Ok(When::At(at)));
        for bad in [
            "",
            "m",
            "-5m",
            "30",
            "tomorrow",
            "2027-03-01",
            "99999d",
            "9é",
        ] {
            assert!(parse_when(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_place_is_a_worker_or_a_gpu_of_it() {
        let gpu = parse_place("gpu-3/2").unwrap();
        assert_eq!((gpu.worker.as_str(), gpu.gpu), ("gpu-3", Some(2)));
        assert_eq!(parse_place("gpu-3").unwrap().gpu, None);
        assert!(parse_place("gpu-3/x").unwrap_err().contains("WORKER/2"));
        assert!(parse_place("/2").is_err());
        assert_eq!(parse_gpu("gpu-3/2").unwrap().gpu, Some(2));
        assert!(parse_gpu("gpu-3").unwrap_err().contains("WORKER/2"));
    }
}
