//! gRPC in, decisions, gRPC out.
//!
//! `rpc` decodes and encodes, `scheduler` decides, `background` looks at the world and puts it
//! right, `session` speaks with workers. What is true lives in Postgres (`marquee-store`) and in
//! the blob folder (`blobs`); killing this process loses nothing.

pub mod app;
pub mod blobs;
pub mod clock;
pub mod scheduler;
pub mod session;
pub mod systemd;

pub use app::{App, Settings};
