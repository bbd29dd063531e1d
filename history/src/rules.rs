//! The rules: each a function of what was before and the line at hand.

pub(crate) mod attempts;
pub(crate) mod devices;
pub(crate) mod gangs;
pub(crate) mod jobs;
pub(crate) mod quiet;
pub(crate) mod reports;
pub(crate) mod stored;
pub(crate) mod workers;

use crate::event::{Event, What};
use crate::line::Line;

/// Holds a line against every rule that speaks of such lines.
pub(crate) fn judge(line: &mut Line<'_>, event: &Event) {
    workers::epochs_grow(line, event);
    match &event.what {
        What::Submitted { request_id, .. } => jobs::one_request_one_pipeline(line, request_id),
        What::Granted {
            key,
            worker,
            devices,
        } => {
            jobs::nothing_after_its_end(line, key.job, "it was given a new attempt");
            jobs::cancel_is_final(line, *key);
            attempts::no_gap(line, *key);
            attempts::one_live(line, *key);
            gangs::granted_before_the_rest(line, *key);
            devices::held_once(line, *key, *worker, devices);
        }
        What::Started { job, attempt } => {
            attempts::fenced(line, *job, *attempt, "it was started");
            gangs::granted_whole(line, *job, *attempt);
        }
        What::RankStarted { key } => {
            attempts::fenced(line, key.job, key.attempt, "one of its ranks started");
            gangs::start_together(line, *key);
        }
        What::RankLost { key } => {
            attempts::fenced(line, key.job, key.attempt, "it went on without a rank");
        }
        What::Reported { key, from, to } => {
            attempts::fenced(line, key.job, key.attempt, "reports of it were stored");
            reports::follow_each_other(line, *key, *from, *to);
        }
        What::Released { key, worker, state } => {
            devices::free_on_proof(line, *key, *worker, *state);
        }
        What::AttemptEnded {
            job,
            attempt,
            state,
        } => {
            attempts::ends_once(line, *job, *attempt, *state);
            gangs::granted_whole(line, *job, *attempt);
        }
        What::Committed { job, attempt, .. } => {
            attempts::one_commit(line, *job, *attempt);
            attempts::newest_commits(line, *job, *attempt);
            attempts::whole_commit(line, *job, *attempt);
            gangs::granted_whole(line, *job, *attempt);
        }
        What::JobEnded { job, .. } => {
            jobs::nothing_after_its_end(line, *job, "it ended again");
            jobs::ends_with_its_attempt(line, *job);
        }
        What::CancelAsked { job } => {
            jobs::nothing_after_its_end(line, *job, "its cancel was asked for");
        }
        What::Revived { job } => jobs::revived_after_its_end(line, *job),
        What::MadeAgain { job } => jobs::made_again_after_its_commit(line, *job),
        What::WorkerLost { worker, heard_at } => {
            workers::not_lost_while_heard(line, *worker, *heard_at);
            workers::no_haste_after_take_over(line, *worker);
        }
        What::Began { .. }
        | What::Added { .. }
        | What::WorkerOnline { .. }
        | What::WorkerHeard { .. }
        | What::WorkerShutOut { .. }
        | What::WorkerLeft { .. }
        | What::Leader { .. }
        | What::Removed { .. } => {}
    }
}
