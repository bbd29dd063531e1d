//! The keeper: a tiny process between the daemon and a child (`marquee-keeper DIR N -- ARGV`).
//!
//! It leads the child's session, outlives the daemon, and writes down how the child ended, so that
//! a daemon that was killed and started again learns the child's exit status all the same. As the
//! subreaper of all that the child starts, it also knows when nothing of it is left: it kills what
//! outlives the child, wherever it hid, and only then writes `exit-N.json`.
//!
//! A full disk does not end it: room for what it writes is kept from the start, and where there was none
//! it tries again until somebody makes some.
//!
//! Not here: any decision. TERM to the group passes it by; [`KILL_REQUEST`] makes it kill.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use marquee_domain::child::env::EVENTS_FD;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{set_child_subreaper, set_name};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{AccessFlags, Pid, access, setsid};
use serde::{Deserialize, Serialize};

use super::cage::Cage;
use super::fence::Fence;
use super::launcher::{Exit, events_path};
use super::{ProcessId, cgroup, signal};
use crate::durable::Room;
use crate::files;
use crate::proc::{self, oom_kills};

/// Asks a keeper to kill everything below it.
pub const KILL_REQUEST: Signal = Signal::SIGUSR1;

/// The claim on launch number N, `claim-N.json`: made once, by the keeper, or by a daemon that
/// wants to be sure that no late keeper starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// None where a daemon fenced this launch off.
    pub keeper: Option<ProcessId>,
    /// The child, once it is started.
    pub child: Option<i32>,
    /// The cgroup that it was started in.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
}

/// The first word of the command line where the daemon's own program is the keeper.
pub const COMMAND: &str = "keep";

/// What to keep: the rest of the keeper's command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Keep {
    /// Folder of the launch.
    pub dir: PathBuf,
    /// Number of the launch.
    pub launch: u32,
    /// The child gets a channel for its events.
    pub events: bool,
    /// The child's cgroup; it is gone when the keeper is.
    pub cgroup: Option<PathBuf>,
    pub argv: Vec<OsString>,
}

impl Keep {
    /// Reads what [`Keep::words`] wrote. By hand: a keeper is started for every child, and a parser for all that the
    /// daemon can be told costs it more than its own work.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> anyhow::Result<Self> {
        let mut words = words.into_iter();
        let mut next = || words.next().context("a keeper's command line ends early");
        let dir = PathBuf::from(next()?);
        let launch = next()?;
        let launch = launch.to_str().and_then(|launch| launch.parse().ok());
        let launch = launch.context("a keeper's launch is no number")?;
        let (mut events, mut cgroup) = (false, None);
        loop {
            let word = next()?;
            match word.to_str() {
                Some("--events") => events = true,
                Some("--cgroup") => cgroup = Some(PathBuf::from(next()?)),
                Some("--") => break,
                _ => anyhow::bail!("a keeper does not know {word:?}"),
            }
        }
        let argv: Vec<OsString> = words.collect();
        anyhow::ensure!(!argv.is_empty(), "a keeper was given no program");
        Ok(Self {
            dir,
            launch,
            events,
            cgroup,
            argv,
        })
    }

    /// The command line behind the program's name.
    #[must_use]
    pub fn words(&self) -> Vec<OsString> {
        let mut words = vec![self.dir.clone().into(), self.launch.to_string().into()];
        if self.events {
            words.push("--events".into());
        }
        if let Some(cgroup) = &self.cgroup {
            words.extend(["--cgroup".into(), cgroup.clone().into()]);
        }
        words.push("--".into());
        words.extend(self.argv.iter().cloned());
        words
    }
}

/// What is the child's alone, on its way to the keeper: its environment, since a job's own `LD_PRELOAD` is nothing for
/// the keeper, and its fence, behind which the keeper could not work.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChildOrder {
    env: Vec<(OsString, OsString)>,
    fence: Option<Fence>,
    /// Under whose account it runs. None: under the keeper's.
    #[serde(default)]
    cage: Option<Cage>,
}

impl ChildOrder {
    pub(super) fn new(
        env: &BTreeMap<OsString, OsString>,
        fence: Option<Fence>,
        cage: Option<Cage>,
    ) -> Self {
        let pairs = env.iter();
        Self {
            env: pairs
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            fence,
            cage,
        }
    }
}

/// A child that is to run under another account, as its warden is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Born {
    pub(super) argv: Vec<OsString>,
    pub(super) own: ChildOrder,
    pub(super) work_dir: PathBuf,
    /// Where it and its warden are.
    pub(super) cgroup: PathBuf,
}

