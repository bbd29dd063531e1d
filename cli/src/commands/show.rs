//! `marquee show`.

use chrono::{DateTime, Utc};
use marquee_proto::v1::{self, Attempt, JobDetail, Pipeline};
use serde_json::Value;

use super::{Session, jobs};
use crate::client::{Remote, Repeat, quick};
use crate::clock;
use crate::error::Result;
use crate::output::table::{Entry, left, right, toned};
use crate::output::{Page, Show, Tone, json, trained, words};
use crate::target::{Resolved, Target};

/// Events shown of a job; --output json has all that are kept.
const EVENTS_SHOWN: usize = 20;

/// Show a job with its attempts and history, or a pipeline with its jobs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee show train
  marquee show p3
  marquee show 17 --output json | jq .spec")]
pub(super) struct Args {
    /// A job or a pipeline
    #[arg(value_name = "JOB|PIPELINE")]
    target: Target,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    match args.target.resolve(&remote).await? {
        Resolved::Job(id) => {
            session
                .output
                .show(&ShowJob(&job(&remote, id).await?), clock::now())?;
        }
        Resolved::Pipeline(id) => {
            session
                .output
                .show(&ShowPipeline(&pipeline(&remote, id).await?), clock::now())?;
        }
    }
    Ok(())
}

/// One job with its history.
pub(crate) async fn job(remote: &Remote, id: i64) -> Result<JobDetail> {
    remote
        .call(Repeat::Safe, async || {
            remote.jobs().get_job(quick(v1::GetJobRequest { id })).await
        })
        .await
}

/// One pipeline with its jobs.
pub(crate) async fn pipeline(remote: &Remote, id: i64) -> Result<Pipeline> {
    remote
        .call(Repeat::Safe, async || {
            remote
                .jobs()
                .get_pipeline(quick(v1::GetPipelineRequest { id }))
                .await
        })
        .await
}

struct ShowPipeline<'a>(&'a Pipeline);

impl Show for ShowPipeline<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        let created = words::time(self.0.created_at.as_ref());
        page.fields(vec![
            ("pipeline", format!("p{} {}", self.0.id, self.0.name).into()),
            (
                "created",
                created.map(words::rfc3339).unwrap_or_default().into(),
            ),
        ]);
        page.gap();
        jobs::table(page, &self.0.jobs, now);
    }

    fn json(&self) -> Value {
        json::pipeline(self.0)
    }

    fn ids(&self) -> Vec<String> {
        self.0.jobs.iter().map(|job| job.id.to_string()).collect()
    }
}

pub(super) struct ShowJob<'a>(pub(super) &'a JobDetail);

impl Show for ShowJob<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        if let Some(job) = &self.0.job {
            let mut fields = facts(job, now);
            fields.extend(words::result(self.0).map(|words| ("result", words.into())));
            if let Some([first, ..]) = words::trained(self.0).as_deref() {
                let told = trained::lines(first).into_iter();
                fields.extend(told.map(|(label, line)| (label, line.into())));
            }
            fields.extend(words::bottleneck(self.0).map(|words| ("speed", words.into())));
            page.fields(fields);
        }
        if !self.0.attempts.is_empty() {
            page.heading("Attempts");
            attempts(page, &self.0.attempts, now);
        }
        if !self.0.events.is_empty() {
            page.heading("Events (UTC)");
            events(page, &self.0.events);
        }
    }

    fn json(&self) -> Value {
        json::job_detail(self.0)
    }

    fn ids(&self) -> Vec<String> {
        self.0.job.iter().map(|job| job.id.to_string()).collect()
    }
}

