//! Sources, labels and shards, from files and servers as strangers make them. One program for all files: each would be
//! linked by itself otherwise.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod fetch_api;
mod fetch_complete;
mod folders;
mod labels;
mod own_pictures;
mod quality;
mod shards;
mod sources;
mod stored;
mod support;
