//! The whole control plane in one thread: the real coordinator and the real worker daemons, their real streams and
//! their real statements on a real Postgres, with children that are scripts, and with faults drawn from a seed.
//!
//! turmoil gives hosts, network and time ([`world`]); the relay ([`relay`]) lets one statement at a time through to
//! Postgres, between two steps; what must be true of every history is in [`check`].
//!
//! Invariant: nothing depends on the machine. The same seed gives the same time line in every process; each is
//! played in a process of its own ([`batch`]).

pub mod audit;
pub mod batch;
pub mod check;
pub mod clients;
pub mod draw;
pub mod faults;
pub mod history;
pub mod machine;
pub mod place;
pub mod planted;
pub mod processes;
pub mod relay;
pub mod script;
pub mod surroundings;
pub mod timeline;
mod wire;
pub mod world;
