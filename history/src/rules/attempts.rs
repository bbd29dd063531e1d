//! Rules 2 and 3: attempts are numbered without gap, one lives, and one commits.

use marquee_domain::ids::{AttemptNumber, JobId};
use marquee_domain::job::{AttemptStateName, RankState};
use marquee_domain::rank::RankKey;

use crate::finding::Rule;
use crate::line::{Line, ended_badly};
use crate::state::{End, Job, RankLife};

/// Whether `attempt` may follow what is known of the job.
fn follows(job: Option<&Job>, attempt: u32, is_old: bool) -> bool {
    match job {
        Some(job) if job.newest > 0 => attempt == job.newest + 1,
        // What was before the audit is not known.
        Some(job) => job.is_old || attempt == 1,
        None => is_old || attempt == 1,
    }
}

fn is_old(line: &Line<'_>, job: JobId) -> bool {
    line.state.last_old_job.is_some_and(|last| job <= last)
}

/// 3a.
pub(crate) fn no_gap(line: &mut Line<'_>, key: RankKey) {
    let known = line.state.jobs.get(&key.job);
    let newest = known.map_or(0, |job| job.newest);
    let same = line
        .state
        .live
        .get(&key.job)
        .is_some_and(|live| live.number == key.attempt);
    // Each rank of an attempt is granted in a line of its own, so its number comes again.
    if same || follows(known, key.attempt.0, is_old(line, key.job)) {
        return;
    }
    let text = match key.attempt.0 == newest {
        true => format!("attempt {newest} had ended, and one of its ranks was granted"),
        false => format!("attempt {} came after attempt {newest}", key.attempt),
    };
    line.broken(Rule::NoGap, key, text);
}

/// 3b.
pub(crate) fn one_live(line: &mut Line<'_>, key: RankKey) {
    if let Some(live) = line.state.live.get(&key.job)
        && live.number != key.attempt
    {
        let text = format!(
            "attempt {} lived while attempt {} began",
            live.number, key.attempt
        );
        line.broken(Rule::OneLive, key, text);
    }
}

/// 3c.
pub(crate) fn fenced(line: &mut Line<'_>, job: JobId, attempt: AttemptNumber, what: &str) {
    let newest = line.state.jobs.get(&job).map_or(0, |job| job.newest);
    if attempt.0 < newest {
        let text = format!("{what}, though attempt {newest} had taken its place");
        line.broken(Rule::Fenced, (job, attempt), text);
    }
}

/// 3c, of its end: an attempt ends while it lives.
pub(crate) fn ends_once(
    line: &mut Line<'_>,
    job: JobId,
    attempt: AttemptNumber,
    state: AttemptStateName,
) {
    let lives = line
        .state
        .live
        .get(&job)
        .is_some_and(|live| live.number == attempt);
    let known = line.state.jobs.get(&job);
    let may_be_old = known.map_or_else(|| is_old(line, job), |job| job.is_old);
    if !lives && !may_be_old {
        let text = format!("it ended ({}) and did not live", state.as_str());
        line.broken(Rule::Fenced, (job, attempt), text);
    } else if !ended_badly(state) {
        let text = format!("it is said to have ended, and is {}", state.as_str());
        line.broken(Rule::Fenced, (job, attempt), text);
    }
}

/// 2a, and 1b of what had ended in another way.
pub(crate) fn one_commit(line: &mut Line<'_>, job: JobId, attempt: AttemptNumber) {
    match line.state.jobs.get(&job).and_then(|job| job.end) {
        Some(End::Committed) => {
            let text = format!("attempt {attempt} committed, and the job had an artifact");
            line.broken(Rule::OneCommit, (job, attempt), text);
        }
        Some(end @ (End::Failed | End::Cancelled)) => {
            let was = end.state().as_str();
            let text = format!("attempt {attempt} committed, and the job had {was}");
            line.broken(Rule::OneEnd, (job, attempt), text);
        }
        None => {}
    }
}

/// 2b. An attempt without ranks (an array's, a reused step's, a rescue's) begins with its commit.
pub(crate) fn newest_commits(line: &mut Line<'_>, job: JobId, attempt: AttemptNumber) {
    let known = line.state.jobs.get(&job);
    let newest = known.map_or(0, |job| job.newest);
    if attempt.0 == newest || follows(known, attempt.0, is_old(line, job)) {
        return;
    }
    let text = format!("attempt {attempt} committed, and the newest was {newest}");
    line.broken(Rule::NewestCommits, (job, attempt), text);
}

/// 2c.
pub(crate) fn whole_commit(line: &mut Line<'_>, job: JobId, attempt: AttemptNumber) {
    let Some(live) = line.state.live.get(&job) else {
        return;
    };
    // Of an attempt that is not the live one `newest_commits` tells.
    if live.number != attempt {
        return;
    }
    let unfinished = live.ranks.iter().find(|(_, life)| match life {
        RankLife::Lost | RankLife::Ended(RankState::Finished) => false,
        RankLife::Held | RankLife::Ended(_) => true,
    });
    if let Some((rank, _)) = unfinished {
        let key = RankKey::new(job.0, attempt.0, *rank);
        let text = format!("attempt {attempt} committed before its rank {rank} had finished");
        line.broken(Rule::WholeCommit, key, text);
    }
}
