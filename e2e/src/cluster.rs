//! The cluster: what a team would start on its hosts, on one machine and in one folder.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_proto::v1::{ListWorkersRequest, WorkerState};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::process::{Daemon, bin_dir, processes_with};

/// How long a cluster may take until its workers are online.
const ONLINE_DEADLINE: Duration = Duration::from_secs(60);

/// A coordinator with its workers. Dropped, it kills all that speaks of its folder.
#[derive(Debug)]
pub struct TestCluster {
    bin: PathBuf,
    folder: TempDir,
    /// What the coordinator has in its environment beside its settings.
    env: Vec<(String, String)>,
    coordinator: Daemon,
    address: String,
    workers: Vec<Worker>,
}

/// One worker daemon and its folder.
#[derive(Debug)]
pub struct Worker {
    pub name: String,
    pub data_dir: PathBuf,
    /// What its daemon has in its environment beside its settings.
    env: Vec<(String, String)>,
    daemon: Option<Daemon>,
}

impl TestCluster {
    /// Starts a coordinator and `workers` workers of one CPU device with one thread each, and waits
    /// until all are online.
    pub async fn start(workers: usize) -> Result<Self> {
        Self::start_in(new_folder()?, workers, |_| Ok(Vec::new())).await
    }

    /// The same, its coordinator with more in its environment, which may be about the cluster's folder.
    pub async fn start_with(
        workers: usize,
        env: impl FnOnce(&Path) -> Result<Vec<(String, String)>>,
    ) -> Result<Self> {
        Self::start_in(new_folder()?, workers, env).await
    }

    /// The same with a key for secrets.
    pub async fn start_with_secrets(workers: usize) -> Result<Self> {
        let folder = new_folder()?;
        let key = Command::new(bin_dir()?.join("marquee-coordinator"))
            .arg("secrets-key")
            .output()?;
        let file = secrets_key(folder.path());
        std::fs::write(&file, key.stdout)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        Self::start_in(folder, workers, |_| Ok(Vec::new())).await
    }

    async fn start_in(
        folder: TempDir,
        workers: usize,
        env: impl FnOnce(&Path) -> Result<Vec<(String, String)>>,
    ) -> Result<Self> {
        let bin = bin_dir()?;
        let env = env(folder.path())?;
        let (coordinator, address) = start_coordinator(&bin, folder.path(), "127.0.0.1:0", &env)?;
        let mut cluster = Self {
            bin,
            folder,
            env,
            coordinator,
            address,
            workers: Vec::new(),
        };
        for index in 1..=workers {
            cluster.add_worker(&format!("worker-{index}"))?;
        }
        cluster.wait_online(workers).await?;
        Ok(cluster)
    }

    /// The folder that holds all of the cluster's files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Such as `http://127.0.0.1:41234`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    #[must_use]
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    pub fn worker(&mut self, index: usize) -> &mut Worker {
        &mut self.workers[index]
    }

    /// Starts one more worker.
    pub fn add_worker(&mut self, name: &str) -> Result<()> {
        self.add_worker_with(name, Vec::new())
    }

    /// The same, its daemon with more in its environment.
    pub fn add_worker_with(&mut self, name: &str, env: Vec<(String, String)>) -> Result<()> {
        let data_dir = self.folder.path().join(name);
        std::fs::create_dir_all(&data_dir)?;
        self.workers.push(Worker {
            name: name.into(),
            data_dir,
            env,
            daemon: None,
        });
        self.restart_worker(self.workers.len() - 1)
    }

    /// Starts worker `index`, which does not run, on its old folder.
    pub fn restart_worker(&mut self, index: usize) -> Result<()> {
        let mut command = Command::new(self.bin.join("marquee-worker"));
        let worker = &self.workers[index];
        command
            .envs(worker.env.iter().cloned())
            .env("MARQUEE_WORKER__COORDINATOR", self.url())
            .env("MARQUEE_WORKER__NAME", &worker.name)
            .env("MARQUEE_WORKER__DATA_DIR", &worker.data_dir)
            .env("MARQUEE_WORKER__CPU_SLOTS", "1")
            .env("MARQUEE_WORKER__THREADS_PER_SLOT", "1");
        let log = self.folder.path().join(format!("{}.log", worker.name));
        let daemon = Daemon::start(&worker.name, &mut command, &log)?;
        self.workers[index].daemon = Some(daemon);
        Ok(())
    }

    /// Kills the coordinator as a crash would. Its Postgres goes with it.
    pub fn kill_coordinator(&mut self) -> Result<()> {
        self.coordinator.kill()
    }

    /// Starts the coordinator again, on its folder and address.
    pub fn restart_coordinator(&mut self) -> Result<()> {
        let (coordinator, address) =
            start_coordinator(&self.bin, self.folder.path(), &self.address, &self.env)?;
        self.coordinator = coordinator;
        self.address = address;
        Ok(())
    }

    /// What the coordinator wrote to its log.
    #[must_use]
    pub fn coordinator_log(&self) -> String {
        self.coordinator.log()
    }

    /// A client that connects when first used, and again after the coordinator was away.
    pub fn jobs(&self) -> Result<JobsClient<Channel>> {
        Ok(JobsClient::new(self.channel()?))
    }

