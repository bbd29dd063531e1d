//! Figures of this host for Prometheus, on an address of their own where the settings name one (`metrics_listen`).
//!
//! What the coordinator cannot know, or not while it is away: spools, the cache, the disk, the lease. Nothing here
//! names a job or what a job wrote, and nothing can be changed. A simulation has no such address.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use marquee_domain::figures::{CONTENT_TYPE, Kind, Text};
use marquee_domain::gpu::GpuReading;
use marquee_domain::job::RankState;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::blocking::blocking;
use crate::rank::held::Host;
use crate::supervisor::Supervisor;

/// Connections at once; Prometheus makes one. The next ones wait.
const CONNECTIONS_MAX: usize = 8;
/// From the first byte of a question to the last of its answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a question: a line and a few headers.
const QUESTION_MAX_BYTES: usize = 8 * 1024;
/// After a connection that could not be accepted, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(500);

/// Where the figures are asked for.
#[derive(Debug)]
pub(crate) struct Figures {
    listener: TcpListener,
}

impl Figures {
    pub(crate) async fn listen(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        info!(address = %listener.local_addr()?, "figures for Prometheus at /metrics");
        Ok(Self { listener })
    }

    /// Answers for as long as the daemon lives.
    pub(crate) async fn serve(self, host: Arc<Host>, supervisor: Arc<Supervisor>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // Before a connection is taken: those that are too many wait in the kernel and not in our memory.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "a connection for figures was not accepted");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let (host, supervisor) = (Arc::clone(&host), Arc::clone(&supervisor));
            tokio::spawn(async move {
                let _place = place;
                match timeout(ANSWERED_WITHIN, answer(stream, host, supervisor)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "a question for figures was not answered"),
                    Err(_) => debug!("a question for figures took too long"),
                }
            });
        }
    }
}

