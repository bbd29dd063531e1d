//! `marquee chaos`: one fault on purpose, and the proof that nothing was lost by it.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use clap::Subcommand;
use marquee_proto::v1;
use marquee_proto::v1::rehearse_request::Fault;
use marquee_proto::v1::{JobState, RankState, WorkerState};
use marquee_view::audit::Verified;
use marquee_view::chaos::Rehearsed;
use marquee_view::units;

use super::audit;
use crate::client::Remote;
use crate::error::{CliError, Result};
use crate::say::say;
use crate::session::Session;
use crate::target::Target;
use crate::{clock, requests};

/// How often it is looked whether the cluster is well again.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Rehearse a fault on this cluster: it is done, waited for, and the history is checked
///
/// For administrators. A fault that would do lasting harm is refused, each is in the audit (marquee audit log), and
/// without --yes nothing is done. Exit code 4: a rule of docs/reliability.md was broken.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  marquee chaos kill-rank train --dry-run        what would happen, and to whom
  marquee chaos kill-rank train --rank 1 --yes
  marquee chaos cut-worker gpu-2 --for 30 --yes
  marquee chaos step-down --yes")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Only say what would be done
    #[arg(long, global = true)]
    dry_run: bool,
    /// Do it
    #[arg(long, global = true, conflicts_with = "dry_run")]
    yes: bool,
    /// How long the cluster may take until all is well again
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    within: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    KillRank(KillRank),
    CutWorker(CutWorker),
    /// Let the coordinator that leads hand over to one that stands by
    #[command(after_help = "\
Examples:
  marquee chaos step-down --yes")]
    StepDown,
}

/// Kill one rank of a job that runs; it costs the job an attempt
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee chaos kill-rank train --rank 1 --yes")]
struct KillRank {
    /// The job
    #[arg(value_name = "JOB")]
    job: Target,
    /// Which of its ranks, from 0
    #[arg(long, default_value_t = 0)]
    rank: u32,
}

/// Cut a worker off for a while; longer than its lease, and its ranks go elsewhere
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee chaos cut-worker gpu-2 --for 30 --yes")]
struct CutWorker {
    /// The worker's name
    #[arg(value_name = "WORKER")]
    worker: String,
    /// For how long
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=120))]
    seconds: u32,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let (word, fault) = match &args.command {
        Command::KillRank(kill) => {
            let job_id = kill.job.resolve_job(&remote).await?;
            let rank = kill.rank;
            ("kill-rank", Fault::KillRank(v1::KillRank { job_id, rank }))
        }
        Command::CutWorker(cut) => {
            let name = cut.worker.clone();
            let for_ms = cut.seconds * 1_000;
            (
                "cut-worker",
                Fault::CutWorker(v1::CutWorker { name, for_ms }),
            )
        }
        Command::StepDown => ("step-down", Fault::StepDown(v1::StepDown {})),
    };
    if !args.yes {
        let answer = requests::chaos::rehearse(&remote, &fault, true).await?;
        show(word, &answer, None, session)?;
        if args.dry_run {
            return Ok(());
        }
        let text = "nothing was done: give --yes to do it, or --dry-run to see this alone";
        return Err(CliError::Usage(text.to_owned()));
    }
    let answer = requests::chaos::rehearse(&remote, &fault, false).await?;
    let since = Instant::now();
    if session.output.is_for_people() {
        say!("{}; waiting until all is well again", answer.done);
    }
    let limit = Duration::from_secs(args.within);
    let over = match &fault {
        Fault::KillRank(kill) => {
            let attempt = answer.attempt;
            until(since, limit, async || {
                runs_again(&remote, kill, attempt).await
            })
            .await?
        }
        Fault::CutWorker(cut) => {
            let time = Duration::from_millis(cut.for_ms.into());
            // By the coordinator's clock, and compared with that alone: this machine's may be
            // minutes off.
            let before = heard(&remote, &cut.name).await?;
            tokio::time::sleep(time).await;
            // The cut itself is none of the time that the cluster has to get well.
            until(since, time + limit, async || {
                is_back(&remote, cut, before).await
            })
            .await?
        }
        Fault::StepDown(_) => {
            until(since, limit, async || has_heir(&remote, answer.epoch).await).await?
        }
    };
    let seconds = since.elapsed().as_secs_f64();
    // Well again is not enough: the history has to show that nothing was lost or done twice on the
    // way.
    let (findings, summary) = audit::check(&remote, session, Default::default()).await?;
    let verified = Verified {
        findings: &findings,
        summary: &summary,
    };
    show(word, &answer, Some((over, seconds, verified)), session)?;
    audit::must_be_clean(&summary)
}

