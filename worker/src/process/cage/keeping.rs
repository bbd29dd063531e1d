//! The keeper's part: it has a child started and ended under another account, which it cannot signal itself.
//!
//! The warden is asked first; what it does not bring about in time, the end of the cgroup does, which the worker owns.
//! The cgroup also is the proof that nothing is left: what is in it can neither leave it nor hide from its list.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::warden::Order;
use super::wire::{self, Word};
use super::{Cage, job_user};
use crate::durable;
use crate::fault::at;
use crate::proc::oom_kills;
use crate::process::cgroup;
use crate::process::inside::Inside;
use crate::process::keeper::{Born, KILL_REQUEST, LOOK_REQUEST, STACKS_REQUEST, exit_of};
use crate::process::launcher::Exit;

/// For systemd to start the helper on a host that is busy.
const START_MAX: Duration = Duration::from_secs(30);
/// What the warden was told to kill, or has left over, may live so much longer.
const KILL_MAX: Duration = Duration::from_secs(1);
/// A million files that a job left take some seconds.
const TIDY_MAX: Duration = Duration::from_secs(120);
/// Bytes of one word: a look at 200 threads has some ten thousand. A job can speak in its warden's place.
const WORD_MAX_BYTES: usize = 1024 * 1024;
/// How often what does not die is killed again.
const KILL_AGAIN: Duration = Duration::from_millis(20);

/// Has a child live its life, and says how it ended, when nothing of it is left.
pub fn keep(cage: &Cage, born: Born, ends: &SignalFd, started: &mut dyn FnMut(i32)) -> Exit {
    let folder = born.cgroup.clone();
    let ooms_before = oom_kills();
    let mut life = Life {
        exit: None,
        is_tidy: false,
    };
    let lived = life.live(cage, born, ends, started);
    empty(&folder);
    let may_have_begun = matches!(lived, Ok(()) | Err(Failed::Lost(_)));
    if may_have_begun && !life.is_tidy {
        // The warden ended before its time.
        if let Err(error) = tidy(cage, &folder, ends) {
            eprintln!("[marquee] what this rank left may stay on the worker's disk: {error}");
        }
        empty(&folder);
    }
    let kills = cgroup::oom_kills(&folder);
    let ended = |status| exit_of(status, kills, || oom_kills() > ooms_before);
    let killed = WaitStatus::Signaled(Pid::this(), Signal::SIGKILL, false);
    let exit = match (life.exit, lived) {
        (Some(Word::Exited(code)), _) => ended(WaitStatus::Exited(Pid::this(), code)),
        (Some(Word::Killed(signal)), _) => match Signal::try_from(signal) {
            Ok(signal) => ended(WaitStatus::Signaled(Pid::this(), signal, false)),
            Err(_) => Exit::Signal {
                number: signal,
                oom: false,
            },
        },
        (Some(Word::NotStarted(error)), _) => Exit::NotStarted { error },
        (_, Err(Failed::NoCage(error))) => Exit::NotCaged { error },
        // With its warden.
        (_, Ok(()) | Err(Failed::Lost(_) | Failed::Told)) => ended(killed),
    };
    cgroup::remove(&folder);
    exit
}

/// What is known of a child so far.
struct Life {
    exit: Option<Word>,
    is_tidy: bool,
}

/// Why there is nothing more to be heard.
enum Failed {
    /// Nothing was started.
    NoCage(String),
    /// Told to kill before anything was started.
    Told,
    /// What the warden says makes no sense, or cannot be heard.
    Lost(io::Error),
}

impl Life {
    fn live(
        &mut self,
        cage: &Cage,
        mut born: Born,
        ends: &SignalFd,
        started: &mut dyn FnMut(i32),
    ) -> Result<(), Failed> {
        let folder = born.cgroup.clone();
        let (events, answer) = (born.events.take(), born.answer.clone());
        let mut talk = Talk::open(cage, &folder, ends)?;
        let order = Order {
            left: cage.left.clone(),
            child: Some(born),
            is_open: cage.is_open,
        };
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let mut with = vec![stdout.as_fd(), stderr.as_fd()];
        with.extend(events.as_ref().map(|events| events.as_fd()));
        wire::order(&talk.socket, &order, &with).map_err(Failed::Lost)?;
        talk.is_ordered = true;
        while let Some(word) = talk.hear(None)? {
            match word {
                Word::Started(child) => started(child),
                Word::Exited(_) | Word::Killed(_) | Word::NotStarted(_) => {
                    self.exit.get_or_insert(word);
                    // It buries what outlived the child, as far as it sees it.
                    talk.kill_at.get_or_insert(Instant::now() + KILL_MAX);
                }
                Word::Buried => talk.kill_at = Some(Instant::now() + TIDY_MAX),
                Word::Tidied => self.is_tidy = true,
                Word::Inside(inside) if std::mem::take(&mut talk.is_asked) => {
                    let inside = inside.map(Inside::bounded);
                    // One that cannot be written is not answered: who asks does not wait for ever.
                    let _in_vain = durable::replace_json(&answer, &inside);
                }
                Word::Ready | Word::Refused(_) | Word::Inside(_) => {}
            }
        }
        Ok(())
    }
}

