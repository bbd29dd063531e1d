//! What each command asks for: the message that goes over the wire.

use marquee_proto::convert::timestamp;
use marquee_proto::error::ErrorCode;
use marquee_proto::v1;
use prost::Message;

use super::*;
use crate::error::CliError;
use crate::tests::wire::{Answer, Asked, Wire};

/// Somebody who answers everything with nothing in it.
async fn nothing() -> Wire {
    Wire::start(|_, _| Ok(vec![Vec::new()])).await
}

async fn say(wire: &Wire, line: &str) -> Result<(), CliError> {
    let words: Vec<String> = format!("marquee --addr {} {line}", wire.addr)
        .split(' ')
        .map(|word| word.replace('_', " "))
        .collect();
    let matches = Cli::command().try_get_matches_from(words).unwrap();
    run(Cli::from_arg_matches(&matches).unwrap()).await
}

/// What was asked first.
async fn asked(line: &str) -> Asked {
    let wire = nothing().await;
    // Whatever comes of an answer without anything in it.
    let _ = say(&wire, line).await;
    let heard = wire.heard();
    assert!(!heard.is_empty(), "{line}: nobody was asked");
    heard.into_iter().next().unwrap()
}

#[track_caller]
fn is(asked: Asked, path: &str, expected: &(impl Message + std::fmt::Debug)) {
    assert_eq!(asked.0, path);
    let expected_bytes = expected.encode_to_vec();
    assert_eq!(asked.1, expected_bytes, "{path}: not {expected:?}");
}

fn at(text: &str) -> Option<prost_types::Timestamp> {
    Some(timestamp(text.parse().unwrap()))
}

#[tokio::test]
async fn what_steers_a_job_names_it_and_nothing_else() {
    let id = 17;
    is(
        asked("cancel 17").await,
        "Jobs/CancelJob",
        &v1::CancelJobRequest { id },
    );
    is(
        asked("cancel p17").await,
        "Jobs/CancelPipeline",
        &v1::CancelPipelineRequest { id },
    );
    is(
        asked("retry 17").await,
        "Jobs/RetryJob",
        &v1::RetryJobRequest { id },
    );
    is(
        asked("hold 17").await,
        "Jobs/HoldJob",
        &v1::HoldJobRequest { id },
    );
    is(
        asked("release 17").await,
        "Jobs/ReleaseJob",
        &v1::HoldJobRequest { id },
    );
    is(
        asked("move 17").await,
        "Jobs/MoveJob",
        &v1::MoveJobRequest { id },
    );
    is(
        asked("show 17").await,
        "Jobs/GetJob",
        &v1::GetJobRequest { id },
    );
    is(
        asked("show p17").await,
        "Jobs/GetPipeline",
        &v1::GetPipelineRequest { id },
    );
}

#[tokio::test]
async fn a_name_is_looked_for_before_anything_is_done_to_it() {
    for line in [
        "cancel train",
        "retry train",
        "hold p3/train",
        "logs train",
        "show train",
    ] {
        let wire = nothing().await;
        let error = say(&wire, line).await.unwrap_err();
        let heard = wire.heard();
        assert!(
            heard.iter().all(|(path, _)| path == "Jobs/ListJobs"),
            "{line}: {heard:?}"
        );
        let text = error.render(false);
        assert!(
            text.contains("train") && text.contains("marquee"),
            "{line}: {text}"
        );
        assert_eq!(error.exit_code(), 1, "{line}");
    }
}

#[tokio::test]
async fn several_are_done_in_their_order() {
    let wire = nothing().await;
    say(&wire, "hold 3 1 2").await.unwrap();
    let ids: Vec<i64> = wire
        .heard()
        .iter()
        .map(|(_, bytes)| v1::HoldJobRequest::decode(bytes.as_slice()).unwrap().id)
        .collect();
    assert_eq!(ids, [3, 1, 2]);
}