fn show(
    fault: &str,
    answer: &v1::RehearseResponse,
    over: Option<(&str, f64, Verified<'_>)>,
    session: &Session,
) -> Result<()> {
    let rehearsed = Rehearsed {
        fault,
        answer,
        over,
    };
    session.output.show(&rehearsed, clock::now())?;
    Ok(())
}

/// Waits until `look` says that all is well, and in which way. Its error: what is not.
async fn until<F>(since: Instant, limit: Duration, look: F) -> Result<&'static str>
where
    F: AsyncFn() -> Result<std::result::Result<&'static str, String>>,
{
    loop {
        let ill = match look().await? {
            Ok(how) => return Ok(how),
            Err(ill) => ill,
        };
        if since.elapsed() > limit {
            return Err(CliError::JobsFailed(format!(
                "not well after {} s: {ill}; --within gives it longer, and \"marquee audit verify\" checks the history",
                since.elapsed().as_secs()
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn runs_again(
    remote: &Remote,
    kill: &v1::KillRank,
    attempt: u32,
) -> Result<std::result::Result<&'static str, String>> {
    let detail = requests::jobs::get(remote, kill.job_id).await?;
    if detail.job.as_ref().map(v1::Job::state) == Some(JobState::Failed) {
        let text = format!(
            "job {} has failed; \"marquee show {}\" says why",
            kill.job_id, kill.job_id
        );
        return Err(CliError::JobsFailed(text));
    }
    Ok(rank_is_over(&detail, kill, attempt))
}

/// Whether the job has got over the loss of a rank of `attempt`.
fn rank_is_over(
    detail: &v1::JobDetail,
    kill: &v1::KillRank,
    attempt: u32,
) -> std::result::Result<&'static str, String> {
    let job = detail.job.as_ref();
    match job.map(v1::Job::state) {
        Some(JobState::Succeeded) => return Ok("the job has succeeded"),
        Some(JobState::Cancelled) => return Ok("somebody cancelled the job"),
        Some(
            JobState::Unspecified
            | JobState::Waiting
            | JobState::Queued
            | JobState::Running
            | JobState::Failed,
        )
        | None => {}
    }
    let Some(newest) = detail.attempts.last() else {
        return Err("the job has no attempt".to_owned());
    };
    let is_lost = |rank: &&v1::AttemptRank| rank.rank == kill.rank && rank.lost_at.is_some();
    if newest.number == attempt && newest.ranks.iter().any(|rank| is_lost(&rank)) {
        return Ok("the job goes on without the rank");
    }
    let runs =
        |rank: &v1::AttemptRank| matches!(rank.state(), RankState::Running | RankState::Finished);
    // One without ranks is one of which nothing is known yet.
    if newest.number > attempt && !newest.ranks.is_empty() && newest.ranks.iter().all(runs) {
        return Ok("all of its ranks run again");
    }
    Err(format!(
        "job {} is at attempt {}, and not all of its ranks run (\"marquee explain {}\")",
        kill.job_id, newest.number, kill.job_id
    ))
}

/// When a worker was last heard, by the coordinator's clock; None: it is not online.
async fn heard(remote: &Remote, name: &str) -> Result<Option<DateTime<Utc>>> {
    let workers = requests::workers::list(remote).await?;
    let mut online = workers
        .iter()
        .filter(|worker| worker.name == name && worker.state() == WorkerState::Online);
    let last = online
        .next()
        .and_then(|worker| worker.last_seen_at.as_ref());
    Ok(units::time(last))
}

/// It counts as online until its lease has run out: what counts is that it was heard after the cut.
async fn is_back(
    remote: &Remote,
    cut: &v1::CutWorker,
    before: Option<DateTime<Utc>>,
) -> Result<std::result::Result<&'static str, String>> {
    let heard = heard(remote, &cut.name).await?;
    Ok(match (heard, before) {
        (Some(heard), Some(before)) if heard > before => Ok("the worker is back"),
        (Some(_), None) => Ok("the worker is back"),
        (Some(_) | None, _) => Err(format!("worker {} was not heard again", cut.name)),
    })
}

async fn has_heir(
    remote: &Remote,
    epoch: u64,
) -> Result<std::result::Result<&'static str, String>> {
    let known = requests::workers::coordinators(remote).await?;
    Ok(if known.epoch > epoch && !known.leaderless {
        Ok("another coordinator leads")
    } else {
        Err(format!("nobody has taken over from epoch {epoch}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_over_when_all_ranks_of_a_later_attempt_run_or_the_job_goes_on_without_it() {
        let kill = v1::KillRank { job_id: 7, rank: 1 };
        let rank = |rank, state: RankState| v1::AttemptRank {
            rank,
            state: state.into(),
            ..v1::AttemptRank::default()
        };
        let mut detail = v1::JobDetail {
            job: Some(v1::Job {
                state: JobState::Running.into(),
                ..v1::Job::default()
            }),
            attempts: vec![v1::Attempt {
                number: 2,
                ranks: vec![rank(0, RankState::Running), rank(1, RankState::Running)],
                ..v1::Attempt::default()
            }],
            ..v1::JobDetail::default()
        };
        assert!(rank_is_over(&detail, &kill, 2).is_err());
        detail.attempts[0].ranks[1].lost_at = Some(Default::default());
        assert!(rank_is_over(&detail, &kill, 2).unwrap().contains("without"));
        detail.attempts.push(v1::Attempt {
            number: 3,
            ranks: vec![rank(0, RankState::Running), rank(1, RankState::Prepared)],
            ..v1::Attempt::default()
        });
        assert!(rank_is_over(&detail, &kill, 2).is_err());
        detail.attempts[1].ranks[1] = rank(1, RankState::Running);
        assert!(rank_is_over(&detail, &kill, 2).unwrap().contains("again"));
        detail.attempts[1].ranks.clear();
        assert!(rank_is_over(&detail, &kill, 2).is_err());
        detail.job.as_mut().unwrap().state = JobState::Succeeded.into();
        assert!(
            rank_is_over(&detail, &kill, 2)
                .unwrap()
                .contains("succeeded")
        );
    }
}
