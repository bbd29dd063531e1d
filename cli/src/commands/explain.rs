//! `marquee explain`: why a job is where it is, and what a person can do about it.
//!
//! Not here: finding out. The reason of a waiting job is the coordinator's, stored with the job;
//! the class of a failure too. Here they are put together with what follows from them.

use chrono::{DateTime, Utc};
use marquee_domain::failure::FailureClass;
use marquee_domain::job::JobStateName;
use marquee_proto::v1::{Job, JobDetail};
use serde_json::{Value, json};

use super::{Session, jobs, show};
use crate::clock;
use crate::error::Result;
use crate::output::{Page, Show, json, words};
use crate::target::Target;

/// Say why a job waits or failed, and what to do
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee explain train
  marquee explain 17")]
pub(super) struct Args {
    job: Target,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let id = args.job.resolve_job(&remote).await?;
    let detail = show::job(&remote, id).await?;
    let needs = match &detail.job {
        Some(job) if !job.needs.is_empty() => {
            let pipeline = show::pipeline(&remote, job.pipeline_id).await?;
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

/// A job, what it needs, and what can be said about both.
pub(crate) struct Explanation<'a> {
    pub detail: &'a JobDetail,
    pub needs: &'a [Job],
}

impl Explanation<'_> {
    /// Why the job is where it is, one sentence a line.
    fn why(&self, job: &Job, now: DateTime<Utc>) -> Vec<String> {
        let detail = crate::progress::detail(job, now);
        match words::state_name(job) {
            Some(JobStateName::Waiting) => {
                let reason = or(&job.reason, "waits for the jobs it needs");
                let mut why = vec![format!("It {reason}.")];
                why.extend(
                    self.needs
                        .iter()
                        .filter(|need| !succeeded(need))
                        .map(|need| {
                            let state = words::job_state(need);
                            format!(
                                "It needs {} (job {}), which is {state}.",
                                need.name, need.id
                            )
                        }),
                );
                why
            }
            Some(JobStateName::Queued) => {
                vec![format!(
                    "It could run and does not yet: {}.",
                    or(&detail, "the scheduler has not looked at it yet")
                )]
            }
            Some(JobStateName::Running) => {
                let mut why = vec![format!("It runs: {detail}.")];
                why.extend(words::losses(self.detail));
                why
            }
            Some(JobStateName::Succeeded) if job.reused_from_job_id != 0 => {
                let from = job.reused_from_job_id;
                vec![format!(
                    "It did not run: job {from} did the same before, with the same code, settings and \
                     inputs, and its result was taken. \"marquee submit --fresh\" or \"reuse = false\" \
                     runs it all the same."
                )]
            }
            Some(JobStateName::Succeeded) => {
                let mut why = vec![format!("It succeeded {detail}.")];
                why.extend(words::losses(self.detail));
                why.extend(
                    words::bottleneck(self.detail).map(|words| format!("Its speed: {words}.")),
                );
                why
            }
            Some(JobStateName::Failed) => self.why_failed(job),
            Some(JobStateName::Cancelled) => {
                let last = self
                    .detail
                    .events
                    .last()
                    .map_or("", |event| event.text.as_str());
                let cause = or(&job.reason, or(last, "by a user"));
                vec![format!("It was cancelled: {cause}.")]
            }
            None => {
                vec!["Its state is one that only a newer marquee knows; update this one.".into()]
            }
        }
    }

    fn why_failed(&self, job: &Job) -> Vec<String> {
        let Some(failure) = &job.failure else {
            return vec!["It failed, and no cause is stored.".into()];
        };
        let mut why = vec![format!(
            "It failed ({}): {}",
            words::failure_word(failure),
            failure.message
        )];
        let rank = self
            .detail
            .attempts
            .last()
            .and_then(|attempt| attempt.ranks.iter().find(|rank| rank.failure.is_some()));
        if let Some(rank) = rank {
            why.push(format!(
                "It was rank {} on {}.",
                rank.rank, rank.worker_name
            ));
        }
        let retryable = words::failure_class(failure).is_some_and(FailureClass::is_worth_a_retry);
        why.push(if retryable {
            let times = words::plural(job.attempt as usize, "time");
            format!("It was tried {times}, as often as it may be.")
        } else {
            "Another attempt would end the same way, so none was made.".to_owned()
        });
        why
    }

    /// What a person can do, as sentences with the commands to type.
    fn what_to_do(&self, job: &Job) -> Vec<String> {
        let id = job.id;
        match words::state_name(job) {
            Some(JobStateName::Waiting) => self
                .needs
                .iter()
                .filter(|need| !succeeded(need))
                .map(|need| {
                    format!(
                        "marquee explain {}   says more about {}",
                        need.id, need.name
                    )
                })
                .collect(),
            Some(JobStateName::Queued) => {
                vec!["marquee workers   shows what each host has and does".to_owned()]
            }
            Some(JobStateName::Running) => vec![
                format!("marquee logs -f {id}   follows what it prints"),
                format!("marquee wait {id}   follows its progress"),
            ],
            Some(JobStateName::Succeeded) => {
                vec![format!("marquee artifacts get {id}   fetches its result")]
            }
            Some(JobStateName::Failed) => {
                let mut todo: Vec<String> = job
                    .failure
                    .as_ref()
                    .and_then(words::failure_class)
                    .map(|class| advice(class).to_owned())
                    .into_iter()
                    .collect();
                todo.push(format!(
                    "marquee logs {id} --tail 50   shows its last words"
                ));
                todo.push(format!(
                    "marquee retry {id}   tries again, with the jobs that waited for it"
                ));
                todo
            }
            Some(JobStateName::Cancelled) => {
                vec![format!("marquee retry {id}   queues it again")]
            }
            None => Vec::new(),
        }
    }
}

/// What usually helps, by class of failure.
fn advice(class: FailureClass) -> &'static str {
    match class {
        FailureClass::UserError => {
            "Correct the job's settings or program and submit it again; a retry runs the old ones."
        }
        FailureClass::OutOfMemory => {
            "Lower batch_size, or ask for more ranks: each rank holds its share of the batch."
        }
        FailureClass::BadInput => "Look at the input it names; running again reads the same data.",
        FailureClass::DeviceFault => {
            "Look at the host's device (nvidia-smi, the kernel's log) before trying again there."
        }
        FailureClass::LostWorker => {
            "See \"marquee workers\": is the host up and marquee-worker running?"
        }
        FailureClass::Timeout => {
            "Raise the job's timeout, or give it more ranks, and submit it again."
        }
        FailureClass::Network => {
            "Check that the hosts reach each other and the service it names, then retry."
        }
        FailureClass::Crash => "The program died by itself: its last words in the log say most.",
    }
}

