//! Following jobs until they have ended, over broken connections and coordinator restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use marquee_proto::v1::{self, Job, WatchRequest};
use marquee_view::words;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tonic::{Code, Status};

use crate::client::Remote;
use crate::clock;
use crate::error::{CliError, Result};
use crate::progress::Reporter;
use crate::target::Resolved;

/// How long a coordinator that went away is waited for: an upgrade of its host takes minutes.
const RECONNECT_FOR: Duration = Duration::from_secs(300);
/// Between two tries to connect again.
const RECONNECT_EVERY: Duration = Duration::from_millis(500);
/// How often the reporter hears that time passes.
const TICK: Duration = Duration::from_secs(1);

/// The request that follows these jobs, or this pipeline.
pub(crate) fn request(targets: &[Resolved]) -> Result<WatchRequest> {
    let mut request = WatchRequest::default();
    for target in targets {
        match target {
            Resolved::Job(id) => request.job_ids.push(*id),
            Resolved::Pipeline(id) => request.pipeline_id = *id,
        }
    }
    // The request has room for one: a second would quietly take the place of the first.
    let pipelines = targets
        .iter()
        .filter(|target| matches!(target, Resolved::Pipeline(_)))
        .count();
    if pipelines > 1 || (pipelines == 1 && !request.job_ids.is_empty()) {
        return Err(CliError::Usage(
            "wait for one pipeline, or for any number of jobs".into(),
        ));
    }
    Ok(request)
}

/// Follows until every job has ended, and returns them as they are then, by id.
pub(crate) async fn until_ended(
    remote: &Remote,
    request: WatchRequest,
    reporter: &mut dyn Reporter,
) -> Result<Vec<Job>> {
    // Kept over broken connections: each new stream begins with every job as it is, and whether any
    // was ever heard of decides how long to be patient.
    let mut jobs = BTreeMap::new();
    let mut lost_since: Option<(Instant, u32)> = None;
    loop {
        let heard_before = jobs.len();
        let outcome = follow_once(remote, &request, reporter, &mut jobs, &mut lost_since).await;
        // The end of the stream alone proves nothing: a coordinator that stops ends its streams as
        // well.
        if outcome.is_ok() && all_ended(&request, &jobs) {
            reporter.finish(clock::now());
            return Ok(jobs.into_values().collect());
        }
        let status = outcome
            .err()
            .unwrap_or_else(|| Status::new(Code::Unavailable, "the coordinator is stopping"));
        // What will not pass, such as a job that does not exist, is told at once instead of being asked for five
        // minutes.
        if !remote.may_pass(&status) {
            reporter.finish(clock::now());
            return Err(remote.error(&status, 1, Duration::ZERO));
        }
        let (since, tries) = lost_since.get_or_insert((Instant::now(), 0));
        *tries += 1;
        // A coordinator that never answered is given up as soon as for any other request.
        let patience = if heard_before == 0 && jobs.is_empty() {
            TICK * 5
        } else {
            RECONNECT_FOR
        };
        if since.elapsed() > patience {
            reporter.finish(clock::now());
            return Err(remote.error(&status, *tries, since.elapsed()));
        }
        if *tries == 1 {
            let cause = crate::client::cause(&status);
            reporter.note(&format!(
                "lost {} ({cause}); the jobs go on, trying again",
                remote.addr()
            ));
        }
        sleep(RECONNECT_EVERY).await;
    }
}

/// Whether every job was heard of and has ended. One that was asked for and not heard of has not.
fn all_ended(request: &WatchRequest, jobs: &BTreeMap<i64, Job>) -> bool {
    let is_heard = |id| jobs.contains_key(id);
    !jobs.is_empty() && jobs.values().all(words::has_ended) && request.job_ids.iter().all(is_heard)
}

async fn follow_once(
    remote: &Remote,
    request: &WatchRequest,
    reporter: &mut dyn Reporter,
    jobs: &mut BTreeMap<i64, Job>,
    lost_since: &mut Option<(Instant, u32)>,
) -> Result<(), Status> {
    let mut stream = remote.jobs().watch(request.clone()).await?.into_inner();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = stream.message() => {
                let Some(v1::WatchResponse { job: Some(job) }) = message? else { return Ok(()) };
                // Only a word of it counts: a coordinator that accepts connections and says nothing
                // is still lost.
                if lost_since.take().is_some() {
                    reporter.note(&format!("back in touch with {}", remote.addr()));
                }
                reporter.job(&job, clock::now());
                jobs.insert(job.id, job);
            }
            _ = ticks.tick() => reporter.tick(clock::now()),
        }
    }
}

/// An error that names the jobs which failed or were cancelled, if there are any.
pub(crate) fn verdict(jobs: &[Job]) -> Result<()> {
    let bad: Vec<&Job> = jobs.iter().filter(|job| !words::is_well(job)).collect();
    // A failed one before a cancelled one: it is the cause, and the others mostly followed from it.
    let Some(first) = bad
        .iter()
        .find(|job| job.state() == v1::JobState::Failed)
        .or(bad.first())
    else {
        return Ok(());
    };
    let names: Vec<String> = bad
        .iter()
        .map(|job| format!("{} {}", job.name, words::job_state(job)))
        .collect();
    let names = names.join(", ");
    let id = first.id;
    let counts = if jobs.len() == 1 {
        names
    } else {
        format!(
            "{} of {} jobs did not succeed: {names}",
            bad.len(),
            jobs.len()
        )
    };
    Err(CliError::JobsFailed(format!(
        "{counts}; \"marquee explain {id}\" says why"
    )))
}
