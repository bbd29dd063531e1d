//! A cluster with a long life behind it and a long one before it: a million jobs that have ended, a million queued.
//!
//! Those that have ended are written into the tables as rows like those of real ones: to run them would take hours. Those
//! that are queued are submitted, as arrays, and run while the rate is taken.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use marquee_proto::v1::{
    CancelPipelineRequest, JobKind, JobState, ListJobsRequest, SeriesRequest, SubmitResponse,
};

use crate::Options;
use crate::cluster::Cluster;
use crate::figure::{Figure, Goal, quantile};
use crate::reference::Reference;

/// Jobs that have ended: pipelines of five.
const PIPELINES: u32 = 200_000;
const QUICK_PIPELINES: u32 = 20_000;
/// Queued jobs: arrays of as many elements as one may have.
const ARRAYS: u32 = 10;
const QUICK_ARRAYS: u32 = 1;
const ELEMENTS: u32 = 100_000;
/// What the rate is compared with: a new cluster with this many queued.
const FEW: u32 = 10_000;
/// Values of the curve.
const VALUES: u32 = 1_000_000;
/// Each list, and the curve, so many times.
const ASKED: u32 = 30;
const GOES_ON_MAX: Duration = Duration::from_secs(180);
/// Elements a second, as a share of those of a new cluster.
const RATE_MIN: f64 = 0.9;
const SUBMIT_MAX_S: f64 = 2.0;
const READY_MAX_S: f64 = 3.0;
const MEMORY_MAX_MIB: f64 = 300.0 * 1e6 / (1024.0 * 1024.0);
const LIST_MAX_MS: f64 = 50.0;
const CURVE_MAX_MS: f64 = 300.0;

pub(crate) async fn measure(options: &Options) -> Result<()> {
    let (pipelines, arrays) = if options.is_quick {
        (QUICK_PIPELINES, QUICK_ARRAYS)
    } else {
        (PIPELINES, ARRAYS)
    };
    let mut cluster = Cluster::start(&options.bin).await?;
    let reference = Reference::measure(&cluster).await?;
    let few = of_a_new_cluster(&cluster, options).await?;
    let curve = fill(&cluster, pipelines)?;
    let queued = queue(&cluster, arrays).await?;
    let ready_s = cluster.restart().await?;
    figure(
        "coordinator killed, accepting again",
        ready_s,
        "s wall",
        Some(Goal::AtMost(READY_MAX_S)),
        format!(
            "{} have ended, {} are queued",
            pipelines * 5,
            arrays * ELEMENTS
        ),
    );
    let on_s = goes_on(&cluster, &queued).await?;
    figure(
        "coordinator killed, elements end again",
        on_s,
        "s wall, since it accepts",
        None,
        "it has read all that is open by then".to_owned(),
    );
    rate(&cluster, &reference, few, &queued, options).await?;
    figure(
        "coordinator's memory",
        cluster.coordinator_mib(),
        "MiB",
        Some(Goal::AtMost(MEMORY_MAX_MIB)),
        format!(
            "after {:.0} s with {} queued elements",
            options.window.as_secs_f64(),
            arrays * ELEMENTS
        ),
    );
    // What is queued stays so: a list waits for the queue's rows, not for a core.
    cluster.stop_worker();
    lists(&cluster).await?;
    series(&cluster, curve).await?;
    for submitted in &queued {
        let request = CancelPipelineRequest {
            id: submitted.pipeline_id,
        };
        cluster.jobs().cancel_pipeline(request).await?;
    }
    Ok(())
}

/// Elements a second with few queued and nothing stored. Its array is cancelled.
async fn of_a_new_cluster(cluster: &Cluster, options: &Options) -> Result<f64> {
    // Connections, statements and caches are warm in what follows too.
    let warm = cluster.submit("warm-up", &document("warm-up", 50)).await?;
    cluster.follow(first(&warm)?).await?;
    let few = cluster.submit("few", &document("few", FEW)).await?;
    let ended = count(cluster, &[first(&few)?], options.window).await?;
    let request = CancelPipelineRequest {
        id: few.pipeline_id,
    };
    cluster.jobs().cancel_pipeline(request).await?;
    cluster.follow(first(&few)?).await?;
    Ok(ended)
}

