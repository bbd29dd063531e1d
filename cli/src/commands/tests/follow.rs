//! Submitting and following: what is sent, and which ends are the command's own.

use std::collections::BTreeSet;

use marquee_proto::v1::{self, JobState, document::Format as DocumentFormat};
use prost::Message as _;

use super::*;
use crate::error::CliError;
use crate::tests::wire::{Asked, Wire};

async fn say(wire: &Wire, line: &str) -> Result<(), CliError> {
    let line = format!("marquee --addr {} -o quiet {line}", wire.addr);
    run(parse(&line).unwrap()).await
}

fn told(id: i64, name: &str, state: JobState) -> Vec<u8> {
    let job = v1::Job {
        id,
        name: name.into(),
        state: state.into(),
        ..v1::Job::default()
    };
    v1::WatchResponse { job: Some(job) }.encode_to_vec()
}

/// Somebody who tells these states of jobs, and then hangs up.
async fn telling(states: Vec<Vec<u8>>) -> Wire {
    Wire::start(move |path, _| match path {
        "Jobs/Watch" => Ok(states.clone()),
        _ => Ok(vec![Vec::new()]),
    })
    .await
}

#[tokio::test]
async fn a_wait_ends_as_its_jobs_do() {
    use JobState::{Cancelled, Failed, Queued, Running, Succeeded};
    type Told = &'static [(i64, &'static str, JobState)];
    let cases: [(Told, Option<&str>); 6] = [
        (
            &[(1, "a", Queued), (1, "a", Running), (1, "a", Succeeded)],
            None,
        ),
        (
            &[(1, "a", Succeeded), (2, "b", Running), (2, "b", Succeeded)],
            None,
        ),
        (&[(1, "a", Failed)], Some("a failed; \"marquee explain 1\"")),
        (&[(1, "a", Cancelled)], Some("\"marquee explain 1\"")),
        // What failed is the cause, and what was cancelled mostly followed from it.
        (
            &[(1, "a", Cancelled), (2, "b", Failed), (3, "c", Succeeded)],
            Some("\"marquee explain 2\""),
        ),
        (
            &[(1, "a", Failed), (2, "b", Failed)],
            Some("2 of 2 jobs did not succeed: a failed, b failed"),
        ),
    ];
    for (states, says) in cases {
        let messages = states
            .iter()
            .map(|(id, name, state)| told(*id, name, *state))
            .collect();
        let wire = telling(messages).await;
        let ended = say(&wire, "wait p3").await;
        match (ended, says) {
            (Ok(()), None) => {}
            (Err(error), Some(says)) => {
                assert_eq!(error.exit_code(), 1);
                assert!(
                    error.render(false).contains(says),
                    "{}",
                    error.render(false)
                );
            }
            (ended, _) => panic!("{states:?}: {ended:?}"),
        }
    }
}

#[tokio::test]
async fn what_cannot_be_followed_together_is_refused_before_anybody_is_asked() {
    let wire = telling(Vec::new()).await;
    for line in ["wait p3 p4", "wait p3 17"] {
        let error = say(&wire, line).await.unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.render(false).contains("one pipeline"), "{line}");
    }
    assert_eq!(wire.heard(), [] as [Asked; 0]);
}

#[tokio::test]
async fn a_job_that_is_not_there_ends_the_wait_at_once() {
    let wire = Wire::start(|_, _| {
        Err(marquee_proto::error::ErrorCode::JobNotFound.status("there is no job 17"))
    })
    .await;
    let error = say(&wire, "wait 17").await.unwrap_err();
    assert!(error.render(false).contains("there is no job 17"));
    assert_eq!(wire.heard().len(), 1);
}

/// The submission that was sent for these words.
async fn submitted(wire: &Wire, words: &str) -> v1::SubmitPipelineRequest {
    say(wire, &format!("submit {words}")).await.unwrap();
    let heard = wire.heard();
    let (path, bytes) = heard.first().unwrap();
    assert_eq!(path, "Jobs/SubmitPipeline");
    v1::SubmitPipelineRequest::decode(bytes.as_slice()).unwrap()
}