fn facts(job: &v1::Job, now: DateTime<Utc>) -> Vec<(&'static str, Entry)> {
    let at = |time: &Option<_>| {
        words::time(time.as_ref())
            .map(words::rfc3339)
            .unwrap_or_default()
    };
    let artifact = if job.artifact_digest.is_empty() {
        String::new()
    } else {
        format!(
            "{} (marquee artifacts get {})",
            words::short_digest(&job.artifact_digest),
            job.id
        )
    };
    let elements = if job.elements.is_some() {
        format!("marquee jobs --array {}", job.id)
    } else {
        String::new()
    };
    let progress = job.progress.as_ref();
    let problems =
        progress.and_then(|progress| crate::progress::problems_text(progress, usize::MAX));
    let problems = problems.unwrap_or_default();
    let attempts = match job.elements {
        Some(_) => String::new(),
        None => format!("{} of at most {}", job.attempt, job.max_attempts),
    };
    vec![
        (
            "job",
            toned(format!("{} {}", job.id, words::job_name(job)), Tone::Strong),
        ),
        ("kind", words::job_kind(job).into()),
        (
            "pipeline",
            format!("p{} {}", job.pipeline_id, job.pipeline_name).into(),
        ),
        ("state", jobs::state(job)),
        ("detail", crate::progress::detail(job, now).into()),
        ("problems", problems.into()),
        ("needs", job.needs.join(", ").into()),
        ("attempts", attempts.into()),
        ("elements", elements.into()),
        ("ranks", job.ranks.to_string().into()),
        ("priority", job.priority.to_string().into()),
        ("created", at(&job.created_at).into()),
        ("started", at(&job.started_at).into()),
        ("finished", at(&job.finished_at).into()),
        ("artifact", artifact.into()),
    ]
}

/// One row a rank, newest attempt last.
pub(super) fn attempts(page: &mut Page, attempts: &[Attempt], now: DateTime<Utc>) {
    let heads = [
        right("ATTEMPT"),
        left("STATE"),
        right("RAN"),
        right("RANK"),
        left("WORKER"),
        left("DEVICES"),
        left("RANK STATE"),
        left("FAILURE"),
    ];
    let mut rows = Vec::new();
    for attempt in attempts {
        let mut own = own_columns(attempt, now);
        if attempt.ranks.is_empty() {
            own.extend(std::iter::repeat_n(Entry::from(""), 4));
            own.push(failure(attempt.failure.as_ref()));
            rows.push(own);
            continue;
        }
        let blamed = attempt.ranks.iter().any(|rank| rank.failure.is_some());
        for (place, rank) in attempt.ranks.iter().enumerate() {
            let mut row = if place == 0 {
                std::mem::take(&mut own)
            } else {
                vec!["".into(); 3]
            };
            // The attempt's failure is that of one of its ranks, unless none has one.
            let of_attempt = attempt.failure.as_ref().filter(|_| place == 0 && !blamed);
            let cause = rank.failure.as_ref().or(of_attempt);
            row.extend([
                rank.rank.to_string().into(),
                rank.worker_name.as_str().into(),
                words::devices(&rank.devices).into(),
                rank_state(rank).into(),
                failure(cause),
            ]);
            rows.push(row);
        }
    }
    page.table(&heads, rows);
}

/// One that its attempt went on without is lost, whatever it says of itself.
fn rank_state(rank: &v1::AttemptRank) -> &'static str {
    if rank.lost_at.is_some() {
        "lost"
    } else {
        words::rank_state(rank)
    }
}

fn own_columns(attempt: &Attempt, now: DateTime<Utc>) -> Vec<Entry> {
    let started = words::time(attempt.started_at.as_ref());
    let ended = words::time(attempt.finished_at.as_ref()).unwrap_or(now);
    let ran = started.map(|started| words::duration(words::between(started, ended)));
    let state = match attempt.resumed_from_step {
        Some(step) => {
            format!(
                "{} (from step {})",
                words::attempt_state(attempt),
                words::count(step)
            )
        }
        None => words::attempt_state(attempt).to_owned(),
    };
    vec![
        attempt.number.to_string().into(),
        state.into(),
        ran.unwrap_or_default().into(),
    ]
}

fn failure(failure: Option<&v1::Failure>) -> Entry {
    match failure {
        Some(failure) => toned(
            format!(
                "{}: {}",
                words::failure_word(failure),
                words::first_line(&failure.message)
            ),
            Tone::Bad,
        ),
        None => "".into(),
    }
}