    /// A channel to the coordinator.
    pub fn channel(&self) -> Result<Channel> {
        Ok(Endpoint::from_shared(self.url())?
            .connect_timeout(Duration::from_secs(5))
            .connect_lazy())
    }

    /// Waits until `count` workers are online.
    pub async fn wait_online(&self, count: usize) -> Result<()> {
        let mut client = WorkersClient::new(self.channel()?);
        let start = Instant::now();
        while start.elapsed() < ONLINE_DEADLINE {
            if let Ok(answer) = client.list_workers(ListWorkersRequest {}).await {
                let workers = answer.into_inner().workers;
                if workers
                    .iter()
                    .filter(|worker| worker.state() == WorkerState::Online)
                    .count()
                    >= count
                {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let logs: String = self
            .workers
            .iter()
            .map(|w| format!("{}:\n{}", w.name, w.log()))
            .collect();
        bail!(
            "{count} workers were not online within {ONLINE_DEADLINE:?}\n{}\n{logs}",
            self.coordinator_log()
        );
    }

    /// Runs the CLI against this cluster to its end.
    pub fn cli(&self, arguments: &[&str]) -> Result<std::process::Output> {
        self.cli_command(arguments)
            .output()
            .context("running marquee")
    }

    /// Where its programs are.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The CLI against this cluster, not started yet.
    #[must_use]
    pub fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join("marquee"));
        command
            .args(arguments)
            .env("MARQUEE_ADDR", self.url())
            .env("NO_COLOR", "1");
        command
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.workers.clear();
        // TERM lets Postgres leave in order; what is left of anything is killed by the folder's name.
        drop(self.coordinator.stop());
        for process in processes_with(self.folder.path()) {
            drop(crate::process::kill_hard(&process));
        }
    }
}

impl Worker {
    /// Kills the daemon alone, as a crash would: its children live on.
    pub fn kill_daemon(&mut self) -> Result<()> {
        self.daemon
            .take()
            .context("the worker does not run")?
            .kill()
    }

    /// Kills the daemon and every child of it at once, as a power cut would.
    pub fn cut_power(&mut self) -> Result<()> {
        let result = self.kill_daemon();
        for process in processes_with(&self.data_dir) {
            crate::process::kill_hard(&process)?;
        }
        result
    }

    /// Stops the daemon in order; its exit code.
    pub fn stop(&mut self) -> Result<i32> {
        self.daemon
            .take()
            .context("the worker does not run")?
            .stop()
    }

    /// Processes that work for this worker, the daemon itself left out.
    #[must_use]
    pub fn children(&self) -> Vec<crate::process::Process> {
        processes_with(&self.data_dir)
    }

    /// What the daemon wrote to its log.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log).unwrap_or_default()
    }
}

/// A socket's path may have 107 bytes, so the folder's name is short.
fn new_folder() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("mq").tempdir()?)
}

fn secrets_key(folder: &Path) -> PathBuf {
    folder.join("secrets.key")
}

fn start_coordinator(
    bin: &Path,
    folder: &Path,
    listen: &str,
    env: &[(String, String)],
) -> Result<(Daemon, String)> {
    let mut command = Command::new(bin.join("marquee-coordinator"));
    command
        .envs(env.iter().cloned())
        .env("MARQUEE_COORDINATOR__DATA_DIR", folder.join("coordinator"))
        .env("MARQUEE_COORDINATOR__LISTEN", listen);
    if secrets_key(folder).exists() {
        command.env("MARQUEE_COORDINATOR__SECRETS_KEY", secrets_key(folder));
    }
    let mut daemon = Daemon::start("coordinator", &mut command, &folder.join("coordinator.log"))?;
    let listening = daemon.listening()?;
    let address = listening["address"]
        .as_str()
        .context("no address in the listening line")?
        .to_owned();
    Ok((daemon, address))
}

/// The local TMDb-compatible server.
#[derive(Debug)]
pub struct Catalogue {
    _daemon: Daemon,
    pub api_url: String,
}

impl Catalogue {
    /// Serves `films` generated films.
    pub fn start(folder: &Path, films: u32) -> Result<Self> {
        Self::start_with(folder, films, &[])
    }

    /// The same with posters that are quickly painted, and show nothing.
    pub fn start_sketches(folder: &Path, films: u32) -> Result<Self> {
        Self::start_with(folder, films, &["--sketches"])
    }

    fn start_with(folder: &Path, films: u32, more: &[&str]) -> Result<Self> {
        let mut command = Command::new(bin_dir()?.join("marquee-catalogue"));
        command.args([
            "serve",
            "--seed",
            "1",
            "--port",
            "0",
            "--films",
            &films.to_string(),
        ]);
        command.args(more);
        let mut daemon = Daemon::start("catalogue", &mut command, &folder.join("catalogue.log"))?;
        let listening = daemon.listening()?;
        let api_url = listening["api_url"]
            .as_str()
            .context("no api_url in the listening line")?
            .to_owned();
        Ok(Self {
            _daemon: daemon,
            api_url,
        })
    }
}
