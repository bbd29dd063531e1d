//! What people and programs read of jobs, workers and results, for the command line, a terminal
//! interface and the web page alike.
//!
//! A [`View`] turns messages of the wire and values of the domain into a [`Page`] (headings, lines,
//! fields and tables, whose cells have a tone), into JSON, and into ids. How a page is drawn is for
//! those who show it.
//!
//! Architecture Invariant (checked): it depends on `domain` and `proto` alone, and everything is a
//! pure function: the time is an argument, and nothing is read, asked for or printed here.

pub mod artifacts;
pub mod audit;
pub mod chaos;
pub mod coordinators;
pub mod doctor;
pub mod explain;
mod forecast;
pub mod gpus;
mod harmless;
pub mod history;
pub mod job;
pub mod jobs;
pub mod json;
pub mod metrics;
pub mod models;
pub mod outcome;
mod page;
pub mod pipeline;
pub mod progress;
pub mod projects;
pub mod report;
pub mod rotation;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
pub mod schedules;
pub mod secrets;
pub mod status;
pub mod trained;
pub mod trust;
pub mod units;
pub mod users;
pub mod what_if;
pub mod words;
pub mod workers;

pub use harmless::{harmless, harmless_json, harmless_line};
pub use page::{Align, Block, Cell, Column, Page, Table, Tone, View, left, right, toned};
