//! What would be if a job asked for something else.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use chrono::{DateTime, TimeDelta, Utc};
use marquee_coordinator::index::Step;
use marquee_domain::spec::JobKind;
use marquee_proto::convert::datetime;
use marquee_proto::v1;

use crate::support::Cluster;

fn minutes(answer: &Option<v1::Forecast>, now: DateTime<Utc>) -> i64 {
    let at = answer.as_ref().unwrap().expected_at.as_ref().unwrap();
    (datetime(at).unwrap() - now).num_minutes()
}

#[tokio::test]
async fn a_waiting_job_is_told_when_it_would_start_and_end_with_fewer_ranks() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let command = "kind = \"command\"\nargv = [\"true\"]\n";
    let hour = format!("[jobs.hour]\n{command}timeout = \"1h\"\n");
    let runs = cluster.submit(&hour).await[0].id;
    worker.take_and_start().await;
    let pair = format!("[jobs.pair]\n{command}ranks = 2\n");
    let pair = cluster.submit(&pair).await[0].id;
    let needs = |job: &v1::Job| job.reason.contains("needs 2 cpu devices");
    cluster.wait_until(pair, "busy", needs).await;

    let now = cluster.app().clock.now();
    let ask = async |request: v1::WhatIfRequest| cluster.jobs().await.what_if(request).await;
    let of = |job_id| v1::WhatIfRequest {
        job_id,
        ..v1::WhatIfRequest::default()
    };
    let as_it_is = ask(of(pair)).await.unwrap().into_inner();
    assert_eq!(
        (as_it_is.ranks, minutes(&as_it_is.start, now) / 10),
        (2, 5),
        "{as_it_is:?}"
    );
    assert!(as_it_is.no_end.contains("not enough runs"), "{as_it_is:?}");
    let one = v1::WhatIfRequest {
        cpu_slots: Some(1),
        ..of(pair)
    };
    let alone = ask(one).await.unwrap().into_inner();
    assert_eq!(
        (alone.ranks, minutes(&alone.start, now)),
        (1, 0),
        "{alone:?}"
    );

    // Runs with one rank and with four tell about two.
    for (ranks, length) in [(1, 100), (4, 40)] {
        for _ in 0..5 {
            let step = Step {
                project: "default".into(),
                name: "pair".into(),
                kind: JobKind::Command,
                ranks,
            };
            let mut open = cluster.app().index.open();
            open.lengths.learn(step, TimeDelta::minutes(length));
        }
    }
    let told = ask(of(pair)).await.unwrap().into_inner();
    let took = minutes(&told.end, now) - minutes(&told.start, now);
    assert!((59..=61).contains(&took), "{told:?}");

    for (request, said) in [
        (of(runs), "only of one that does not"),
        (
            v1::WhatIfRequest {
                ranks: Some(0),
                ..of(pair)
            },
            "0 is out of range",
        ),
        (
            v1::WhatIfRequest {
                gpus: Some(1),
                cpu_slots: Some(1),
                ..of(pair)
            },
            "not both",
        ),
        (of(99_999), "99999"),
    ] {
        let refused = ask(request).await.unwrap_err();
        assert!(refused.message().contains(said), "{refused}");
    }
}
