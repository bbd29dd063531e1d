//! Ranks that hang, hosts to avoid, attempts that are not counted: what follows from what workers say.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use crate::support::worker::{FakeWorker, Key, key_of};
use crate::support::{Cluster, LEASE, SOON};
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::{AttemptState, FailureClass, JobState};

const GANG: &str = "[jobs.gang]\nkind = \"command\"\nargv = [\"true\"]\nranks = 4\n";
const ONCE: &str = "[jobs.once]\nkind = \"command\"\nargv = [\"true\"]\nmax_attempts = 1\n";

fn stopped() -> Option<v1::Stall> {
    Some(v1::Stall {
        idle_ms: 46_000,
        step: Some(12),
        phase: "forward".into(),
        is_stopped: true,
        ..v1::Stall::default()
    })
}

fn waiting() -> Option<v1::Stall> {
    Some(v1::Stall {
        idle_ms: 45_000,
        step: Some(12),
        phase: "all-reduce".into(),
        waits_for_peers: true,
        ..v1::Stall::default()
    })
}

/// Takes, prepares and starts a gang of two ranks on each worker.
async fn start_gang(workers: &mut [&mut FakeWorker]) -> Vec<Vec<Key>> {
    let mut keys = Vec::new();
    for worker in workers.iter_mut() {
        let mut own = Vec::new();
        for _ in 0..2 {
            let assign = worker.take().await;
            worker.prepare(&assign).await;
            own.push(key_of(&assign));
        }
        keys.push(own);
    }
    for (worker, own) in workers.iter_mut().zip(&keys) {
        for key in own {
            worker.started(*key).await;
        }
    }
    keys
}

/// Waits until the job's history has an event with these words, and gives it.
async fn event(cluster: &Cluster, id: i64, words: &str) -> String {
    let since = tokio::time::Instant::now();
    loop {
        let events = cluster.detail(id).await.events;
        if let Some(event) = events.iter().find(|event| event.text.contains(words)) {
            return event.text.clone();
        }
        assert!(since.elapsed() < SOON, "no {words:?} in {events:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_gang_that_hangs_says_who_does_before_it_fails_and_is_placed_on_another_host() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(GANG).await[0].id;
    let mut first = cluster.worker("w1").await;
    let mut second = cluster.worker("w2").await;
    let keys = start_gang(&mut [&mut first, &mut second]).await;
    second.stands(keys[1][0], stopped());
    for key in &keys[0] {
        first.stands(*key, waiting());
    }
    second.stands(keys[1][1], waiting());
    let told = event(&cluster, id, "hung: ").await;
    assert_eq!(
        told,
        "hung: rank 2 on w2 is stopped by a signal (state T) at step 12 since 46 s; ranks 0, 1 and 3 wait in all-reduce"
    );
    // For as long as it lasts, also whoever asks for the job sees it.
    let ranks = &cluster.detail(id).await.attempts[0].ranks;
    let stops: Vec<bool> = ranks
        .iter()
        .map(|rank| rank.stall.as_ref().unwrap().is_stopped)
        .collect();
    assert_eq!(stops, [false, false, true, false]);
    assert_eq!(
        cluster.job(id).await.state(),
        JobState::Running,
        "nothing was ended"
    );

    // Its peers give it up. Where the next attempt goes there must be a choice.
    let mut third = cluster.worker("w3").await;
    for key in &keys[0] {
        first
            .fail(*key, FailureClass::Collective, "Timed out waiting 60000ms")
            .await;
    }
    for key in &keys[1] {
        second.stop(*key).await;
    }
    start_gang(&mut [&mut first, &mut third]).await;
    let attempts = cluster.detail(id).await.attempts;
    let failure = attempts[0].failure.clone().unwrap();
    assert_eq!(failure.class(), FailureClass::Hang, "{failure:?}");
    assert!(
        failure.message.starts_with("hung: rank 2 on w2 is stopped"),
        "{failure:?}"
    );
    assert!(
        attempts[1]
            .ranks
            .iter()
            .all(|rank| rank.worker_name != "w2")
    );
    let hung = cluster.detail(id).await.events;
    let hung = hung.iter().filter(|event| event.text.starts_with("hung: "));
    assert_eq!(hung.count(), 1, "said once");
}

#[tokio::test]
async fn one_that_goes_on_says_so_and_a_host_is_avoided_only_where_there_is_another() {
    let cluster = Cluster::start().await;
    let id = cluster
        .submit(&ONCE.replace("max_attempts = 1", "max_attempts = 2"))
        .await[0]
        .id;
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    worker.stands(key, stopped());
    event(&cluster, id, "hung: rank 0 on w1").await;
    worker.stands(key, None);
    event(&cluster, id, "it goes on").await;
    worker
        .fail(
            key,
            FailureClass::DeviceFault,
            "CUDA error: unspecified launch failure",
        )
        .await;
    // There is no other host.
    let again = worker.take_and_start().await;
    assert_eq!(again.1, 2);
}

#[tokio::test]
async fn what_was_cancelled_while_its_worker_could_not_be_reached_is_ended_before_anything_else_begins()
 {
    let cluster = Cluster::start().await;
    let id = cluster.submit(ONCE).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    worker.fall_silent();
    let request = v1::CancelJobRequest { id };
    cluster.jobs().await.cancel_job(request).await.unwrap();
    // Final, once its lease is over: what its rank says later is not heard.
    cluster.wait_for(id, JobState::Cancelled).await;
    let next = cluster.submit(ONCE).await[0].id;
    let mut back = worker.reconnect(&cluster.running.address).await.unwrap();
    let stop = back.stop_before_any_assignment(key).await;
    assert_eq!(stop.reason, "its attempt has ended");
    back.forget(key);
    let begun = back.take_and_start().await;
    assert_eq!(begun.0, next);
    assert_eq!(cluster.job(id).await.state(), JobState::Cancelled);
}

#[tokio::test]
async fn why_a_worker_stopped_a_rank_is_kept_and_costs_no_attempt() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(ONCE).await[0].id;
    let mut worker = cluster.worker("w1").await;
    for (number, cause) in (1..).zip(["disconnected", "host_upgraded", "drained"]) {
        let key = worker.take_and_start().await;
        assert_eq!(key.1, number);
        worker.stop_because(key, cause, "it had to be").await;
        let text = event(&cluster, id, &format!("({cause})")).await;
        assert!(
            text.contains("is not counted") && text.contains("it had to be"),
            "{text}"
        );
    }
    let key = worker.take_and_start().await;
    worker.finish(key, None).await;
    cluster.wait_for(id, JobState::Succeeded).await;
}

#[tokio::test]
async fn a_daemon_that_has_come_back_is_judged_like_any_other() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(ONCE).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    worker.goes_away(60_000);
    tokio::time::sleep(Duration::from_millis(500)).await;
    worker.fall_silent();
    let next = worker.reconnect(&cluster.running.address).await;
    drop(next);
    drop(worker);
    // It has spoken: from here its lease counts, and not what it said before.
    let job = cluster.wait_for(id, JobState::Failed).await;
    assert_eq!(job.failure.unwrap().class(), FailureClass::LostWorker);
    assert_eq!(key.1, 1);
}