/// Has such a child live its life, tells when it was started, and says how it ended when nothing of it is left:
/// [`super::cage::keeping::keep`], which needs this file.
pub type KeepCaged = fn(&Cage, Born, &SignalFd, &mut dyn FnMut(i32)) -> Exit;

/// How long what outlived the child may stay, at least, until it is looked for again: one that was
/// being forked while the list was read is not in it.
const RESCAN_MIN: Duration = Duration::from_millis(20);
/// A look at all processes may take a third of a core at most, however many there are.
const REST_FACTOR: u32 = 2;
/// A shell's exit status where its program was killed by SIGKILL. Alone it proves nothing.
const SHELL_KILLED: i32 = 128 + Signal::SIGKILL as i32;
/// Between two tries to write to a full disk.
const WRITE_AGAIN: Duration = Duration::from_millis(200);

pub(crate) fn claim_path(dir: &Path, launch: u32) -> PathBuf {
    dir.join(format!("claim-{launch}.json"))
}

pub(crate) fn exit_path(dir: &Path, launch: u32) -> PathBuf {
    dir.join(format!("exit-{launch}.json"))
}

/// Writes a claim if there is none yet: whole, and only one of several that try.
pub(crate) fn try_claim(dir: &Path, launch: u32, claim: &Claim) -> io::Result<bool> {
    use std::io::Write as _;
    let aside = dir.join(format!("claim-{launch}.{}", std::process::id()));
    files::make(&aside)?.write_all(&serde_json::to_vec(claim)?)?;
    let linked = fs::hard_link(&aside, claim_path(dir, launch));
    fs::remove_file(&aside)?;
    match linked {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

/// The keeper's whole life. Returns when the child and all its descendants are gone.
pub fn keep(order: &Keep, keep_caged: KeepCaged) -> anyhow::Result<()> {
    let (dir, launch) = (order.dir.as_path(), order.launch);
    // Blocked, so that `wait_for` takes them one by one; `start` lifts the mask for the child.
    let mut signals = SigSet::empty();
    for each in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        KILL_REQUEST,
    ] {
        signals.add(each);
    }
    signals.thread_block()?;
    // A session of its own: what ends the daemon, from a terminal or by its group, does not reach it.
    setsid()?;
    // It was started by the number of an open file, which is no name to see in a list of processes.
    set_name(c"marquee-keeper")?;
    // What a child leaves behind comes to its keeper, and so is found whatever it does to its session.
    set_child_subreaper(true)?;
    // Whole, or the daemon died over it and will start another one.
    let mut child: ChildOrder = serde_json::from_reader(io::stdin().lock())?;
    let ends = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;

    let keeper = ProcessId::own();
    let claim = Claim {
        keeper,
        child: None,
        cgroup: order.cgroup.clone(),
    };
    // The claim before the child: a daemon that comes meanwhile either finds the claim, or fences this keeper
    // off with one.
    if !try_claim(dir, launch, &claim)? {
        anyhow::bail!("launch {launch} in {dir:?} is fenced off");
    }
    // While there is some: once the child has filled the disk, how it ended must still find room.
    let mut claim_room = Room::keep(&claim_path(dir, launch));
    let mut exit_room = Room::keep(&exit_path(dir, launch));
    if let Some(cage) = child.cage.take() {
        let born = Born {
            argv: order.argv.clone(),
            own: child,
            work_dir: std::env::current_dir()?,
            cgroup: order.cgroup.clone().context("a cage needs a cgroup")?,
        };
        let exit = keep_caged(&cage, born, &ends, &mut |child| {
            let claim = Claim {
                child: Some(child),
                ..claim.clone()
            };
            surely(|| claim_room.fill_json(&claim), &ends);
        });
        surely(|| exit_room.fill_json(&exit), &ends);
        return Ok(());
    }
    let ooms_before = oom_kills();
    // The child is born where the keeper is: it goes there for the birth.
    let birth = order.cgroup.as_deref().map(Birth::in_cgroup);
    let started = start(order, child, &signals);
    let cgroup = birth.and_then(Birth::go_home);
    let exit = match started {
        Ok(child) => {
            let claim = Claim {
                child: Some(child),
                ..claim
            };
            // With the child's number, so that a daemon that comes later finds the child even if its keeper
            // was killed.
            surely(|| claim_room.fill_json(&claim), &ends);
            let status = wait_for(child, &ends, cgroup)?;
            let own = cgroup.and_then(cgroup::oom_kills);
            exit_of(status, own, || oom_kills() > ooms_before)
        }
        Err(error) => Exit::NotStarted {
            error: error.to_string(),
        },
    };
    bury_the_rest(&ends, cgroup)?;
    // Before the exit's file, with which the daemon may take the folder for the next rank.
    if let Some(folder) = &order.cgroup {
        cgroup::remove(folder);
    }
    // The last thing it does: who sees the keeper gone finds the file, or knows that there is none.
    surely(|| exit_room.fill_json(&exit), &ends);
    Ok(())
}

/// The keeper's visit to the cgroup of its child.
struct Birth<'a> {
    cgroup: &'a Path,
    /// Where the keeper was before; an error where it could not leave.
    home: io::Result<PathBuf>,
}