#[tokio::test]
async fn hosts_are_drained_shut_and_emptied_as_it_was_said() {
    is(
        asked("drain gpu-3 --deadline 2027-03-01T06:00:00+01:00 --reason new_power").await,
        "Workers/DrainWorker",
        &v1::DrainWorkerRequest {
            name: "gpu-3".into(),
            deadline: at("2027-03-01T05:00:00Z"),
            reason: "new power".into(),
        },
    );
    is(
        asked("drain gpu-3").await,
        "Workers/DrainWorker",
        &v1::DrainWorkerRequest {
            name: "gpu-3".into(),
            ..Default::default()
        },
    );
    is(
        asked("resume gpu-3").await,
        "Workers/ResumeWorker",
        &v1::ResumeWorkerRequest {
            name: "gpu-3".into(),
        },
    );
    let quarantine = |gpu, lift| v1::QuarantineWorkerRequest {
        name: "gpu-3".into(),
        gpu,
        reason: String::new(),
        lift,
    };
    // GPU 0 is one GPU, and no GPU is the whole host.
    is(
        asked("quarantine gpu-3/0").await,
        "Workers/QuarantineWorker",
        &quarantine(Some(0), false),
    );
    is(
        asked("quarantine gpu-3").await,
        "Workers/QuarantineWorker",
        &quarantine(None, false),
    );
    is(
        asked("quarantine gpu-3/2 --lift").await,
        "Workers/QuarantineWorker",
        &quarantine(Some(2), true),
    );
    let (method, sent) = asked("burn-in gpu-3/2 --minutes 60").await;
    assert_eq!(method, "Workers/BurnIn");
    let sent = v1::BurnInRequest::decode(&*sent).unwrap();
    assert_eq!(
        (sent.worker_name.as_str(), sent.gpu, sent.minutes),
        ("gpu-3", 2, 60)
    );
    assert!(!sent.request_id.is_empty());
    is(
        asked("window add gpu-3 --from 2027-03-01T06:00:00Z --for 4h --reason why").await,
        "Workers/AddWindow",
        &v1::AddWindowRequest {
            worker_name: "gpu-3".into(),
            from: at("2027-03-01T06:00:00Z"),
            until: at("2027-03-01T10:00:00Z"),
            reason: "why".into(),
        },
    );
    is(
        asked("window remove gpu-3 2").await,
        "Workers/RemoveWindow",
        &v1::RemoveWindowRequest {
            worker_name: "gpu-3".into(),
            number: 2,
        },
    );
}

#[tokio::test]
async fn a_listing_asks_for_what_was_named() {
    let (path, bytes) =
        asked("jobs --state failed --kind eval --pipeline p3 --search a_b --worker w --limit 7")
            .await;
    assert_eq!(path, "Jobs/ListJobs");
    let request = v1::ListJobsRequest::decode(bytes.as_slice()).unwrap();
    assert_eq!(request.states, [i32::from(v1::JobState::Failed)]);
    assert_eq!(request.kinds, [i32::from(v1::JobKind::Eval)]);
    assert_eq!((request.pipeline_id, request.text.as_str()), (3, "a b"));
    assert_eq!((request.worker_name.as_str(), request.page_size), ("w", 7));
    let (_, bytes) = asked("jobs").await;
    let request = v1::ListJobsRequest::decode(bytes.as_slice()).unwrap();
    assert!(request.states.is_empty() && request.kinds.is_empty());
    let (path, bytes) = asked("artifacts ls --pipeline p3 --job 17 --limit 5").await;
    assert_eq!(path, "Artifacts/ListArtifacts");
    let request = v1::ListArtifactsRequest::decode(bytes.as_slice()).unwrap();
    assert_eq!(
        (request.pipeline_id, request.job_id, request.page_size),
        (3, 17, 5)
    );
}

