//! The real `marquee-worker` as a process of its own, in a folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use marquee_domain::artifact::Manifest;
use marquee_domain::resources::{DeviceKind, Resources};
use marquee_domain::spec::{CommandSettings, EvalSettings, JobSpec, Sharing, Watch, Work};
use marquee_proto::v1;
use marquee_proto::v1::coordinator_message::Body as ToWorker;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::cage_host::CageHost;
use crate::fake::{Fake, Key, PATIENCE};

/// What a daemon's host is like, where that matters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    /// As an account that is not root's, where the test has the choice.
    pub(crate) unprivileged: bool,
    /// The data folder is a disk of its own, of this size.
    pub(crate) disk_bytes: Option<u64>,
    /// It is started in this cgroup.
    pub(crate) cgroup: Option<PathBuf>,
    /// As the account of a packaged worker, on a host with accounts for jobs.
    pub(crate) cage: Option<Arc<CageHost>>,
}

/// The account of an unprivileged daemon.
const NOBODY: u32 = 65_534;

/// A worker under test with its folder.
pub(crate) struct Daemon {
    place: Place,
    pub(crate) dir: tempfile::TempDir,
    child: Option<Child>,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
    /// System calls that its kernel refuses, and how.
    pub(crate) refused: Vec<(i64, i32)>,
}

impl Daemon {
    pub(crate) fn start(fake: &Fake, extra: &[&str]) -> Self {
        Self::start_in(fake, extra, Vec::new())
    }

    /// With more environment, such as a [`crate::nvml::FakeNvml`]'s.
    pub(crate) fn start_in(fake: &Fake, extra: &[&str], env: Vec<(String, String)>) -> Self {
        Self::start_at(fake, extra, env, Place::default())
    }

    /// With a coordinator behind another address.
    pub(crate) fn start_towards(coordinator: SocketAddr) -> Self {
        Self::start_by(coordinator, &[], Vec::new(), Place::default())
    }

    /// On a host of a certain kind.
    pub(crate) fn start_at(
        fake: &Fake,
        extra: &[&str],
        env: Vec<(String, String)>,
        place: Place,
    ) -> Self {
        Self::start_by(fake.address, extra, env, place)
    }