/// Has what is left opened by a warden that was not there when the child was.
fn tidy(cage: &Cage, cgroup: &Path, ends: &SignalFd) -> io::Result<()> {
    let open = || -> Result<bool, Failed> {
        let mut talk = Talk::open(cage, cgroup, ends)?;
        let order = Order {
            child: None,
            left: cage.left.clone(),
            is_open: false,
        };
        wire::order(&talk.socket, &order, &[]).map_err(Failed::Lost)?;
        let word = talk.hear(Some(Instant::now() + TIDY_MAX))?;
        Ok(word == Some(Word::Tidied))
    };
    match open() {
        Ok(true) => Ok(()),
        Ok(false) => Err(io::Error::other(
            "it was not opened to the worker's account",
        )),
        Err(Failed::NoCage(error)) => Err(io::Error::other(error)),
        Err(Failed::Told) => Err(io::ErrorKind::Interrupted.into()),
        Err(Failed::Lost(error)) => Err(error),
    }
}

/// A connection to the helper, and to the warden that it turns into.
struct Talk<'a> {
    socket: UnixStream,
    heard: Vec<u8>,
    cgroup: PathBuf,
    ends: &'a SignalFd,
    /// The warden has its order: what is said now is for its child.
    is_ordered: bool,
    /// The daemon wants to know what the child is at.
    is_asked: bool,
    /// When the cgroup is killed, if nothing happens before.
    kill_at: Option<Instant>,
}

impl<'a> Talk<'a> {
    /// Asks for a warden, and waits until it is there.
    fn open(cage: &Cage, cgroup: &Path, ends: &'a SignalFd) -> Result<Self, Failed> {
        let no_cage = |error: io::Error| {
            Failed::NoCage(format!(
                "the job cannot be started as {}: {error}; look at \"systemctl status marquee-cage.socket\" on the worker's host",
                job_user(cage.user)
            ))
        };
        let socket = UnixStream::connect(&cage.socket).map_err(|e| no_cage(at(&cage.socket, e)))?;
        let given = give(cage, cgroup).map_err(no_cage)?;
        let with: Vec<BorrowedFd<'_>> = given.iter().map(|file| file.as_fd()).collect();
        // One that refuses says why, also to who has not asked yet.
        let asked = wire::ask(&socket, cage.user, &with);
        let mut talk = Self {
            socket,
            heard: Vec::new(),
            cgroup: cgroup.to_owned(),
            ends,
            is_ordered: false,
            is_asked: false,
            kill_at: None,
        };
        match talk.hear(Some(Instant::now() + START_MAX)) {
            Ok(Some(Word::Ready)) => Ok(talk),
            Ok(Some(Word::Refused(why))) => Err(no_cage(io::Error::other(why))),
            Ok(Some(other)) => Err(no_cage(io::Error::other(format!(
                "{other:?} was not expected"
            )))),
            Ok(None) => Err(no_cage(asked.err().unwrap_or_else(|| {
                io::Error::other(
                    "its helper left without a word; \"journalctl -u marquee-cage@*\" has more",
                )
            }))),
            Err(Failed::Lost(error)) => Err(no_cage(error)),
            Err(failed @ (Failed::NoCage(_) | Failed::Told)) => Err(failed),
        }
    }

