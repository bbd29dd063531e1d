//! What the cluster says of itself: the overview, how it was used, and what one damaged row does to either.

use std::collections::BTreeMap;

use crate::support::worker::FakeWorker;
use crate::support::{Cluster, channel};
use marquee_proto::v1;
use marquee_proto::v1::cluster_client::ClusterClient;
use marquee_proto::v1::{FailureClass, JobState};
use tonic::transport::Channel;

fn job(name: &str, keys: &str) -> String {
    format!("[jobs.{name}]\nkind = \"command\"\nargv = [\"true\"]\nmax_attempts = 1\n{keys}\n")
}

async fn client(cluster: &Cluster) -> ClusterClient<Channel> {
    ClusterClient::new(channel(&cluster.running.address).await)
}

async fn overview(cluster: &Cluster) -> v1::Overview {
    let asked = client(cluster)
        .await
        .get_overview(v1::GetOverviewRequest {})
        .await;
    asked.unwrap().into_inner()
}

/// Jobs by state, without states of which there are none.
fn counts(overview: &v1::Overview) -> BTreeMap<&'static str, u32> {
    let count = |of: &v1::StateCount| (of.state().as_str_name(), of.jobs);
    overview.jobs.iter().map(count).collect()
}

fn ids(jobs: &[v1::Job]) -> Vec<i64> {
    jobs.iter().map(|job| job.id).collect()
}

/// Jobs that succeeded, failed, run and wait, on the two slots of a worker; the last one is the newest.
async fn a_day(cluster: &Cluster, worker: &mut FakeWorker) -> [i64; 4] {
    let succeeded = cluster.submit(&job("done", "")).await[0].id;
    let key = worker.take_and_start().await;
    worker.finish(key, None).await;
    cluster.wait_for(succeeded, JobState::Succeeded).await;
    let failed = cluster.submit(&job("broken", "")).await[0].id;
    let key = worker.take_and_start().await;
    worker
        .fail(key, FailureClass::UserError, "no such file")
        .await;
    cluster.wait_for(failed, JobState::Failed).await;
    let running = cluster.submit(&job("busy", "")).await[0].id;
    worker.take_and_start().await;
    cluster.wait_for(running, JobState::Running).await;
    // It wants both slots, and one is taken.
    let waiting = cluster.submit(&job("wide", "ranks = 2")).await[0].id;
    cluster
        .wait_until(waiting, "told why it waits", |job| !job.reason.is_empty())
        .await;
    [succeeded, failed, running, waiting]
}

#[tokio::test]
async fn an_overview_adds_up_and_names_what_it_counts() {
    let cluster = Cluster::start().await;
    let empty = overview(&cluster).await;
    assert_eq!((counts(&empty), empty.newest_job_id), (BTreeMap::new(), 0));
    assert_eq!((empty.queued, empty.queue), (0, vec![]));
    let mut worker = cluster.worker("w1").await;
    let [succeeded, failed, running, waiting] = a_day(&cluster, &mut worker).await;
    let seen = overview(&cluster).await;
    assert_eq!(
        counts(&seen),
        BTreeMap::from([
            ("JOB_STATE_SUCCEEDED", 1),
            ("JOB_STATE_FAILED", 1),
            ("JOB_STATE_RUNNING", 1),
            ("JOB_STATE_QUEUED", 1),
        ])
    );
    assert_eq!(ids(&seen.running), [running]);
    assert_eq!(
        ids(&seen.ended),
        [failed, succeeded],
        "the latest end first"
    );
    assert_eq!((seen.newest_job_id, seen.queued), (waiting, 1));
    let queue: Vec<(u32, i64)> = seen
        .queue
        .iter()
        .map(|reason| (reason.jobs, reason.example_job_id))
        .collect();
    assert_eq!(queue, [(1, waiting)]);
    // The overview and the job say it in the same words.
    assert_eq!(seen.queue[0].text, cluster.job(waiting).await.reason);
    let devices = |count: Option<v1::DeviceCount>| {
        let count = count.unwrap_or_default();
        (count.held, count.all, count.closed)
    };
    assert_eq!((seen.workers_online, seen.workers_lost), (1, 0));
    assert_eq!(
        (devices(seen.cpus), devices(seen.gpus)),
        ((1, 2, 0), (0, 0, 0))
    );
    assert!(!seen.stands_by && seen.safe_mode.is_empty(), "{seen:?}");
}

