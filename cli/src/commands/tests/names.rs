//! Names of jobs and pipelines: which one of several is meant, and what is said where none is.

use marquee_proto::v1;
use prost::Message as _;

use super::*;
use crate::error::CliError;
use crate::tests::wire::Wire;

fn job(id: i64, name: &str, pipeline_id: i64, pipeline_name: &str) -> v1::Job {
    v1::Job {
        id,
        name: name.into(),
        pipeline_id,
        pipeline_name: pipeline_name.into(),
        ..v1::Job::default()
    }
}

/// Three pipelines, the newest jobs last in number and first in a listing, and an array of four.
fn jobs() -> Vec<v1::Job> {
    let elements = v1::ElementCounts {
        succeeded: 3,
        failed: 1,
        ..v1::ElementCounts::default()
    };
    vec![
        v1::Job {
            elements: Some(elements),
            ..job(20, "sweep", 4, "search")
        },
        job(12, "fetch", 3, "faces"),
        job(9, "train", 2, "posters"),
        job(7, "eval", 2, "posters"),
        job(5, "train", 1, "posters"),
    ]
}

async fn cluster() -> Wire {
    Wire::start(|path, bytes| {
        let answer = match path {
            "Jobs/ListJobs" => {
                let asked = v1::ListJobsRequest::decode(bytes).unwrap();
                let mut found = jobs();
                if asked.pipeline_id != 0 {
                    found.retain(|job| job.pipeline_id == asked.pipeline_id);
                }
                if let (20, Some(index)) = (asked.array_job_id, asked.array_index) {
                    let element = v1::ElementOf {
                        array_job_id: 20,
                        index,
                    };
                    found = vec![v1::Job {
                        element: Some(element),
                        ..job(21 + i64::from(index), "sweep", 4, "search")
                    }];
                }
                v1::ListJobsResponse {
                    jobs: found,
                    ..v1::ListJobsResponse::default()
                }
                .encode_to_vec()
            }
            "Jobs/GetJob" => {
                let id = v1::GetJobRequest::decode(bytes).unwrap().id;
                v1::JobDetail {
                    job: jobs().into_iter().find(|job| job.id == id),
                    ..v1::JobDetail::default()
                }
                .encode_to_vec()
            }
            _ => Vec::new(),
        };
        Ok(vec![answer])
    })
    .await
}

async fn say(wire: &Wire, line: &str) -> Result<(), CliError> {
    let line = format!("marquee --addr {} -o quiet {line}", wire.addr);
    run(parse(&line).unwrap()).await
}

/// The job that a command is about in the end.
async fn held(wire: &Wire, name: &str) -> i64 {
    say(wire, &format!("hold {name}")).await.unwrap();
    let heard = wire.heard();
    let (path, bytes) = heard.last().unwrap();
    assert_eq!(path, "Jobs/HoldJob", "{name}");
    v1::HoldJobRequest::decode(bytes.as_slice()).unwrap().id
}

#[tokio::test]
async fn a_name_means_the_newest_of_that_name_where_it_was_said() {
    let wire = cluster().await;
    for (name, id) in [
        ("17", 17),
        ("train", 9),
        ("p1/train", 5),
        ("p2/eval", 7),
        ("posters/train", 9),
        ("faces/fetch", 12),
        ("20[3]", 24),
        ("sweep[0]", 21),
        ("search/sweep[1]", 22),
        ("p4/sweep[2]", 23),
    ] {
        assert_eq!(held(&wire, name).await, id, "{name}");
    }
    // A pipeline is meant where no job is called so.
    say(&wire, "cancel posters").await.unwrap();
    let (path, bytes) = wire.heard().pop().unwrap();
    assert_eq!(path, "Jobs/CancelPipeline");
    assert_eq!(
        v1::CancelPipelineRequest::decode(bytes.as_slice())
            .unwrap()
            .id,
        2
    );
}

#[tokio::test]
async fn where_none_is_meant_it_is_said_which_may_be_and_nothing_is_done() {
    let wire = cluster().await;
    for (line, code, says) in [
        ("hold trian", 1, "did you mean \"train\"?"),
        ("hold posterz/train", 1, "did you mean \"posters\"?"),
        ("hold p2/evol", 1, "did you mean \"eval\"?"),
        ("hold p9/train", 1, "pipeline p9 has no job \"train\""),
        ("hold nothing-like-it", 1, "\"marquee jobs\" lists them"),
        ("hold 20[4]", 1, "the elements of job 20 are 20[0] to 20[3]"),
        ("hold 9[0]", 1, "job 9 is no array"),
        // One job is meant, and a pipeline was named.
        ("hold p2", 2, "p2"),
        ("logs posters", 2, "p2"),
        ("explain p2", 2, "p2"),
    ] {
        let error = say(&wire, line).await.unwrap_err();
        let text = error.render(false);
        assert!(text.contains(says), "{line}: {text}");
        assert_eq!(error.exit_code(), code, "{line}: {text}");
        let heard = wire.heard();
        let looks = ["Jobs/ListJobs", "Jobs/GetJob"];
        assert!(
            heard.iter().all(|(path, _)| looks.contains(&path.as_str())),
            "{line}: {heard:?}"
        );
    }
}

#[tokio::test]
async fn an_older_coordinator_that_answers_another_question_is_not_believed() {
    // It does not know that one element was asked for, and lists from the newest on.
    let wire = Wire::start(|path, bytes| {
        let answer = match path {
            "Jobs/GetJob" => {
                let id = v1::GetJobRequest::decode(bytes).unwrap().id;
                v1::JobDetail {
                    job: jobs().into_iter().find(|job| job.id == id),
                    ..v1::JobDetail::default()
                }
                .encode_to_vec()
            }
            "Jobs/ListJobs" => {
                let element = v1::ElementOf {
                    array_job_id: 20,
                    index: 3,
                };
                v1::ListJobsResponse {
                    jobs: vec![v1::Job {
                        element: Some(element),
                        ..job(24, "sweep", 4, "search")
                    }],
                    ..v1::ListJobsResponse::default()
                }
                .encode_to_vec()
            }
            _ => Vec::new(),
        };
        Ok(vec![answer])
    })
    .await;
    let error = say(&wire, "cancel 20[0]").await.unwrap_err();
    assert!(
        error.render(false).contains("does not find 20[0]"),
        "{}",
        error.render(false)
    );
    let cancelled = wire
        .heard()
        .into_iter()
        .any(|(path, _)| path == "Jobs/CancelJob");
    assert!(!cancelled, "another element was cancelled in its place");
}