    /// The next word. None: the other side is gone. Meanwhile it passes on what the daemon wants.
    fn hear(&mut self, until: Option<Instant>) -> Result<Option<Word>, Failed> {
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                let word = serde_json::from_slice(&line);
                return word.map(Some).map_err(|e| Failed::Lost(e.into()));
            }
            let now = Instant::now();
            if self.kill_at.is_some_and(|at| at <= now) {
                cgroup::kill(&self.cgroup);
                self.kill_at = Some(now + KILL_AGAIN);
            }
            if until.is_some_and(|until| until <= now) {
                return Err(Failed::Lost(io::ErrorKind::TimedOut.into()));
            }
            let next = [self.kill_at, until].into_iter().flatten().min();
            let most = next.map_or(PollTimeout::NONE, |next| {
                let ms = next.saturating_duration_since(now).as_millis() + 1;
                u16::try_from(ms).unwrap_or(u16::MAX).into()
            });
            let mut asked = [
                PollFd::new(self.ends.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut asked, most) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(Failed::Lost(error.into())),
            }
            let has_word = asked[1].any() == Some(true);
            self.pass_on()?;
            if has_word && !self.read()? {
                return Ok(None);
            }
        }
    }

    /// Reads what is there. Whether there is somebody who could say more.
    fn read(&mut self) -> Result<bool, Failed> {
        let mut bytes = [0; 4_096];
        match self.socket.read(&mut bytes) {
            Ok(0) => Ok(false),
            Ok(_) if self.heard.len() > WORD_MAX_BYTES => Err(Failed::Lost(io::Error::new(
                io::ErrorKind::InvalidData,
                "a word without an end",
            ))),
            Ok(count) => {
                self.heard.extend(&bytes[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(Failed::Lost(error)),
        }
    }

    /// Passes the daemon's signals on.
    fn pass_on(&mut self) -> Result<(), Failed> {
        let read = |ends: &SignalFd| ends.read_signal();
        while let Some(signal) = read(self.ends).map_err(|e| Failed::Lost(e.into()))? {
            let signal = i32::try_from(signal.ssi_signo).unwrap_or(0);
            if signal == KILL_REQUEST as i32 {
                if !self.is_ordered {
                    cgroup::kill(&self.cgroup);
                    return Err(Failed::Told);
                }
                self.say(wire::KILL);
                self.kill_at.get_or_insert(Instant::now() + KILL_MAX);
            } else if signal == Signal::SIGTERM as i32 && self.is_ordered {
                self.say(wire::TERMINATE);
            } else if signal == LOOK_REQUEST as i32 && self.is_ordered {
                self.is_asked = true;
                self.say(wire::LOOK);
            } else if signal == STACKS_REQUEST as i32 && self.is_ordered {
                self.say(wire::STACKS);
            }
        }
        Ok(())
    }

    /// One that hears nothing any more is ended otherwise.
    fn say(&mut self, word: u8) {
        // A warden that was stopped reads nothing: some bytes wait for it, and no more are worth a wait.
        let _full_or_gone = self.socket.set_nonblocking(true);
        let _full_or_gone = self.socket.write(&[word]);
        let _full_or_gone = self.socket.set_nonblocking(false);
    }
}

/// Opens what is given to the job's user, the cgroup first, so that its group may use it. The helper makes it that
/// user's group; until then it is the worker's own.
fn give(cage: &Cage, cgroup: &Path) -> io::Result<Vec<File>> {
    let mut given = Vec::new();
    for (paths, folders, files) in [(&cage.entered, 0o710, 0o640), (&cage.owned, 0o770, 0o660)] {
        for path in paths {
            let file = open(path)?;
            let mode = if file.metadata()?.is_dir() {
                folders
            } else {
                files
            };
            file.set_permissions(Permissions::from_mode(mode))
                .map_err(|e| at(path, e))?;
            given.push(file);
        }
    }
    // The helper has no right but that of everybody to write there; who else tries has none in the cgroups above.
    // By a descriptor it comes past the folders above, which are closed to all but the worker.
    std::fs::set_permissions(cgroup, Permissions::from_mode(0o711)).map_err(|e| at(cgroup, e))?;
    let processes = cgroup.join("cgroup.procs");
    std::fs::set_permissions(&processes, Permissions::from_mode(0o666))
        .map_err(|e| at(&processes, e))?;
    given.insert(0, open(cgroup)?);
    Ok(given)
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = openat(CWD, path, flags, Mode::empty()).map_err(|e| at(path, e.into()))?;
    Ok(File::from(opened))
}

/// Kills all in a cgroup until nothing is left in it.
fn empty(folder: &Path) {
    while cgroup::processes(folder).is_some_and(|left| !left.is_empty()) {
        cgroup::kill(folder);
        // A process in an uninterruptible wait dies when the kernel lets it.
        std::thread::sleep(KILL_AGAIN);
    }
}
