//! Figures of this process for Prometheus, in its text format: `GET /metrics` on the port that everything uses.
//!
//! Counters live as long as the process, as Prometheus expects of them, and are the process's own: what counts need
//! not be handed through everything that is counted. Gauges are looked up when somebody asks. Labels have few values:
//! no job, no text of a user.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use marquee_domain::evidence::EvidenceKind;
use marquee_domain::failure::FailureClass;
pub(crate) use marquee_domain::figures::CONTENT_TYPE;
use marquee_domain::figures::{Kind, Text};
use marquee_domain::gpu::GpuReading;
use marquee_domain::ids::JobId;
use marquee_store::workers::WorkerState;
use tokio::time::Instant;

use crate::app::App;
use crate::background::hosts;
use crate::rpc::devices;

/// Bounds of the histograms, in seconds: from what a person does not notice to what makes him look.
const BOUNDS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0,
];

/// What keeps queued jobs waiting: the classes of obstacles, and what stands before any of them. Each has its line from
/// the beginning.
const WAITING_FOR: [&str; 9] = [
    "no_worker",
    "impossible",
    "held_back",
    "busy",
    "window",
    "turn",
    "quota",
    "back_off",
    "next_round",
];

static COUNTS: LazyLock<Mutex<Counts>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct Counts {
    /// Requests whose answer has begun, by method and code.
    rpcs: BTreeMap<(String, &'static str), u64>,
    /// Attempts that ended without success, by class of what ended them.
    failures: BTreeMap<&'static str, u64>,
    placed: Histogram,
    /// When jobs were placed that have not been heard to start.
    placing: BTreeMap<JobId, Instant>,
    dispatched: Histogram,
    workers_lost: u64,
    burn_ins_passed: u64,
    burn_ins_failed: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Histogram {
    /// Values up to each bound and above the one before it.
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn add(&mut self, seconds: f64) {
        // Above the last bound it counts in "+Inf" alone, which is the count of all.
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket] += 1;
        }
        self.count += 1;
        self.sum += seconds;
    }
}

fn counts() -> MutexGuard<'static, Counts> {
    // Counts are whole after each addition, whoever panicked.
    COUNTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answer to a request has begun. `method` is one of ours, or there is no label for it.
pub(crate) fn rpc_answered(method: &str, code: tonic::Code) {
    // Whoever makes names up must not make memory of them.
    let method = if code == tonic::Code::Unimplemented {
        "unknown"
    } else {
        method
    };
    let mut counts = counts();
    *counts
        .rpcs
        .entry((method.to_owned(), name_of(code)))
        .or_default() += 1;
}

/// Jobs that were placed and have not started, of which it is remembered when: more than a cluster has devices.
const PLACING_MAX: usize = 100_000;

/// Jobs were placed, each after it had waited for so long.
pub(crate) fn placed_after(waits: impl Iterator<Item = (JobId, Duration)>) {
    let mut counts = counts();
    let now = Instant::now();
    for (job, wait) in waits {
        counts.placed.add(wait.as_secs_f64());
        counts.placing.insert(job, now);
    }
    while counts.placing.len() > PLACING_MAX {
        // Ids grow: the first job is the oldest, and most likely ended without a start.
        counts.placing.pop_first();
    }
}

/// An attempt's ranks run, or were told to.
pub(crate) fn started(job: JobId) {
    let mut counts = counts();
    // One that another process placed is not known here, and not counted.
    if let Some(placed) = counts.placing.remove(&job) {
        counts.dispatched.add(placed.elapsed().as_secs_f64());
    }
}

/// An attempt ended, and its job did not succeed by it.
pub(crate) fn attempt_failed(class: FailureClass) {
    *counts().failures.entry(class.as_str()).or_default() += 1;
}

/// Nothing was heard from a worker for a whole lease.
pub(crate) fn worker_lost() {
    counts().workers_lost += 1;
}

/// A burn-in ended, and what followed is stored.
pub(crate) fn burn_in_ended(has_passed: bool) {
    let mut counts = counts();
    if has_passed {
        counts.burn_ins_passed += 1;
    } else {
        counts.burn_ins_failed += 1;
    }
}

