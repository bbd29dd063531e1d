//! What the store's tests start from: a worker, and a pipeline of jobs.

#![allow(unreachable_pub, reason = "what tests share reads as an API")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

pub mod bench;

use chrono::{DateTime, Utc};
use marquee_domain::artifact::{Digest, Manifest};
use marquee_domain::ids::{AttemptNumber, BootId, JobId, PipelineId, Rank, WorkerId};
use marquee_domain::resources::{Device, DeviceKind, Inventory, Resources};
use marquee_domain::spec::{CommandSettings, JobSpec, NeedOn, Work};
use marquee_store::attempts::{NewAttempt, NewRank, insert_attempts};
use marquee_store::jobs::{NewJob, insert_jobs};
use marquee_store::pipelines::{NewPipeline, insert_pipeline};
use marquee_store::ranks::{RankChange, RankKey, Reported, mark_ranks_reported};
use marquee_store::transitions::{At, Success};
use marquee_store::workers::{WorkerHello, mark_worker_online};
use marquee_store::{StoreError, Tx};
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
            labels: Default::default(),
        },
    }
}

pub fn spec(name: &str, ranks: u32) -> JobSpec {
    JobSpec {
        name: name.parse().unwrap(),
        work: Work::Command(CommandSettings {
            argv: vec!["true".into()],
            env: Default::default(),
            env_from_worker: Vec::new(),
        }),
        needs: vec![],
        needs_on: Default::default(),
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
        may_fail: 0,
        reuse: true,
        element: None,
        values: Default::default(),
        watch: Default::default(),
        sharing: Default::default(),
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

/// Stores the jobs of a pipeline, each with the places of those that it needs.
pub async fn jobs<const N: usize>(
    tx: &mut Tx,
    pipeline: PipelineId,
    jobs: [(&JobSpec, &[u32]); N],
) -> [JobId; N] {
    let new = jobs.map(|(spec, needs)| NewJob {
        spec,
        needs: needs
            .iter()
            .map(|need| (*need, NeedOn::Succeeded))
            .collect(),
    });
    let ids = insert_jobs(tx, pipeline, &new, u32::MAX, "test", at(0)).await;
    ids.unwrap().try_into().unwrap()
}

/// Places a queued job of one rank on a worker. `after` is its newest attempt so far.
pub async fn place(tx: &mut Tx, job: JobId, after: u32, worker: WorkerId) -> RankKey {
    let placed = try_place(tx, job, after, worker).await;
    assert_eq!(placed, [job]);
    RankKey {
        job,
        attempt: AttemptNumber(after + 1),
        rank: Rank(0),
    }
}

/// As [`place`]; gives the jobs that were queued at that attempt.
pub async fn try_place(tx: &mut Tx, job: JobId, after: u32, worker: WorkerId) -> Vec<JobId> {
    let devices = [Device::Cpu { index: 0 }];
    let attempt = NewAttempt {
        job,
        after,
        resume: None,
        ranks: vec![NewRank {
            worker,
            local_rank: 0,
            devices: &devices,
        }],
        text: "placed".into(),
    };
    insert_attempts(tx, &[attempt], at(1)).await.unwrap()
}

/// One job of one rank, running on one worker.
pub async fn running_job(tx: &mut Tx) -> (WorkerHello, RankKey) {
    let worker = hello(1, "w1");
    mark_worker_online(tx, &worker, at(0)).await.unwrap();
    let pipeline = pipeline(tx, "request").await;
    let [job] = jobs(tx, pipeline, [(&spec("fetch", 1), &[])]).await;
    let key = place(tx, job, 0, worker.id).await;
    (worker, key)
}

/// What a job commits that leaves no files.
pub fn success(at: At, manifest: &Manifest) -> Success<'_> {
    Success {
        at,
        name: "output",
        manifest,
        code: "",
        text: "succeeded",
    }
}

/// Stores the reports of a rank after `from` up to `to`.
pub async fn report(
    tx: &mut Tx,
    key: RankKey,
    from: u64,
    to: u64,
    change: &RankChange,
) -> Result<(), StoreError> {
    let reported = Reported {
        key,
        from,
        to,
        change,
        starts_attempt: false,
    };
    mark_ranks_reported(tx, &[reported], at(5)).await
}
