//! `marquee jobs`.

use clap::ValueEnum;
use marquee_domain::job::JobStateName;
use marquee_domain::spec::JobKind;
use marquee_proto::v1;
use marquee_view::jobs::Jobs;

use crate::error::Result;
use crate::say::say;
use crate::session::Session;
use crate::target::{OfPipeline, Target};
use crate::{clock, requests};

/// List jobs, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee jobs
  marquee jobs --state failed --kind train
  marquee jobs --pipeline p3 --output json
  marquee jobs --search posters --worker gpu-03
  marquee jobs --array 17 --state failed")]
pub(super) struct Args {
    /// Only jobs in this state; may be given several times
    #[arg(long, short, value_enum)]
    state: Vec<StateArg>,
    /// Only jobs of this kind; may be given several times
    #[arg(long, short, value_enum)]
    kind: Vec<KindArg>,
    /// Only jobs of this pipeline
    #[arg(long, short, value_name = "PIPELINE")]
    pipeline: Option<OfPipeline>,
    /// Only jobs of this project
    #[arg(long, value_name = "PROJECT", value_parser = super::project::parse_name)]
    project: Option<String>,
    /// The elements of this job array that stand in line, run or have ended; they are left out otherwise
    #[arg(long, short, value_name = "JOB")]
    array: Option<Target>,
    /// Only jobs in whose name, or whose pipeline's name, this stands, in upper or lower case
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Only jobs whose newest attempt has or had a rank on this worker
    #[arg(long, value_name = "WORKER")]
    worker: Option<String>,
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
            // Taken apart by number: a state that comes to be does not compile before it stands
            // here too.
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
    let pipeline = match &args.pipeline {
        Some(pipeline) => pipeline.resolve(&remote).await?,
        None => 0,
    };
    let filtered = array != 0
        || args.pipeline.is_some()
        || args.search.is_some()
        || args.worker.is_some()
        || args.project.is_some()
        || !args.state.is_empty()
        || !args.kind.is_empty();
    let request = v1::ListJobsRequest {
        array_job_id: array,
        project: args.project.unwrap_or_default(),
        pipeline_id: pipeline,
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
        text: args.search.unwrap_or_default(),
        worker_name: args.worker.unwrap_or_default(),
        ..v1::ListJobsRequest::default()
    };
    let (jobs, more) = requests::jobs::list(&remote, request, args.limit).await?;
    session.output.show(&Jobs(&jobs), clock::now())?;
    if session.output.is_for_people() && more {
        say!("there are more; --limit shows them");
    }
    if session.output.is_for_people() && jobs.is_empty() {
        say!(
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
