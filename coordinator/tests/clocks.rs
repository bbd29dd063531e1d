//! A worker's clock that is wrong, told by its heartbeats: said once each time that it becomes so, and shown as it is.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::ops::Range;
use std::time::{Duration, SystemTime};

use marquee_proto::v1;
use marquee_proto::v1::worker_message::Body;
use tokio::time::timeout;

use crate::support::worker::FakeWorker;
use crate::support::{Cluster, SOON};

/// A worker whose clock the test sets.
struct Clock {
    worker: FakeWorker,
    /// Above those of the heartbeats that it sends by itself.
    sequence: u64,
}

impl Clock {
    async fn of(cluster: &Cluster, name: &str) -> Self {
        Self {
            worker: cluster.worker(name).await,
            sequence: 50_000,
        }
    }

    /// A heartbeat by a clock that is so many seconds ahead. None: of a worker that does not tell.
    async fn says(&mut self, ahead: Option<i64>) {
        self.sequence += 1;
        #[allow(clippy::disallowed_methods, reason = "the test is the worker's clock")]
        let now = SystemTime::now();
        let by = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
        let now = ahead.map(|ahead| {
            if ahead < 0 {
                now - by(ahead)
            } else {
                now + by(ahead)
            }
        });
        let heartbeat = v1::Heartbeat {
            sequence: self.sequence,
            now: now.map(Into::into),
            ..v1::Heartbeat::default()
        };
        self.worker.send(Body::Heartbeat(heartbeat)).await;
    }
}

async fn shown(cluster: &Cluster, name: &str, seconds: Range<i64>) {
    let is_there = |worker: &v1::Worker| {
        let ahead = worker.clock_ahead_ms;
        worker.name == name && ahead.is_some_and(|ms| seconds.contains(&ms.div_euclid(1_000)))
    };
    let found = async {
        while !cluster.workers().await.iter().any(is_there) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, found).await.unwrap();
}

#[tokio::test]
async fn it_is_said_once_each_time_that_a_clock_goes_wrong() {
    let cluster = Cluster::start().await;
    let mut clock = Clock::of(&cluster, "w1").await;
    // Right, wrong, more wrong, wrong the other way: one notice, of the first.
    for ahead in [Some(0), Some(-7_200), Some(-14_400), None, Some(7_200)] {
        clock.says(ahead).await;
    }
    let told = clock.worker.notice().await;
    assert!(
        told.contains("behind") && told.contains("2 h 0 min"),
        "{told}"
    );
    shown(&cluster, "w1", 7_100..7_201).await;
    // It was set right, and goes wrong again: that is news, and the next word that comes.
    for ahead in [Some(0), Some(600), Some(660)] {
        clock.says(ahead).await;
    }
    let told = clock.worker.notice().await;
    let ten = told.contains("9 min 59 s") || told.contains("10 min 0 s");
    assert!(told.contains("ahead of") && ten, "{told}");
    shown(&cluster, "w1", 600..661).await;
    clock.says(Some(0)).await;
    shown(&cluster, "w1", -20..1).await;
}

#[tokio::test]
async fn one_clock_is_nobody_elses_and_one_that_cannot_be_read_is_none() {
    let cluster = Cluster::start().await;
    let mut wrong = Clock::of(&cluster, "wrong").await;
    let mut right = Clock::of(&cluster, "right").await;
    wrong.says(Some(3_600)).await;
    right.says(Some(0)).await;
    shown(&cluster, "wrong", 3_590..3_601).await;
    shown(&cluster, "right", -20..1).await;
    // A time that is no time ends no session, and is not believed.
    right.sequence += 1;
    let heartbeat = v1::Heartbeat {
        sequence: right.sequence,
        now: Some(prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: -1,
        }),
        ..v1::Heartbeat::default()
    };
    right.worker.send(Body::Heartbeat(heartbeat)).await;
    right.says(Some(-600)).await;
    let told = right.worker.notice().await;
    assert!(told.contains("10 min") && told.contains("behind"), "{told}");
    // A worker that comes anew says it anew: nobody may have read what was said before.
    let again = wrong.worker.reconnect(&cluster.running.address).await;
    let mut again = Clock {
        worker: again.unwrap(),
        sequence: 90_000,
    };
    again.says(Some(3_700)).await;
    shown(&cluster, "wrong", 3_690..3_701).await;
    again.says(Some(0)).await;
    again.says(Some(-30)).await;
    let told = again.worker.notice().await;
    assert!(told.contains("behind the coordinator's"), "{told}");
}
