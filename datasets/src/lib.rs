//! Fetch and preprocess: sources, tables, splits, shards; the library behind `marquee-prep` and
//! the reader that the trainer and the evaluation use.
//!
//! Invariant: nothing partial is ever visible under its own name, and every id and every picture
//! that came in is accounted for exactly once on the way out.

mod durable;
pub mod shards;
pub mod thumbnail;