fn name_of(code: tonic::Code) -> &'static str {
    match code {
        tonic::Code::Ok => "ok",
        tonic::Code::Cancelled => "cancelled",
        tonic::Code::Unknown => "unknown",
        tonic::Code::InvalidArgument => "invalid_argument",
        tonic::Code::DeadlineExceeded => "deadline_exceeded",
        tonic::Code::NotFound => "not_found",
        tonic::Code::AlreadyExists => "already_exists",
        tonic::Code::PermissionDenied => "permission_denied",
        tonic::Code::ResourceExhausted => "resource_exhausted",
        tonic::Code::FailedPrecondition => "failed_precondition",
        tonic::Code::Aborted => "aborted",
        tonic::Code::OutOfRange => "out_of_range",
        tonic::Code::Unimplemented => "unimplemented",
        tonic::Code::Internal => "internal",
        tonic::Code::Unavailable => "unavailable",
        tonic::Code::DataLoss => "data_loss",
        tonic::Code::Unauthenticated => "unauthenticated",
    }
}

/// Everything, as Prometheus reads it. Asks the database nothing: that it is away must be seen too.
pub(crate) fn render(app: &App) -> String {
    let mut text = Text::default();
    text.family(
        "marquee_build_info",
        Kind::Gauge,
        "Always 1; which coordinator this is.",
    );
    let version = env!("CARGO_PKG_VERSION");
    text.value(
        &[("version", version), ("cluster", &app.cluster.to_string())],
        1.0,
    );
    text.family(
        "marquee_safe_mode",
        Kind::Gauge,
        "Whether the coordinator only answers questions, after three crashes.",
    );
    text.value(&[], f64::from(u8::from(app.walls.safe_mode.is_some())));
    of_index(app, &mut text);
    of_database(app, &mut text);
    of_counts(&mut text);
    text.into_string()
}

