//! How a child is started: from a thread that alone is bound as the child is to be.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use marquee_domain::child::env::EVENTS_FD;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::unistd::{AccessFlags, access};

use super::order::{ChildOrder, Keep};
use crate::files;
use crate::process::cgroup;
use crate::process::launcher::events_path;

/// Starts the child from a thread of its own, whose mask alone is lifted, and which alone is behind the fence: a child
/// inherits both of the thread that starts it. With TERM blocked it could never be told to stop.
pub(in crate::process) fn start(
    order: &Keep,
    own: ChildOrder,
    blocked: &SigSet,
) -> io::Result<i32> {
    let env = own.env();
    let fence = own.fence;
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
pub(crate) fn channel(dir: &Path) -> io::Result<File> {
    let file = files::open_append(&events_path(dir))?;
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

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
