//! What happens to jobs: submitted, placed, advanced, cancelled, retried.
//!
//! Invariant: each function is one transaction under the pipeline's lock, made of the store's
//! guarded transitions; it may be called again, by anybody, at any time, and then changes nothing
//! more. Watchers, the scheduler and the sessions are told only after the commit, and may miss it.
//! Not here: decoding requests (`rpc`), speaking with workers (`session`), when to look
//! (`background`).

mod advance;
mod array;
mod cancel;
mod dependents;
mod error;
mod place;
mod retry;
mod reuse;
mod submit;
mod verdict;

pub use advance::advance;
pub use cancel::{cancel_job, cancel_pipeline};
pub use error::LifecycleError;
pub use place::place;
pub use retry::retry_job;
pub use reuse::{Twins, keep_back, reuse};
pub use submit::{Submission, Submitted, submit};
pub use verdict::PREPARE_MAX;

/// What every function of this module returns.
pub type Result<T> = std::result::Result<T, LifecycleError>;
