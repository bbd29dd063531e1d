//! A hostile worker: its Hello, its reports, and a copy of its data folder.

use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::worker_message::Body as Out;
use marquee_proto::v1::{FailureClass, JobState};
use tonic::Code;

use super::{ONE, all_is_well, assert_refused};
use crate::support::Cluster;
use crate::support::worker::{Key, hello, say_first};

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_with_what_no_host_has_is_refused_by_its_field() {
    type Change = fn(&mut v1::Hello);
    fn host(hello: &mut v1::Hello) -> &mut v1::Inventory {
        hello.inventory.as_mut().unwrap()
    }
    let attacks: [(&str, Change); 19] = [
        ("inventory.cpu_slots", |h| host(h).cpu_slots = 4_000_000_000),
        ("inventory.cpu_slots", |h| host(h).cpu_slots = u32::MAX),
        ("inventory.cpu_threads", |h| host(h).cpu_threads = u32::MAX),
        ("inventory.threads_per_slot", |h| {
            host(h).threads_per_slot = u32::MAX
        }),
        ("inventory.memory_bytes", |h| {
            host(h).memory_bytes = u64::MAX
        }),
        ("inventory.hostname", |h| host(h).hostname = "\0".into()),
        ("inventory.address", |h| {
            host(h).address = "x".repeat(100_000)
        }),
        ("inventory.flavour", |h| {
            host(h).flavour = "\u{1b}]52;c;eA==\u{7}".into()
        }),
        ("inventory.gpus", |h| {
            host(h).gpus = vec![v1::Gpu::default(); 100_000]
        }),
        ("inventory.gpus.index", |h| {
            host(h).gpus = vec![v1::Gpu {
                index: u32::MAX,
                ..v1::Gpu::default()
            }];
        }),
        ("inventory", |h| h.inventory = None),
        ("version", |h| h.version = "a\0".into()),
        ("prep_code", |h| h.prep_code = "x".repeat(100_000)),
        ("name", |h| h.name = "\0".repeat(1_000_000)),
        ("name", |h| h.name = "A/../b".into()),
        ("worker_id", |h| h.worker_id = "\0".into()),
        ("boot_id", |h| h.boot_id = String::new()),
        ("instance_id", |h| h.instance_id = "x".repeat(1_000_000)),
        ("held", |h| h.held = vec![v1::HeldRank::default(); 20_000]),
    ];
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("good").await;
    for (field, change) in attacks {
        let mut hello = hello("evil");
        change(&mut hello);
        let body = Some(Out::Hello(hello));
        let answer = say_first(&cluster.running.address, v1::WorkerMessage { body }).await;
        assert_refused(field, answer.map(drop), field);
    }
    let reports = Some(Out::Reports(v1::Reports::default()));
    for body in [None, reports] {
        let message = v1::WorkerMessage { body };
        let answer = say_first(&cluster.running.address, message).await;
        assert_refused(
            "no Hello",
            answer.map(drop),
            "the first message must be a Hello",
        );
    }
    assert_eq!(cluster.workers().await.len(), 1, "nothing of it was stored");
    all_is_well(&cluster, &mut worker).await;
}

fn metrics(step: u64, name: &str) -> Body {
    let values = [(name.to_owned(), 1.0)].into();
    Body::Metrics(v1::RankMetrics { step, values })
}

fn finished(summary: &str, files: &[(&str, u64)]) -> Body {
    let files = files.iter().map(|(path, size_bytes)| v1::FileEntry {
        path: (*path).to_owned(),
        size_bytes: *size_bytes,
        digest: "0".repeat(64),
    });
    Body::Finished(v1::RankFinished {
        summary_json: summary.into(),
        output: Some(v1::Manifest {
            files: files.collect(),
            ..v1::Manifest::default()
        }),
    })
}

