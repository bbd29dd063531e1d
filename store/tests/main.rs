//! The store on a real Postgres. One program for all files: each would be linked by itself otherwise.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod arrays;
mod artifacts;
mod audit;
mod forecasts;
mod jobs;
mod leader;
mod lock;
mod migrations;
mod projects;
mod ranks;
mod readers;
mod support;
mod transitions;
mod writes;
