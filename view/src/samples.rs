//! Fixed answers of a coordinator, for the tests of those who draw pages.

mod gpus;
mod jobs;
mod report;

pub use gpus::gpu_workers;
pub use jobs::{failed_train, failure, job, now, pipeline, still_running};
pub use report::{summary, train_summary, two_models};
