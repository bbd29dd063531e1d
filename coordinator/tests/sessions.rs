//! Workers that vanish, come back, repeat themselves and lie.

use crate::support;
use std::time::Duration;

use crate::support::worker::FakeWorker;
use crate::support::{Cluster, LEASE, SOON};
use marquee_coordinator::session::PlacedRank;
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, Rank};
use marquee_domain::job::RankState;
use marquee_proto::convert::timestamp;
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::{FailureClass, JobState, WorkerState};
use marquee_store::jobs;
use marquee_store::ranks::{self, Assignment, RankChange, RankKey, Reported};
use tokio::time::{Instant, timeout};

const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";

fn log(text: &str) -> Body {
    let stream = v1::log_line::Stream::Stderr.into();
    Body::Log(v1::RankLog {
        stream,
        lines: vec![text.into()],
    })
}

#[tokio::test]
async fn a_repeated_report_is_stored_once_and_one_after_a_gap_waits() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(ONE).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await; // reports 1 and 2
    worker.send_report(key, 3, log("three")).await;
    worker.send_report(key, 3, log("three again")).await;
    worker.send_report(key, 5, log("five, too early")).await;
    // Whatever was acknowledged on the way, the last word is 3.
    let mut acks = Vec::new();
    while acks.iter().filter(|ack| **ack == 3).count() < 3 {
        acks.push(worker.ack(key).await);
    }
    assert!(acks.is_sorted() && acks.last() == Some(&3), "{acks:?}");
    worker.send_report(key, 4, log("four")).await;
    assert_eq!(worker.ack(key).await, 4);
    worker.send_report(key, 5, log("five")).await;
    assert_eq!(worker.ack(key).await, 5);
    let logs = v1::LogsRequest {
        job_id: id,
        ..Default::default()
    };
    assert_eq!(cluster.logs(logs).await, ["three", "four", "five"]);
}

#[tokio::test]
async fn a_history_names_the_worker_whose_report_each_line_follows_from() {
    let cluster = Cluster::start().await;
    let two = "[jobs.a]\nkind = \"command\"\nargv = [\"true\"]\n[jobs.b]\nkind = \"command\"\nargv = [\"true\"]\nneeds = [\"a\"]\nmax_attempts = 1\n";
    let jobs = cluster.submit(two).await;
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    worker.finish(key, None).await;
    let key = worker.take_and_start().await;
    worker
        .fail(key, FailureClass::UserError, "it had enough")
        .await;
    cluster.wait_for(jobs[1].id, JobState::Failed).await;
    let callers = |events: Vec<v1::JobEvent>, text: &str| -> Vec<String> {
        let of = events
            .into_iter()
            .filter(|event| event.text.starts_with(text));
        of.map(|event| event.caller).collect()
    };
    for (job, line) in [(0, "succeeded"), (1, "failed (user_error)")] {
        let events = cluster.detail(jobs[job].id).await.events;
        let by = callers(events.clone(), line);
        assert!(
            by.len() == 1 && by[0].starts_with("worker w1: local via rpc from 127.0.0.1:"),
            "{line}: {by:?}"
        );
        assert_eq!(
            callers(events.clone(), "placed on"),
            [""],
            "the coordinator's own"
        );
        assert!(
            callers(events, "submitted")[0].starts_with("local via rpc"),
            "the client's"
        );
    }
    // What another job's end did to this one is not the worker's word of it.
    let events = cluster.detail(jobs[1].id).await.events;
    assert_eq!(callers(events, "queued"), [""]);
}

#[tokio::test]
async fn a_lost_worker_requeues_its_attempt_and_what_it_says_later_is_refused() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(ONE).await[0].id;
    let mut old = cluster.worker("w1").await;
    let old_key = old.take_and_start().await;
    let mut new = cluster.worker("w2").await;
    let silent = Instant::now();
    old.fall_silent();

    let new_key = new.take_and_start().await;
    assert_eq!(new_key, (id, 2, 0));
    assert!(
        silent.elapsed() >= LEASE - Duration::from_millis(200),
        "{:?}",
        silent.elapsed()
    );
    let states: Vec<_> = cluster
        .workers()
        .await
        .iter()
        .map(v1::Worker::state)
        .collect();
    assert_eq!(states, [WorkerState::Lost, WorkerState::Online]);
    let detail = cluster.detail(id).await;
    assert_eq!(
        detail.attempts[0].failure.clone().unwrap().class(),
        FailureClass::LostWorker
    );

    // It was only cut off: it comes back with its child running, and even with a result.
    let mut back = old.reconnect(&cluster.running.address).await.unwrap();
    let finished = v1::RankFinished {
        summary_json: "{}".into(),
        output: None,
    };
    back.report(old_key, Body::Finished(finished)).await;
    assert!(back.stop(old_key).await.forget);
    assert_eq!(
        cluster.job(id).await.state(),
        JobState::Running,
        "the old attempt changed nothing"
    );
    new.finish(new_key, None).await;
    let done = cluster.wait_for(id, JobState::Succeeded).await;
    assert_eq!(done.attempt, 2);
}

