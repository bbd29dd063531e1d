//! Faults of our own: panics in loops, sessions and requests. They are made where all of these ask, in the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_coordinator::env::{Clock, Env, SystemClock};
use marquee_coordinator::scheduler::{Host, Limits, Plan, Queue, plan};
use marquee_proto::v1::JobState;
use marquee_store::testing::TestDatabase;

use super::{ONE, all_is_well};
use crate::support::Cluster;

/// A clock over which, while it is armed, every third that asks stumbles.
#[derive(Debug, Default)]
struct Stumbling {
    armed: AtomicBool,
    asked: AtomicU32,
    panics: AtomicU32,
}

impl Clock for Stumbling {
    fn now(&self) -> DateTime<Utc> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if self.armed.load(Ordering::Relaxed) && asked.is_multiple_of(3) {
            self.panics.fetch_add(1, Ordering::Relaxed);
            panic!("a clock that stumbles");
        }
        SystemClock.now()
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }
}

/// Each of them ended the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_loop_a_session_or_a_request_ends_nothing_else() {
    let clock = Arc::new(Stumbling::default());
    let env = Env {
        clock: clock.clone(),
        ..Env::system()
    };
    let cluster = Cluster::start_in(TestDatabase::create().await, env).await;
    let mut worker = cluster.worker("w").await;
    all_is_well(&cluster, &mut worker).await;

    clock.armed.store(true, Ordering::Relaxed);
    let mut failed = 0;
    while clock.panics.load(Ordering::Relaxed) < 60 {
        // Requests meet it too, and are answered.
        let request = crate::support::request(&uuid::Uuid::new_v4().to_string(), ONE);
        if let Err(status) = cluster.jobs().await.submit_pipeline(request).await {
            assert_eq!(status.code(), tonic::Code::Internal, "{status}");
            assert!(
                status.message().contains("a clock that stumbles"),
                "{status}"
            );
            failed += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(failed > 0, "no request met it");
    clock.armed.store(false, Ordering::Relaxed);

    // Everything works again: what was submitted meanwhile runs to its end on whoever is there.
    let mut worker = worker.reconnect(&cluster.running.address).await.unwrap();
    let mut jobs = cluster.jobs().await;
    let list = marquee_proto::v1::ListJobsRequest {
        page_size: 1_000,
        ..Default::default()
    };
    let listed = jobs.list_jobs(list).await.unwrap().into_inner().jobs;
    let open = |job: &&marquee_proto::v1::Job| job.finished_at.is_none();
    let waiting: Vec<i64> = listed.iter().filter(open).map(|job| job.id).collect();
    assert!(!waiting.is_empty(), "some were taken");
    for _ in 0..waiting.len() {
        let key = worker.take_and_start().await;
        worker.finish(key, None).await;
    }
    for id in waiting {
        cluster.wait_for(id, JobState::Succeeded).await;
    }
    all_is_well(&cluster, &mut worker).await;
}

const ODD_PRIORITY: i32 = 7;

/// Plans what it is given, but for one job that nobody had thought of.
fn stumbles_over_one(queue: &Queue, hosts: &[Host], limits: &Limits, now: DateTime<Utc>) -> Plan {
    assert!(
        !queue.iter().any(|job| job.priority == ODD_PRIORITY),
        "a job that nobody had thought of"
    );
    plan(queue, hosts, limits, now)
}

/// Without a wall each round ended with it, and nothing was placed any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_the_planner_stumbles_over_is_set_aside_and_all_others_run() {
    let env = Env {
        planner: stumbles_over_one,
        ..Env::system()
    };
    let cluster = Cluster::start_in(TestDatabase::create().await, env).await;
    let mut worker = cluster.worker("w").await;
    let odd =
        format!("[jobs.odd]\nkind = \"command\"\nargv = [\"true\"]\npriority = {ODD_PRIORITY}\n");
    let odd = cluster.submit(&odd).await[0].id;
    // Of the same shape, and behind it in the queue.
    all_is_well(&cluster, &mut worker).await;
    let job = cluster.job(odd).await;
    assert_eq!(job.state(), JobState::Queued);
    assert!(
        job.reason.contains("MQ0503") && job.reason.contains("nobody had thought of"),
        "{}",
        job.reason
    );
    all_is_well(&cluster, &mut worker).await;
    // It stays its owner's: it can be cancelled like any other.
    let request = marquee_proto::v1::CancelJobRequest { id: odd };
    cluster.jobs().await.cancel_job(request).await.unwrap();
    cluster.wait_for(odd, JobState::Cancelled).await;
}
