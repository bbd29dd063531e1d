//! What several commands ask the coordinator, one function a question.
//!
//! Not here: what a command does with the answer. Nothing in this folder knows the commands.

pub(crate) mod artifacts;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod chaos;
pub(crate) mod download;
pub(crate) mod jobs;
pub(crate) mod logs;
pub(crate) mod metrics;
mod pages;
pub(crate) mod projects;
pub(crate) mod resume;
pub(crate) mod secrets;
pub(crate) mod trust;
pub(crate) mod users;
pub(crate) mod workers;