#[tokio::test]
async fn devices_of_a_lost_worker_are_free_only_when_it_says_so() {
    let cluster = Cluster::start().await;
    let both = "[jobs.both]\nkind = \"command\"\nargv = [\"true\"]\nranks = 2\nmax_attempts = 1\n";
    let id = cluster.submit(both).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let ranks = [worker.take().await, worker.take().await];
    for rank in &ranks {
        worker.prepare(rank).await;
    }
    worker.fall_silent();
    cluster.wait_for(id, JobState::Failed).await;
    // It comes back and still holds both: nothing can be placed on it until they are gone.
    let next = cluster.submit(ONE).await[0].id;
    let mut back = worker.reconnect(&cluster.running.address).await.unwrap();
    let reason = cluster
        .wait_until(next, "explained", |j| j.reason.contains("0 of 2"))
        .await
        .reason;
    assert!(reason.contains(&format!("waits for job {id}")), "{reason}");
    back.forget_all();
    assert_eq!(back.take().await.job_id, next);
}

#[tokio::test]
async fn what_a_lost_worker_holds_stays_held_although_the_job_has_succeeded_elsewhere() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(ONE).await[0].id;
    let mut old = cluster.worker("w1").await;
    let old_key = old.take_and_start().await;
    let mut new = cluster.worker("w2").await;
    old.fall_silent();
    let new_key = new.take_and_start().await;
    assert_eq!(new_key, (id, 2, 0));
    new.finish(new_key, None).await;
    cluster.wait_for(id, JobState::Succeeded).await;
    new.fall_silent();
    // The first attempt's child runs still, on one of its worker's two slots.
    let mut back = old.reconnect(&cluster.running.address).await.unwrap();
    let both = "[jobs.both]\nkind = \"command\"\nargv = [\"true\"]\nranks = 2\n";
    let next = cluster.submit(both).await[0].id;
    let reason = cluster
        .wait_until(next, "explained", |j| j.reason.contains("1 of 2"))
        .await
        .reason;
    assert!(reason.contains(&format!("job {id}")), "{reason}");
    assert!(back.stop(old_key).await.forget);
    back.forget_all();
    assert_eq!(back.take().await.job_id, next);
}

#[tokio::test]
async fn a_worker_that_comes_back_without_its_ranks_has_lost_them() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(ONE).await[0].id;
    let mut worker = cluster.worker("w1").await;
    worker.take_and_start().await;
    worker.forget_all();
    let again = worker.take().await;
    assert_eq!((again.job_id, again.attempt), (id, 2));
    let failure = cluster.detail(id).await.attempts[0]
        .failure
        .clone()
        .unwrap();
    assert_eq!(failure.class(), FailureClass::LostWorker);
}

/// Signs of life are stored together, and change no worker's state: who is held to be lost is brought back apart.
#[tokio::test]
async fn a_worker_that_is_stored_as_lost_comes_back_with_its_heartbeats() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let other = cluster.worker("w2").await;
    let mut tx = cluster.database.db.write("a test's own").await.unwrap();
    tx.execute_raw("UPDATE workers SET state = 'lost' WHERE name = 'w1'")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let online = "SELECT count(*) FROM workers WHERE state = 'online'";
    let back = async {
        while cluster.database.number(online).await < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, back).await.unwrap();
    drop(other);
    // And it is given work as before.
    let id = cluster.submit(ONE).await[0].id;
    let key = worker.take_and_start().await;
    worker.finish(key, None).await;
    cluster.wait_for(id, JobState::Succeeded).await;
}

#[tokio::test]
async fn a_rank_that_nobody_gave_is_stopped() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    worker.hold((4711, 1, 0));
    assert!(worker.stop((4711, 1, 0)).await.forget);
}

#[tokio::test]
async fn a_broken_stream_is_no_verdict() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(ONE).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    worker.log(key, &["before"]).await;
    while worker.ack(key).await < 3 {}
    let mut again = worker.reconnect(&cluster.running.address).await.unwrap();
    drop(worker);
    // Told at once where its reports go on.
    assert_eq!(again.ack(key).await, 3);
    again.log(key, &["after"]).await;
    again.finish(key, None).await;
    let done = cluster.wait_for(id, JobState::Succeeded).await;
    assert_eq!(done.attempt, 1);
}