/// Jobs that have ended, with all that stays of them; the job that has the curve.
fn fill(cluster: &Cluster, pipelines: u32) -> Result<i64> {
    let statements = [
        "INSERT INTO workers (id, name, boot_id, instance_id, state, version, inventory, last_seen_at)
         SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(w), 12, '0'))::uuid, 'host-' || w, gen_random_uuid(),
                gen_random_uuid(), 'left', '0.1.0',
                '{\"hostname\": \"host\", \"cpu_threads\": 8, \"memory_bytes\": 1, \"cpu_slots\": 2, \"threads_per_slot\": 4,
                  \"gpus\": [], \"address\": \"10.0.0.1\", \"flavour\": \"\"}', now()
         FROM generate_series(1, 20) w"
            .to_owned(),
        format!(
            "INSERT INTO pipelines (name, request_id, document_digest, created_at)
             SELECT (ARRAY['posters', 'nightly', 'sweep', 'ablation'])[1 + n % 4] || '-' || n % 97, 'filled-' || n,
                    repeat('ab', 32), now() - ({pipelines} + 1 - n) * interval '12 seconds'
             FROM generate_series(1, {pipelines}) n"
        ),
        "INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, attempt, max_attempts,
                           created_at, queued_at, started_at, finished_at, failure_class, failure_message)
         SELECT p.id, k, (ARRAY['fetch', 'prepare', 'train', 'eval', 'publish'])[k + 1], 'command',
                '{\"kind\": \"command\", \"argv\": [\"true\"], \"max_attempts\": 3}', 0, 1 + (k = 2)::int,
                CASE WHEN p.id % 23 = 0 AND k = 4 THEN 'failed' ELSE 'succeeded' END, 1, 3, p.created_at, p.created_at,
                p.created_at + k * interval '20 seconds', p.created_at + (k + 1) * interval '20 seconds',
                CASE WHEN p.id % 23 = 0 AND k = 4 THEN 'crash' END,
                CASE WHEN p.id % 23 = 0 AND k = 4 THEN 'it ended with exit code 1' END
         FROM pipelines p CROSS JOIN generate_series(0, 4) k
         WHERE p.request_id LIKE 'filled-%'
         ORDER BY p.id, k"
            .to_owned(),
        "INSERT INTO attempts (job_id, number, state, created_at, started_at, finished_at)
         SELECT id, 1, state, started_at, started_at, finished_at FROM jobs
         WHERE pipeline_id IN (SELECT id FROM pipelines WHERE request_id LIKE 'filled-%') ORDER BY id"
            .to_owned(),
        "INSERT INTO attempt_ranks (job_id, attempt, rank, worker_id, local_rank, devices, state, ended_at)
         SELECT id, 1, r, ('00000000-0000-4000-8000-' || lpad(to_hex(1 + (id + r) % 20), 12, '0'))::uuid, 0,
                '[{\"kind\": \"gpu\", \"index\": 0}]', 'finished', finished_at
         FROM jobs CROSS JOIN generate_series(0, 1) r
         WHERE r < ranks AND pipeline_id IN (SELECT id FROM pipelines WHERE request_id LIKE 'filled-%')
         ORDER BY id"
            .to_owned(),
        "INSERT INTO job_needs (job_id, needs_job_id)
         SELECT j.id, n.id FROM jobs j JOIN jobs n ON n.pipeline_id = j.pipeline_id AND n.position = j.position - 1"
            .to_owned(),
        "INSERT INTO artifacts (job_id, attempt, name, digest, size_bytes, file_count, manifest, committed_at)
         SELECT id, 1, 'output', md5(id::text) || md5(id::text), 0, 0, '{\"files\": []}', finished_at
         FROM jobs WHERE state = 'succeeded' AND array_job_id IS NULL
           AND pipeline_id IN (SELECT id FROM pipelines WHERE request_id LIKE 'filled-%') ORDER BY id"
            .to_owned(),
        format!(
            "INSERT INTO metrics (job_id, attempt, rank, sequence, name, step, value, at)
             SELECT (SELECT max(id) FROM jobs WHERE name = 'train'), 1, 0, s, 'loss', s,
                    exp(-s / 20000.0) + 0.1 * random(), now() - ({VALUES} - s) * interval '50 ms'
             FROM generate_series(1, {VALUES}) s"
        ),
        // What Postgres would do by itself in the minutes that follow, and be measured with.
        "VACUUM (ANALYZE)".to_owned(),
        "CHECKPOINT".to_owned(),
    ];
    for statement in &statements {
        cluster.psql(statement)?;
    }
    let job = cluster.psql("SELECT max(id) FROM jobs WHERE name = 'train'")?;
    job.parse().context("the job with the curve")
}

