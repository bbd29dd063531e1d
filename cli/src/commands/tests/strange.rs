//! Every command where the coordinator answers as none of today would: a later one, one that is damaged, one that means
//! harm. It may be refused; it ends, and does not fall over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::tests::odd;
use crate::tests::wire::Wire;

/// How each command is asked that ends by itself once it is answered.
const ASKED: [&str; 41] = [
    "jobs --limit 5",
    "jobs --array 17",
    "show 17",
    "show p3",
    "show train",
    "show 17[2]",
    "explain 17",
    "explain 17 --with ranks=2",
    "logs 17",
    "logs 17 --raw",
    "metrics 17",
    "cancel 17",
    "cancel p3",
    "retry 17",
    "hold 17",
    "release 17",
    "move 17",
    "rm p3 --yes",
    "rm 17 --dry-run",
    "gc --dry-run",
    "keep p3",
    "workers",
    "workers --gpus",
    "coordinators",
    "drain gpu-1",
    "resume gpu-1",
    "quarantine gpu-1/0",
    "burn-in gpu-1/0",
    "window list",
    "project list",
    "quota vision",
    "artifacts ls",
    "audit verify",
    "audit log",
    "schedule list",
    "schedule show nightly",
    "admin user list",
    "admin token list",
    "admin worker list",
    "whoami",
    "report p3",
];

async fn ask(wire: &Wire, line: &str, output: &str) {
    let words = format!("marquee --addr {} -o {output} {line}", wire.addr);
    let matches = Cli::command()
        .try_get_matches_from(words.split(' '))
        .unwrap();
    let cli = Cli::from_arg_matches(&matches).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), run(cli)).await;
    let Ok(ended) = ended else {
        panic!(
            "{line}: it does not end; it asked for {:?}",
            wire.heard().last()
        );
    };
    if let Err(error) = ended {
        let text = error.render(false);
        assert!(!text.is_empty(), "{line}");
        assert!(
            !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t'),
            "{line}: {text:?}"
        );
    }
    wire.heard();
}

#[tokio::test]
async fn a_command_ends_whatever_it_is_answered() {
    let drawn = AtomicU64::new(0);
    let wire = Wire::start(move |path, _| {
        let seed = drawn.fetch_add(1, Ordering::Relaxed);
        Ok(vec![
            odd::answer(path, seed),
            odd::answer(path, seed + 1_000),
        ])
    })
    .await;
    // Each command once, the formats by turns: how each view looks in all of them is tried beside the views.
    for (line, output) in ASKED
        .into_iter()
        .zip(["table", "json", "quiet"].into_iter().cycle())
    {
        ask(&wire, line, output).await;
    }
}

#[tokio::test]
async fn a_command_ends_where_it_is_answered_nothing() {
    let empty = Wire::start(|_, _| Ok(vec![Vec::new()])).await;
    let silent = Wire::start(|_, _| Ok(Vec::new())).await;
    for line in ASKED {
        ask(&empty, line, "table").await;
        ask(&silent, line, "json").await;
    }
}

#[tokio::test]
async fn a_listing_that_always_says_that_there_is_more_ends() {
    use marquee_proto::v1;
    use prost::Message as _;
    // The same page again and again, as a broken coordinator may.
    let wire = Wire::start(|path, _| {
        let answer = match path {
            "Jobs/ListJobs" => v1::ListJobsResponse {
                jobs: vec![v1::Job {
                    id: 5,
                    ..Default::default()
                }],
                next_page_token: "5".into(),
                ..Default::default()
            }
            .encode_to_vec(),
            "Artifacts/ListArtifacts" => v1::ListArtifactsResponse {
                artifacts: vec![v1::Artifact::default()],
                next_page_token: "5-5".into(),
            }
            .encode_to_vec(),
            "Jobs/CollectGarbage" => v1::CollectGarbageResponse {
                next_pipeline_id: 3,
                ..Default::default()
            }
            .encode_to_vec(),
            _ => Vec::new(),
        };
        Ok(vec![answer])
    })
    .await;
    for line in [
        "jobs --limit 20",
        "jobs --array 17 --limit 20",
        "artifacts ls --limit 20",
        "gc --dry-run",
    ] {
        ask(&wire, line, "quiet").await;
    }
}