async fn answer(
    mut stream: TcpStream,
    host: Arc<Host>,
    supervisor: Arc<Supervisor>,
) -> io::Result<()> {
    let question = question(&mut stream).await?;
    let mut words = question.split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => {
            // It looks at disks, which may take their time.
            let rendered = blocking(move || render(&host, &supervisor)).await;
            ("200 OK", rendered.map_err(io::Error::other)?)
        }
        (Some("GET"), _) => (
            "404 Not Found",
            "GET /metrics gives the figures\n".to_owned(),
        ),
        (_, _) => (
            "405 Method Not Allowed",
            "GET /metrics gives the figures\n".to_owned(),
        ),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {}\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// The first line of a question; the rest of its head is read and says nothing that matters.
async fn question(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    // All of its head: a connection that is closed over unread bytes is reset, and the answer lost with it.
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut part).await?;
        if count == 0 || head.len() + count > QUESTION_MAX_BYTES {
            return Err(io::Error::other("it is no question"));
        }
        head.extend_from_slice(&part[..count]);
    }
    let head = String::from_utf8_lossy(&head);
    Ok(head.lines().next().unwrap_or_default().to_owned())
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a figure beyond 2^53 has other troubles"
)]
fn render(host: &Host, supervisor: &Supervisor) -> String {
    let mut text = Text::default();
    let mut gauge = |name, help: &str, value: f64| {
        text.family(name, Kind::Gauge, help);
        text.value(&[], value);
    };
    let cache = host.cache.usage();
    gauge(
        "marquee_worker_cache_bytes",
        "Inputs of jobs that are kept on this host.",
        cache.bytes as f64,
    );
    gauge(
        "marquee_worker_cache_max_bytes",
        "As many as may be kept (cache_max_bytes).",
        cache.max_bytes as f64,
    );
    gauge(
        "marquee_worker_cache_artifacts",
        "Artifacts that are kept on this host.",
        cache.artifacts as f64,
    );
    gauge(
        "marquee_worker_cache_pinned_artifacts",
        "Artifacts that ranks on this host need, here or still to come.",
        cache.pinned as f64,
    );
    if let Some(room) = cache.disk_room {
        gauge(
            "marquee_worker_disk_available_bytes",
            "Room on the disk of the worker's data folder.",
            room as f64,
        );
    }
    gauge(
        "marquee_worker_kept_outputs",
        "Outputs that could not be stored and wait for \"marquee artifacts rescue\".",
        host.kept.list().len() as f64,
    );
    gauge(
        "marquee_worker_lease_left_seconds",
        "For how long the coordinator still holds this worker to be alive; 0: it does not, or none is known.",
        host.lease
            .left(host.env.clock.monotonic())
            .unwrap_or_default()
            .as_secs_f64(),
    );
    of_ranks(supervisor, &mut text);
    of_gpus(&host.gpus.readings(), &mut text);
    text.family(
        "marquee_worker_build_info",
        Kind::Gauge,
        "Always 1; which worker this is.",
    );
    let version = env!("CARGO_PKG_VERSION");
    text.value(&[("version", version), ("worker", &host.config.name)], 1.0);
    text.into_string()
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a figure beyond 2^53 has other troubles"
)]
fn of_ranks(supervisor: &Supervisor, text: &mut Text) {
    let ranks = supervisor.ranks();
    let mut by_state: BTreeMap<RankState, u32> = BTreeMap::new();
    let (mut bytes, mut waiting) = (0, 0);
    for rank in &ranks {
        *by_state.entry(rank.state()).or_default() += 1;
        let spool = rank.spool();
        bytes += spool.size_bytes();
        waiting += spool.last_sequence().saturating_sub(spool.acked());
    }
    text.family(
        "marquee_worker_ranks",
        Kind::Gauge,
        "Ranks that this worker holds, by state.",
    );
    // States without a rank, too: to Prometheus a series that is missing is not one that is 0.
    for state in RankState::ALL {
        let count = by_state.get(&state).copied().unwrap_or_default();
        text.value(&[("state", state.as_str())], f64::from(count));
    }
    text.family(
        "marquee_worker_spool_bytes",
        Kind::Gauge,
        "Reports of ranks on this worker's disk.",
    );
    text.value(&[], bytes as f64);
    text.family(
        "marquee_worker_spool_waiting_reports",
        Kind::Gauge,
        "Reports that the coordinator has not acknowledged yet.",
    );
    text.value(&[], waiting as f64);
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a figure beyond 2^53 has other troubles"
)]
fn of_gpus(readings: &[GpuReading], text: &mut Text) {
    type Read = fn(&GpuReading) -> Option<f64>;
    let families: [(&str, &str, Read); 5] = [
        (
            "marquee_worker_gpu_healthy",
            "Whether a GPU has no fault.",
            |gpu| Some(f64::from(u8::from(gpu.fault.is_empty()))),
        ),
        (
            "marquee_worker_gpu_utilisation_ratio",
            "Share of the last sample period in which a kernel ran.",
            |gpu| Some(f64::from(gpu.utilisation_percent?) / 100.0),
        ),
        (
            "marquee_worker_gpu_memory_used_bytes",
            "Memory of a GPU in use.",
            |gpu| Some(gpu.memory_used_bytes? as f64),
        ),
        (
            "marquee_worker_gpu_power_watts",
            "Power that a GPU draws.",
            |gpu| Some(f64::from(gpu.power_mw?) / 1_000.0),
        ),
        (
            "marquee_worker_gpu_temperature_celsius",
            "Temperature of a GPU.",
            |gpu| Some(f64::from(gpu.temperature_c?)),
        ),
    ];
    for (name, help, read) in families {
        text.family(name, Kind::Gauge, help);
        for gpu in readings {
            if let Some(value) = read(gpu) {
                let index = gpu.index.to_string();
                text.value(&[("gpu", &index), ("uuid", &gpu.uuid)], value);
            }
        }
    }
}
