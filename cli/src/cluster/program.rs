//! One child process: started through [`super::launch`], logged to a file, stopped with a limit.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout};

use super::launch;
use crate::error::Result;
use crate::say::say;

/// How long to wait for a process after KILL. One that hangs in the kernel may take longer; then it is
/// left alone.
const KILL_MAX: Duration = Duration::from_secs(5);
/// Lines of a log that an error quotes.
const LAST_WORDS_LINES: usize = 15;
/// How many bytes at the end of a log are searched for these lines.
const LAST_WORDS_BYTES: u64 = 16 * 1024;

/// A program, running or not.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    binary: PathBuf,
    args: Vec<OsString>,
    log: PathBuf,
    child: Option<Child>,
    started: VecDeque<Instant>,
}

impl Program {
    pub(crate) fn new(name: &str, binary: PathBuf, args: Vec<OsString>, log: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            binary,
            args,
            log,
            child: None,
            started: VecDeque::new(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Starts it with stdout and stderr in its log.
    pub(crate) fn start(&mut self) -> Result<()> {
        let log = self.open_log()?;
        let copy = log.try_clone().context("cannot share a log file")?;
        self.spawn(copy.into(), log.into())
    }

    /// Starts it with its stdout to be read by us.
    pub(crate) fn start_and_listen(&mut self) -> Result<ChildStdout> {
        let log = self.open_log()?;
        self.spawn(Stdio::piped(), log.into())?;
        let stdout = self.child.as_mut().and_then(|child| child.stdout.take());
        Ok(stdout.context("a started child has no stdout")?)
    }

    fn open_log(&self) -> Result<File> {
        let file = File::options().append(true).create(true).open(&self.log);
        Ok(file.with_context(|| format!("cannot write the log {}", self.log.display()))?)
    }

    fn spawn(&mut self, stdout: Stdio, stderr: Stdio) -> Result<()> {
        // The file that runs, even where another has taken its name since.
        let child = Command::new("/proc/self/exe")
            .arg(launch::COMMAND)
            .args(["--parent", &std::process::id().to_string(), "--"])
            .arg(&self.binary)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            // Ctrl-C at the terminal is for us alone: we stop the others in order.
            .process_group(0)
            // A safety net: normally `LocalCluster::stop` has ended it before this value is dropped.
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        self.child = Some(child);
        self.started.push_back(Instant::now());
        Ok(())
    }

    /// The process id, until its end was seen.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// How it ended, if it ran and has ended since.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else {
            return Ok(None);
        };
        let status = child
            .try_wait()
            .with_context(|| format!("lost sight of {}", self.name))?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Whether it may be started again: it was started fewer than `max` times `within` that time.
    pub(crate) fn may_restart(&mut self, max: usize, within: Duration) -> bool {
        while self.started.front().is_some_and(|at| at.elapsed() > within) {
            self.started.pop_front();
        }
        self.started.len() < max
    }

    /// Asks it to end.
    pub(crate) fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid().and_then(|pid| i32::try_from(pid).ok()) {
            // A process that has ended meanwhile needs no signal.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Waits for its end, and kills it when that takes too long.
    pub(crate) async fn wait_or_kill(&mut self, limit: Duration) {
        let Some(child) = &mut self.child else { return };
        if timeout(limit, child.wait()).await.is_err() {
            say!(
                "{} did not stop within {} s; killing it",
                self.name,
                limit.as_secs()
            );
            self.kill().await;
        }
        self.child = None;
    }

    /// Ends it at once.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        if let Some(child) = &mut self.child {
            let _ = timeout(KILL_MAX, child.wait()).await;
        }
        self.child = None;
    }

    /// The end of its log, for an error.
    pub(crate) fn last_words(&self) -> String {
        // An error that quotes nothing is better than one that hides why the program ended.
        let words = read_end(&self.log).unwrap_or_default();
        let lines: Vec<&str> = words.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_WORDS_LINES)..];
        let quoted: String = last.iter().map(|line| format!("  | {line}\n")).collect();
        format!("{quoted}  its log is {}", self.log.display())
    }
}

fn read_end(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LAST_WORDS_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Another program of Marquee, in the folder of this one.
pub(crate) fn beside_us(binary: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    // A package may put a link on PATH and the programs elsewhere.
    let own = fs::canonicalize(&own).unwrap_or(own);
    let path = own.with_file_name(binary);
    if path.is_file() {
        return Ok(path);
    }
    Err(anyhow!(
        "there is no {binary} beside {}; install or build all of Marquee into one folder (\"cargo \
         build --workspace\" in a checkout)",
        own.display()
    )
    .into())
}
