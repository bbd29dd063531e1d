//! A coordinator with its private Postgres and one worker, whose statements Postgres counts.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use marquee_e2e::jobs::request;
use marquee_e2e::process::{Daemon, kill_hard, processes_with};
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_proto::v1::{
    GetJobRequest, Job, ListWorkersRequest, SubmitResponse, WatchRequest, WorkerState,
};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::counts::Counts;

/// CPU devices of the worker, and so jobs in flight.
pub(crate) const SLOTS: u32 = 2;
const ONLINE_WITHIN: Duration = Duration::from_secs(60);
/// Postgres reads this when it starts; the statistics cost it about one per cent.
const COUNT_STATEMENTS: &str =
    "\nshared_preload_libraries = 'pg_stat_statements'\npg_stat_statements.max = 5000\n";

/// A running cluster. Dropped, it kills all that speaks of its folder.
#[derive(Debug)]
pub(crate) struct Cluster {
    bin: PathBuf,
    folder: TempDir,
    url: String,
    channel: Channel,
    coordinator: Daemon,
    worker: Daemon,
    counts_statements: bool,
}

impl Cluster {
    pub(crate) async fn start(bin: &Path) -> Result<Self> {
        // A socket's path may have 107 bytes, so the folder's name is short.
        let folder = tempfile::Builder::new().prefix("mqb").tempdir_in("/tmp")?;
        let (mut coordinator, _) = start_coordinator(bin, folder.path())?;
        // Only now is there a Postgres to ask whether it can count, and to be told so.
        let counts_statements = psql(
            folder.path(),
            "select count(*) from pg_available_extensions where name = 'pg_stat_statements'",
        )? == "1";
        if counts_statements {
            coordinator.stop()?;
            let settings = folder.path().join("coordinator/postgres/postgresql.conf");
            let mut settings = OpenOptions::new().append(true).open(settings)?;
            settings.write_all(COUNT_STATEMENTS.as_bytes())?;
        }
        drop(coordinator);
        let (coordinator, url) = start_coordinator(bin, folder.path())?;
        if counts_statements {
            psql(folder.path(), "create extension pg_stat_statements")?;
        }
        let worker = start_worker(bin, folder.path(), &url)?;
        let channel = Endpoint::from_shared(url.clone())?.connect().await?;
        let cluster = Self {
            bin: bin.to_owned(),
            folder,
            url,
            channel,
            coordinator,
            worker,
            counts_statements,
        };
        cluster.wait_online().await?;
        Ok(cluster)
    }