/// As a newer version may have stored it, or a hand: it is left out where many are shown, and told where it is asked for.
#[tokio::test]
async fn a_job_that_cannot_be_read_hides_no_other_from_an_overview() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let [succeeded, failed, running, waiting] = a_day(&cluster, &mut worker).await;
    let damage = format!("UPDATE jobs SET failure_class = 'gremlin' WHERE id = {failed}");
    cluster.database.execute(&damage).await;
    let seen = overview(&cluster).await;
    assert_eq!(ids(&seen.ended), [succeeded]);
    assert_eq!(ids(&seen.running), [running]);
    assert_eq!(
        counts(&seen)["JOB_STATE_FAILED"],
        1,
        "it is counted all the same"
    );
    let request = v1::ListJobsRequest::default();
    let listed = cluster.jobs().await.list_jobs(request).await.unwrap();
    assert_eq!(
        ids(&listed.into_inner().jobs),
        [waiting, running, succeeded]
    );
    let mut client = cluster.jobs().await;
    let asked = client.get_job(v1::GetJobRequest { id: failed }).await;
    let refused = asked.unwrap_err();
    assert!(refused.message().contains("gremlin"), "{refused}");
}

#[tokio::test]
async fn a_pipeline_is_cancelled_with_those_of_its_jobs_that_cannot_be_read() {
    let cluster = Cluster::start().await;
    let two = cluster.submit(&(job("one", "") + &job("two", ""))).await;
    let damage = format!(
        "UPDATE open_jobs SET failure_class = 'gremlin' WHERE job_id = {}",
        two[0].id
    );
    cluster.database.execute(&damage).await;
    let request = v1::CancelPipelineRequest {
        id: two[0].pipeline_id,
    };
    cluster.jobs().await.cancel_pipeline(request).await.unwrap();
    let left = "SELECT count(*) FROM open_jobs";
    assert_eq!(cluster.database.number(left).await, 0);
    let cancelled = "SELECT count(*) FROM jobs WHERE state = 'cancelled'";
    assert_eq!(cluster.database.number(cancelled).await, 2);
}

#[tokio::test]
async fn usage_is_what_was_held_and_its_parts_are_bounded() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    a_day(&cluster, &mut worker).await;
    let mut client = client(&cluster).await;
    for (hours, buckets, field) in [
        (2_161, 0, "hours"),
        (u32::MAX, 0, "hours"),
        (0, 501, "buckets"),
    ] {
        let request = v1::GetUsageRequest { hours, buckets };
        let refused = client.get_usage(request).await.unwrap_err();
        assert!(refused.message().contains(field), "{refused}");
    }
    for (hours, buckets, parts) in [(0, 0, 96), (1, 1, 1), (2_160, 500, 500)] {
        let request = v1::GetUsageRequest { hours, buckets };
        let used = client.get_usage(request).await.unwrap().into_inner();
        assert_eq!((used.cpus.len(), used.gpus.len()), (parts, parts));
        let held = used.cpus.iter().sum::<f64>();
        assert!(
            held > 0.0 && used.cpus.iter().all(|cpus| (0.0..=2.0).contains(cpus)),
            "{used:?}"
        );
        assert!(used.gpus.iter().all(|gpus| *gpus == 0.0), "{used:?}");
        // The same hours, whichever way they are added up.
        let all = |of: &dyn Fn(&v1::UsageOf) -> f64| used.pipelines.iter().map(of).sum::<f64>();
        let hours = all(&|of| of.cpu_hours);
        let weeks = used
            .project_weeks
            .iter()
            .map(|week| week.cpu_hours)
            .sum::<f64>();
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 + b.abs() * 1e-3;
        assert!(close(weeks, hours), "{weeks} {hours}: {used:?}");
        let lost = all(&|of| of.lost_hours);
        assert!(
            lost > 0.0 && lost < hours,
            "one attempt of three came to nothing: {used:?}"
        );
        assert_eq!(used.pipelines[0].attempts, 3);
        assert!(!used.is_cut);
    }
    // Of nobody there is no past, and no error.
    let nobody = v1::GetGpuHistoryRequest {
        worker_name: "'; DROP TABLE workers".into(),
    };
    let past = client.get_gpu_history(nobody).await.unwrap().into_inner();
    assert_eq!(past.gpus, []);
}
