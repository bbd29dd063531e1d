//! What the store's tests start from: a worker, and a pipeline of jobs.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::ids::{AttemptNumber, BootId, JobId, PipelineId, Rank, WorkerId};
use marquee_domain::resources::{Device, DeviceKind, Inventory, Resources};
use marquee_domain::spec::{CommandSettings, JobSpec, Work};
use marquee_store::Tx;
use marquee_store::attempts::{NewAttempt, insert_attempt};
use marquee_store::jobs::{NewJob, insert_job, insert_need};
use marquee_store::pipelines::{NewPipeline, insert_pipeline};
use marquee_store::ranks::{NewRank, RankKey, insert_rank};
use marquee_store::transitions::mark_job_running;
use marquee_store::workers::{WorkerHello, mark_worker_online};
use uuid::Uuid;

pub fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

pub fn hello(number: u128, name: &str) -> WorkerHello {
    WorkerHello {
        id: WorkerId(Uuid::from_u128(number)),
        name: name.into(),
        boot_id: BootId(Uuid::from_u128(100 + number)),
        instance_id: Uuid::from_u128(200 + number),
        prep_code: "code-1".into(),
        identity: None,
        version: "0.1.0".into(),
        inventory: Inventory {
            hostname: name.into(),
            cpu_threads: 4,
            memory_bytes: 1 << 30,
            cpu_slots: 2,
            threads_per_slot: 2,
            gpus: vec![],
            address: "127.0.0.1".into(),
            flavour: String::new(),
        },
    }
}

pub fn spec(name: &str, ranks: u32) -> JobSpec {
    JobSpec {
        name: name.parse().unwrap(),
        work: Work::Command(CommandSettings {
            argv: vec!["true".into()],
            env: Default::default(),
        }),
        needs: vec![],
        inputs: Default::default(),
        resources: Resources {
            ranks,
            min_ranks: None,
            device: DeviceKind::Cpu,
            devices_per_rank: 1,
        },
        priority: 0,
        max_attempts: 3,
        timeout_s: None,
        array: None,
        reuse: true,
        element: None,
    }
}

/// Stores a pipeline named after its request.
pub async fn pipeline(tx: &mut Tx, request_id: &str) -> PipelineId {
    let new = NewPipeline {
        name: &"posters".parse().unwrap(),
        request_id,
        document_digest: &Digest::of(request_id.as_bytes()),
        created_at: at(0),
    };
    insert_pipeline(tx, &new).await.unwrap().unwrap()
}

/// Stores a job that needs `needs`.
pub async fn job(
    tx: &mut Tx,
    pipeline: PipelineId,
    position: u32,
    spec: &JobSpec,
    needs: &[JobId],
) -> JobId {
    let waits = (!needs.is_empty()).then_some("waits");
    let new = NewJob {
        pipeline,
        position,
        spec,
        waits,
        array_job: None,
        created_at: at(0),
    };
    let id = insert_job(tx, &new).await.unwrap();
    for need in needs {
        insert_need(tx, id, *need).await.unwrap();
    }
    id
}

/// Places a queued job of one rank on a worker, as its first attempt.
pub async fn place(tx: &mut Tx, job: JobId, worker: WorkerId) -> RankKey {
    let number = mark_job_running(tx, job, 0, at(1)).await.unwrap();
    assert_eq!(number, AttemptNumber(1));
    let attempt = NewAttempt {
        job,
        number,
        resume: None,
        created_at: at(1),
    };
    insert_attempt(tx, &attempt).await.unwrap();
    let key = RankKey {
        job,
        attempt: number,
        rank: Rank(0),
    };
    let devices = [Device::Cpu { index: 0 }];
    insert_rank(
        tx,
        &NewRank {
            key,
            worker,
            local_rank: 0,
            devices: &devices,
        },
    )
    .await
    .unwrap();
    key
}

/// One job of one rank, running on one worker.
pub async fn running_job(tx: &mut Tx) -> (WorkerHello, RankKey) {
    let worker = hello(1, "w1");
    mark_worker_online(tx, &worker, at(0)).await.unwrap();
    let pipeline = pipeline(tx, "request").await;
    let job = job(tx, pipeline, 0, &spec("fetch", 1), &[]).await;
    let key = place(tx, job, worker.id).await;
    (worker, key)
}