impl<'a> Birth<'a> {
    fn in_cgroup(cgroup: &'a Path) -> Self {
        let home = cgroup::enter(cgroup);
        Self { cgroup, home }
    }

    /// The cgroup, where the child is in it and the keeper is not: then all in it may be killed.
    fn go_home(self) -> Option<&'a Path> {
        match self.home.and_then(|home| cgroup::join(&home)) {
            Ok(()) => Some(self.cgroup),
            Err(error) => {
                eprintln!("[marquee] this rank has no cgroup of its own: {error}");
                None
            }
        }
    }
}

/// Writes, for as long as it takes, and goes on doing what it is there for meanwhile.
fn surely(mut write: impl FnMut() -> io::Result<()>, ends: &SignalFd) {
    while let Err(error) = write() {
        // To the log of the rank: there is nobody else to tell.
        eprintln!("[marquee] the keeper cannot write: {error}");
        if error.kind() == io::ErrorKind::NotFound {
            // The child removed the folder it belongs into.
            return;
        }
        if wait_a_moment(ends, WRITE_AGAIN).unwrap_or(false) {
            kill_all(None);
        }
    }
}

/// Starts the child from a thread of its own, whose mask alone is lifted, and which alone is behind the fence: a child
/// inherits both of the thread that starts it. With TERM blocked it could never be told to stop.
pub(super) fn start(order: &Keep, own: ChildOrder, blocked: &SigSet) -> io::Result<i32> {
    let ChildOrder { env, fence, .. } = own;
    let (program, arguments) = order
        .argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program"))?;
    let mut command = Command::new(found_in_path(program, &env).unwrap_or_else(|| program.into()));
    command
        .args(arguments)
        .arg0(program)
        .env_clear()
        .envs(env)
        .stdin(Stdio::null());
    let channel = order.events.then(|| channel(&order.dir)).transpose()?;
    if let Some(channel) = &channel {
        command.env(EVENTS_FD, channel.as_raw_fd().to_string());
    }
    let spawn = || -> io::Result<i32> {
        blocked.thread_unblock()?;
        if !order.cgroup.as_deref().is_some_and(cgroup::counts_tasks) {
            leave_tasks_to_others()?;
        }
        if let Some(fence) = &fence {
            // A kernel without Landlock is named by the doctor, and is no reason not to work.
            fence.raise()?;
        }
        let child = command.spawn()?;
        i32::try_from(child.id()).map_err(io::Error::other)
    };
    std::thread::scope(|scope| scope.spawn(spawn).join())
        .map_err(|_| io::Error::other("the thread that starts the child panicked"))?
}

/// Where no cgroup counts a child's processes, their account is bound for the child and all that it starts: a program
/// that forks without end then stops at half of what the host has, and one can still log in. It does not bind root.
fn leave_tasks_to_others() -> io::Result<()> {
    let host = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
    let most = host
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    let Some(half) = most.min().map(|most| most / 2) else {
        return Ok(());
    };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NPROC)?;
    if half < soft {
        setrlimit(Resource::RLIMIT_NPROC, half, half.min(hard))?;
    }
    Ok(())
}

