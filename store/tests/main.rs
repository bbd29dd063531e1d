//! The store on a real Postgres. One program for all files: each would be linked by itself otherwise.

mod arrays;
mod artifacts;
mod audit;
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