async fn queue(cluster: &Cluster, arrays: u32) -> Result<Vec<SubmitResponse>> {
    let mut queued = Vec::new();
    let mut each = Vec::new();
    for index in 0..arrays {
        let name = format!("many-{index}");
        let start = Instant::now();
        queued.push(cluster.submit(&name, &document(&name, ELEMENTS)).await?);
        each.push(start.elapsed().as_secs_f64());
    }
    figure(
        &format!("submit of an array of {ELEMENTS}"),
        quantile(&each, 1.0),
        "s wall, longest",
        Some(Goal::AtMost(SUBMIT_MAX_S)),
        format!("{arrays} of them, one after the other, while the first already runs"),
    );
    Ok(queued)
}

/// Elements a second with all of it stored and queued.
async fn rate(
    cluster: &Cluster,
    reference: &Reference,
    few: f64,
    queued: &[SubmitResponse],
    options: &Options,
) -> Result<()> {
    let jobs: Result<Vec<i64>> = queued.iter().map(first).collect();
    let counts = cluster.count()?;
    let many = count(cluster, &jobs?, options.window).await?;
    let counted = counts.stop(cluster)?;
    let ended = many * options.window.as_secs_f64();
    Figure {
        name: "elements with all that stored".to_owned(),
        value: many / few,
        unit: "of the rate of a new cluster",
        is_less_better: false,
        reference: None,
        goal: Some(Goal::AtLeast(RATE_MIN)),
        ran: format!(
            "{many:.1} elements/s beside {few:.1} with {FEW} queued and nothing stored (bare true {:.0}/s); an element: {}, {:.0} rows read by whole tables; longest in all: {}",
            reference.spawns_per_s,
            counted.cpu.over(ended),
            counted.scanned / ended,
            counted.longest,
        ),
    }
    .print();
    Ok(())
}

