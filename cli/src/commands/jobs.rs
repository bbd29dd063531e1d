//! `marquee jobs`, and the table of jobs that other commands show too.

use chrono::{DateTime, Utc};
use clap::ValueEnum;
use marquee_domain::job::JobStateName;
use marquee_domain::spec::JobKind;
use marquee_proto::v1::{self, Job};
use serde_json::Value;

use super::Session;
use crate::client::{Remote, Repeat, quick};
use crate::clock;
use crate::error::Result;
use crate::output::table::{Entry, left, right, toned};
use crate::output::{Page, Show, Tone, json, words};
use crate::target::{Target, parse_pipeline};

/// Jobs of one request; a longer listing takes several.
const PAGE_SIZE: usize = 1_000;

/// List jobs, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee jobs
  marquee jobs --state failed --kind train
  marquee jobs --pipeline p3 --output json
  marquee jobs --array 17 --state failed")]
pub(super) struct Args {
    /// Only jobs in this state; may be given several times
    #[arg(long, short, value_enum)]
    state: Vec<StateArg>,
    /// Only jobs of this kind; may be given several times
    #[arg(long, short, value_enum)]
    kind: Vec<KindArg>,
    /// Only jobs of this pipeline
    #[arg(long, short, value_name = "PIPELINE", value_parser = parse_pipeline)]
    pipeline: Option<marquee_domain::PipelineId>,
    /// The elements of this job array, which are left out otherwise
    #[arg(long, short, value_name = "JOB")]
    array: Option<Target>,
    /// At most this many
    #[arg(long, short = 'n', default_value_t = 50)]
    limit: usize,
}

/// A job's state as typed.
#[derive(Debug, Clone, Copy)]
struct StateArg(JobStateName);

impl ValueEnum for StateArg {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [StateArg; 6] = {
            let [a, b, c, d, e, f] = JobStateName::ALL;
            [
                StateArg(a),
                StateArg(b),
                StateArg(c),
                StateArg(d),
                StateArg(e),
                StateArg(f),
            ]
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.as_str()))
    }
}

/// A job's kind as typed.
#[derive(Debug, Clone, Copy)]
struct KindArg(JobKind);

impl ValueEnum for KindArg {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [KindArg; 5] = {
            let [a, b, c, d, e] = JobKind::ALL;
            [KindArg(a), KindArg(b), KindArg(c), KindArg(d), KindArg(e)]
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.as_str()))
    }
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let array = match &args.array {
        Some(array) => array.resolve_job(&remote).await?,
        None => 0,
    };
    let filtered =
        array != 0 || args.pipeline.is_some() || !args.state.is_empty() || !args.kind.is_empty();
    let request = v1::ListJobsRequest {
        array_job_id: array,
        pipeline_id: args.pipeline.map_or(0, |id| id.0),
        states: args
            .state
            .iter()
            .map(|state| v1::JobState::from(state.0).into())
            .collect(),
        kinds: args
            .kind
            .iter()
            .map(|kind| v1::JobKind::from(kind.0).into())
            .collect(),
        ..v1::ListJobsRequest::default()
    };
    let (jobs, more) = list(&remote, request, args.limit).await?;
    session.output.show(&Jobs(&jobs), clock::now())?;
    if session.output.is_for_people() && more {
        eprintln!("there are more; --limit shows them");
    }
    if session.output.is_for_people() && jobs.is_empty() {
        eprintln!(
            "{}",
            if filtered {
                "no such jobs"
            } else {
                "no jobs; \"marquee submit FILE\" makes some"
            }
        );
    }
    Ok(())
}

/// The elements of a job array, in order; none for any other job.
pub(crate) async fn elements(remote: &Remote, array_job_id: i64) -> Result<Vec<Job>> {
    let request = v1::ListJobsRequest {
        array_job_id,
        ..v1::ListJobsRequest::default()
    };
    let (mut elements, _) = list(remote, request, usize::MAX).await?;
    elements.reverse();
    Ok(elements)
}

/// The first `limit` jobs, and whether there are more.
async fn list(
    remote: &Remote,
    mut request: v1::ListJobsRequest,
    limit: usize,
) -> Result<(Vec<Job>, bool)> {
    let mut jobs = Vec::new();
    loop {
        let wanted = (limit - jobs.len()).clamp(1, PAGE_SIZE);
        request.page_size = u32::try_from(wanted).unwrap_or(u32::MAX);
        let page = remote
            .call(Repeat::Safe, async || {
                remote.jobs().list_jobs(quick(request.clone())).await
            })
            .await?;
        jobs.extend(page.jobs);
        let is_last = page.next_page_token.is_empty();
        if is_last || jobs.len() >= limit {
            let more = !is_last || jobs.len() > limit;
            jobs.truncate(limit);
            return Ok((jobs, more));
        }
        request.page_token = page.next_page_token;
    }
}

/// A listing of jobs.
pub(super) struct Jobs<'a>(pub(super) &'a [Job]);

impl Show for Jobs<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        if !self.0.is_empty() {
            table(page, self.0, now);
        }
    }

    fn json(&self) -> Value {
        self.0.iter().map(json::job).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.iter().map(|job| job.id.to_string()).collect()
    }
}

/// One row a job.
pub(crate) fn table(page: &mut Page, jobs: &[Job], now: DateTime<Utc>) {
    let heads = [
        right("ID"),
        left("PIPELINE"),
        left("NAME"),
        left("KIND"),
        left("STATE"),
        right("ATTEMPT"),
        right("RAN"),
        right("AGE"),
        left("DETAIL"),
    ];
    page.table(&heads, jobs.iter().map(|job| row(job, now)).collect());
}

fn row(job: &Job, now: DateTime<Utc>) -> Vec<Entry> {
    let age = words::time(job.created_at.as_ref())
        .map(|at| words::about(words::between(at, now)))
        .unwrap_or_default();
    vec![
        toned(job.id.to_string(), Tone::Strong),
        format!("p{} {}", job.pipeline_id, job.pipeline_name).into(),
        words::job_name(job).into(),
        words::job_kind(job).into(),
        state(job),
        attempts(job).into(),
        words::ran_for(job, now)
            .map(words::duration)
            .unwrap_or_default()
            .into(),
        age.into(),
        detail(job, now).into(),
    ]
}

/// `2/3`; an array has no attempts of its own.
fn attempts(job: &Job) -> String {
    match job.elements {
        Some(_) => String::new(),
        None => format!("{}/{}", job.attempt, job.max_attempts),
    }
}

/// What the other columns do not say already.
fn detail(job: &Job, now: DateTime<Utc>) -> String {
    let only_time = match words::state_name(job) {
        Some(JobStateName::Succeeded) => job.elements.is_none() && job.reused_from_job_id == 0,
        Some(JobStateName::Running) => {
            job.elements.is_none() && job.progress.is_none() && !job.cancel_requested
        }
        Some(
            JobStateName::Waiting
            | JobStateName::Queued
            | JobStateName::Failed
            | JobStateName::Cancelled,
        )
        | None => false,
    };
    if only_time {
        String::new()
    } else {
        crate::progress::detail(job, now)
    }
}

/// The state in its tone.
pub(crate) fn state(job: &Job) -> Entry {
    let tone = match words::state_name(job) {
        Some(JobStateName::Waiting | JobStateName::Queued) => Tone::Faint,
        Some(JobStateName::Running) => Tone::Busy,
        Some(JobStateName::Succeeded) => Tone::Good,
        Some(JobStateName::Failed) => Tone::Bad,
        Some(JobStateName::Cancelled) => Tone::Warn,
        None => Tone::Plain,
    };
    toned(words::job_state(job), tone)
}