#[tokio::test]
async fn users_tokens_and_workers_are_managed_as_it_was_said() {
    let grant = |project: &str, role: &str| v1::Grant {
        project: project.into(),
        role: role.into(),
    };
    // What is asked first only says what would be done.
    is(
        asked("admin user add ada --role submitter --project vision --project text").await,
        "Users/AddUser",
        &v1::AddUserRequest {
            name: "ada".into(),
            grants: vec![grant("vision", "submitter"), grant("text", "submitter")],
            dry_run: true,
        },
    );
    is(
        asked("admin user role ada --role none").await,
        "Users/SetRole",
        &v1::SetRoleRequest {
            name: "ada".into(),
            grants: vec![grant("", "")],
            dry_run: false,
        },
    );
    is(
        asked("admin user remove ada --yes").await,
        "Users/RemoveUser",
        &v1::RemoveUserRequest {
            name: "ada".into(),
            dry_run: true,
        },
    );
    is(
        asked("admin token revoke 4f0c2a91b6d3 --dry-run").await,
        "Users/RevokeToken",
        &v1::RevokeTokenRequest {
            id: "4f0c2a91b6d3".into(),
            dry_run: true,
        },
    );
    is(
        asked("admin token list ada").await,
        "Users/ListTokens",
        &v1::ListTokensRequest { user: "ada".into() },
    );
    is(
        asked("admin worker join-token --name gpu-01 --ttl 15m").await,
        "Trust/CreateJoinToken",
        &v1::CreateJoinTokenRequest {
            role: "worker".into(),
            name: "gpu-01".into(),
            ttl_s: 900,
            uses: 1,
        },
    );
    is(
        asked("admin worker revoke gpu-01 --yes --reason sold").await,
        "Trust/RevokeMember",
        &v1::RevokeMemberRequest {
            name: "gpu-01".into(),
            reason: "sold".into(),
        },
    );
    is(
        asked("admin worker rename gpu-1 gpu-01").await,
        "Trust/RenameMember",
        &v1::RenameMemberRequest {
            name: "gpu-1".into(),
            new_name: "gpu-01".into(),
        },
    );
}

#[tokio::test]
async fn what_would_be_done_is_never_done_by_asking() {
    // Where nobody can be asked, nothing is done either.
    let changing = [
        "Jobs/RemovePipeline",
        "Users/AddUser",
        "Users/RemoveUser",
        "Users/SetRole",
        "Users/RevokeToken",
        "Trust/RevokeMember",
        "Trust/RenameMember",
        "Trust/ForgetMember",
        "Chaos/Rehearse",
        "Jobs/CollectGarbage",
    ];
    for line in [
        "rm p3 --dry-run",
        "admin user add ada --role admin --dry-run",
        "admin user role ada --role viewer --dry-run",
        "admin user remove ada --dry-run",
        "admin token revoke 4f0c2a91b6d3 --dry-run",
        "admin worker revoke gpu-01 --dry-run",
        "admin worker rename gpu-1 gpu-01 --dry-run",
        "admin worker forget gpu-01 --dry-run",
        "chaos step-down --dry-run",
        "gc --dry-run",
    ] {
        let wire = nothing().await;
        let _ = say(&wire, line).await;
        for (path, bytes) in wire.heard() {
            if !changing.contains(&path.as_str()) {
                continue;
            }
            let is_dry = match path.as_str() {
                "Jobs/RemovePipeline" => {
                    v1::RemovePipelineRequest::decode(bytes.as_slice())
                        .unwrap()
                        .dry_run
                }
                "Users/AddUser" => {
                    v1::AddUserRequest::decode(bytes.as_slice())
                        .unwrap()
                        .dry_run
                }
                "Users/RemoveUser" => {
                    v1::RemoveUserRequest::decode(bytes.as_slice())
                        .unwrap()
                        .dry_run
                }
                "Users/SetRole" => {
                    v1::SetRoleRequest::decode(bytes.as_slice())
                        .unwrap()
                        .dry_run
                }
                "Users/RevokeToken" => {
                    v1::RevokeTokenRequest::decode(bytes.as_slice())
                        .unwrap()
                        .dry_run
                }
                "Chaos/Rehearse" => {
                    v1::RehearseRequest::decode(bytes.as_slice())
                        .unwrap()
                        .dry_run
                }
                "Jobs/CollectGarbage" => {
                    v1::CollectGarbageRequest::decode(bytes.as_slice())
                        .unwrap()
                        .dry_run
                }
                // These have no such word: to ask them is to do it.
                _ => false,
            };
            assert!(is_dry, "{line} asked for {path}");
        }
    }
}

#[tokio::test]
async fn a_refusal_is_told_with_its_code_once_and_ends_the_command() {
    let refused = marquee_proto::error::ErrorCode::JobHasEnded;
    let wire = Wire::start(move |_, _| -> Answer {
        Err(refused.status("job 17 has succeeded already\u{1b}[2J"))
    })
    .await;
    for line in [
        "cancel 17",
        "retry 17",
        "jobs",
        "workers",
        "admin user list",
        "schedule list",
    ] {
        let error = say(&wire, line).await.unwrap_err();
        assert_eq!(error.exit_code(), 1, "{line}");
        let text = error.render(false);
        assert!(text.starts_with("error[MQ0301]: job 17"), "{line}: {text}");
        assert!(!text.contains('\u{1b}'), "{line}: {text:?}");
        assert_eq!(
            wire.heard().len(),
            1,
            "{line}: what is refused is not asked again"
        );
    }
}