#[tokio::test]
async fn a_submission_is_the_file_as_it_is_with_what_was_set_in_its_order() {
    let wire = telling(Vec::new()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let toml = file("p.toml", "# mine\nname = \"p\"\n");
    let sent = submitted(
        &wire,
        &format!("{toml} --set b.c=1 --set a=x=y --set b.c=2 --project vision --request-id mine"),
    )
    .await;
    assert_eq!(sent.request_id, "mine");
    assert!(!sent.dry_run);
    let format = sent.document.unwrap().format.unwrap();
    assert_eq!(
        format,
        DocumentFormat::Toml("# mine\nname = \"p\"\n".into())
    );
    let set: Vec<(&str, &str)> = sent
        .overrides
        .iter()
        .map(|set| (set.path.as_str(), set.value.as_str()))
        .collect();
    assert_eq!(
        set,
        [
            ("b.c", "1"),
            ("a", "x=y"),
            ("b.c", "2"),
            ("project", "\"vision\"")
        ]
    );

    let json = file("p.json", "{\"name\": \"p\"}");
    let sent = submitted(&wire, &json).await;
    let format = sent.document.unwrap().format.unwrap();
    assert_eq!(format, DocumentFormat::Json("{\"name\": \"p\"}".into()));

    // Each is a submission of its own, unless it is named.
    let mut ids = BTreeSet::new();
    for _ in 0..5 {
        ids.insert(submitted(&wire, &toml).await.request_id);
    }
    assert_eq!(ids.len(), 5);
    let fresh = submitted(&wire, &format!("{toml} --fresh")).await;
    assert!(
        fresh.overrides.iter().any(|set| set.path.contains("reuse")),
        "{:?}",
        fresh.overrides
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_a_pipeline_is_refused_before_anybody_is_asked() {
    let wire = telling(Vec::new()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.toml");
    for bytes in [&[0xff, 0xfe, 0x00][..], &b"#".repeat(2 << 20)] {
        std::fs::write(&path, bytes).unwrap();
        let error = say(&wire, &format!("submit {}", path.display()))
            .await
            .unwrap_err();
        assert!(
            error.render(false).contains("odd.toml"),
            "{}",
            error.render(false)
        );
    }
    // What never ends is not read to its end.
    for odd in [
        "/dev/zero".to_owned(),
        folder.path().display().to_string(),
        format!("{}/none.toml", folder.path().display()),
    ] {
        assert!(say(&wire, &format!("submit {odd}")).await.is_err(), "{odd}");
    }
    assert_eq!(wire.heard(), [] as [Asked; 0]);
}

#[tokio::test]
async fn a_submission_that_may_have_arrived_is_sent_again_as_the_same_one() {
    let tries: &'static std::sync::Mutex<Vec<String>> = Box::leak(Box::default());
    let wire = Wire::start(|path, bytes| {
        if path != "Jobs/SubmitPipeline" {
            return Ok(vec![Vec::new()]);
        }
        let id = v1::SubmitPipelineRequest::decode(bytes).unwrap().request_id;
        let mut tries = tries.lock().unwrap();
        tries.push(id);
        match tries.len() {
            1 | 2 => Err(tonic::Status::unavailable("the coordinator is stopping")),
            _ => Ok(vec![Vec::new()]),
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.toml");
    std::fs::write(&file, "name = \"p\"\n").unwrap();
    say(&wire, &format!("submit {}", file.display()))
        .await
        .unwrap();
    let tries = tries.lock().unwrap();
    assert_eq!(tries.len(), 3);
    assert!(tries.iter().all(|id| *id == tries[0]), "{tries:?}");
}

#[tokio::test]
async fn a_log_is_asked_for_as_it_was_said_and_shown_to_its_end() {
    let line = |rank: u32, text: &str| {
        v1::LogLine {
            rank,
            text: text.into(),
            ..v1::LogLine::default()
        }
        .encode_to_vec()
    };
    let lines = vec![line(0, "one"), line(1, "two\u{1b}[2J")];
    let wire = Wire::start(move |_, _| Ok(lines.clone())).await;
    say(&wire, "logs 17 --rank 0 --attempt 2 --tail 5")
        .await
        .unwrap();
    let (path, bytes) = wire.heard().pop().unwrap();
    assert_eq!(path, "Jobs/Logs");
    let asked = v1::LogsRequest::decode(bytes.as_slice()).unwrap();
    assert_eq!(
        (asked.job_id, asked.attempt, asked.rank, asked.tail),
        (17, 2, Some(0), 5)
    );
    assert!(!asked.follow);
    say(&wire, "logs 17 -f").await.unwrap();
    let (_, bytes) = wire.heard().pop().unwrap();
    let asked = v1::LogsRequest::decode(bytes.as_slice()).unwrap();
    assert_eq!((asked.rank, asked.tail, asked.follow), (None, 0, true));
}

#[tokio::test]
async fn a_job_that_was_not_heard_of_has_not_ended() {
    use JobState::{Failed, Succeeded};
    let asked = std::sync::atomic::AtomicU32::new(0);
    let wire = Wire::start(move |_, _| {
        let first = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        let mut states = vec![told(17, "a", Succeeded)];
        // The first time it hangs up before it has told everything.
        if !first {
            states.push(told(18, "b", Failed));
        }
        Ok(states)
    })
    .await;
    let error = say(&wire, "wait 17 18").await.unwrap_err();
    assert!(error.render(false).contains("b failed"), "{error}");
    assert_eq!(wire.heard().len(), 2);
}

#[tokio::test]
async fn what_is_followed_goes_on_where_the_coordinator_stopped() {
    let at = |second: i64| {
        Some(prost_types::Timestamp {
            seconds: second,
            nanos: 0,
        })
    };
    let line = move |second: i64| {
        v1::LogLine {
            attempt: 1,
            at: at(second),
            text: format!("line {second}"),
            ..v1::LogLine::default()
        }
        .encode_to_vec()
    };
    let asked = std::sync::atomic::AtomicU32::new(0);
    let wire =
        Wire::start(
            move |_, _| match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => Err(tonic::Status::unavailable("the coordinator is stopping")),
                _ => Ok(vec![line(1), line(2)]),
            },
        )
        .await;
    say(&wire, "logs -f 17 --tail 5").await.unwrap();
    let tails: Vec<u32> = wire
        .heard()
        .iter()
        .map(|(_, bytes)| v1::LogsRequest::decode(bytes.as_slice()).unwrap().tail)
        .collect();
    assert_eq!(tails, [5, 5], "nothing was shown before");
}