/// Where in the child's `PATH` its program lies. The standard library then starts it without copying this process
/// first, which costs more than all else that a keeper does. None: it is left to the library to find it, which also
/// knows what to do with a text that says no interpreter, and what to say of one that cannot be found.
fn found_in_path(program: &OsStr, env: &[(OsString, OsString)]) -> Option<PathBuf> {
    const KNOWN_STARTS: [&[u8]; 2] = [b"\x7fELF", b"#!"];
    if program.is_empty() || program.as_bytes().contains(&b'/') {
        return None;
    }
    let (_, path) = env.iter().find(|(name, _)| name == "PATH")?;
    let named = std::env::split_paths(path).map(|folder| folder.join(program));
    // The first that may be run is the one: what stands behind it is never looked at.
    let found = named
        .into_iter()
        .find(|path| access(path.as_path(), AccessFlags::X_OK).is_ok() && path.is_file())?;
    let mut start = [0; 4];
    File::open(&found).ok()?.read_exact(&mut start).ok()?;
    (found.is_absolute() && KNOWN_STARTS.iter().any(|known| start.starts_with(known)))
        .then_some(found)
}

/// The file of the child's events, open for it to inherit.
fn channel(dir: &Path) -> io::Result<File> {
    let file = files::open_append(&events_path(dir))?;
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(file)
}

/// Reaps all that ends until `child` does.
fn wait_for(child: i32, ends: &SignalFd, cgroup: Option<&Path>) -> nix::Result<WaitStatus> {
    loop {
        loop {
            let status = waitpid(None, Some(WaitPidFlag::WNOHANG))?;
            if status == WaitStatus::StillAlive {
                break;
            }
            if status.pid() == Some(Pid::from_raw(child)) {
                return Ok(status);
            }
        }
        if wait(ends, PollTimeout::NONE)? {
            kill_all(cgroup);
        }
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "waitpid was not asked for stops and continues"
)]
pub(super) fn exit_of(
    status: WaitStatus,
    own_kills: Option<u64>,
    host_had_some: impl Fn() -> bool,
) -> Exit {
    // Its own cgroup knows whom the killer struck. Without one, that it struck anybody on this host meanwhile is
    // all there is to know.
    let kills = own_kills.unwrap_or(0);
    let is_suspect = || own_kills.is_none() && host_had_some();
    let by_kernel = |how: String| Exit::OutOfMemory { how, kills };
    match status {
        WaitStatus::Exited(_, 0) => Exit::Code(0),
        WaitStatus::Exited(_, code) if kills > 0 => by_kernel(format!("exited with status {code}")),
        // How a shell says that its program was killed.
        WaitStatus::Exited(_, code @ SHELL_KILLED) if is_suspect() => {
            by_kernel(format!("exited with status {code}"))
        }
        WaitStatus::Exited(_, code) => Exit::Code(code),
        WaitStatus::Signaled(_, by, _) if kills > 0 => {
            by_kernel(format!("was killed by signal {} ({by})", by as i32))
        }
        WaitStatus::Signaled(_, by, _) => Exit::Signal {
            number: by as i32,
            oom: by == Signal::SIGKILL && is_suspect(),
        },
        other => Exit::NotStarted {
            error: format!("waitpid said {other:?}"),
        },
    }
}

/// Kills what outlived the child, until nothing is left to wait for. Mostly nothing is, and then the
/// first question to the kernel says so.
pub(super) fn bury_the_rest(ends: &SignalFd, cgroup: Option<&Path>) -> nix::Result<()> {
    let mut look_at = Instant::now();
    loop {
        // All that have ended, before anything else is looked at: there may be thousands.
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
                Ok(WaitStatus::StillAlive) => break,
                Ok(_buried) => {}
            }
        }
        let now = Instant::now();
        if now >= look_at {
            kill_all(cgroup);
            // A process in an uninterruptible wait dies when the kernel lets it.
            look_at = Instant::now() + RESCAN_MIN.max(now.elapsed() * REST_FACTOR);
        }
        wait_a_moment(ends, look_at.saturating_duration_since(Instant::now()))?;
    }
}

/// Waits for the next signal, such as that of a child's end, but not for long. Whether one asked to kill.
fn wait_a_moment(ends: &SignalFd, most: Duration) -> nix::Result<bool> {
    let ms = u16::try_from(most.as_millis() + 1).unwrap_or(u16::MAX);
    wait(ends, PollTimeout::from(ms))
}

/// Waits for signals and takes all there are. Whether one of them asked to kill.
fn wait(ends: &SignalFd, most: PollTimeout) -> nix::Result<bool> {
    let mut asked = [PollFd::new(ends.as_fd(), PollFlags::POLLIN)];
    match poll(&mut asked, most) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(e) => return Err(e),
    }
    let mut shall_kill = false;
    while let Some(signal) = ends.read_signal()? {
        shall_kill |= i32::try_from(signal.ssi_signo).is_ok_and(|n| n == KILL_REQUEST as i32);
    }
    Ok(shall_kill)
}