fn succeeded(job: &Job) -> bool {
    words::state_name(job) == Some(JobStateName::Succeeded)
}

/// `text` without its full stop, or what stands for nothing.
fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() {
        otherwise
    } else {
        text.trim_end_matches('.')
    }
}

impl Show for Explanation<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        let Some(job) = &self.detail.job else { return };
        page.fields(vec![
            (
                "job",
                format!(
                    "{} {} of p{} {}",
                    job.id, job.name, job.pipeline_id, job.pipeline_name
                )
                .into(),
            ),
            ("state", jobs::state(job)),
        ]);
        page.heading("Why");
        for line in self.why(job, now) {
            page.line(line);
        }
        if !self.detail.attempts.is_empty() && !succeeded(job) {
            page.gap();
            show::attempts(page, &self.detail.attempts, now);
        }
        let todo = self.what_to_do(job);
        if !todo.is_empty() {
            page.heading("What to do");
            for line in todo {
                page.line(line);
            }
        }
    }

    fn json(&self) -> Value {
        let Some(job) = &self.detail.job else {
            return Value::Null;
        };
        json!({
            "job": json::job_detail(self.detail),
            "needs": self.needs.iter().map(json::job).collect::<Vec<_>>(),
            "why": self.why(job, clock::now()),
            "what_to_do": self.what_to_do(job),
        })
    }

    fn ids(&self) -> Vec<String> {
        self.detail
            .job
            .iter()
            .map(|job| job.id.to_string())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use marquee_domain::report::{TrainSummary, WentOn};
    use marquee_proto::v1::{JobKind, JobState};

    use super::super::samples;
    use super::*;

    fn explain(detail: &JobDetail, needs: &[Job]) -> String {
        let mut page = Page::new(false, None);
        Explanation { detail, needs }.page(&mut page, samples::now());
        page.finish()
    }

    #[test]
    fn a_failed_job_says_why_and_what_to_do() {
        insta::assert_snapshot!(explain(&samples::failed_train(), &[]), @r#"
        job    17 train of p3 posters
        state  failed

        Why
        It failed (out_of_memory): rank 1 was killed: the host's memory ran out; lower batch_size
        It was rank 1 on worker-2.
        It was tried 2 times, as often as it may be.

        ATTEMPT  STATE                          RAN  RANK  WORKER    DEVICES  RANK STATE  FAILURE
              1  failed                        50 s     0  worker-1  cpu 0    stopped     lost_worker: worker "worker-2" was not heard from for 10 s
                                                        1  worker-2  cpu 0    running
              2  failed (from step 1,200)  1 m 05 s     0  worker-1  cpu 0    stopped
                                                        1  worker-2  cpu 0    failed      out_of_memory: rank 1 was killed: the host's memory ran out; lower batch_size

        What to do
        Lower batch_size, or ask for more ranks: each rank holds its share of the batch.
        marquee logs 17 --tail 50   shows its last words
        marquee retry 17   tries again, with the jobs that waited for it
        "#);
    }

    #[test]
    fn a_job_that_goes_on_without_a_rank_says_so() {
        let mut detail = samples::failed_train();
        let job = detail.job.as_mut().unwrap();
        job.state = JobState::Running.into();
        job.failure = None;
        job.finished_at = None;
        let attempt = detail.attempts.last_mut().unwrap();
        attempt.failure = None;
        attempt.ranks[0].summary_json = serde_json::to_string(&TrainSummary {
            went_on: vec![WentOn {
                step: 120,
                ranks: 1,
                of: 2,
                steps_lost: 1,
                seconds: 3.2,
            }],
            ..TrainSummary::default()
        })
        .unwrap();
        attempt.ranks[1].lost_at = attempt.started_at;
        let why = Explanation {
            detail: &detail,
            needs: &[],
        }
        .why(detail.job.as_ref().unwrap(), samples::now());
        insta::assert_snapshot!(why[1..].join("\n"), @r"
        It went on with 1 of 2 ranks: rank 1 on worker-2 was lost (out_of_memory: rank 1 was killed: the host's memory ran out; lower batch_size).
        It went on with 1 of 2 ranks from step 120 after 3.2 s; 1 step was lost.
        ");
    }

    #[test]
    fn a_waiting_job_names_what_it_needs() {
        let jobs = samples::pipeline().jobs;
        let detail = JobDetail {
            job: Some(jobs[2].clone()),
            ..JobDetail::default()
        };
        insta::assert_snapshot!(explain(&detail, &jobs[1..2]), @r#"
        job    17 train of p3 posters
        state  waiting

        Why
        It waits for "preprocess" to succeed.
        It needs preprocess (job 16), which is running.

        What to do
        marquee explain 16   says more about preprocess
        "#);
    }

    #[test]
    fn a_queued_job_gives_the_stored_reason() {
        let job = Job {
            reason: "needs 4 GPUs at once; 2 of worker gpu-03's are free in about 3 m".into(),
            ..samples::job(18, "train", JobKind::Train, JobState::Queued)
        };
        let detail = JobDetail {
            job: Some(job),
            ..JobDetail::default()
        };
        insta::assert_snapshot!(explain(&detail, &[]), @r#"
        job    18 train of p3 posters
        state  queued

        Why
        It could run and does not yet: needs 4 GPUs at once; 2 of worker gpu-03's are free in about 3 m.

        What to do
        marquee workers   shows what each host has and does
        "#);
    }
}