#[tokio::test]
async fn a_goodbye_gives_its_ranks_to_others_at_once() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(ONE).await[0].id;
    let mut first = cluster.worker("w1").await;
    first.take_and_start().await;
    let mut second = cluster.worker("w2").await;
    let left = Instant::now();
    first.goodbye().await;
    assert_eq!(second.take().await.job_id, id);
    assert!(
        left.elapsed() < LEASE + Duration::from_secs(2),
        "{:?}",
        left.elapsed()
    );
    assert_eq!(cluster.workers().await[0].state(), WorkerState::Left);
}

#[tokio::test]
async fn a_goodbye_frees_no_device_on_which_something_is_left() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(ONE).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    worker.goodbye_but_for(&[key]).await;
    // The job need not wait for it, and its device is nobody else's.
    let goes_on = |job: &v1::Job| job.state() == JobState::Queued;
    cluster.wait_until(id, "queued again", goes_on).await;
    let held = "SELECT count(*) FROM held_ranks WHERE attempt = 1";
    assert_eq!(cluster.database.number(held).await, 1);
}

/// A Hello is made before a session begins, and may come when its worker has begun another one and was given more.
#[tokio::test]
async fn a_hello_that_comes_late_is_no_proof_that_a_rank_is_gone() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(ONE).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    let mut late = worker.late_hello(&cluster.running.address).await;
    let welcome = late.message().await.unwrap().unwrap().body;
    assert!(
        matches!(welcome, Some(v1::coordinator_message::Body::Welcome(_))),
        "{welcome:?}"
    );
    // It says nothing more, so that its session ends when all is done that follows from the Hello alone.
    while let Ok(Some(_)) = late.message().await {}
    let mut back = worker.reconnect(&cluster.running.address).await.unwrap();
    let job = cluster.job(id).await;
    assert_eq!((job.state(), job.attempt), (JobState::Running, 1));
    back.finish(key, None).await;
    let done = cluster.wait_for(id, JobState::Succeeded).await;
    assert_eq!(done.attempt, 1);
}

