//! Development tasks, run as `cargo xtask <task>`; `cargo xtask help` lists them.
//!
//! A task prints what it does to stderr and leaves stdout to data, so that the last line of
//! `cargo xtask demo --json` is the JSON object and nothing else.
//!
//! Here are the tasks of every day, and what they share with those of the lab: measurements and comparisons
//! that need hours, Python or other people's pictures. The lab is a crate of its own (`lab/`), so that
//! nobody waits for it who does not use it.
//!
//! Architecture Invariant: xtask knows the other crates only as packages to build and binaries to run, so that it
//! compiles in seconds; it depends on none of them but two small ones: `marquee-postgres`, which starts the private
//! Postgres of a task, and `marquee-wheels`, which fetches what is built with. What a demo does is in the CLI (`marquee
//! demo`).

pub mod chaos;
pub mod check;
pub mod demo;
pub mod flavour;
pub mod lab;
pub mod nccl_shim;
mod pg;
mod secrets;
pub mod setup;
pub mod sim;
pub mod sqlx;
pub mod test;
pub mod web;
pub mod words;
pub mod workspace;

pub use marquee_wheels::{process, report};
