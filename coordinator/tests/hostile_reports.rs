//! Ranks that report what cannot be stored: each ends by itself, its worker's session and everybody else's
//! job on it go on.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;

use marquee_domain::artifact::Digest;
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::{FailureClass, JobState};
use support::Cluster;

const ONCE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\nmax_attempts = 1\n";

fn metrics(step: u64, values: &[(&str, f64)]) -> Body {
    let values: BTreeMap<String, f64> = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect();
    Body::Metrics(v1::RankMetrics { step, values })
}

fn progress(done: u64, total: u64) -> Body {
    Body::Progress(v1::RankProgress {
        phase: "p".into(),
        done,
        total: Some(total),
        ..v1::RankProgress::default()
    })
}

fn manifest(files: Vec<v1::FileEntry>) -> Option<v1::Manifest> {
    Some(v1::Manifest { files })
}

fn file(path: &str, size_bytes: u64) -> v1::FileEntry {
    let digest = Digest::of(b"x").to_string();
    v1::FileEntry {
        path: path.into(),
        size_bytes,
        digest,
    }
}

/// What a rank may send, each once with a good reason and once out of spite.
fn attacks() -> Vec<(&'static str, Body)> {
    // Digests, so that no compression makes it fit.
    let long: String = (0..60u8).map(|n| Digest::of(&[n]).to_string()).collect();
    let checkpoint = |step, manifest| Body::Checkpoint(v1::CheckpointSaved { step, manifest });
    let finished = |manifest| {
        Body::Finished(v1::RankFinished {
            summary_json: "{}".into(),
            output: manifest,
        })
    };
    vec![
        (
            "a step beyond what is counted",
            metrics(u64::MAX, &[("loss", 1.0)]),
        ),
        ("a name of four thousand bytes", metrics(1, &[(&long, 1.0)])),
        (
            "two names that are one once they are clean",
            metrics(1, &[("a\0", 1.0), ("a\u{fffd}", 2.0)]),
        ),
        ("a count beyond what is counted", progress(u64::MAX, 1)),
        ("a total beyond what is counted", progress(0, u64::MAX)),
        (
            "a checkpoint at a step beyond what is counted",
            checkpoint(u64::MAX, manifest(vec![])),
        ),
        (
            "an output of more bytes than there are",
            finished(manifest(vec![file("a", u64::MAX), file("b", 9)])),
        ),
        (
            "an output that is outside",
            finished(manifest(vec![file("../a", 1)])),
        ),
        (
            "a summary that is no JSON",
            Body::Finished(v1::RankFinished {
                summary_json: "{".into(),
                output: None,
            }),
        ),
        (
            "a summary of a million brackets",
            Body::Finished(v1::RankFinished {
                summary_json: "[".repeat(1_000_000),
                output: None,
            }),
        ),
    ]
}

#[tokio::test]
async fn what_cannot_be_stored_of_one_rank_ends_that_rank_alone() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let bystander = cluster.submit(ONCE).await[0].id;
    let good = worker.take_and_start().await;
    assert_eq!(good.0, bystander);
    for (what, body) in attacks() {
        let id = cluster.submit(ONCE).await[0].id;
        let bad = worker.take_and_start().await;
        assert_eq!(bad.0, id);
        worker.report(bad, body).await;
        // In the same breath as the bad one: a batch has both.
        worker.log(good, &[what]).await;
        worker.acknowledged(bad).await;
        let ended = cluster
            .wait_until(id, what, |job| {
                matches!(job.state(), JobState::Failed | JobState::Succeeded)
            })
            .await;
        assert_eq!(ended.state(), JobState::Failed, "{what}: {ended:?}");
        let failure = ended.failure.unwrap();
        assert!(
            matches!(
                failure.class(),
                FailureClass::Crash | FailureClass::UserError | FailureClass::BadInput
            ),
            "{what}: {failure:?}"
        );
        assert!(
            failure.message.len() < 2_000,
            "{what}: {} bytes of message",
            failure.message.len()
        );
    }
    // The session was never lost, and nothing of the bystander either.
    worker.finish(good, None).await;
    let done = cluster.wait_for(bystander, JobState::Succeeded).await;
    assert_eq!(done.attempt, 1);
    let logs = v1::LogsRequest {
        job_id: bystander,
        ..Default::default()
    };
    let said: Vec<String> = attacks()
        .iter()
        .map(|(what, _)| (*what).to_owned())
        .collect();
    assert_eq!(cluster.logs(logs).await, said);
}

#[tokio::test]
async fn values_that_are_no_numbers_are_stored_as_they_are() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let id = cluster.submit(ONCE).await[0].id;
    let key = worker.take_and_start().await;
    let odd = [
        ("nan", f64::NAN),
        ("inf", f64::INFINITY),
        ("tiny", 5e-324),
        ("big", f64::MAX),
    ];
    worker.report(key, metrics(1, &odd)).await;
    worker.finish(key, None).await;
    cluster.wait_for(id, JobState::Succeeded).await;
}