    async fn wait_online(&self) -> Result<()> {
        let mut client = WorkersClient::new(self.channel());
        let start = Instant::now();
        while start.elapsed() < ONLINE_WITHIN {
            let workers = client.list_workers(ListWorkersRequest {}).await?;
            let workers = workers.into_inner().workers;
            if workers.iter().any(|w| w.state() == WorkerState::Online) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!(
            "the worker was not online within {ONLINE_WITHIN:?}; its log:\n{}",
            self.worker.log()
        );
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn jobs(&self) -> JobsClient<Channel> {
        JobsClient::new(self.channel())
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn counts_statements(&self) -> bool {
        self.counts_statements
    }

    /// Submits `document`. Two submissions need two ids.
    pub(crate) async fn submit(&self, id: &str, document: &str) -> Result<SubmitResponse> {
        let answer = self
            .jobs()
            .submit_pipeline(request(id, document, &[]))
            .await?;
        Ok(answer.into_inner())
    }

    /// Follows a job as `marquee submit --wait` does, to its end; the job as it was told last.
    pub(crate) async fn follow(&self, job: i64) -> Result<Job> {
        let request = WatchRequest {
            job_ids: vec![job],
            ..WatchRequest::default()
        };
        let mut stream = self.jobs().watch(request).await?.into_inner();
        let mut last = None;
        while let Some(answer) = stream.message().await? {
            last = answer.job;
        }
        last.context("the stream told of no job")
    }

    pub(crate) async fn job(&self, id: i64) -> Result<Job> {
        let detail = self.jobs().get_job(GetJobRequest { id }).await?;
        detail.into_inner().job.context("no job in the answer")
    }

    /// The CLI, told where the cluster is.
    pub(crate) fn cli(&self) -> Command {
        let mut command = Command::new(self.bin.join("marquee"));
        command
            .env("MARQUEE_ADDR", &self.url)
            .env("MARQUEE_CONTEXT", self.folder().join("context.toml"))
            .env("NO_COLOR", "1");
        command
    }

    pub(crate) fn psql(&self, statement: &str) -> Result<String> {
        psql(self.folder(), statement)
    }

    /// Forgets all that Postgres has counted, and begins anew.
    pub(crate) fn count(&self) -> Result<Counts> {
        Counts::start(self)
    }

    /// CPU milliseconds that all of the cluster's processes have taken so far, with those of their
    /// children that have ended.
    pub(crate) fn cpu_ms(&self) -> f64 {
        let mut pids: Vec<i32> = processes_with(self.folder())
            .iter()
            .map(|process| process.pid)
            .collect();
        pids.extend([self.coordinator.pid().as_raw(), self.worker.pid().as_raw()]);
        pids.sort_unstable();
        pids.dedup();
        pids.into_iter().filter_map(cpu_ms_of).sum()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // TERM lets Postgres leave in order; what is left of anything is killed by the folder's name.
        drop(self.worker.stop());
        drop(self.coordinator.stop());
        for process in processes_with(self.folder()) {
            drop(kill_hard(&process));
        }
    }
}

fn start_coordinator(bin: &Path, folder: &Path) -> Result<(Daemon, String)> {
    let mut command = Command::new(bin.join("marquee-coordinator"));
    command
        .env("MARQUEE_COORDINATOR__DATA_DIR", folder.join("coordinator"))
        .env("MARQUEE_COORDINATOR__LISTEN", "127.0.0.1:0");
    let mut daemon = Daemon::start("coordinator", &mut command, &folder.join("coordinator.log"))?;
    let listening = daemon.listening()?;
    let address = listening["address"]
        .as_str()
        .context("no address in the listening line")?;
    Ok((daemon, format!("http://{address}")))
}

fn start_worker(bin: &Path, folder: &Path, url: &str) -> Result<Daemon> {
    let mut command = Command::new(bin.join("marquee-worker"));
    command
        .env("MARQUEE_WORKER__COORDINATOR", url)
        .env("MARQUEE_WORKER__NAME", "worker-1")
        .env("MARQUEE_WORKER__DATA_DIR", folder.join("worker"))
        .env("MARQUEE_WORKER__CPU_SLOTS", SLOTS.to_string())
        .env("MARQUEE_WORKER__THREADS_PER_SLOT", "1");
    Daemon::start("worker-1", &mut command, &folder.join("worker.log"))
}

/// One answer of the cluster's Postgres, or the lines that a file of SQL prints.
fn psql(folder: &Path, statement: &str) -> Result<String> {
    let program = std::env::var_os("MARQUEE_POSTGRES_BIN")
        .map(|bin| PathBuf::from(bin).join("psql"))
        .filter(|program| program.is_file())
        .unwrap_or_else(|| "psql".into());
    let data = folder.join("coordinator");
    let password = std::fs::read_to_string(data.join("postgres.password"))?;
    let output = Command::new(program)
        .args(["--no-psqlrc", "-At", "-v", "ON_ERROR_STOP=1"])
        .args(["-U", "marquee", "-d", "postgres", "-h"])
        .arg(data.join("socket"))
        .args(["-c", statement])
        .env("PGPASSWORD", password.trim())
        .output()
        .context("cannot start psql; it is in the package postgresql-client")?;
    if !output.status.success() {
        bail!(
            "psql: {statement}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Of a process and of its children that it has waited for. None: it is gone.
fn cpu_ms_of(pid: i32) -> Option<f64> {
    /// /proc counts in hundredths of a second on all that Linux runs on here.
    const MS_PER_TICK: f64 = 10.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // What follows the name, which may hold anything: the state is field 3 of the page proc(5).
    let (_, rest) = stat.rsplit_once(") ")?;
    let ticks = rest.split(' ').skip(11).take(4);
    let ticks: Vec<u32> = ticks.filter_map(|tick| tick.parse().ok()).collect();
    Some(ticks.into_iter().map(f64::from).sum::<f64>() * MS_PER_TICK)
}
