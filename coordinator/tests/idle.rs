//! Jobs whose GPUs do nothing, by readings that a test makes up: minutes of them in a moment.

use chrono::{DateTime, TimeDelta, Utc};
use marquee_coordinator::background::{self, Loop};
use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use marquee_proto::v1::cluster_client::ClusterClient;
use marquee_proto::v1::projects_client::ProjectsClient;
use marquee_proto::v1::{FailureClass, JobState};

use crate::support::worker::{FakeWorker, Key, key_of};
use crate::support::{Cluster, channel};

fn gpu(index: u32) -> v1::Gpu {
    v1::Gpu {
        index,
        uuid: format!("GPU-{index}"),
        name: "H100".into(),
        memory_bytes: 1 << 36,
        compute_major: 9,
        compute_minor: 0,
        part: None,
    }
}

/// A host of GPUs whose clock is the test's.
struct Host {
    worker: FakeWorker,
    gpus: u32,
    clock: DateTime<Utc>,
}

impl Host {
    async fn start(cluster: &Cluster, gpus: u32) -> Self {
        let all = (0..gpus).map(gpu).collect();
        let address = &cluster.running.address;
        Self {
            worker: FakeWorker::connect_with_gpus(address, "gpu-1", all).await,
            gpus,
            // Nobody's clock but its own.
            clock: DateTime::from_timestamp(1_900_000_000, 0).unwrap(),
        }
    }

    /// Minutes in which each GPU was this busy in all readings.
    async fn pass(&mut self, minutes: i64, busy: Option<u32>) {
        for _ in 0..minutes * 3 {
            self.clock += TimeDelta::seconds(20);
            let reading = |index| v1::GpuReading {
                index,
                uuid: format!("GPU-{index}"),
                at: Some(timestamp(self.clock)),
                utilisation_percent: busy,
                ..v1::GpuReading::default()
            };
            let readings = (0..self.gpus).map(reading).collect();
            self.worker.say_gpus(readings).await;
        }
    }
}

/// Makes an attempt older than it is: its GPUs did nothing in its own time.
async fn an_hour_old(cluster: &Cluster, key: Key) {
    let older = format!(
        "UPDATE attempts SET started_at = started_at - interval '1 hour' WHERE job_id = {}",
        key.0
    );
    cluster.database.execute(&older).await;
}

async fn stop_after(cluster: &Cluster, minutes: u32) {
    let mut projects = ProjectsClient::new(channel(&cluster.running.address).await);
    let set = v1::SetProjectRequest {
        name: "default".into(),
        idle_stop_min: Some(minutes),
        ..v1::SetProjectRequest::default()
    };
    let set = projects.set_project(set).await.unwrap().into_inner();
    assert_eq!(set.idle_stop_min, Some(minutes));
}

async fn overview(cluster: &Cluster) -> (u32, u32) {
    let mut client = ClusterClient::new(channel(&cluster.running.address).await);
    let seen = client.get_overview(v1::GetOverviewRequest {}).await;
    let seen = seen.unwrap().into_inner();
    (seen.idle_jobs, seen.idle_gpus)
}

const ON_TWO: &str =
    "[jobs.a]\nkind = \"command\"\nargv = [\"true\"]\ndevice = \"gpu\"\ndevices_per_rank = 2\n";

