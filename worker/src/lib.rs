//! The daemon on a host: session, inventory, supervisor, artifact cache.
//!
//! It holds ranks for the coordinator. Each rank is a child process behind a keeper
//! ([`process::keeper`]) that outlives the daemon; all the daemon knows of it is in files, so that
//! it can be killed at any instant and go on where it was.
//!
//! Not here: libtorch, SQL, and any decision about what runs where.

mod authorities;
mod blocking;
pub mod cache;
pub mod cages;
pub mod clock;
pub mod config;
mod connect;
pub mod coordinators;
mod daemon;
pub mod doctor;
mod durable;
pub mod enlist;
pub mod env;
mod fault;
mod figures;
mod files;
pub mod gpus;
mod harden;
pub mod identity;
pub mod inventory;
pub mod join;
pub mod kept;
pub mod lease;
pub mod member;
mod neighbours;
pub mod notify;
mod occupied;
mod proc;
pub mod process;
pub mod rank;
mod reload;
mod remove;
mod renewal;
pub mod runtime;
pub mod secrets;
pub mod session;
pub mod supervisor;
pub mod transfer;

pub use daemon::{run, serve};
pub use harden::harden;
pub use reload::Read;
