//! The cluster of a chaos run: coordinators on one Postgres, workers, and a relay on each way between them.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use marquee_proto::convert::datetime;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_proto::v1::{ListWorkersRequest, WorkerState};
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::postgres::Postgres;
use super::relay::Relay;
use crate::process::{Daemon, Process, bin_dir_with, kill_hard, processes_with};

/// How long one question may take while a fault is looked through.
const ASK_WITHIN: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);

/// All of it. Dropped, it kills all that speaks of its folder.
#[derive(Debug)]
pub struct Site {
    bin: PathBuf,
    pub postgres: Postgres,
    pub coordinators: Vec<Coordinator>,
    pub workers: Vec<Worker>,
    /// Between clients and each coordinator.
    pub client_links: Vec<Relay>,
    folder: TempDir,
}

/// A coordinator, on an address that it keeps.
#[derive(Debug)]
pub struct Coordinator {
    pub name: String,
    data_dir: PathBuf,
    address: Option<SocketAddr>,
    daemon: Option<Daemon>,
}

/// A worker, with its links to each coordinator.
#[derive(Debug)]
pub struct Worker {
    pub name: String,
    pub data_dir: PathBuf,
    pub links: Vec<Relay>,
    daemon: Option<Daemon>,
}

impl Site {
    /// Starts everything and waits until it is well.
    pub async fn start(coordinators: usize, workers: usize) -> Result<Self> {
        let bin = bin_dir_with(&["marquee", "marquee-coordinator", "marquee-worker"])?;
        // A socket's path may have 107 bytes, so the folder's name is short.
        let folder = tempfile::Builder::new().prefix("mqc").tempdir()?;
        let mut site = Self {
            bin,
            postgres: Postgres::make(&folder.path().join("pg"))?,
            coordinators: Vec::new(),
            workers: Vec::new(),
            client_links: Vec::new(),
            folder,
        };
        for number in 1..=coordinators {
            let name = format!("coordinator-{number}");
            site.coordinators.push(Coordinator {
                data_dir: site.folder().join(&name),
                name,
                address: None,
                daemon: None,
            });
            site.start_coordinator(number - 1)?;
            let address = site.address(number - 1)?;
            site.client_links.push(Relay::start(address).await?);
        }
        for number in 1..=workers {
            let name = format!("worker-{number}");
            let mut links = Vec::new();
            for index in 0..coordinators {
                links.push(Relay::start(site.address(index)?).await?);
            }
            let data_dir = site.folder().join(&name);
            std::fs::create_dir_all(&data_dir)?;
            site.workers.push(Worker {
                name,
                data_dir,
                links,
                daemon: None,
            });
            site.start_worker(number - 1)?;
        }
        let begun = super::now();
        site.wait_well(begun, Duration::from_secs(120)).await?;
        Ok(site)
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps the folder, and says where it is.
    pub fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder().to_owned()
    }

    fn address(&self, index: usize) -> Result<SocketAddr> {
        self.coordinators[index].address.context("it has listened")
    }

    /// Starts a coordinator where it was before, unless it runs: two faults may have ended it.
    pub fn start_coordinator(&mut self, index: usize) -> Result<()> {
        if runs(&mut self.coordinators[index].daemon)? {
            return Ok(());
        }
        let coordinator = &self.coordinators[index];
        let listen = coordinator
            .address
            .map_or("127.0.0.1:0".to_owned(), |at| at.to_string());
        let mut command = Command::new(self.bin.join("marquee-coordinator"));
        command
            .env("MARQUEE_COORDINATOR__DATA_DIR", &coordinator.data_dir)
            .env("MARQUEE_COORDINATOR__DATABASE_URL", self.postgres.url())
            // Whoever leads has all of them.
            .env(
                "MARQUEE_COORDINATOR__ARTIFACTS_DIR",
                self.folder().join("artifacts"),
            )
            .env("MARQUEE_COORDINATOR__LISTEN", listen);
        let log = self.folder().join(format!("{}.log", coordinator.name));
        let mut daemon = Daemon::start(&coordinator.name, &mut command, &log)?;
        let listening = daemon.listening()?;
        let address = listening["address"]
            .as_str()
            .context("no address in the listening line")?;
        let coordinator = &mut self.coordinators[index];
        coordinator.address = Some(address.parse()?);
        coordinator.daemon = Some(daemon);
        Ok(())
    }

    /// Starts a worker's daemon on its old folder, unless it runs: two faults may have ended it.
    pub fn start_worker(&mut self, index: usize) -> Result<()> {
        if runs(&mut self.workers[index].daemon)? {
            return Ok(());
        }
        let worker = &self.workers[index];
        let urls: Vec<String> = worker
            .links
            .iter()
            .map(|link| format!("http://{}", link.address))
            .collect();
        // What is there may be written to; nothing new may be made beside a worker's data.
        let side = super::load::side_file(self.folder());
        File::options().create(true).append(true).open(&side)?;
        let mut command = Command::new(self.bin.join("marquee-worker"));
        command
            .env("MARQUEE_WORKER__COORDINATOR", urls.join(","))
            .env("MARQUEE_WORKER__NAME", &worker.name)
            .env("MARQUEE_WORKER__DATA_DIR", &worker.data_dir)
            // Where the jobs say what they did.
            .env("MARQUEE_WORKER__WRITABLE_PATHS", &side)
            .env("MARQUEE_WORKER__CPU_SLOTS", "2")
            .env("MARQUEE_WORKER__THREADS_PER_SLOT", "1");
        let log = self.folder().join(format!("{}.log", worker.name));
        let daemon = Daemon::start(&worker.name, &mut command, &log)?;
        self.workers[index].daemon = Some(daemon);
        Ok(())
    }

