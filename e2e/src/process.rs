//! Child processes of a test, and the processes they leave.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a process may take to say that it is ready: a cold Postgres on a busy machine.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How long a process may take to leave after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(40);

/// All that a cluster runs.
const PROGRAMS: [&str; 6] = [
    "marquee",
    "marquee-coordinator",
    "marquee-worker",
    "marquee-prep",
    "marquee-catalogue",
    "marquee-trainer",
];

/// The folder of Marquee's binaries: `MARQUEE_BIN_DIR`, or where this test itself was built.
pub fn bin_dir() -> Result<PathBuf> {
    bin_dir_with(&PROGRAMS)
}

/// The same for a test that needs these programs alone.
pub fn bin_dir_with(programs: &[&str]) -> Result<PathBuf> {
    let dir = match std::env::var_os("MARQUEE_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let own = std::env::current_exe()?;
            own.ancestors()
                .nth(2)
                .context("the test has no target folder")?
                .to_owned()
        }
    };
    for name in programs {
        if !dir.join(name).exists() {
            bail!(
                "{} is missing; run the tests with \"cargo xtask test\", which builds it",
                dir.join(name).display()
            );
        }
    }
    Ok(dir)
}

/// A daemon of the test's own, killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    /// Bytes of the log that were there before: of an earlier daemon.
    before: usize,
}

impl Daemon {
    /// Starts a daemon whose stderr goes to `log`, and gives it back with its first line of stdout
    /// that is the event "listening", if `waits` for one.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let before = usize::try_from(file.metadata()?.len())?;
        command
            .stdin(Stdio::null())
            .stderr(file)
            .stdout(Stdio::piped());
        let child = command
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self {
            name: name.into(),
            child,
            log: log.into(),
            before,
        })
    }

    /// Waits for the line `{"event":"listening",...}`. What follows it on stdout is thrown away.
    pub fn listening(&mut self) -> Result<serde_json::Value> {
        let stdout = self
            .child
            .stdout
            .take()
            .context("stdout was taken before")?;
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The test may have stopped waiting; the pipe is drained all the same.
                drop(send.send(line));
            }
        });
        let start = Instant::now();
        while let Ok(line) = receive.recv_timeout(READY_DEADLINE.saturating_sub(start.elapsed())) {
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(&line)
                && value["event"] == "listening"
            {
                return Ok(value);
            }
        }
        bail!(
            "{} did not listen within {READY_DEADLINE:?}; its log:\n{}",
            self.name,
            self.log()
        );
    }

    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("pids fit in an i32"))
    }

    /// What it wrote to stderr so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its exit code, if it has left; -1 where a signal ended it.
    pub fn ended(&mut self) -> Result<Option<i32>> {
        let status = self.child.try_wait()?;
        Ok(status.map(|status| status.code().unwrap_or(-1)))
    }

    /// SIGKILL, as a crash.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and the wait for it to leave; its exit code.
    pub fn stop(&mut self) -> Result<i32> {
        kill(self.pid(), Signal::SIGTERM)?;
        self.wait(STOP_DEADLINE)
    }

    /// Waits for it to leave by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<i32> {
        let start = Instant::now();
        while start.elapsed() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code().unwrap_or(-1));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!(
            "{} did not leave within {deadline:?}; its log:\n{}",
            self.name,
            self.log()
        );
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already gone is as good.
        drop(self.child.kill());
        drop(self.child.wait());
        // Among what the test wrote, where somebody looks for what went wrong, and `cargo xtask test` for secrets.
        let log = self.log();
        let own = log.get(self.before..).unwrap_or_default();
        eprintln!("==> log of {}\n{own}", self.name);
    }
}

/// A process of this machine whose command line or environment speaks of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub command: String,
}

/// Every living process whose command line or working directory mentions `needle`.
#[must_use]
pub fn processes_with(needle: impl AsRef<OsStr>) -> Vec<Process> {
    let needle = needle.as_ref().to_string_lossy().into_owned();
    let own = std::process::id();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = pids.filter(|pid| *pid != own).filter_map(|pid| {
        let raw = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&raw).replace('\0', " ");
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let is_zombie = state.rsplit(')').next()?.trim_start().starts_with('Z');
        let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        let mentions = command.contains(&needle) || folder.to_string_lossy().contains(&needle);
        (mentions && !is_zombie).then(|| Process {
            pid: i32::try_from(pid).unwrap_or(i32::MAX),
            command,
        })
    });
    found.collect()
}

/// SIGKILL to any process. One that has ended meanwhile is as good.
pub fn kill_hard(process: &Process) -> Result<()> {
    match kill(Pid::from_raw(process.pid), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("killing {}", process.command)),
    }
}
