//! The coordinator as a whole: on a real Postgres, spoken to over gRPC and HTTP. One program for all files: each would be
//! linked by itself otherwise.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod accounts;
mod again;
mod arrays;
mod artifacts;
mod audit;
mod backup;
mod clocks;
mod daemon;
mod elastic;
mod elements;
mod env;
mod freeze;
mod full;
mod hangs;
mod health;
mod hostile;
mod idle;
mod leaving;
mod lifecycle;
mod loops;
mod migrate;
mod moments;
mod moving;
mod needs;
#[cfg(feature = "s3")]
mod objects;
mod outage;
mod overview;
mod program;
mod rates;
mod refusals;
mod rehearse;
mod removal;
mod rescue;
mod retention;
mod reuse;
mod schedules;
mod sessions;
mod sharing;
mod signs;
mod standby;
mod streams;
mod support;
mod tls;
mod trust;
mod unreadable;
mod users;
mod web;
mod what_if;
mod windows;
