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
    /// None where there are simulated ones.
    worker: Option<Daemon>,
    counts_statements: bool,
}

impl Cluster {
    pub(crate) async fn start(bin: &Path) -> Result<Self> {
        let mut cluster = Self::without_worker(bin).await?;
        cluster.worker = Some(start_worker(bin, cluster.folder(), &cluster.url)?);
        cluster.wait_online().await?;
        Ok(cluster)
    }

    /// A coordinator and its Postgres.
    pub(crate) async fn without_worker(bin: &Path) -> Result<Self> {
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
        let channel = Endpoint::from_shared(url.clone())?.connect().await?;
        Ok(Self {
            bin: bin.to_owned(),
            folder,
            url,
            channel,
            coordinator,
            worker: None,
            counts_statements,
        })
    }

    /// In order: what runs there ends, and nothing more begins.
    pub(crate) fn stop_worker(&mut self) {
        drop(self.worker.take().map(|mut worker| worker.stop()));
    }

    /// Kills the coordinator and starts it anew, with its worker, which has to be told of another port. Seconds until it
    /// accepts.
    pub(crate) async fn restart(&mut self) -> Result<f64> {
        self.stop_worker();
        self.coordinator.kill()?;
        let start = Instant::now();
        (self.coordinator, self.url) = start_coordinator(&self.bin, self.folder())?;
        let seconds = start.elapsed().as_secs_f64();
        self.channel = Endpoint::from_shared(self.url.clone())?.connect().await?;
        self.worker = Some(start_worker(&self.bin, self.folder(), &self.url)?);
        self.wait_online().await?;
        Ok(seconds)
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
            self.worker.as_ref().map(Daemon::log).unwrap_or_default()
        );
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn jobs(&self) -> JobsClient<Channel> {
        JobsClient::new(self.channel())
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
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

    /// What all of the cluster's processes have taken so far, with those of their children that have ended.
    pub(crate) fn cpu(&self) -> Cpu {
        let coordinator = self.coordinator.pid().as_raw();
        let worker = self.worker.as_ref().map(|worker| worker.pid().as_raw());
        let daemons = [Some(coordinator), worker];
        let mut cpu = Cpu {
            coordinator: cpu_ms_of(coordinator).0,
            ..Cpu::default()
        };
        if let Some(worker) = worker {
            (cpu.worker, cpu.children) = cpu_ms_of(worker);
        }
        for process in processes_with(self.folder()) {
            if daemons.contains(&Some(process.pid)) {
                continue;
            }
            let (own, waited_for) = cpu_ms_of(process.pid);
            if process.command.contains("marquee-keeper") {
                cpu.children += own + waited_for;
            } else {
                cpu.postgres += own + waited_for;
            }
        }
        cpu
    }

    /// Memory of the coordinator without its Postgres.
    pub(crate) fn coordinator_mib(&self) -> f64 {
        let status = format!("/proc/{}/status", self.coordinator.pid());
        let status = std::fs::read_to_string(status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
        kib.unwrap_or(f64::NAN) / 1024.0
    }
}

/// CPU milliseconds, by who took them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    coordinator: f64,
    worker: f64,
    /// Keepers and what they keep.
    children: f64,
    postgres: f64,
}

impl Cpu {
    pub(crate) fn total(self) -> f64 {
        self.coordinator + self.worker + self.children + self.postgres
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            coordinator: self.coordinator - before.coordinator,
            worker: self.worker - before.worker,
            children: self.children - before.children,
            postgres: self.postgres - before.postgres,
        }
    }

    /// In words, for each of so many.
    pub(crate) fn over(self, count: f64) -> String {
        let part = |name: &str, ms: f64| (ms > 0.0).then(|| format!("{name} {:.2}", ms / count));
        let parts = [
            part("coordinator", self.coordinator),
            part("Postgres", self.postgres),
            part("worker", self.worker),
            part("its keepers and children", self.children),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        format!("{:.2} CPU ms ({})", self.total() / count, parts.join(", "))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // TERM lets Postgres leave in order; what is left of anything is killed by the folder's name.
        drop(self.worker.as_mut().map(Daemon::stop));
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

/// Of a process, and of its children that it has waited for. Nothing of one that is gone.
fn cpu_ms_of(pid: i32) -> (f64, f64) {
    /// /proc counts in hundredths of a second on all that Linux runs on here.
    const MS_PER_TICK: f64 = 10.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // What follows the name, which may hold anything: the state is field 3 of the page proc(5).
    let (_, rest) = stat.rsplit_once(") ").unwrap_or_default();
    let ticks = rest.split(' ').skip(11).take(4);
    let ticks: Vec<f64> = ticks
        .filter_map(|tick| tick.parse::<u32>().ok())
        .map(|tick| f64::from(tick) * MS_PER_TICK)
        .collect();
    match ticks[..] {
        [user, system, user_of_children, system_of_children] => {
            (user + system, user_of_children + system_of_children)
        }
        _ => (0.0, 0.0),
    }
}