/// Somebody who knows jobs by number and pipelines, and refuses what concerns job 18 and pipeline 4.
async fn choosy() -> Wire {
    Wire::start(|path, bytes| {
        let refused = ErrorCode::JobNotFound.status("not this one");
        let id = match path {
            "Jobs/RemovePipeline" => {
                let asked = v1::RemovePipelineRequest::decode(bytes).unwrap();
                if asked.id == 4 { 18 } else { asked.id }
            }
            "Jobs/FindJobs" | "Jobs/ListJobs" => return Err(refused),
            _ => v1::CancelJobRequest::decode(bytes).map_or(0, |asked| asked.id),
        };
        if id == 18 {
            return Err(refused);
        }
        Ok(vec![
            v1::Job {
                id,
                ..v1::Job::default()
            }
            .encode_to_vec(),
        ])
    })
    .await
}

#[tokio::test]
async fn what_is_named_together_is_found_before_anything_is_done_and_ends_with_the_first_refusal() {
    for (word, path) in [
        ("cancel", "Jobs/CancelJob"),
        ("retry", "Jobs/RetryJob"),
        ("hold", "Jobs/HoldJob"),
        ("release", "Jobs/ReleaseJob"),
        ("move", "Jobs/MoveJob"),
    ] {
        let wire = choosy().await;
        let error = say(&wire, &format!("{word} 17 18 19")).await.unwrap_err();
        assert_eq!(error.exit_code(), 1, "{word}");
        let asked: Vec<String> = wire.heard().into_iter().map(|(path, _)| path).collect();
        assert_eq!(asked, [path, path], "{word}");
        // A name that is mistyped is found out before the first job is touched.
        say(&wire, &format!("{word} 17 nobody")).await.unwrap_err();
        let heard = wire.heard();
        assert!(!heard.is_empty(), "{word}");
        assert!(heard.iter().all(|(asked, _)| asked != path), "{word}");
    }
    let wire = choosy().await;
    say(&wire, "rm p3 p4 p5 --yes").await.unwrap_err();
    assert_eq!(wire.heard().len(), 2);
    say(&wire, "rm p3 nobody --yes").await.unwrap_err();
    let heard = wire.heard();
    assert!(heard.iter().all(|(path, _)| path != "Jobs/RemovePipeline"));
}

#[tokio::test]
async fn a_token_that_nobody_would_see_is_not_made() {
    let wire = nothing().await;
    for line in [
        "-o quiet admin token create ada",
        "-o quiet admin worker join-token",
    ] {
        let error = say(&wire, line).await.unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.render(false).contains("nothing was made"), "{line}");
    }
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there");
    std::fs::write(&there, "somebody's").unwrap();
    for out in [there.clone(), folder.path().join("no/such/folder")] {
        let line = format!("admin token create ada --out {}", out.display());
        let error = say(&wire, &line).await.unwrap_err();
        assert!(error.render(false).contains("cannot make the file"));
    }
    assert_eq!(wire.heard(), [] as [Asked; 0]);
    assert_eq!(std::fs::read_to_string(&there).unwrap(), "somebody's");
    // Where the coordinator refuses, no empty file stays; the one that is written is whole.
    let new = folder.path().join("new");
    let line = format!("-o quiet admin token create ada --out {}", new.display());
    say(&choosy().await, &line).await.unwrap_err();
    assert!(!new.exists());
    let secret = format!("mqu_4f0c2a91b6d3_{}", "ab".repeat(32));
    let made = v1::CreateTokenResponse {
        token: Some(v1::Token {
            id: "4f0c2a91b6d3".into(),
            ..v1::Token::default()
        }),
        secret: secret.clone(),
    };
    let wire = Wire::start(move |_, _| Ok(vec![made.encode_to_vec()])).await;
    say(&wire, &line).await.unwrap();
    assert_eq!(
        std::fs::read_to_string(&new).unwrap(),
        format!("{secret}\n")
    );
}
