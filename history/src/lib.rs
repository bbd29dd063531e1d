//! What must be true of a cluster's history, and the checker that says where it is not.
//!
//! The history is the audit table's rows in the order in which they were stored, then what is stored of jobs, ranks
//! and files when it ends. [`Checker`] takes them one by one and remembers what the rules need: about 50 bytes for
//! each job and 200 for each rank that holds devices, so 50 MB for a million jobs, whatever they wrote.
//!
//! Invariant: everything is a pure function of what it is given, times included, so that the same rules judge a
//! simulated run, a chaos run and a user's own cluster. A finding says which rule, where, and when; none is made of
//! what cannot be known, such as attempts from before the audit began.
//! Not here: where the rows come from (`marquee-store`), who may read them (`marquee-coordinator`).

mod checker;
mod event;
mod finding;
mod line;
mod rules;
mod state;
mod stored;

pub use checker::Checker;
pub use event::{Event, What};
pub use finding::{Finding, Report, Rule, Subject};
pub use line::Limits;
pub use stored::{MissingFile, StoredJob, StoredPipeline, StoredRank};