    fn start_by(
        coordinator: SocketAddr,
        extra: &[&str],
        env: Vec<(String, String)>,
        place: Place,
    ) -> Self {
        let dir = match &place.cage {
            Some(host) => host.folder(),
            None => tempfile::tempdir().unwrap(),
        };
        fs::create_dir(dir.path().join("bin")).unwrap();
        if place.unprivileged && is_root() {
            for path in [dir.path().to_owned(), dir.path().join("bin")] {
                std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
            // Where the tests were built, others may not look.
            fs::copy(BINARY, dir.path().join("marquee-worker")).unwrap();
        }
        let mut daemon = Self {
            place,
            dir,
            child: None,
            arguments: Vec::new(),
            env,
            refused: Vec::new(),
        };
        daemon.arguments = vec![
            format!("--coordinator=http://{coordinator}"),
            "--name=w1".into(),
            format!("--data-dir={}", daemon.data().display()),
            format!("--bin-dir={}", daemon.bin().display()),
            "--cpu-slots=4".into(),
            "--threads-per-slot=3".into(),
        ];
        daemon
            .arguments
            .extend(extra.iter().map(|text| (*text).to_owned()));
        daemon.start_again();
        daemon
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = self.program();
        command
            .args(&self.arguments)
            // As on a kernel without Landlock: each of the other walls is tried by itself.
            .env("MARQUEE_WORKER__SANDBOX", "off")
            .envs(self.env.clone())
            .env("MARQUEE_LOG", "debug,h2=info,hyper=info,tower=info");
        command
    }

    /// The daemon's program, where it shall run.
    fn program(&self) -> Command {
        if let Some(host) = &self.place.cage {
            return host.worker();
        }
        if let Some(bytes) = self.place.disk_bytes {
            fs::create_dir_all(self.data()).unwrap();
            let data = self.data().display().to_string();
            let script =
                format!("mount -t tmpfs -o size={bytes},mode=0700 none '{data}' && exec \"$@\"");
            let mut command = Command::new("unshare");
            let rights: &[&str] = if is_root() { &["-m"] } else { &["-r", "-m"] };
            command
                .args(rights)
                .args(["sh", "-c", &script, "sh", BINARY]);
            return command;
        }
        if let Some(cgroup) = &self.place.cgroup {
            let script = format!(
                "echo $$ > '{}/cgroup.procs' && exec \"$@\"",
                cgroup.display()
            );
            let mut command = Command::new("sh");
            command.args(["-c", &script, "sh", BINARY]);
            return command;
        }
        if self.place.unprivileged && is_root() {
            use std::os::unix::process::CommandExt as _;
            let mut command = Command::new(self.dir.path().join("marquee-worker"));
            command.uid(NOBODY).gid(NOBODY);
            return command;
        }
        Command::new(BINARY)
    }

    /// The data folder as the daemon sees it.
    pub(crate) fn seen_data(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.pid()));
        root.join(self.data().strip_prefix("/").unwrap())
    }

    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// From its next start on it knows these coordinators.
    pub(crate) fn know(&mut self, fakes: &[&Fake]) {
        let urls: Vec<String> = fakes
            .iter()
            .map(|fake| format!("http://{}", fake.address))
            .collect();
        self.arguments[0] = format!("--coordinator={}", urls.join(","));
    }

    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none());
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        let mut command = self.command();
        command.stdin(Stdio::null()).stderr(log);
        // From a thread of its own, since a filter stays with the thread for good.
        let spawn = || {
            self.refused.iter().for_each(|refused| refuse(*refused));
            command.spawn().unwrap()
        };
        let child = std::thread::scope(|scope| scope.spawn(spawn).join().unwrap());
        self.child = Some(child);
    }

    /// From its next start on.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().unwrap().id()).unwrap()
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("daemon.log")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    pub(crate) fn rank_dir(&self, key: Key) -> PathBuf {
        self.data()
            .join(format!("attempts/{}-{}-{}", key.0, key.1, key.2))
    }

    /// A program for the daemon's `bin_dir`.
    pub(crate) fn install(&self, name: &str, script: &str) {
        let path = self.bin().join(name);
        fs::write(
            &path,
            format!("#!/bin/sh\n[ \"$1\" = --version ] && exit\n{script}"),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn kill_9(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let since = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            assert!(since.elapsed() < PATIENCE, "the daemon does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.log()).unwrap_or_default());
        }
        if let Some(mut child) = self.child.take() {
            let _dead = child.kill();
            let _dead = child.wait();
        }
        // What a failed test left: every keeper's session.
        let attempts = fs::read_dir(self.data().join("attempts"))
            .into_iter()
            .flatten()
            .flatten();
        for folder in attempts.flat_map(|rank| [rank.path(), rank.path().join("store")]) {
            let claim = fs::read(folder.join("claim-1.json")).unwrap_or_default();
            let claim: serde_json::Value = serde_json::from_slice(&claim).unwrap_or_default();
            let keeper = claim["keeper"]["pid"]
                .as_i64()
                .and_then(|pid| i32::try_from(pid).ok());
            if let Some(keeper) = keeper.filter(|pid| *pid > 1 && is_alive(*pid)) {
                let _gone = kill(Pid::from_raw(keeper), Signal::SIGUSR1);
            }
        }
    }
}

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_marquee-worker");

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Lets a system call fail for this thread and all it starts, as an older kernel or one at its limit
/// would.
fn refuse((call, errno): (i64, i32)) {
    let filter = SeccompFilter::new(
        BTreeMap::from([(call, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(u32::try_from(errno).unwrap()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// Whether a process runs; a zombie does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rfind(')')
        .is_some_and(|at| !stat[at + 1..].trim_start().starts_with(['Z', 'X']))
}

/// Waits until something outside the coordinator is true.
pub(crate) async fn until(what: &str, is_true: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_true() {
        assert!(since.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a file holds whole lines, and gives them.
pub(crate) async fn lines_of(path: &Path, count: usize) -> Vec<String> {
    let read = || fs::read_to_string(path).unwrap_or_default();
    until(&format!("{count} lines in {path:?}"), || {
        read().matches('\n').count() >= count
    })
    .await;
    read().lines().map(str::to_owned).collect()
}

pub(crate) fn shell(script: &str) -> Work {
    let argv = vec!["sh".into(), "-c".into(), script.into()];
    Work::Command(CommandSettings {
        argv,
        env: BTreeMap::new(),
        env_from_worker: Vec::new(),
    })
}

/// Work for `marquee-trainer run`.
pub(crate) fn eval() -> Work {
    Work::Eval(EvalSettings {
        batch_size: 1,
        thresholds: BTreeMap::new(),
        bootstrap_resamples: 0,
        gallery: 0,
        seed: 0,
        allow_overlap: false,
    })
}

/// One assignment, as the coordinator would send it.
pub(crate) struct Assigned {
    pub(crate) key: Key,
    pub(crate) work: Work,
    pub(crate) world_size: u32,
    pub(crate) inputs: Vec<(&'static str, Manifest)>,
    pub(crate) hosts_rendezvous: bool,
    pub(crate) resume: Option<(u64, Manifest)>,
    pub(crate) start: bool,
    pub(crate) watch: Watch,
    project: Option<&'static str>,
    slot: u32,
}

impl Assigned {
    /// On a CPU slot that no other job has.
    pub(crate) fn new(key: Key, work: Work) -> Self {
        Self {
            slot: u32::try_from(key.0).unwrap() * 16 + key.2,
            key,
            work,
            world_size: 1,
            inputs: Vec::new(),
            hosts_rendezvous: false,
            resume: None,
            start: false,
            watch: Watch::default(),
            project: None,
        }
    }

    pub(crate) fn of_project(mut self, project: &'static str) -> Self {
        self.project = Some(project);
        self
    }

    pub(crate) fn on_slot(mut self, slot: u32) -> Self {
        self.slot = slot;
        self
    }

    /// Watched over so.
    pub(crate) fn watched(mut self, watch: Watch) -> Self {
        self.watch = watch;
        self
    }

    /// With the order to start.
    pub(crate) fn started(mut self) -> Self {
        self.start = true;
        self
    }

    pub(crate) fn input(mut self, name: &'static str, manifest: Manifest) -> Self {
        self.inputs.push((name, manifest));
        self
    }

    pub(crate) async fn tell(self, fake: &Fake) {
        fake.tell(ToWorker::Assign(self.message())).await;
    }

    pub(crate) fn message(self) -> v1::Assign {
        let spec = JobSpec {
            name: "job".parse().unwrap(),
            work: self.work,
            needs: Vec::new(),
            needs_on: Default::default(),
            inputs: BTreeMap::new(),
            resources: Resources {
                ranks: self.world_size,
                min_ranks: None,
                device: DeviceKind::Cpu,
                devices_per_rank: 1,
            },
            priority: 0,
            max_attempts: 3,
            timeout_s: None,
            array: None,
            may_fail: 0,
            reuse: true,
            element: None,
            values: Default::default(),
            watch: self.watch,
            sharing: Sharing {
                project: self
                    .project
                    .map_or_else(Default::default, |name| name.parse().unwrap()),
                ..Sharing::default()
            },
        };
        let input = |(name, manifest): &(&str, Manifest)| v1::AssignedInput {
            name: (*name).to_owned(),
            manifest: Some(v1::Manifest::from(manifest)),
        };
        v1::Assign {
            job_id: self.key.0,
            attempt: self.key.1,
            rank: self.key.2,
            world_size: self.world_size,
            local_rank: self.key.2,
            spec_json: serde_json::to_string(&spec).unwrap(),
            inputs: self.inputs.iter().map(input).collect(),
            devices: vec![v1::Device {
                kind: Some(v1::device::Kind::Cpu(self.slot)),
            }],
            hosts_rendezvous: self.hosts_rendezvous,
            resume: self.resume.map(|(step, manifest)| v1::AssignedCheckpoint {
                step,
                manifest: Some(v1::Manifest::from(&manifest)),
            }),
            shares_rates: false,
            start: self.start,
            ..v1::Assign::default()
        }
    }
}

pub(crate) async fn start(fake: &Fake, key: Key, rendezvous: Option<v1::Rendezvous>) {
    let start = v1::Start {
        job_id: key.0,
        attempt: key.1,
        rank: key.2,
        rendezvous,
        standby: None,
    };
    fake.tell(ToWorker::Start(start)).await;
}

pub(crate) async fn stop(fake: &Fake, key: Key, grace_ms: u32, forget: bool) {
    let (job_id, attempt, rank) = key;
    let reason = "the job was cancelled".into();
    fake.tell(ToWorker::Stop(v1::Stop {
        job_id,
        attempt,
        rank,
        grace_ms,
        reason,
        forget,
    }))
    .await;
}

/// Runs one rank of a world of one up to its start.
pub(crate) async fn run(fake: &Fake, key: Key, work: Work) {
    Assigned::new(key, work).tell(fake).await;
    fake.until_prepared(key).await;
    start(fake, key, None).await;
}
