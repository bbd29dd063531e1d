//! `marquee explain`: why a job is where it is, and what a person can do about it.

use marquee_proto::v1;
use marquee_view::explain::Explanation;
use marquee_view::what_if::WhatIf;

use super::drain::{When, parse_when};
use crate::client::{Remote, Repeat, quick};
use crate::error::Result;
use crate::session::Session;
use crate::target::Target;
use crate::{clock, requests};

/// Say why a job waits or failed, and what to do
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee explain train
  marquee explain 17
  marquee explain 17 --with gpus=4       when it would start then, and end
  marquee explain 17 --with ranks=2 --with priority=10")]
pub(super) struct Args {
    job: Target,
    /// Say what would be if the job asked for something else: ranks, gpus, cpu-slots, priority, timeout
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_wish)]
    with: Vec<Wish>,
}

/// Something that a job might ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Ranks(u32),
    Gpus(u32),
    CpuSlots(u32),
    Priority(i32),
    TimeoutS(u32),
}

fn parse_wish(text: &str) -> Result<Wish, String> {
    let known = "write ranks=2, gpus=4, cpu-slots=4, priority=10 or timeout=2h";
    let (key, value) = text.split_once('=').ok_or(known)?;
    let number = || {
        value
            .parse()
            .map_err(|_| format!("{value:?} is no whole number; {known}"))
    };
    match key {
        "ranks" => number().map(Wish::Ranks),
        "gpus" => number().map(Wish::Gpus),
        "cpu-slots" => number().map(Wish::CpuSlots),
        "priority" => value
            .parse()
            .map(Wish::Priority)
            .map_err(|_| format!("{value:?} is no whole number; {known}")),
        "timeout" => match parse_when(value)? {
            When::In(span) => u32::try_from(span.num_seconds())
                .map(Wish::TimeoutS)
                .map_err(|_| known.to_owned()),
            When::At(_) => Err("a timeout is a span, such as 30m or 2h".to_owned()),
        },
        _ => Err(format!(
            "{key:?} is nothing that can be asked for here; {known}"
        )),
    }
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let id = args.job.resolve_job(&remote).await?;
    if !args.with.is_empty() {
        return what_if(id, &args.with, &remote, session).await;
    }
    let detail = requests::jobs::get(&remote, id).await?;
    let needs = match &detail.job {
        Some(job) if !job.needs.is_empty() => {
            // The job's own answer names what it needs, and not how far that is.
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

async fn what_if(id: i64, with: &[Wish], remote: &Remote, session: &Session) -> Result<()> {
    let mut request = v1::WhatIfRequest {
        job_id: id,
        ..v1::WhatIfRequest::default()
    };
    for wish in with {
        match *wish {
            Wish::Ranks(ranks) => request.ranks = Some(ranks),
            Wish::Gpus(gpus) => request.gpus = Some(gpus),
            Wish::CpuSlots(slots) => request.cpu_slots = Some(slots),
            Wish::Priority(priority) => request.priority = Some(priority),
            Wish::TimeoutS(seconds) => request.timeout_s = Some(seconds),
        }
    }
    let answer = remote
        .call(Repeat::Safe, async || {
            remote.jobs().what_if(quick(request)).await
        })
        .await?;
    session.output.show(
        &WhatIf {
            job: id,
            answer: &answer,
        },
        clock::now(),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_by_name() {
        assert_eq!(parse_wish("gpus=4"), Ok(Wish::Gpus(4)));
        assert_eq!(parse_wish("priority=-3"), Ok(Wish::Priority(-3)));
        assert_eq!(parse_wish("timeout=2h"), Ok(Wish::TimeoutS(7_200)));
        for bad in [
            "gpus",
            "gpus=",
            "gpus=-1",
            "memory=4",
            "timeout=tomorrow",
            "timeout=2027-01-15T00:00:00Z",
        ] {
            assert!(parse_wish(bad).is_err(), "{bad}");
        }
    }
}
