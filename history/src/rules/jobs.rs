//! Rules 1 and 6: a job is accepted once, ends once, and stays ended.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use marquee_domain::ids::JobId;
use marquee_domain::rank::RankKey;

use crate::finding::{Rule, Subject};
use crate::line::Line;
use crate::state::End;

/// A request id as 16 bytes. Two of a million share them once in 10^26 histories.
pub(crate) fn hash(request_id: &str) -> u128 {
    // `DefaultHasher::new` has fixed keys, so a history gives the same findings each time; two
    // salts make 128 bits of its 64.
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, request_id).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// 1a.
pub(crate) fn one_request_one_pipeline(line: &mut Line<'_>, request_id: &str) {
    if line.state.requests.contains(&hash(request_id)) {
        let text = format!("request {request_id:?} was accepted a second time");
        line.broken(Rule::OneRequestOnePipeline, Subject::default(), text);
    }
}

/// 1b: after its end only a retry opens a job again, or that its artifact is damaged.
pub(crate) fn nothing_after_its_end(line: &mut Line<'_>, job: JobId, what: &str) {
    let end = line.state.jobs.get(&job).and_then(|job| job.end);
    if let Some(end) = end {
        let text = format!("job {job} had {}, and then {what}", end.state().as_str());
        line.broken(Rule::OneEnd, job, text);
    }
}

/// 1b, of a retry: what succeeded, or is open, cannot be opened.
pub(crate) fn revived_after_its_end(line: &mut Line<'_>, job: JobId) {
    let Some(known) = line.state.jobs.get(&job) else {
        return;
    };
    let was = match known.end {
        Some(End::Failed | End::Cancelled) => return,
        None if known.is_old => return,
        None => "open",
        Some(End::Committed) => "succeeded",
    };
    let text = format!("job {job} was {was}, and was opened again");
    line.broken(Rule::OneEnd, job, text);
}

/// 1b, of what is made again: only what had succeeded has an artifact that can be damaged.
pub(crate) fn made_again_after_its_commit(line: &mut Line<'_>, job: JobId) {
    let Some(known) = line.state.jobs.get(&job) else {
        return;
    };
    let was = match known.end {
        Some(End::Committed) => return,
        None if known.is_old => return,
        None => "open",
        Some(end @ (End::Failed | End::Cancelled)) => end.state().as_str(),
    };
    let text = format!("job {job} was {was}, and its artifact was to be made again");
    line.broken(Rule::OneEnd, job, text);
}

/// 1c.
pub(crate) fn ends_with_its_attempt(line: &mut Line<'_>, job: JobId) {
    if let Some(live) = line.state.live.get(&job) {
        let number = live.number;
        let text = format!("job {job} ended while its attempt {number} lived");
        line.broken(Rule::EndsWithItsAttempt, (job, number), text);
    }
}

/// 6a.
pub(crate) fn cancel_is_final(line: &mut Line<'_>, key: RankKey) {
    let known = line.state.jobs.get(&key.job);
    let asked = known.is_some_and(|job| job.cancel_asked && job.newest < key.attempt.0);
    if asked {
        let text = format!(
            "attempt {} began after its cancel was asked for",
            key.attempt
        );
        line.broken(Rule::CancelIsFinal, key, text);
    }
}