fn of_index(app: &App, text: &mut Text) {
    let open = app.index.open();
    let mut waiting: BTreeMap<&str, u32> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    let now = app.clock.now();
    // Those of an array that are no jobs yet wait for what the others of it wait for.
    let jobs = open.queue.iter().map(|pending| (pending, 1));
    for (pending, count) in jobs.chain(open.queued_to_come()) {
        let known = open.job(pending.job);
        let class = if pending.not_before.is_some() {
            "back_off"
        } else {
            known
                .and_then(|job| job.obstacle.as_deref())
                .unwrap_or("next_round")
        };
        *waiting.entry(class).or_default() += count;
        longest = longest.max((now - pending.queued_at).to_std().unwrap_or_default());
    }
    // These are shown also while nobody waits for them: an alert on a series that comes and goes never fires
    // in time.
    text.family(
        "marquee_queue_jobs",
        Kind::Gauge,
        "Jobs and elements of arrays that are queued, by what keeps them waiting.",
    );
    for class in WAITING_FOR {
        let jobs = waiting.remove(class).unwrap_or_default();
        text.value(&[("reason", class)], f64::from(jobs));
    }
    // Reasons that came after this list was written.
    for (class, jobs) in waiting {
        text.value(&[("reason", class)], f64::from(jobs));
    }
    text.family(
        "marquee_queue_longest_wait_seconds",
        Kind::Gauge,
        "How long the job that has been queued longest has waited.",
    );
    text.value(&[], longest.as_secs_f64());
    if let Some(accuracy) = app.index.plays.accuracy() {
        text.family(
            "marquee_forecast_error_seconds",
            Kind::Gauge,
            "How far the starts of jobs were from when they were expected: the median of the newest 500.",
        );
        text.value(&[], accuracy.median_error_s);
        text.family(
            "marquee_forecasts",
            Kind::Gauge,
            "The newest 500 forecasts of starts, by whether the job started by the time said for nine cases of ten.",
        );
        text.value(&[("started", "in_time")], accuracy.held.into());
        let late = accuracy.jobs.saturating_sub(accuracy.held);
        text.value(&[("started", "late")], late.into());
    }
    text.family(
        "marquee_running_jobs",
        Kind::Gauge,
        "Jobs and elements of arrays that run.",
    );
    text.value(
        &[],
        f64::from(u32::try_from(open.running().count()).unwrap_or(u32::MAX)),
    );
    let (idle_jobs, idle_gpus) = open.idle();
    text.family(
        "marquee_idle_jobs",
        Kind::Gauge,
        "Running jobs whose GPUs do nothing, by their readings.",
    );
    text.value(&[], f64::from(idle_jobs));
    text.family(
        "marquee_idle_gpus",
        Kind::Gauge,
        "GPUs that these jobs hold.",
    );
    text.value(&[], f64::from(idle_gpus));
    text.family("marquee_workers", Kind::Gauge, "Workers, by state.");
    for state in WorkerState::ALL {
        let workers = open
            .workers
            .iter()
            .filter(|worker| worker.state == state)
            .count();
        text.value(
            &[("state", state.as_str())],
            f64::from(u32::try_from(workers).unwrap_or(u32::MAX)),
        );
    }
    text.family(
        "marquee_worker_silence_seconds",
        Kind::Gauge,
        "For how long nothing was heard of a worker that is online: it is lost when that is a whole lease.",
    );
    let online = open.workers.iter();
    for worker in online.filter(|worker| worker.state == WorkerState::Online) {
        if let Some(seen) = app.sessions.last_seen(worker.id) {
            let silence = seen.elapsed().as_secs_f64();
            text.value(&[("worker", &worker.name)], silence);
        }
    }
    let (cpus, gpus) = devices(&hosts(&open, &app.sessions, now), now);
    let kinds = [("cpu", cpus), ("gpu", gpus)];
    text.family(
        "marquee_devices",
        Kind::Gauge,
        "Devices of workers that are here or may come back.",
    );
    for (kind, count) in kinds {
        text.value(&[("kind", kind)], f64::from(count.all));
    }
    text.family(
        "marquee_devices_held",
        Kind::Gauge,
        "Devices that ranks hold.",
    );
    for (kind, count) in kinds {
        text.value(&[("kind", kind)], f64::from(count.held));
    }
    text.family(
        "marquee_devices_closed",
        Kind::Gauge,
        "Devices that are offered to nobody: ill, or of a worker that takes no ranks.",
    );
    for (kind, count) in kinds {
        text.value(&[("kind", kind)], f64::from(count.closed));
    }
    of_quarantines(&open.workers, text);
    of_gpus(app, &open.workers, text);
}

/// What put a GPU into quarantine that somebody put there.
const BY_HAND: &str = "by_hand";

fn of_quarantines(workers: &[marquee_store::workers::Worker], text: &mut Text) {
    let here = workers
        .iter()
        .filter(|worker| worker.state != WorkerState::Left);
    let standings = here.filter_map(|worker| worker.standing.as_ref().ok());
    let causes = standings.flat_map(|standing| standing.gpus.values());
    let mut by_cause: BTreeMap<&str, u32> = BTreeMap::new();
    for quarantine in causes {
        let first = quarantine.evidence.first();
        let cause = first.map_or(BY_HAND, |evidence| evidence.kind.as_str());
        *by_cause.entry(cause).or_default() += 1;
    }
    text.family(
        "marquee_gpus_quarantined",
        Kind::Gauge,
        "GPUs in quarantine, by what spoke against them first.",
    );
    let kinds = EvidenceKind::ALL.into_iter().map(EvidenceKind::as_str);
    for cause in kinds.chain([BY_HAND]) {
        let gpus = by_cause.get(cause).copied().unwrap_or_default();
        text.value(&[("cause", cause)], f64::from(gpus));
    }
}