/// Seconds until the next element ends.
async fn goes_on(cluster: &Cluster, queued: &[SubmitResponse]) -> Result<f64> {
    let arrays: Result<Vec<i64>> = queued.iter().map(first).collect();
    let arrays = arrays?;
    let start = Instant::now();
    let before = ended(cluster, &arrays).await?;
    while ended(cluster, &arrays).await? == before {
        ensure!(start.elapsed() < GOES_ON_MAX, "no element ends");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Elements of these arrays that end in a second, over a while.
async fn count(cluster: &Cluster, arrays: &[i64], window: Duration) -> Result<f64> {
    let before = ended(cluster, arrays).await?;
    let start = Instant::now();
    tokio::time::sleep(window).await;
    let after = ended(cluster, arrays).await?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(after > before, "no element has ended in {seconds:.0} s");
    Ok(f64::from(after - before) / seconds)
}

async fn ended(cluster: &Cluster, arrays: &[i64]) -> Result<u32> {
    let mut all = 0;
    for array in arrays {
        let counts = cluster.job(*array).await?.elements;
        let counts = counts.context("no counts of elements")?;
        ensure!(counts.failed == 0, "{} elements failed", counts.failed);
        all += counts.succeeded;
    }
    Ok(all)
}

/// Pages of 50 jobs, by what people look for.
async fn lists(cluster: &Cluster) -> Result<()> {
    let page = || ListJobsRequest {
        page_size: 50,
        ..ListJobsRequest::default()
    };
    let of_states = |states: &[JobState]| ListJobsRequest {
        states: states.iter().map(|state| *state as i32).collect(),
        ..page()
    };
    let of_text = |text: &str| ListJobsRequest {
        text: text.to_owned(),
        ..page()
    };
    let kinds: [(&str, ListJobsRequest); 10] = [
        ("all", page()),
        ("failed", of_states(&[JobState::Failed])),
        ("cancelled", of_states(&[JobState::Cancelled])),
        ("running", of_states(&[JobState::Running])),
        (
            "open",
            of_states(&[JobState::Waiting, JobState::Queued, JobState::Running]),
        ),
        (
            "of kind train, of which there is none",
            ListJobsRequest {
                kinds: vec![JobKind::Train as i32],
                ..page()
            },
        ),
        ("with a word in many names", of_text("nightly")),
        ("with a word in no name", of_text("zzz")),
        (
            "of a worker",
            ListJobsRequest {
                worker_name: "host-7".to_owned(),
                ..page()
            },
        ),
        (
            "of another project",
            ListJobsRequest {
                project: "elsewhere".to_owned(),
                ..page()
            },
        ),
    ];
    let mut all = Vec::new();
    let mut words = Vec::new();
    for (name, request) in kinds {
        let mut each = Vec::new();
        for _ in 0..ASKED {
            let start = Instant::now();
            cluster.jobs().list_jobs(request.clone()).await?;
            each.push(1e3 * start.elapsed().as_secs_f64());
        }
        words.push(format!(
            "{name} {:.0} ({:.0})",
            quantile(&each, 0.5),
            quantile(&each, 0.95)
        ));
        all.extend(each);
    }
    figure(
        "a list of 50 jobs",
        quantile(&all, 0.95),
        "ms wall, 95 of 100",
        Some(Goal::AtMost(LIST_MAX_MS)),
        format!(
            "{ASKED} times each; median (95 of 100) of those {}",
            words.join(", ")
        ),
    );
    Ok(())
}

async fn series(cluster: &Cluster, job: i64) -> Result<()> {
    let mut each = Vec::new();
    for _ in 0..ASKED {
        let request = SeriesRequest {
            job_id: job,
            ..SeriesRequest::default()
        };
        let start = Instant::now();
        let answer = cluster.jobs().series(request).await?.into_inner();
        each.push(1e3 * start.elapsed().as_secs_f64());
        let values: u64 = answer.series.iter().map(|series| series.values).sum();
        ensure!(values == u64::from(VALUES), "{values} values in the curve");
    }
    figure(
        &format!("a curve of {VALUES} values"),
        quantile(&each, 0.95),
        "ms wall, 95 of 100",
        Some(Goal::AtMost(CURVE_MAX_MS)),
        format!(
            "{ASKED} times, as 400 points; median {:.0}",
            quantile(&each, 0.5)
        ),
    );
    Ok(())
}

fn document(name: &str, size: u32) -> String {
    format!(
        "name = \"{name}\"\n[jobs.work]\nkind = \"command\"\nargv = [\"true\"]\narray = {size}\n"
    )
}

fn first(submitted: &SubmitResponse) -> Result<i64> {
    Ok(submitted.jobs.first().context("no job")?.id)
}

fn figure(name: &str, value: f64, unit: &str, goal: Option<Goal>, ran: String) {
    Figure {
        name: name.to_owned(),
        value,
        unit,
        is_less_better: true,
        reference: None,
        goal,
        ran,
    }
    .print();
}
