//! The coordinator attacked through each of its doors: tables of inputs, each of which fails by itself, with a reason,
//! while everybody else goes on. Real gRPC, real Postgres.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

mod artifact;
mod client;
mod connection;
mod faults;
mod stored;
mod worker;

use crate::support::Cluster;
use crate::support::worker::FakeWorker;
use marquee_proto::error::PublicError;
use marquee_proto::v1::JobState;
use tonic::{Code, Status};

const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";

/// Nobody else notices: a job that is submitted now runs to its end on this worker.
async fn all_is_well(cluster: &Cluster, worker: &mut FakeWorker) {
    let id = cluster.submit(ONE).await[0].id;
    let key = worker.take_and_start().await;
    assert_eq!(key.0, id, "the worker was given the job");
    worker.finish(key, None).await;
    cluster.wait_for(id, JobState::Succeeded).await;
}

/// An error that says what is wrong, in our words.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>, said: &str) {
    let status = answer.expect_err(what);
    assert_ne!(status.code(), Code::Internal, "{what}: {status}");
    assert_ne!(status.code(), Code::Unavailable, "{what}: {status}");
    let public = PublicError::from(&status);
    let fields: Vec<String> = public.fields.iter().map(ToString::to_string).collect();
    let text = format!("{} {}", public.message, fields.join("; "));
    assert!(text.contains(said), "{what}: {text:?} lacks {said:?}");
    let of_postgres = text.to_lowercase();
    assert!(
        !of_postgres.contains("postgres") && !of_postgres.contains("sql"),
        "{what}: {text}"
    );
}
