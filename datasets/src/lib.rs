//! Fetch and preprocess: sources, tables, splits, shards; the library behind `marquee-prep` and
//! the reader that the trainer and the evaluation use.
//!
//! Invariant: nothing partial is ever visible under its own name, and every id and every picture
//! that came in is accounted for exactly once on the way out.

#![allow(
    clippy::cast_possible_truncation,
    reason = "pixels and colours are cut to size on purpose; counts and ids are converted checked"
)]

pub mod channel;
pub mod clock;
pub mod code;
pub mod dataset;
pub mod dice;
mod durable;
pub mod export;
pub mod fetch;
mod ipc;
pub mod job;
pub mod mapping;
pub mod normalise;
pub mod ordered;
pub mod picture;
pub mod preprocess;
pub mod readers;
pub mod scale;
pub mod shards;
mod sniff;
pub mod thumbnail;
