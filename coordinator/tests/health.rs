//! GPUs that something speaks against, from the outside: quarantines by evidence, burn-ins, and how they end.

use chrono::{DateTime, TimeDelta};
use marquee_coordinator::env::Env;
use marquee_proto::convert::timestamp;
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::audit_client::AuditClient;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_proto::v1::{FailureClass, JobState};
use marquee_store::testing::TestDatabase;
use tonic::Status;

use crate::support::worker::{FakeWorker, key_of};
use crate::support::{Cluster, Ground, channel};

fn gpu(index: u32, uuid: &str) -> v1::Gpu {
    v1::Gpu {
        index,
        uuid: uuid.into(),
        name: "H100".into(),
        memory_bytes: 1 << 36,
        compute_major: 9,
        compute_minor: 0,
        part: None,
    }
}

fn two() -> Vec<v1::Gpu> {
    vec![gpu(0, "GPU-a"), gpu(1, "GPU-b")]
}

/// What "GPU-b" says after an Xid that came at this minute, `count` times so far.
fn ill(index: u32, code: u64, minute: i64, count: u64) -> v1::GpuReading {
    let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap() + TimeDelta::minutes(minute);
    v1::GpuReading {
        index,
        uuid: "GPU-b".into(),
        evidence: vec![v1::GpuEvidence {
            kind: "xid".into(),
            code,
            first_at: Some(timestamp(at)),
            last_at: Some(timestamp(at)),
            count,
            text: format!("NVRM: Xid (PCI:0000:3b:00): {code}"),
        }],
        ..v1::GpuReading::default()
    }
}

/// For GPUs, as many as are given.
fn job(name: &str, keys: &str) -> String {
    format!("[jobs.{name}]\nkind = \"command\"\nargv = [\"true\"]\ndevice = \"gpu\"\n{keys}\n")
}

async fn burn_in(cluster: &Cluster, worker: &str, gpu: u32, id: &str) -> Result<i64, Status> {
    let mut client = WorkersClient::new(channel(&cluster.running.address).await);
    let request = v1::BurnInRequest {
        worker_name: worker.into(),
        gpu,
        minutes: 1,
        request_id: id.into(),
    };
    Ok(client.burn_in(request).await?.into_inner().job_id)
}

fn code(status: &Status) -> String {
    PublicError::from(status).code.unwrap_or_default()
}