fn of_gpus(app: &App, workers: &[marquee_store::workers::Worker], text: &mut Text) {
    let readings: Vec<(String, GpuReading)> = workers
        .iter()
        // What a worker said before it went says nothing of now.
        .filter(|worker| worker.state == WorkerState::Online)
        .flat_map(|worker| {
            let gpus = app.sessions.gpus(worker.id);
            gpus.into_iter().map(|gpu| (worker.name.clone(), gpu))
        })
        .collect();
    type Read = fn(&GpuReading) -> Option<f64>;
    let families: [(&str, &str, Read); 5] = [
        (
            "marquee_gpu_healthy",
            "Whether a GPU takes new ranks.",
            |gpu| Some(f64::from(u8::from(gpu.fault.is_empty()))),
        ),
        (
            "marquee_gpu_utilisation_ratio",
            "Share of the last sample period in which a kernel ran.",
            |gpu| Some(f64::from(gpu.utilisation_percent?) / 100.0),
        ),
        (
            "marquee_gpu_memory_used_bytes",
            "Memory of a GPU in use.",
            |gpu| {
                #[allow(
                    clippy::cast_precision_loss,
                    reason = "beyond 9 PB a byte more or less is nothing"
                )]
                Some(gpu.memory_used_bytes? as f64)
            },
        ),
        (
            "marquee_gpu_power_watts",
            "Power that a GPU draws.",
            |gpu| Some(f64::from(gpu.power_mw?) / 1_000.0),
        ),
        (
            "marquee_gpu_temperature_celsius",
            "Temperature of a GPU.",
            |gpu| Some(f64::from(gpu.temperature_c?)),
        ),
    ];
    for (name, help, read) in families {
        text.family(name, Kind::Gauge, help);
        for (worker, gpu) in &readings {
            if let Some(value) = read(gpu) {
                let index = gpu.index.to_string();
                text.value(
                    &[("worker", worker), ("gpu", &index), ("uuid", &gpu.uuid)],
                    value,
                );
            }
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a counter beyond 2^53 has other troubles"
)]
fn of_database(app: &App, text: &mut Text) {
    let stats = app.db.stats();
    let all = || {
        let writes = stats.writes.iter().map(|(name, write)| (*name, write));
        std::iter::once(("read", &stats.reads)).chain(writes)
    };
    text.family(
        "marquee_database_operations_total",
        Kind::Counter,
        "Reads and transactions that have ended, by what they were for and how.",
    );
    for (name, operation) in all() {
        let done = if name == "read" {
            operation.begun
        } else {
            operation.committed
        };
        text.value(&[("operation", name), ("outcome", "done")], done as f64);
        text.value(
            &[("operation", name), ("outcome", "rolled_back")],
            operation.rolled_back as f64,
        );
    }
    text.family(
        "marquee_database_connection_seconds_total",
        Kind::Counter,
        "Time for which connections to Postgres were held.",
    );
    for (name, operation) in all() {
        text.value(&[("operation", name)], operation.held.as_secs_f64());
    }
    let pool = app.db.connections();
    text.family(
        "marquee_database_connections",
        Kind::Gauge,
        "Connections to Postgres that are open, by whether somebody uses them.",
    );
    text.value(&[("state", "used")], pool.used.into());
    text.value(&[("state", "idle")], pool.idle.into());
    text.family(
        "marquee_database_connections_max",
        Kind::Gauge,
        "As many connections to Postgres as this process opens.",
    );
    text.value(&[], pool.max.into());
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a counter beyond 2^53 has other troubles"
)]
fn of_counts(text: &mut Text) {
    let counts = counts();
    text.family(
        "marquee_rpcs_total",
        Kind::Counter,
        "Requests whose answer has begun, by method and code.",
    );
    for ((method, code), count) in &counts.rpcs {
        text.value(&[("method", method), ("code", code)], *count as f64);
    }
    text.family(
        "marquee_attempt_failures_total",
        Kind::Counter,
        "Attempts that ended without success, by class.",
    );
    for class in FailureClass::ALL {
        let count = counts
            .failures
            .get(class.as_str())
            .copied()
            .unwrap_or_default();
        text.value(&[("class", class.as_str())], count as f64);
    }
    text.family(
        "marquee_workers_lost_total",
        Kind::Counter,
        "Workers from which nothing was heard for a whole lease.",
    );
    text.value(&[], counts.workers_lost as f64);
    text.family(
        "marquee_burn_ins_total",
        Kind::Counter,
        "Burn-ins of GPUs that have ended, by whether the GPU came back.",
    );
    text.value(&[("outcome", "passed")], counts.burn_ins_passed as f64);
    text.value(&[("outcome", "failed")], counts.burn_ins_failed as f64);
    text.family(
        "marquee_time_to_place_seconds",
        Kind::Histogram,
        "How long jobs were queued before an attempt was placed.",
    );
    histogram(text, counts.placed);
    text.family(
        "marquee_dispatch_seconds",
        Kind::Histogram,
        "How long it took from an attempt's placement until its ranks ran.",
    );
    histogram(text, counts.dispatched);
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a counter beyond 2^53 has other troubles"
)]
fn histogram(text: &mut Text, of: Histogram) {
    // Prometheus wants in each bucket all that is below its bound.
    let mut below = 0;
    for (bound, count) in BOUNDS.iter().zip(of.buckets) {
        below += count;
        text.part("_bucket", &[("le", &bound.to_string())], below as f64);
    }
    text.part("_bucket", &[("le", "+Inf")], of.count as f64);
    text.part("_sum", &[], of.sum);
    text.part("_count", &[], of.count as f64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::Obstacle;

    #[test]
    fn a_value_counts_in_the_first_bucket_that_holds_it_and_in_the_sum() {
        let mut placed = Histogram::default();
        for seconds in [0.0, 0.005, 0.006, 7_200.0, 7_200.1, 1e9] {
            placed.add(seconds);
        }
        assert_eq!(placed.count, 6);
        assert_eq!(placed.buckets[0], 2, "a bound belongs to its bucket");
        assert_eq!(placed.buckets[1], 1);
        assert_eq!(placed.buckets[BOUNDS.len() - 1], 1);
        let inside: u64 = placed.buckets.iter().sum();
        assert_eq!(inside, 4, "what is longer is in the last line (+Inf) alone");
        assert!(placed.sum > 1e9);
    }

    #[test]
    fn bounds_ascend_and_are_written_as_prometheus_reads_them() {
        assert!(BOUNDS.windows(2).all(|pair| pair[0] < pair[1]));
        for bound in BOUNDS {
            let text = bound.to_string();
            assert!(
                text.parse::<f64>()
                    .is_ok_and(|read| (read - bound).abs() < 1e-12)
            );
            assert!(!text.contains('e'), "{text}");
        }
    }

    #[test]
    fn whoever_makes_methods_up_makes_one_label_of_them() {
        for number in 0..1_000 {
            let made_up = format!("/marquee.v1.Jobs/MadeUp{number}");
            rpc_answered(&made_up, tonic::Code::Unimplemented);
        }
        rpc_answered("/marquee.v1.Test/Known", tonic::Code::NotFound);
        let counts = counts();
        assert!(
            counts
                .rpcs
                .keys()
                .all(|(method, _)| !method.contains("MadeUp"))
        );
        assert!(counts.rpcs[&("unknown".to_owned(), "unimplemented")] >= 1_000);
        let known = ("/marquee.v1.Test/Known".to_owned(), "not_found");
        assert!(counts.rpcs.contains_key(&known));
    }

    #[test]
    fn each_code_has_a_name_of_its_own() {
        let codes = (0..=16).map(tonic::Code::from_i32);
        let names: std::collections::BTreeSet<&str> = codes.map(name_of).collect();
        assert_eq!(names.len(), 17);
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(
            names.iter().all(|name| name.chars().all(plain)),
            "{names:?}"
        );
    }

    #[test]
    fn each_class_of_obstacle_has_its_line_before_anybody_waits_for_it() {
        // An alert on a line that appears with the first trouble never saw it at nought.
        let all = [
            Obstacle::NoWorker,
            Obstacle::Impossible,
            Obstacle::HeldBack { needs: 1 },
            Obstacle::Busy {
                needs: 1,
                free: 0,
                total: 0,
            },
            Obstacle::Window { needs: 1 },
            Obstacle::Turn,
        ];
        for obstacle in all {
            assert!(
                WAITING_FOR.contains(&obstacle.class()),
                "{}",
                obstacle.class()
            );
        }
        assert!(WAITING_FOR.contains(&"quota"));
        let once: std::collections::BTreeSet<&str> = WAITING_FOR.into();
        assert_eq!(once.len(), WAITING_FOR.len());
    }
}