#[tokio::test]
async fn a_job_that_uses_none_of_its_gpus_is_said_to_idle_and_then_stopped() {
    let cluster = Cluster::start().await;
    stop_after(&cluster, 10).await;
    let mut host = Host::start(&cluster, 2).await;
    let id = cluster.submit(ON_TWO).await[0].id;
    let key = host.worker.take_and_start().await;
    an_hour_old(&cluster, key).await;
    host.pass(6, Some(0)).await;
    let idles = |job: &v1::Job| job.idle_since.is_some();
    cluster.wait_until(id, "idle", idles).await;
    assert_eq!(overview(&cluster).await, (1, 2));
    let lines = "SELECT kind FROM audit WHERE kind = 'idle' AND detail ->> 'since' IS NOT NULL";
    assert_eq!(cluster.database.words(lines).await, ["idle"]);

    // It works again, once: all of that is forgotten.
    host.pass(1, Some(40)).await;
    cluster
        .wait_until(id, "at work", |job| job.idle_since.is_none())
        .await;
    assert_eq!(overview(&cluster).await, (0, 0));
    host.pass(6, Some(1)).await;
    cluster.wait_until(id, "idle again", idles).await;
    assert_eq!(cluster.job(id).await.state(), JobState::Running);
    host.pass(5, Some(0)).await;
    let stop = host.worker.stop(key).await;
    assert!(!stop.forget, "it may leave in order: {stop:?}");
    let job = cluster.wait_for(id, JobState::Failed).await;
    let failure = job.failure.unwrap();
    assert_eq!(failure.class(), FailureClass::Idle);
    for part in [
        "any of its GPUs (gpu-1/0, gpu-1/1)",
        "project default stops such jobs after 10 min",
        "idle_ok = true",
        &format!("\"marquee retry {id}\" runs it again"),
    ] {
        assert!(failure.message.contains(part), "{part}: {failure:?}");
    }
    let events = cluster.detail(id).await.events;
    let said = |text: &str| {
        events
            .iter()
            .filter(|event| event.text.contains(text))
            .count()
    };
    assert_eq!(
        (said("idles: in no reading"), said("idles no more")),
        (2, 1)
    );
    assert_eq!(job.attempt, 1, "it is not tried again");
}

#[tokio::test]
async fn nothing_is_concluded_from_silence_or_of_those_that_may_rest() {
    let cluster = Cluster::start().await;
    let mut host = Host::start(&cluster, 4).await;
    let on_one = |name: &str, keys: &str| {
        format!("[jobs.{name}]\nkind = \"command\"\nargv = [\"true\"]\ndevice = \"gpu\"\n{keys}\n")
    };
    // One says that it may, one fetches its inputs still, one has just begun, and one has idled for an hour.
    let resting = cluster.submit(&on_one("rests", "idle_ok = true")).await[0].id;
    an_hour_old(&cluster, host.worker.take_and_start().await).await;
    let fetching = cluster.submit(&on_one("fetches", "")).await[0].id;
    assert_eq!(key_of(&host.worker.take().await).0, fetching);
    let new = cluster.submit(&on_one("new", "")).await[0].id;
    host.worker.take_and_start().await;
    let idle = cluster.submit(&on_one("idle", "")).await[0].id;
    an_hour_old(&cluster, host.worker.take_and_start().await).await;
    // Long enough, were it not for a reading that said nothing, and a pause.
    host.pass(10, Some(0)).await;
    host.pass(1, None).await;
    host.pass(10, Some(0)).await;
    host.clock += TimeDelta::minutes(10);
    host.pass(10, Some(0)).await;
    background::one_round(cluster.app(), Loop::Idle)
        .await
        .unwrap();
    assert_eq!(overview(&cluster).await, (0, 0));

    host.pass(6, Some(0)).await;
    let job = cluster
        .wait_until(idle, "idle", |job| job.idle_since.is_some())
        .await;
    // Without a time in its project nothing stops it, however long.
    host.pass(60, Some(0)).await;
    background::one_round(cluster.app(), Loop::Idle)
        .await
        .unwrap();
    assert_eq!(job.state(), JobState::Running);
    assert_eq!(overview(&cluster).await, (1, 1));
    for id in [resting, fetching, new] {
        let job = cluster.job(id).await;
        assert!(
            job.idle_since.is_none() && job.makes_room.is_empty(),
            "{job:?}"
        );
    }
    let events = cluster.detail(idle).await.events;
    assert!(
        events
            .iter()
            .any(|event| event.text.contains("nothing stops it")),
        "{events:?}"
    );
}
