//! What happens to jobs: submitted, placed, settled, cancelled, retried, rescued.
//!
//! Invariant: each function is one transaction under the locks of the pipelines concerned, made of the
//! store's guarded transitions; it may be called again, by anybody, at any time, and then changes nothing
//! more. What a job's state allows is asked of `marquee_domain::transitions` first; the guards are the
//! second wall. Watchers, the scheduler and the sessions are told only after the commit, and may miss it.
//! Not here: decoding requests (`rpc`), speaking with workers (`session`), when to look
//! (`background`).

mod again;
mod array;
mod cancel;
mod dependents;
mod elements;
mod error;
mod health;
mod hold;
mod inputs;
mod interrupt;
mod output;
mod overdue;
mod place;
mod projects;
mod rehearse;
mod remove;
mod rescue;
mod retain;
mod retry;
mod reuse;
mod schedules;
mod secrets;
mod settle;
mod standing;
mod submit;
mod unreadable;
mod users;
mod verdict;

pub use cancel::{cancel_job, cancel_pipeline};
pub use dependents::waits_for;
pub use elements::{line_up_elements, line_up_to};
pub use error::{LifecycleError, object_store_code};
pub use health::{
    AGAIN_BY_ITSELF_AFTER, BURN_IN_MINUTES, BURN_IN_MINUTES_MAX, OfWorker, WantedBurnIn, burn_in,
    conclude as conclude_burn_in, newest_evidence, renumber, take_evidence,
};
pub use hold::{hold_job, release_job};
pub use interrupt::{grow, move_away, move_job, preempt, stop_idle};
pub use output::Outputs;
pub use overdue::fail_overdue;
pub use place::place;
pub use projects::{ProjectUpdate, queued_and_changes, set_project};
pub use rehearse::{CUT_MAX, CUT_MIN, Fault, Rehearsal, rehearse};
pub use remove::{Because, Removed, collect, remove_artifact, remove_pipeline, settle_going};
pub use rescue::rescue;
pub use retain::{Retired, Step, collect_unnamed, keep_pipeline, retire};
pub use retry::retry_job;
pub use reuse::reuse;
pub use schedules::{Wanted, add_schedule, pause_schedule, remove_schedule, run_due};
pub(crate) use secrets::{rekey_secrets, remove_secret, set_secret, take_secrets};
pub use settle::{Settled, advance, settle};
pub use standing::set_standing;
pub use submit::{Due, Submission, Submitted, check, submit};
pub use unreadable::fail_unreadable;
pub(crate) use users::{
    Changed, NewToken, add_user, create_token, log_in, log_out, remove_user, revoke_token,
    set_roles,
};
pub use verdict::PREPARE_MAX;

/// Does `work`, and the same once more where another transaction was in the way of its own and Postgres ended it: nothing
/// was stored then. Whoever asked would have to send it again otherwise; loops and sessions do so by themselves.
pub async fn once_more<T, F: Future<Output = Result<T>>>(mut work: impl FnMut() -> F) -> Result<T> {
    match work().await {
        Err(error) if error.is_conflict() => work().await,
        done => done,
    }
}

/// What every function of this module returns.
pub type Result<T> = std::result::Result<T, LifecycleError>;
