//! A Postgres of the run's own, that can be killed, paused and started again: with fsync, as a cluster has it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

/// How long it may take to accept connections: recovery on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
const USER: &str = "marquee";

/// The server and its folder.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    folder: PathBuf,
    child: Option<Child>,
}

impl Postgres {
    /// Makes a cluster in `folder`, whose path is short, and starts it.
    pub fn make(folder: &Path) -> Result<Self> {
        let bin = marquee_postgres::by_environment()?.folder;
        std::fs::create_dir_all(folder)?;
        let mut postgres = Self {
            bin,
            folder: folder.to_owned(),
            child: None,
        };
        let output = postgres
            .program("initdb")
            .args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .arg(format!("--username={USER}"))
            .arg("--pgdata")
            .arg(postgres.data())
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        postgres.start()?;
        Ok(postgres)
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "postgres://{USER}@localhost/postgres?host={}",
            self.folder.display()
        )
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Not as root, which Postgres refuses: in a user namespace it does not see that it is.
    fn program(&self, name: &str) -> Command {
        let program = self.bin.join(name);
        if !geteuid().is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("unshare");
        command.arg("--user").arg(program);
        command
    }

    /// Starts the server, which does not run, and waits until it takes connections.
    pub fn start(&mut self) -> Result<()> {
        // What a killed server left would be taken for a living one.
        drop(std::fs::remove_file(self.data().join("postmaster.pid")));
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))?;
        let child = self
            .program("postgres")
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(&self.folder)
            .args(["-c", "listen_addresses=", "-c", "max_connections=100"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        self.wait_until_ready()
    }

    /// Waits until it takes connections.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let text =
                std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            if text
                .lines()
                .nth(7)
                .is_some_and(|line| line.trim() == "ready")
            {
                return Ok(());
            }
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("postgres ended with {status}: {}", self.log());
            }
            if start.elapsed() > READY_WITHIN {
                bail!(
                    "postgres was not ready within {READY_WITHIN:?}: {}",
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The server's own process: `unshare` becomes it.
    fn pid(&self) -> Result<Pid> {
        let child = self.child.as_ref().context("postgres does not run")?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    /// kill -9 of the server, and of all that serve its connections: a host's loss.
    pub fn kill(&mut self) -> Result<()> {
        let backends = self.backends()?;
        kill(self.pid()?, Signal::SIGKILL)?;
        for backend in backends {
            // Gone with it, most times.
            let _ = kill(backend, Signal::SIGKILL);
        }
        self.reap()
    }

    /// Ends it in order, cutting connections off.
    pub fn stop(&mut self) -> Result<()> {
        kill(self.pid()?, Signal::SIGINT)?;
        self.reap()
    }

    fn reap(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Stops all of its processes where they stand, or lets them go on.
    pub fn pause(&self, signal: Signal) -> Result<()> {
        for pid in self.backends()?.into_iter().chain([self.pid()?]) {
            // A backend may have left meanwhile.
            let _ = kill(pid, signal);
        }
        Ok(())
    }

    /// Its processes but the first.
    pub fn backends(&self) -> Result<Vec<Pid>> {
        let pid = self.pid()?;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let pids = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        Ok(pids.map(Pid::from_raw).collect())
    }

    /// Those that serve a coordinator.
    pub fn serving(&self) -> Result<Vec<Pid>> {
        let serves = |pid: &Pid| {
            let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&title).contains(&format!("postgres: {USER} "))
        };
        Ok(self.backends()?.into_iter().filter(serves).collect())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.child.is_some() {
            drop(self.pause(Signal::SIGCONT));
            drop(self.kill());
        }
    }
}