/// Waits until what is in quarantine is like this.
async fn until(
    cluster: &Cluster,
    what: &str,
    is_it: impl Fn(&[v1::QuarantinedGpu]) -> bool,
) -> Vec<v1::QuarantinedGpu> {
    for _ in 0..400 {
        let mut workers = cluster.workers().await;
        let gpus = std::mem::take(&mut workers[0].quarantined_gpus);
        if is_it(&gpus) {
            return gpus;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{what} did not come: {:?}", cluster.workers().await);
}

async fn host(cluster: &Cluster) -> FakeWorker {
    FakeWorker::connect_with_gpus(&cluster.running.address, "gpu-1", two()).await
}

async fn rounds(cluster: &Cluster) {
    use marquee_coordinator::background::{Loop, one_round};
    one_round(cluster.app(), Loop::Health).await.unwrap();
}

#[tokio::test]
async fn evidence_closes_a_gpu_over_restarts_of_both_and_is_settled_by_its_end() {
    let mut cluster = Cluster::start().await;
    let worker = host(&cluster).await;
    worker.say_gpus(vec![ill(1, 79, 0, 3)]).await;
    let gpus = until(&cluster, "quarantine", |gpus| gpus.len() == 1).await;
    let of = &gpus[0];
    assert_eq!(
        (of.index, of.uuid.as_str(), of.automatic),
        (1, "GPU-b", true)
    );
    assert_eq!(of.by, "worker gpu-1");
    assert_eq!((of.evidence[0].code, of.evidence[0].count), (79, 3));
    assert!(
        of.reason
            .contains("the GPU has fallen off the bus), 3 times"),
        "{}",
        of.reason
    );
    assert!(
        of.reason.contains("NVRM: Xid (PCI:0000:3b:00): 79"),
        "{}",
        of.reason
    );

    // Who waits for it is told, and how it ends.
    let both = cluster.submit(&job("both", "devices_per_rank = 2")).await[0].id;
    let waits = |job: &v1::Job| job.reason.contains("Xid 79");
    let reason = cluster.wait_until(both, "reason", waits).await.reason;
    assert!(
        reason.contains("gpu 1 of gpu-1 (H100) is left out"),
        "{reason}"
    );
    assert!(reason.contains("\"marquee burn-in gpu-1/1\""), "{reason}");

    // The audit names the worker.
    let mut audit = AuditClient::new(channel(&cluster.running.address).await);
    let lines = audit.list(v1::ListAuditRequest::default()).await.unwrap();
    let (mut lines, mut found) = (lines.into_inner(), false);
    while let Some(line) = lines.message().await.unwrap() {
        found |= line.kind == "standing_set" && line.actor == "worker gpu-1";
    }
    assert!(found, "the audit has no line of it");

    // Both start again; the driver has numbered the GPUs anew.
    cluster.kill().await;
    cluster.start_again().await;
    let swapped = vec![gpu(0, "GPU-b"), gpu(1, "GPU-a")];
    let worker = worker
        .reconnect_with_gpus(&cluster.running.address, swapped)
        .await;
    worker.say_gpus(vec![ill(0, 79, 0, 3)]).await;
    let gpus = until(&cluster, "its new number", |gpus| {
        gpus.iter().any(|gpu| gpu.index == 0)
    })
    .await;
    assert_eq!((gpus.len(), gpus[0].uuid.as_str()), (1, "GPU-b"));

    // Lifted: what is known brings it back no more, and something new does.
    let lift = v1::QuarantineWorkerRequest {
        name: "gpu-1".into(),
        gpu: Some(0),
        reason: String::new(),
        lift: true,
    };
    let mut workers = WorkersClient::new(channel(&cluster.running.address).await);
    workers.quarantine_worker(lift).await.unwrap();
    let mut worker = worker;
    assert_eq!(worker.take().await.job_id, both);
    worker.say_gpus(vec![ill(0, 79, 0, 3)]).await;
    rounds(&cluster).await;
    rounds(&cluster).await;
    assert_eq!(cluster.workers().await[0].quarantined_gpus, []);
    worker.say_gpus(vec![ill(0, 48, 5, 1)]).await;
    until(&cluster, "another one", |gpus| gpus.len() == 1).await;
}

#[tokio::test]
async fn a_burn_in_has_its_gpu_alone_and_brings_it_back() {
    let cluster = Cluster::start().await;
    let mut worker = host(&cluster).await;
    worker.say_gpus(vec![ill(1, 79, 0, 1)]).await;
    until(&cluster, "quarantine", |gpus| gpus.len() == 1).await;
    // Asked twice it is one job; another one is refused.
    let id = burn_in(&cluster, "gpu-1", 1, "first").await.unwrap();
    assert_eq!(burn_in(&cluster, "gpu-1", 1, "first").await.unwrap(), id);
    let refused = burn_in(&cluster, "gpu-1", 1, "second").await.unwrap_err();
    assert_eq!(code(&refused), "MQ0398");
    assert!(
        refused.message().contains(&format!("job {id}")),
        "{}",
        refused.message()
    );

    let assign = worker.take().await;
    assert_eq!(assign.job_id, id);
    let device = v1::Device {
        kind: Some(v1::device::Kind::Gpu(1)),
    };
    assert_eq!(assign.devices, [device]);
    assert!(assign.spec_json.contains("burn-in"), "{}", assign.spec_json);
    // Meanwhile others get the other one, and no more.
    let first = cluster.submit(&job("one", "")).await[0].id;
    let second = cluster.submit(&job("two", "")).await[0].id;
    let other = worker.take().await;
    assert_eq!(other.job_id, first);
    cluster
        .wait_until(second, "reason", |job| job.reason.contains("in quarantine"))
        .await;
    worker.prepare(&assign).await;
    worker.started(key_of(&assign)).await;
    worker.finish(key_of(&assign), None).await;
    cluster.wait_for(id, JobState::Succeeded).await;
    until(&cluster, "its end", <[_]>::is_empty).await;
    assert_eq!(worker.take().await.job_id, second);
    // The worker goes on telling what it saw.
    worker.say_gpus(vec![ill(1, 79, 0, 1)]).await;
    rounds(&cluster).await;
    assert_eq!(cluster.workers().await[0].quarantined_gpus, []);
}

#[tokio::test]
async fn a_burn_in_that_does_not_pass_leaves_the_gpu_where_it_is_and_says_why() {
    let cluster = Cluster::start().await;
    let mut worker = host(&cluster).await;
    worker.say_gpus(vec![ill(1, 79, 0, 1)]).await;
    until(&cluster, "quarantine", |gpus| gpus.len() == 1).await;
    let why = |text: &'static str| {
        move |gpus: &[v1::QuarantinedGpu]| gpus.len() == 1 && gpus[0].burn_in_failure.contains(text)
    };
    // It finds something.
    let id = burn_in(&cluster, "gpu-1", 1, "a").await.unwrap();
    let key = worker.take_and_start().await;
    let wrong = "marquee-trainer exited with status 1: arithmetic is wrong: 1 of 9 sums";
    worker.fail(key, FailureClass::UserError, wrong).await;
    let gpus = until(&cluster, "its end", why("arithmetic is wrong")).await;
    assert_eq!(gpus[0].burn_in_job, Some(id));
    assert!(
        gpus[0].reason.contains("arithmetic is wrong"),
        "{}",
        gpus[0].reason
    );
    // It is cancelled before it begins.
    worker
        .say_gpus(vec![v1::GpuReading {
            fault: "does not answer NVML".into(),
            cure: "reset it".into(),
            ..ill(1, 79, 0, 1)
        }])
        .await;
    let id = burn_in(&cluster, "gpu-1", 1, "b").await.unwrap();
    let waits = |job: &v1::Job| job.reason.contains("which is ill: does not answer NVML");
    cluster.wait_until(id, "reason", waits).await;
    let cancel = v1::CancelJobRequest { id };
    cluster.jobs().await.cancel_job(cancel).await.unwrap();
    until(&cluster, "its end", why("was cancelled")).await;
    // It passes, while the device shows the next error.
    worker.say_gpus(vec![ill(1, 79, 0, 1)]).await;
    burn_in(&cluster, "gpu-1", 1, "c").await.unwrap();
    let assign = worker.take().await;
    worker.prepare(&assign).await;
    worker.started(key_of(&assign)).await;
    worker.say_gpus(vec![ill(1, 48, 7, 1)]).await;
    worker.finish(key_of(&assign), None).await;
    until(&cluster, "its end", why("something new")).await;
}

#[tokio::test]
async fn what_cannot_be_tested_is_refused_with_the_way_out() {
    let cluster = Cluster::start().await;
    let _cpus = cluster.worker("cpu-1").await;
    let address = &cluster.running.address;
    let mut parts = vec![gpu(0, "GPU-a"), gpu(2, "GPU-b"), gpu(3, "GPU-b")];
    for part in &mut parts[1..] {
        part.part = Some(v1::GpuPart {
            of: 1,
            is_share: true,
        });
    }
    let _gpus = FakeWorker::connect_with_gpus(address, "gpu-1", parts).await;
    for (worker, gpu, expected, words) in [
        ("cpu-1", 0, "MQ0397", "has no GPU; its CPU slots"),
        ("gpu-1", 0, "MQ0397", "is not in quarantine"),
        (
            "gpu-1",
            1,
            "MQ0397",
            "offered in parts: name one of gpu-1/2, gpu-1/3",
        ),
        ("gpu-1", 9, "MQ0397", "has no gpu 9 now"),
        ("gpu-9", 0, "MQ0333", "there is no worker"),
    ] {
        let id = format!("{worker}/{gpu}");
        let refused = burn_in(&cluster, worker, gpu, &id).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{id}: {}", refused.message());
        assert!(
            refused.message().contains(words),
            "{id}: {}",
            refused.message()
        );
    }
    // Nothing was stored on the way.
    let jobs = v1::ListJobsRequest::default();
    let jobs = cluster.jobs().await.list_jobs(jobs).await.unwrap();
    assert!(jobs.into_inner().jobs.is_empty());
}

#[tokio::test]
async fn three_pipelines_that_fail_on_one_gpu_cost_it_its_place_and_one_alone_does_not() {
    let cluster = Cluster::start().await;
    let mut worker = host(&cluster).await;
    // The other GPU is held, so that all of these come to the same one.
    let holder = cluster.submit(&job("holder", "")).await[0].id;
    assert_eq!(worker.take_and_start().await.0, holder);
    let message = "CUDA error: an illegal memory access was encountered";
    let mut fail = async |name: &str| {
        let once = "max_attempts = 1\nhosts = { labels = [] }";
        let id = cluster.submit(&job(name, once)).await[0].id;
        let key = worker.take_and_start().await;
        assert_eq!(key.0, id);
        worker.fail(key, FailureClass::DeviceFault, message).await;
        cluster.wait_for(id, JobState::Failed).await;
    };
    fail("a").await;
    fail("b").await;
    rounds(&cluster).await;
    assert_eq!(cluster.workers().await[0].quarantined_gpus, []);
    fail("c").await;
    let gpus = until(&cluster, "quarantine", |gpus| gpus.len() == 1).await;
    assert_eq!(gpus[0].evidence[0].kind, "device_faults");
    assert_eq!((gpus[0].index, gpus[0].evidence[0].count), (1, 3));
    assert!(
        gpus[0].reason.contains("illegal memory access"),
        "{}",
        gpus[0].reason
    );
}

#[tokio::test]
async fn where_the_settings_say_so_a_gpu_is_tested_once_by_itself() {
    let ground = Ground {
        burn_in_minutes: Some(7),
        ..Ground::default()
    };
    let database = TestDatabase::create().await;
    let cluster = Cluster::start_with(database, Env::system(), ground).await;
    let mut worker = host(&cluster).await;
    worker.say_gpus(vec![ill(1, 79, 0, 1)]).await;
    let assign = worker.take().await;
    assert!(assign.spec_json.contains("\"7\""), "{}", assign.spec_json);
    worker.prepare(&assign).await;
    worker.started(key_of(&assign)).await;
    worker.finish(key_of(&assign), None).await;
    until(&cluster, "its end", <[_]>::is_empty).await;
    // The next time within the week it is for people to decide.
    worker.say_gpus(vec![ill(1, 79, 9, 2)]).await;
    until(&cluster, "quarantine", |gpus| gpus.len() == 1).await;
    rounds(&cluster).await;
    rounds(&cluster).await;
    let gpus = cluster.workers().await.remove(0).quarantined_gpus;
    assert_eq!(gpus[0].burn_in_job, None);
}

/// A figure of this process.
async fn figure(cluster: &Cluster, name: &str) -> f64 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = cluster.running.address.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_failure_that_is_stored_at_the_third_try_is_counted_once() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let text = "[jobs.a]\nkind = \"command\"\nargv = [\"false\"]\nmax_attempts = 1\n";
    let id = cluster.submit(text).await[0].id;
    let key = worker.take_and_start().await;
    // Two commits fail, as when Postgres goes away in the middle of them.
    for sql in [
        "CREATE SEQUENCE tries",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.state = 'failed' AND nextval('tries') <= 2 THEN
                 RAISE EXCEPTION 'not yet' USING ERRCODE = '40001';
             END IF;
             RETURN NULL;
         END $$",
        "CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON attempts
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
    ] {
        cluster.database.execute(sql).await;
    }
    worker
        .fail(key, FailureClass::UserError, "exited with status 1")
        .await;
    cluster.wait_for(id, JobState::Failed).await;
    let name = "marquee_attempt_failures_total{class=\"user_error\"}";
    assert_eq!(figure(&cluster, name).await, 1.0);
    let name = "marquee_gpus_quarantined{cause=\"by_hand\"}";
    assert_eq!(figure(&cluster, name).await, 0.0);
}
