//! Maintenance windows, from the outside.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use crate::support::{Cluster, channel};
use chrono::TimeDelta;
use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_proto::v1::{AttemptState, JobState};

fn job(name: &str, keys: &str) -> String {
    format!("[jobs.{name}]\nkind = \"command\"\nargv = [\"true\"]\n{keys}\n")
}

#[tokio::test]
async fn a_maintenance_window_is_planned_around_and_empties_its_host_when_it_begins() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let mut client = WorkersClient::new(channel(&cluster.running.address).await);
    let now = cluster.app().clock.now();
    let window = |from, until| v1::AddWindowRequest {
        worker_name: "w1".into(),
        from: Some(timestamp(now + TimeDelta::seconds(from))),
        until: Some(timestamp(now + TimeDelta::seconds(until))),
        reason: "new power supply".into(),
    };
    for (from, until, said) in [
        (-120, 60, "has passed"),
        (60, 60, "is not after"),
        (60, 40 * 24 * 3_600, "longer than 30 days"),
        (
            400 * 24 * 3_600,
            401 * 24 * 3_600,
            "more than 366 days ahead",
        ),
    ] {
        let refused = client.add_window(window(from, until)).await.unwrap_err();
        assert!(refused.message().contains(said), "{refused}");
    }
    let set = client.add_window(window(3_600, 7_200)).await.unwrap();
    let set = set.into_inner();
    assert!(
        set.windows[0].words.ends_with(": new power supply"),
        "{set:?}"
    );
    // Who ends before it runs; who may not waits, and says for what.
    let short = cluster.submit(&job("short", "timeout = \"30m\"")).await[0].id;
    let key = worker.take_and_start().await;
    assert_eq!(key.0, short);
    let long = cluster.submit(&job("long", "timeout = \"2h\"")).await[0].id;
    let waits = |job: &v1::Job| job.reason.contains("maintenance window 1");
    let reason = cluster.wait_until(long, "window", waits).await.reason;
    assert!(reason.contains("its timeout is 7200 s"), "{reason}");
    // Another one begins now: what runs is moved at no cost.
    client.add_window(window(0, 3_000)).await.unwrap();
    let stop = worker.stop(key).await;
    assert!(
        stop.reason.contains("is in maintenance window 2"),
        "{}",
        stop.reason
    );
    cluster.wait_for(short, JobState::Queued).await;
    let attempt = &cluster.detail(short).await.attempts[0];
    assert_eq!(attempt.state(), AttemptState::Interrupted);
    // Both go, and both jobs start.
    let gone = v1::RemoveWindowRequest {
        worker_name: "w1".into(),
        number: 9,
    };
    let refused = client.remove_window(gone.clone()).await.unwrap_err();
    assert!(
        refused.message().contains("no maintenance window 9"),
        "{refused}"
    );
    for number in [1, 2] {
        let gone = v1::RemoveWindowRequest {
            number,
            ..gone.clone()
        };
        client.remove_window(gone).await.unwrap();
    }
    let started = [worker.take().await.job_id, worker.take().await.job_id];
    assert_eq!(BTreeSet::from(started), BTreeSet::from([short, long]));
}
