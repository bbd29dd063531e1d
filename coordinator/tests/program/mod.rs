//! A coordinator as its users run it: the real program, on a data folder and a port of its own.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use marquee_proto::v1;
use marquee_proto::v1::jobs_client::JobsClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::support::SOON;

/// A running coordinator; killed when dropped.
#[derive(Debug)]
pub(crate) struct Coordinator {
    child: Child,
    pub address: String,
    log: Arc<Mutex<String>>,
}

/// The program with a clean environment, apart from where Postgres is.
pub(crate) fn command(data_dir: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_marquee-coordinator"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MARQUEE_COORDINATOR__") {
            command.env_remove(name);
        }
    }
    command
        .arg("--data-dir")
        .arg(data_dir)
        .args(["--listen", listen]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Coordinator {
    /// Starts one on a free port.
    pub(crate) fn start(data_dir: &Path) -> Self {
        Self::start_with(command(data_dir, "127.0.0.1:0"))
    }

    /// Starts `command`, and returns when it says that it listens.
    pub(crate) fn start_with(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let Ok(event) = serde_json::from_str::<serde_json::Value>(&line) else {
            let mut stderr = String::new();
            child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut stderr)
                .unwrap();
            panic!("no event but {line:?}; stderr:\n{stderr}");
        };
        assert_eq!(event["event"], "listening");
        // Nobody must ever wait for a reader of the log.
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let kept = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("{line}");
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        Self {
            child,
            log,
            address: event["address"].as_str().unwrap().to_owned(),
        }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// A path as this process sees it, which may have mounts of its own.
    pub(crate) fn seen(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.child.id())).join(inside)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            signal,
        )
        .unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the coordinator did not end within {limit:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a job has succeeded.
pub(crate) async fn has_succeeded(jobs: &mut JobsClient<Channel>, job: i64) {
    let asked = v1::WatchRequest {
        job_ids: vec![job],
        keep_open: true,
        pipeline_id: 0,
    };
    let mut updates = jobs.watch(asked).await.unwrap().into_inner();
    let succeeded = async {
        while let Some(update) = updates.message().await.unwrap() {
            if update.job.unwrap().state() == v1::JobState::Succeeded {
                return;
            }
        }
        panic!("the watch ended before the job did");
    };
    timeout(SOON, succeeded).await.unwrap();
}

/// Runs a coordinator that is expected to refuse, and gives what it said.
pub(crate) fn refused(mut command: Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    assert!(!status.success(), "it did not refuse");
    assert_eq!(String::from_utf8_lossy(&stdout), "");
    String::from_utf8(stderr).unwrap()
}

/// Processes of the private Postgres of `data_dir`.
pub(crate) fn postgres_of(data_dir: &Path) -> Vec<Pid> {
    let data: PathBuf = data_dir.canonicalize().unwrap().join("postgres");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let works_there = processes.filter(|process| {
        std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data)
    });
    works_there
        .filter_map(|process| {
            process
                .file_name()
                .to_str()?
                .parse()
                .ok()
                .map(Pid::from_raw)
        })
        .collect()
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The URL of the private Postgres of `data_dir`, for looking at what the coordinator stored.
pub(crate) fn database_url(data_dir: &Path) -> String {
    let password = std::fs::read_to_string(data_dir.join("postgres.password")).unwrap();
    let socket = data_dir.join("socket");
    format!(
        "postgres://marquee:{}@localhost/postgres?host={}",
        password.trim(),
        socket.display()
    )
}