/// The newest events, in order.
pub(super) fn events(page: &mut Page, events: &[v1::JobEvent]) {
    let left_out = events.len().saturating_sub(EVENTS_SHOWN);
    if left_out > 0 {
        page.line(format!(
            "({} before these)",
            words::plural(left_out, "event")
        ));
    }
    for event in &events[left_out..] {
        let at = words::time(event.at.as_ref())
            .map(words::clock_time)
            .unwrap_or_default();
        let attempt = if event.attempt > 0 {
            format!("attempt {}: ", event.attempt)
        } else {
            String::new()
        };
        page.line(format!("{at}  {attempt}{}", event.text));
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_job_shows_its_facts_attempts_and_events() {
        let mut page = Page::new(false, None);
        ShowJob(&samples::failed_train()).page(&mut page, samples::now());
        insta::assert_snapshot!(page.finish(), @r#"
        job       17 train
        kind      train
        pipeline  p3 posters
        state     failed
        detail    attempt 2/2, out_of_memory: rank 1 was killed: the host's memory ran out; lower batch_size
        needs     preprocess
        attempts  2 of at most 2
        ranks     2
        priority  0
        created   2027-01-15T07:55:00.000Z
        started   2027-01-15T07:57:40.000Z
        finished  2027-01-15T07:58:45.000Z

        Attempts
        ATTEMPT  STATE                          RAN  RANK  WORKER    DEVICES  RANK STATE  FAILURE
              1  failed                        50 s     0  worker-1  cpu 0    stopped     lost_worker: worker "worker-2" was not heard from for 10 s
                                                        1  worker-2  cpu 0    running
              2  failed (from step 1,200)  1 m 05 s     0  worker-1  cpu 0    stopped
                                                        1  worker-2  cpu 0    failed      out_of_memory: rank 1 was killed: the host's memory ran out; lower batch_size

        Events (UTC)
        07:55:00  submitted
        07:56:39  attempt 1: placed on worker-1 and worker-2
        07:57:30  attempt 1: failed (lost_worker): worker "worker-2" was not heard from for 10 s
        07:57:39  attempt 2: placed on worker-1 and worker-2
        07:58:45  attempt 2: failed (out_of_memory): rank 1 was killed
        "#);
    }

    #[test]
    fn a_train_job_that_ended_says_what_held_it_up() {
        let mut detail = samples::failed_train();
        let summary = |rank: u32, all_reduce_s: f64| marquee_domain::report::TrainSummary {
            rank,
            phases: marquee_domain::report::PhaseTimes {
                step_s: 10.0,
                forward_s: 3.0,
                backward_s: 7.0 - all_reduce_s,
                all_reduce_s,
                ..Default::default()
            },
            ..Default::default()
        };
        let ranks = &mut detail.attempts.last_mut().unwrap().ranks;
        for (rank, all_reduce_s) in [(0, 4.0), (1, 0.2)] {
            ranks[rank as usize].summary_json =
                serde_json::to_string(&summary(rank, all_reduce_s)).unwrap();
        }
        let mut page = Page::new(false, None);
        ShowJob(&detail).page(&mut page, samples::now());
        assert!(
            page.finish()
                .contains("speed     straggler: rank 1 takes 1.6x as long as the others")
        );
    }

    #[test]
    fn a_pipeline_shows_its_jobs_in_order() {
        let mut page = Page::new(false, None);
        ShowPipeline(&samples::pipeline()).page(&mut page, samples::now());
        insta::assert_snapshot!(page.finish(), @r#"
        pipeline  p3 posters
        created   2027-01-15T07:55:00.000Z

        ID  PIPELINE    NAME        KIND        STATE      ATTEMPT    RAN  AGE  DETAIL
        15  p3 posters  fetch       fetch       succeeded      1/3   50 s  5 m
        16  p3 posters  preprocess  preprocess  running        1/3  4.0 s  5 m  resize 1,200/3,000 images (40 %), 300 images/s, 6 s left
        17  p3 posters  train       train       waiting        0/3         5 m  waits for "preprocess" to succeed
        "#);
    }

    #[test]
    fn json_is_complete() {
        insta::assert_snapshot!(format!("{:#}", ShowJob(&samples::failed_train()).json()), @r#"
        {
          "artifact_digest": null,
          "attempt": 2,
          "attempts": [
            {
              "created_at": null,
              "failure": {
                "class": "lost_worker",
                "message": "worker \"worker-2\" was not heard from for 10 s"
              },
              "finished_at": "2027-01-15T07:57:30.000Z",
              "number": 1,
              "ranks": [
                {
                  "devices": [
                    "cpu 0"
                  ],
                  "failure": null,
                  "lost_at": null,
                  "progress": null,
                  "rank": 0,
                  "state": "stopped",
                  "summary": null,
                  "worker_name": "worker-1"
                },
                {
                  "devices": [
                    "cpu 0"
                  ],
                  "failure": null,
                  "lost_at": null,
                  "progress": null,
                  "rank": 1,
                  "state": "running",
                  "summary": null,
                  "worker_name": "worker-2"
                }
              ],
              "resumed_from_step": null,
              "started_at": "2027-01-15T07:56:40.000Z",
              "state": "failed"
            },
            {
              "created_at": null,
              "failure": {
                "class": "out_of_memory",
                "message": "rank 1 was killed: the host's memory ran out; lower batch_size"
              },
              "finished_at": "2027-01-15T07:58:45.000Z",
              "number": 2,
              "ranks": [
                {
                  "devices": [
                    "cpu 0"
                  ],
                  "failure": null,
                  "lost_at": null,
                  "progress": null,
                  "rank": 0,
                  "state": "stopped",
                  "summary": null,
                  "worker_name": "worker-1"
                },
                {
                  "devices": [
                    "cpu 0"
                  ],
                  "failure": {
                    "class": "out_of_memory",
                    "message": "rank 1 was killed: the host's memory ran out; lower batch_size"
                  },
                  "lost_at": null,
                  "progress": null,
                  "rank": 1,
                  "state": "failed",
                  "summary": null,
                  "worker_name": "worker-2"
                }
              ],
              "resumed_from_step": 1200,
              "started_at": "2027-01-15T07:57:40.000Z",
              "state": "failed"
            }
          ],
          "cancel_requested": false,
          "created_at": "2027-01-15T07:55:00.000Z",
          "element": null,
          "elements": null,
          "events": [
            {
              "at": "2027-01-15T07:55:00.000Z",
              "attempt": 0,
              "text": "submitted"
            },
            {
              "at": "2027-01-15T07:56:39.000Z",
              "attempt": 1,
              "text": "placed on worker-1 and worker-2"
            },
            {
              "at": "2027-01-15T07:57:30.000Z",
              "attempt": 1,
              "text": "failed (lost_worker): worker \"worker-2\" was not heard from for 10 s"
            },
            {
              "at": "2027-01-15T07:57:39.000Z",
              "attempt": 2,
              "text": "placed on worker-1 and worker-2"
            },
            {
              "at": "2027-01-15T07:58:45.000Z",
              "attempt": 2,
              "text": "failed (out_of_memory): rank 1 was killed"
            }
          ],
          "failure": {
            "class": "out_of_memory",
            "message": "rank 1 was killed: the host's memory ran out; lower batch_size"
          },
          "finished_at": "2027-01-15T07:58:45.000Z",
          "id": 17,
          "kind": "train",
          "max_attempts": 2,
          "name": "train",
          "needs": [
            "preprocess"
          ],
          "pipeline_id": 3,
          "pipeline_name": "posters",
          "priority": 0,
          "progress": null,
          "ranks": 2,
          "reason": null,
          "reused_from_job_id": null,
          "spec": {
            "name": "train"
          },
          "started_at": "2027-01-15T07:57:40.000Z",
          "state": "failed"
        }
        "#);
    }
}
