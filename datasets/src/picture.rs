//! Files from strangers into pixels of one size: what shards are made of, and what the `original`
//! encoding does when it is read.

pub(crate) mod decode;
mod jpeg_file;
mod shrink;
mod skip;

pub use self::shrink::Shrinker;
pub(crate) use self::skip::Skip;