/// The word that a rank was placed waits for the worker's next session where the last one ended before it was heard.
#[tokio::test]
async fn a_rank_that_has_ended_before_its_worker_heard_of_it_is_not_given_out() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let before = Instant::now();
    let id = cluster.submit(ONE).await[0].id;
    let key = worker.take_and_start().await;
    worker.finish(key, None).await;
    cluster.wait_for(id, JobState::Succeeded).await;
    worker.forget(key);
    // The session reads the rows of the worker's ranks with each of its heartbeats: then it no longer goes by the word.
    let seen = "SELECT (extract(epoch FROM last_seen_at) * 1e6)::bigint FROM workers";
    for _ in 0..2 {
        let last = cluster.database.number(seen).await;
        while cluster.database.number(seen).await == last {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let stale = ranks::RankKey::new(key.0, key.1, key.2);
    let mut conn = cluster.app().db.read().await.unwrap();
    let given = ranks::list_assignments(&mut conn, &[stale]).await.unwrap();
    assert!(given.is_empty(), "{given:?}");
    // The next session brings the word, as if it had waited, and gives nothing for it.
    let whole = Assignment {
        key: stale,
        pipeline: PipelineId(1),
        spec: Ok(jobs::get_job_spec(&mut conn, JobId(id)).await.unwrap()),
        world_size: 1,
        local_rank: 0,
        devices: Vec::new(),
        resume: None,
        standby_rank: None,
    };
    for assignment in [None, Some(whole)] {
        let word = PlacedRank {
            key: stale,
            before,
            assignment,
        };
        cluster.app().sessions.placed(worker.id(), vec![word]);
    }
    let next = cluster.submit(ONE).await[0].id;
    assert_eq!(worker.next_assignment().await.job_id, next);
}

#[tokio::test]
async fn a_second_worker_of_the_same_name_is_refused() {
    let cluster = Cluster::start().await;
    let _first = cluster.worker("w1").await;
    let refused = FakeWorker::try_connect(&cluster.running.address, "w1")
        .await
        .err()
        .unwrap();
    assert_eq!(PublicError::from(&refused).code.as_deref(), Some("MQ0303"));
    let refused = FakeWorker::try_connect(&cluster.running.address, "W 1")
        .await
        .err()
        .unwrap();
    assert_eq!(PublicError::from(&refused).code.as_deref(), Some("MQ0102"));
}

#[tokio::test]
async fn a_coordinator_restart_kills_nothing_and_judges_nobody_for_one_lease() {
    let mut cluster = Cluster::start().await;
    let jobs = cluster
        .submit(&format!("{ONE}{}", ONE.replace("one", "two")))
        .await;
    let mut stays = cluster.worker("w1").await;
    let key = stays.take_and_start().await;
    let mut vanishes = cluster.worker("w2").await;
    // Both slots of w1 would take both jobs: the second is w2's only when w1 is full.
    let other = stays.take_and_start().await;
    assert_eq!([key.0, other.0], [jobs[0].id, jobs[1].id]);
    let third = cluster.submit(ONE).await[0].id;
    vanishes.take_and_start().await;

    cluster.kill().await;
    drop(vanishes);
    // Longer than a lease: silence while nobody listened counts for nothing.
    tokio::time::sleep(LEASE + Duration::from_millis(500)).await;
    cluster.start_again().await;
    let started = Instant::now();
    let mut stays = stays.reconnect(&cluster.running.address).await.unwrap();
    stays.log(key, &["still here"]).await;
    stays.finish(key, None).await;
    let done = cluster.wait_for(jobs[0].id, JobState::Succeeded).await;
    assert_eq!(done.attempt, 1, "the attempt went on through the restart");

    // The one that did not come back is lost, but not before a whole lease of listening.
    let requeued = cluster
        .wait_until(third, "placed again", |job| job.attempt == 2)
        .await;
    assert!(started.elapsed() >= LEASE, "{:?}", started.elapsed());
    assert_eq!(requeued.state(), JobState::Running);
    assert_eq!(stays.take().await.job_id, third);
    assert_eq!(cluster.job(jobs[1].id).await.attempt, 1);
}

#[tokio::test]
async fn a_report_that_a_killed_coordinator_stored_is_acted_on_by_the_next_one() {
    let mut cluster = Cluster::start().await;
    let id = cluster.submit(ONE).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let (job, attempt, rank) = worker.take_and_start().await; // reports 1 and 2
    worker.log((job, attempt, rank), &["three"]).await;
    while worker.ack((job, attempt, rank)).await < 3 {}
    cluster.kill().await;
    // What the killed one had committed when it died: the last report, and no more.
    let key = RankKey {
        job: JobId(job),
        attempt: AttemptNumber(attempt),
        rank: Rank(rank),
    };
    let change = RankChange {
        state: Some(RankState::Finished),
        ..RankChange::default()
    };
    let mut tx = cluster.database.db.write("test").await.unwrap();
    let reported = Reported {
        key,
        from: 3,
        to: 4,
        change: &change,
        starts_attempt: false,
    };
    ranks::mark_ranks_reported(&mut tx, &[reported], chrono::DateTime::UNIX_EPOCH)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    cluster.start_again().await;
    assert_eq!(cluster.wait_for(id, JobState::Succeeded).await.attempt, 1);
}

fn gpu(index: u32, name: &str, major: u32, minor: u32) -> v1::Gpu {
    v1::Gpu {
        index,
        uuid: format!("GPU-{index}"),
        name: name.into(),
        memory_bytes: 1 << 34,
        compute_major: major,
        compute_minor: minor,
        part: None,
    }
}

fn reading(index: u32, fault: &str) -> v1::GpuReading {
    v1::GpuReading {
        index,
        fault: fault.into(),
        cure: "reset it".into(),
        at: Some(timestamp(chrono::DateTime::UNIX_EPOCH)),
        ..v1::GpuReading::default()
    }
}

const ON_A_GPU: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\ndevice = \"gpu\"\n";

#[tokio::test]
async fn an_ill_gpu_gets_no_rank_until_it_is_well_again() {
    let cluster = Cluster::start().await;
    let gpus = vec![gpu(0, "H100", 9, 0)];
    let mut worker = FakeWorker::connect_with_gpus(&cluster.running.address, "gpu-1", gpus).await;
    worker.say_gpus(vec![reading(0, "fell off the bus")]).await;
    while cluster.workers().await[0].gpus.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let id = cluster.submit(ON_A_GPU).await[0].id;
    let waits = cluster
        .wait_until(id, "explained", |job| !job.reason.is_empty())
        .await;
    assert_eq!(
        waits.reason,
        "gpu 0 of gpu-1 (H100) is left out: fell off the bus: reset it"
    );
    assert_eq!(cluster.workers().await[0].gpus[0].fault, "fell off the bus");
    worker.say_gpus(vec![reading(0, "")]).await;
    assert_eq!(worker.take().await.job_id, id);
}

#[tokio::test]
async fn what_a_worker_keeps_of_inputs_is_told_as_it_said_last() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    // One of before 0.2 says nothing of it.
    assert_eq!(cluster.workers().await[0].cache, None);
    for bytes in [7, u64::MAX] {
        let cache = v1::CacheUse {
            bytes,
            max_bytes: 9,
            artifacts: 2,
            pinned: 1,
        };
        let heartbeat = v1::Heartbeat {
            sequence: 10_000 + bytes / 2,
            cache: Some(cache),
            ..v1::Heartbeat::default()
        };
        worker
            .send(v1::worker_message::Body::Heartbeat(heartbeat))
            .await;
        while cluster.workers().await[0].cache != Some(cache) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_to_both_sides_and_shown() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    assert_eq!(cluster.workers().await[0].clock_ahead_ms, None);
    let now = || std::time::SystemTime::now();
    let hour = Duration::from_secs(3_600);
    for (sequence, clock) in [
        (20_000, now()),
        (20_001, now() - hour),
        (20_002, now() + hour),
    ] {
        let heartbeat = v1::Heartbeat {
            sequence,
            now: Some(clock.into()),
            ..v1::Heartbeat::default()
        };
        worker
            .send(v1::worker_message::Body::Heartbeat(heartbeat))
            .await;
        // Off already, it is told once; on the way from behind to ahead it was never right.
        if sequence == 20_001 {
            let told = worker.notice().await;
            assert!(told.contains("59 min") || told.contains("60 min"), "{told}");
            assert!(told.contains("behind the coordinator's"), "{told}");
        }
    }
    let is_ahead = |ms: i64| (3_590_000..3_610_000).contains(&ms);
    while !cluster.workers().await[0]
        .clock_ahead_ms
        .is_some_and(is_ahead)
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn whoever_asks_hears_the_coordinators_version_and_time() {
    let cluster = Cluster::start().await;
    let channel = support::channel(&cluster.running.address).await;
    let mut client = v1::workers_client::WorkersClient::new(channel);
    let answer = client
        .probe(v1::ProbeRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.version, env!("CARGO_PKG_VERSION"));
    assert!(answer.now.is_some_and(|now| now.seconds > 1_700_000_000));
}

/// As after a hold of the network: what a worker said one after the other comes at once, the last of it twice. A grant is
/// a row, made by the scheduler and not for a heartbeat; its message may be repeated, and is the same one then.
#[tokio::test]
async fn heartbeats_that_come_in_a_bunch_grant_nothing_twice() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    worker.fall_silent();
    let two = format!("{ONE}{}", ONE.replace("one", "two"));
    let jobs = cluster.submit(&two).await;
    for sequence in [2_000, 2_001, 2_002, 2_003, 2_003, 2_001] {
        let heartbeat = v1::Heartbeat {
            sequence,
            ..v1::Heartbeat::default()
        };
        worker
            .send(v1::worker_message::Body::Heartbeat(heartbeat))
            .await;
    }
    let keys = [worker.take_and_start().await, worker.take_and_start().await];
    worker.speak_again();
    assert_ne!(keys[0], keys[1]);
    for key in keys {
        worker.finish(key, None).await;
    }
    for job in jobs {
        let done = cluster.wait_for(job.id, JobState::Succeeded).await;
        assert_eq!(done.attempt, 1);
    }
    let granted =
        "SELECT (SELECT count(*) FROM attempts) * 100 + (SELECT count(*) FROM attempt_ranks)";
    assert_eq!(cluster.database.number(granted).await, 202);
}

#[tokio::test]
async fn a_rank_whose_assignment_may_be_on_its_way_keeps_its_device_however_many_heartbeats_lack_it()
 {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    // As when a link holds messages back and then delivers them all at once.
    worker.say_followed(0);
    let id = cluster.submit(ONE).await[0].id;
    // It is sent: one that is cancelled before that is not given out at all.
    assert_eq!(worker.next_assignment().await.job_id, id);
    let request = v1::CancelJobRequest { id };
    cluster.jobs().await.cancel_job(request).await.unwrap();
    // The time of ten heartbeats, of which two were proof enough.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(cluster.job(id).await.state(), JobState::Running);
    }
    // It has followed the assignment and still does not hold the rank: now that is proof.
    worker.say_followed(1);
    cluster.wait_for(id, JobState::Cancelled).await;
}