#[tokio::test]
async fn a_worker_that_said_for_how_long_it_would_be_away_is_waited_for() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(ONCE).await[0].id;
    let mut worker = cluster.worker("w1").await;
    worker.take_and_start().await;
    let away = 3 * LEASE;
    worker.goes_away(u32::try_from(away.as_millis()).unwrap());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let since = tokio::time::Instant::now();
    drop(worker);
    let text = event(&cluster, id, "host_upgraded").await;
    assert!(
        since.elapsed() > away - Duration::from_secs(1),
        "{:?}",
        since.elapsed()
    );
    assert!(text.contains("no new daemon came"), "{text}");
    let attempts = cluster.detail(id).await.attempts;
    assert_eq!(attempts[0].state(), AttemptState::Interrupted);
}

#[tokio::test]
async fn an_attempt_that_got_further_is_the_first_that_counts_again() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let made = cluster
        .submit("[jobs.made]\nkind = \"command\"\nargv = [\"true\"]\n")
        .await[0]
        .id;
    let key = worker.take_and_start().await;
    let shards = cluster.output("shards", b"made").await;
    worker.finish(key, Some(shards)).await;
    let digest = cluster
        .wait_for(made, JobState::Succeeded)
        .await
        .artifact_digest;
    let train = format!(
        "[jobs.train]\nkind = \"train\"\nmodel = \"simple-cnn\"\nepochs = 1\nbatch_size = 8\nmax_attempts = 2\n\
         optimizer = {{ name = \"sgd\", lr = 0.1 }}\ninputs = {{ shards = \"artifact:{digest}\" }}\n"
    );
    let id = cluster.submit(&train).await[0].id;
    let checkpoint = cluster.output("weights", b"step").await;
    // It may be tried twice, and each time gets further: so it is tried a third time, and a fourth.
    for (attempt, step) in [(1, Some(10)), (2, Some(20)), (3, Some(30)), (4, None)] {
        let key = worker.take_and_start().await;
        assert_eq!(key, (id, attempt, 0));
        if let Some(step) = step {
            let manifest = Some(checkpoint.clone());
            worker
                .report(
                    key,
                    Body::Checkpoint(v1::CheckpointSaved { step, manifest }),
                )
                .await;
        }
        worker
            .fail(key, FailureClass::Crash, "killed by signal 11")
            .await;
    }
    // The fourth got no further.
    let job = cluster.wait_for(id, JobState::Failed).await;
    assert_eq!(job.attempt, 4);
}
