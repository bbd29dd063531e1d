//! The store on a real Postgres. One program for all files: each would be linked by itself otherwise.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod again;
mod arrays;
mod artifacts;
mod audit;
mod backup;
mod documents;
mod elements;
mod ends;
mod forecasts;
mod jobs;
mod leader;
mod listing;
mod lock;
mod lookups;
mod migrations;
mod opening;
mod projects;
mod ranks;
mod readers;
mod relatives;
mod retention;
mod schedules;
mod series;
mod shown;
mod superseded;
mod support;
mod transitions;
mod trust;
mod users;
mod writes;
