//! Worker sessions: one bidirectional stream for each connected worker.
//!
//! Invariant: what a session does follows from the stored rows and the worker's list of held
//! ranks (`reconcile`), never from what it remembers having sent; a message that is lost is made
//! again at the next heartbeat. A placement that was just stored is given out as it was stored, for as long as this session
//! has read no rows since. At most one session of a worker is at work at a time.
//! Not here: verdicts on attempts (`lifecycle`) and on silent workers (`background::leases`).

mod assign;
mod clocks;
mod counter;
mod desk;
mod gpus;
mod hangs;
mod hello;
mod hung;
mod kept;
mod messages;
mod quiet;
mod reader;
pub mod readers;
mod reconcile;
mod registry;
mod regroup;
mod reports;
mod rhythm;
mod run;
mod service;
mod signs;
mod track;

pub use counter::Counter;
pub(crate) use desk::run as store_reports;
pub use hung::Hangs;
pub use quiet::Activity;
pub use registry::{PlacedRank, Sessions};
pub use service::SessionService;