    pub fn kill_coordinator(&mut self, index: usize) -> Result<()> {
        match self.coordinators[index].daemon.take() {
            Some(mut daemon) => daemon.kill(),
            None => Ok(()),
        }
    }

    pub fn signal_coordinator(&self, index: usize, signal: Signal) -> Result<()> {
        signal_daemon(self.coordinators[index].daemon.as_ref(), signal)
    }

    pub fn signal_worker(&self, index: usize, signal: Signal) -> Result<()> {
        signal_daemon(self.workers[index].daemon.as_ref(), signal)
    }

    pub fn kill_worker(&mut self, index: usize) -> Result<()> {
        match self.workers[index].daemon.take() {
            Some(mut daemon) => daemon.kill(),
            None => Ok(()),
        }
    }

    /// Kills the daemon and all its children at once, as a power cut would.
    pub fn cut_power(&mut self, index: usize) -> Result<()> {
        let killed = self.kill_worker(index);
        for process in processes_with(&self.workers[index].data_dir) {
            // Its parent's death may have ended it.
            drop(kill_hard(&process));
        }
        killed
    }

    /// Processes of jobs on a worker, without those that watch them.
    #[must_use]
    pub fn job_processes(&self, index: usize) -> Vec<Process> {
        let processes = processes_with(&self.workers[index].data_dir);
        processes
            .into_iter()
            .filter(|process| {
                !["marquee-worker", "marquee-keeper"]
                    .iter()
                    .any(|ours| process.command.contains(ours))
            })
            .filter(|process| says(process, "MARQUEE_ATTEMPT="))
            .collect()
    }

    /// Starts what has left by itself, as a service manager would. Returns their names.
    pub fn revive(&mut self) -> Result<Vec<String>> {
        let mut revived = Vec::new();
        for index in 0..self.coordinators.len() {
            if has_left(&mut self.coordinators[index].daemon)? {
                revived.push(self.coordinators[index].name.clone());
                self.start_coordinator(index)?;
            }
        }
        for index in 0..self.workers.len() {
            if has_left(&mut self.workers[index].daemon)? {
                revived.push(self.workers[index].name.clone());
                self.start_worker(index)?;
            }
        }
        Ok(revived)
    }

    /// A channel to a coordinator, past the relays.
    pub fn channel(&self, index: usize) -> Result<Channel> {
        let url = format!("http://{}", self.address(index)?);
        Ok(Endpoint::from_shared(url)?
            .connect_timeout(ASK_WITHIN)
            .timeout(ASK_WITHIN)
            .connect_lazy())
    }

    /// Where clients find the coordinators, through the relays.
    #[must_use]
    pub fn client_urls(&self) -> Vec<String> {
        self.client_links
            .iter()
            .map(|link| format!("http://{}", link.address))
            .collect()
    }

    /// The CLI, past the relays.
    pub fn cli(&self, arguments: &[&str]) -> Result<std::process::Output> {
        let url = format!("http://{}", self.address(0)?);
        Command::new(self.bin.join("marquee"))
            .args(arguments)
            .env("MARQUEE_ADDR", url)
            .env("NO_COLOR", "1")
            .output()
            .context("running marquee")
    }

    /// Waits until a coordinator answers and every worker is online and was heard since.
    pub async fn wait_well(
        &mut self,
        since: DateTime<Utc>,
        within: Duration,
    ) -> Result<Vec<String>> {
        let start = Instant::now();
        let mut revived = Vec::new();
        loop {
            revived.extend(self.revive()?);
            let mut why = "no coordinator answers".to_owned();
            for index in 0..self.coordinators.len() {
                match self.ill(index, since).await {
                    Ok(None) => return Ok(revived),
                    Ok(Some(ill)) => why = ill,
                    Err(error) => why = format!("{}: {error:#}", self.coordinators[index].name),
                }
            }
            if start.elapsed() > within {
                bail!("not well within {within:?}: {why}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What a coordinator says is not well.
    async fn ill(&self, index: usize, since: DateTime<Utc>) -> Result<Option<String>> {
        let mut client = WorkersClient::new(self.channel(index)?);
        let listed = client
            .list_workers(ListWorkersRequest {})
            .await?
            .into_inner();
        for worker in &self.workers {
            let found = listed
                .workers
                .iter()
                .find(|listed| listed.name == worker.name);
            let Some(found) = found else {
                return Ok(Some(format!("{} is not known", worker.name)));
            };
            let heard = found.last_seen_at.as_ref().and_then(|at| datetime(at).ok());
            if found.state() != WorkerState::Online || heard.is_none_or(|heard| heard < since) {
                return Ok(Some(format!(
                    "{} is {:?}, heard {heard:?}",
                    worker.name,
                    found.state()
                )));
            }
        }
        Ok(None)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.workers
            .iter_mut()
            .for_each(|worker| drop(worker.daemon.take()));
        self.coordinators
            .iter_mut()
            .for_each(|coordinator| drop(coordinator.daemon.take()));
        for process in processes_with(self.folder.path()) {
            drop(kill_hard(&process));
        }
    }
}

fn signal_daemon(daemon: Option<&Daemon>, signal: Signal) -> Result<()> {
    if let Some(daemon) = daemon {
        kill(daemon.pid(), signal)?;
    }
    Ok(())
}

fn runs(daemon: &mut Option<Daemon>) -> Result<bool> {
    Ok(daemon.is_some() && !has_left(daemon)?)
}

fn has_left(daemon: &mut Option<Daemon>) -> Result<bool> {
    match daemon {
        None => Ok(false),
        Some(running) => Ok(running.ended()?.is_some()),
    }
}

/// Whether a process was started with such a variable.
pub fn says(process: &Process, variable: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|entry| entry.starts_with(variable.as_bytes()))
}