/// Eight other jobs stood still for ever by one of these.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_cannot_be_stored_fails_its_rank_and_nobody_elses() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let far = u64::MAX;
    let deep = "[".repeat(500_000);
    let wide = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let attacks = [
        ("metrics.step", metrics(far, "loss")),
        ("metrics.values", metrics(1, &"m".repeat(3_000))),
        ("metrics.values", metrics(1, "a\0b")),
        (
            "progress.done",
            Body::Progress(v1::RankProgress {
                done: far,
                ..v1::RankProgress::default()
            }),
        ),
        ("summary_json", finished(&deep, &[])),
        ("summary_json", finished("\0", &[])),
        ("bytes together", finished("{}", &[("a", far)])),
        (
            "bytes together",
            finished("{}", &[("a", 1 << 63), ("b", 1 << 63)]),
        ),
        ("is a file", finished("{}", &[("a", 0), ("a/b", 0)])),
        ("twice", finished("{}", &[("a", 0), ("a", 0)])),
        ("control character", finished("{}", &[("a\n0  b", 0)])),
        (
            "plain relative path",
            finished("{}", &[("../../etc/passwd", 0)]),
        ),
        (
            "was not uploaded",
            finished(&format!("{{\"a\":{wide}}}"), &[("a", 5)]),
        ),
        (
            "at.seconds",
            // Its time is changed below.
            metrics(0, "late"),
        ),
    ];
    for (said, body) in attacks {
        let jobs = cluster
            .submit(&format!("{ONE}{}", ONE.replace("one", "two")))
            .await;
        let keys = [worker.take_and_start().await, worker.take_and_start().await];
        let of = |id: i64| *keys.iter().find(|key| key.0 == id).unwrap();
        let (evil, good) = (of(jobs[0].id), of(jobs[1].id));
        if said == "at.seconds" {
            send_from_the_future(&mut worker, evil).await;
        } else {
            worker.report(evil, body).await;
        }
        worker.log(good, &["goes on"]).await;
        worker.finish(good, None).await;
        cluster.wait_for(good.0, JobState::Succeeded).await;
        // Its attempt fails, with a reason and not with the words of the database.
        let failed = cluster
            .wait_until(evil.0, "failed", |job| job.failure.is_some())
            .await;
        let failure = failed.failure.unwrap();
        assert!(failure.message.contains(said), "{said}: {failure:?}");
        assert!(!failure.message.contains("postgres"), "{failure:?}");
        assert_eq!(failure.class(), FailureClass::Crash);
        worker.forget(evil);
        let mut jobs = cluster.jobs().await;
        let cancel = v1::CancelJobRequest { id: evil.0 };
        // It may be tried again, or have ended: either way it can be got rid of.
        let _ = jobs.cancel_job(cancel).await;
        cluster
            .wait_until(evil.0, "over", |job| job.finished_at.is_some())
            .await;
    }
    all_is_well(&cluster, &mut worker).await;
}

async fn send_from_the_future(worker: &mut crate::support::worker::FakeWorker, key: Key) {
    let (job_id, attempt, rank) = key;
    let report = v1::Report {
        job_id,
        attempt,
        rank,
        // After those of its start.
        sequence: 3,
        at: Some(marquee_proto::convert::timestamp(
            chrono::DateTime::from_timestamp(8_000_000_000_000, 0).unwrap(),
        )),
        body: Some(metrics(1, "loss")),
    };
    let reports = vec![report];
    worker.send(Out::Reports(v1::Reports { reports })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_floods_is_let_go_and_the_others_are_served() {
    let cluster = Cluster::start().await;
    let mut good = cluster.worker("good").await;
    let mut evil = cluster.worker("evil").await;
    let report = v1::Report {
        job_id: i64::MIN,
        attempt: u32::MAX,
        rank: u32::MAX,
        sequence: u64::MAX,
        at: None,
        body: None,
    };
    // A few that name nothing are refused one by one.
    let few = vec![report.clone(); 10];
    evil.send(Out::Reports(v1::Reports { reports: few })).await;
    let reports = vec![report; 100_000];
    evil.send(Out::Reports(v1::Reports { reports })).await;
    let status = evil.ended().await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("100000 reports"), "{status}");
    drop(evil);
    all_is_well(&cluster, &mut good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_data_folder_takes_nothing_over_and_both_are_told() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(ONE).await[0].id;
    let mut owner = cluster.worker("gpu-1").await;
    let key = owner.take_and_start().await;
    for _ in 0..3 {
        let refused = owner.connect_clone(&cluster.running.address).await;
        let status = refused.err().expect("the copy is refused");
        assert_eq!(status.code(), Code::FailedPrecondition);
        let public = marquee_proto::error::PublicError::from(&status);
        assert_eq!(public.code.as_deref(), Some("MQ0307"));
        assert!(status.message().contains("worker-id"), "{status}");
    }
    let notice = owner.notice().await;
    assert!(
        notice.contains("was refused") && notice.contains("worker-id"),
        "{notice}"
    );
    let shown = cluster.workers().await;
    assert!(shown[0].rival.contains("was refused"), "{shown:?}");
    // The owner's attempt did not notice.
    owner.finish(key, None).await;
    assert_eq!(cluster.wait_for(id, JobState::Succeeded).await.attempt, 1);
    // The owner's own daemon may come back on another connection at once; the copy only when the owner is gone.
    let again = owner.reconnect(&cluster.running.address).await.unwrap();
    drop(again);
    let mut heir = None;
    for _ in 0..200 {
        heir = owner.connect_clone(&cluster.running.address).await.ok();
        if heir.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    drop(owner);
    all_is_well(&cluster, &mut heir.expect("the id is free")).await;
}