/// Kills everything below this process, and whatever else is in the child's cgroup.
pub(super) fn kill_all(cgroup: Option<&Path>) {
    if let Some(folder) = cgroup {
        cgroup::kill(folder);
    }
    for pid in proc::below(&[Pid::this().as_raw()], &proc::running()) {
        signal(pid, Signal::SIGKILL);
    }
}

#[cfg(test)]
mod orders {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_keeper_reads_the_order_that_the_daemon_wrote_whatever_is_in_it() {
        let plain = Keep {
            dir: "/d/17-1-0".into(),
            launch: 3,
            events: false,
            cgroup: None,
            argv: vec!["true".into()],
        };
        let odd = Keep {
            dir: OsStr::from_bytes(b"/d\xff/--").into(),
            launch: u32::MAX,
            events: true,
            cgroup: Some("--events".into()),
            argv: ["--", "--cgroup", "", "keep"].map(OsString::from).into(),
        };
        for order in [plain, odd] {
            assert_eq!(Keep::read(order.words()).unwrap(), order);
        }
        let wrong = [
            "",
            "/d",
            "/d x -- true",
            "/d 1 --events",
            "/d 1 --cgroup",
            "/d 1 --",
            "/d 1 --wrong -- true",
        ];
        for line in wrong {
            let words = line.split_whitespace().map(OsString::from);
            assert!(Keep::read(words).is_err(), "{line}");
        }
    }

    #[test]
    fn a_program_is_found_where_the_childs_path_says_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let put = |folder: &str, text: &str, mode| {
            let path = dir.path().join(folder).join("tool");
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        put("closed", "#!/bin/sh\n", 0o600);
        put("first", "#!/bin/sh\n", 0o700);
        put("second", "#!/bin/sh\n", 0o700);
        put("text", "echo no interpreter\n", 0o700);
        std::fs::create_dir_all(dir.path().join("folder/tool")).unwrap();
        let find = |program: &str, folders: &[&str]| {
            let path = std::env::join_paths(folders.iter().map(|folder| dir.path().join(folder)));
            let env = vec![("PATH".into(), path.unwrap())];
            found_in_path(OsStr::new(program), &env)
        };
        let first = Some(dir.path().join("first/tool"));
        assert_eq!(
            find("tool", &["none", "closed", "folder", "first", "second"]),
            first
        );
        // The library's to find, or to say why not.
        assert_eq!(find("tool", &["none"]), None);
        assert_eq!(
            find("tool", &["text", "first"]),
            None,
            "the first is the one"
        );
        assert_eq!(find("/bin/true", &["first"]), None);
        assert_eq!(find("", &["first"]), None);
        assert_eq!(found_in_path(OsStr::new("tool"), &[]), None);
        let relative = vec![("PATH".into(), ".:bin".into())];
        assert_eq!(found_in_path(OsStr::new("tool"), &relative), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_for_want_of_memory_is_told_from_any_other_by_the_kernels_word() {
        let pid = Pid::this();
        let exited = |code| WaitStatus::Exited(pid, code);
        let killed = WaitStatus::Signaled(pid, Signal::SIGKILL, false);
        let is_oom = |exit: Exit| {
            matches!(
                exit,
                Exit::OutOfMemory { .. } | Exit::Signal { oom: true, .. }
            )
        };
        // The rank's own cgroup decides, where it has one.
        assert!(is_oom(exit_of(killed, Some(1), || false)));
        assert!(is_oom(exit_of(exited(137), Some(2), || false)));
        assert!(
            is_oom(exit_of(exited(1), Some(1), || false)),
            "a loader's helper was killed"
        );
        assert!(
            !is_oom(exit_of(killed, Some(0), || true)),
            "somebody else's"
        );
        assert!(!is_oom(exit_of(exited(137), Some(0), || true)));
        // One that went well did well, whomever it lost.
        assert_eq!(exit_of(exited(0), Some(1), || true), Exit::Code(0));
        // Elsewhere the host's count is all there is.
        assert!(is_oom(exit_of(killed, None, || true)));
        assert!(is_oom(exit_of(exited(137), None, || true)));
        assert!(!is_oom(exit_of(exited(1), None, || true)));
        // Neither 137 nor SIGKILL is a proof.
        assert_eq!(exit_of(exited(137), None, || false), Exit::Code(137));
        assert!(!is_oom(exit_of(killed, None, || false)));
    }
}
