//! What runs as root: `marquee-worker cage`, started by systemd for one connection (`deploy/marquee-cage@.service`).
//!
//! It does one thing: it becomes a job's user in a cgroup of the worker's, and turns into the warden. Who asks has to
//! be the worker's account. Of the request it takes a number and descriptors: the number names an account
//! `marquee-job-N` and no other, what is given to that account has to be the worker's own, and the cgroup, too. So the
//! most that a worker gains which somebody has taken over is to run programs as these accounts, which is what they are
//! for.
//!
//! All of it is in this file, to be read in one go, but for the six bytes of the request (`wire::asked`).

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::prctl::set_no_new_privs;
use nix::sys::stat::{Mode as NixMode, umask};
use nix::unistd::{
    Gid, Group, Uid, User, chdir, geteuid, getgroups, getresgid, getresuid, setgroups, setresgid,
    setresuid,
};
use rustix::fs::{FileType, Mode, OFlags, fchown, fstat, fstatfs, openat};
use rustix::net::sockopt::socket_peercred;

use super::wire::{self, Word};
use super::{JOB_USERS_MAX, WORKER, job_user, warden};

/// The first word of its command line.
pub const COMMAND: &str = "cage";
/// Groups to which some distributions give GPUs. A job's user is in no other but its own.
const GPU_GROUPS: [&str; 2] = ["video", "render"];
/// Who has connected says at once what it wants.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// `CGROUP2_SUPER_MAGIC` of the kernel.
const CGROUP2: u64 = 0x6367_7270;

/// Serves the connection on stdin. Comes back only with the reason why not.
pub fn serve() -> anyhow::Result<Infallible> {
    let socket = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?);
    admit(&socket).inspect_err(|error| {
        let _gone_already = wire::say(&socket, &Word::Refused(format!("{error:#}")));
    })
}

fn admit(socket: &UnixStream) -> anyhow::Result<Infallible> {
    ensure!(geteuid().is_root(), "only root becomes another account");
    let worker = account(WORKER)?;
    let peer = socket_peercred(socket)?.uid.as_raw();
    ensure!(
        peer == worker.uid.as_raw() && peer != 0,
        "user {peer} asks, and only {WORKER} may"
    );
    socket.set_read_timeout(Some(REQUEST_MAX))?;
    let (number, with) = wire::asked(socket).context("the request cannot be read")?;
    let user = of_job(number, &worker)?;
    let (cgroup, given) = with.split_first().context("the request brings no cgroup")?;
    is_cgroup_of(cgroup, &worker)?;
    for one in given {
        is_of(one, &worker)?;
    }
    for one in given {
        // The group alone. As the owner the job could change the mode, and close its folder to the
        // worker.
        fchown(
            one,
            None,
            Some(rustix::fs::Gid::from_raw(user.gid.as_raw())),
        )?;
    }
    socket.set_read_timeout(None)?;
    // While it is still root: a job's account may not move itself into a cgroup of the worker's.
    join(cgroup)?;
    turn_into(&user)?;
    // The program that runs, whatever its file was replaced by; it keeps stdin, and with it the connection.
    let error = Command::new("/proc/self/exe")
        .arg0("marquee-worker")
        .arg(warden::COMMAND)
        .env_clear()
        .exec();
    Err(error).context("the warden cannot be started")
}

fn account(name: &str) -> anyhow::Result<User> {
    let found = User::from_name(name)?;
    found.with_context(|| format!("this host has no account {name:?}; run systemd-sysusers"))
}

/// The account of this number, which has nothing in common with root or the worker.
fn of_job(number: u16, worker: &User) -> anyhow::Result<User> {
    ensure!(
        number < JOB_USERS_MAX,
        "there is no account number {number}"
    );
    let name = job_user(number);
    let user = account(&name)?;
    let is_apart = !user.uid.is_root()
        && user.gid.as_raw() != 0
        && user.uid != worker.uid
        && user.gid != worker.gid;
    ensure!(
        is_apart,
        "account {name:?} has an id in common with root or {WORKER}"
    );
    Ok(user)
}

/// A folder or file that the worker could open to everybody anyway.
fn is_of(descriptor: &OwnedFd, worker: &User) -> anyhow::Result<()> {
    let found = fstat(descriptor)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    ensure!(
        matches!(kind, FileType::Directory | FileType::RegularFile),
        "what is given is neither folder nor file"
    );
    ensure!(
        found.st_uid == worker.uid.as_raw(),
        "what is given is not {WORKER}'s own"
    );
    Ok(())
}

fn is_cgroup_of(cgroup: &OwnedFd, worker: &User) -> anyhow::Result<()> {
    // The field's type differs between architectures.
    let kind = u64::try_from(fstatfs(cgroup)?.f_type).unwrap_or(0);
    ensure!(kind == CGROUP2, "what is given is no cgroup");
    is_of(cgroup, worker)
}

fn join(cgroup: &OwnedFd) -> anyhow::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let processes = openat(cgroup, "cgroup.procs", flags, Mode::empty());
    let processes = processes.context("the cgroup cannot be joined")?;
    rustix::io::write(&processes, b"0").context("the cgroup cannot be joined")?;
    Ok(())
}

/// Gives up everything, for good, and makes sure of it.
fn turn_into(user: &User) -> anyhow::Result<()> {
    let mut groups = vec![user.gid];
    for name in GPU_GROUPS {
        groups.extend(Group::from_name(name)?.map(|group| group.gid));
    }
    groups.retain(|group| group.as_raw() != 0);
    // In this order: who has become another user may not change groups any more.
    setgroups(&groups)?;
    setresgid(user.gid, user.gid, user.gid)?;
    setresuid(user.uid, user.uid, user.uid)?;
    set_no_new_privs()?;
    let (uids, gids) = (getresuid()?, getresgid()?);
    let is_user = [uids.real, uids.effective, uids.saved] == [user.uid; 3]
        && [gids.real, gids.effective, gids.saved] == [user.gid; 3]
        && getgroups()?.iter().all(|group| groups.contains(group));
    let root = (Uid::from_raw(0), Gid::from_raw(0));
    if !is_user
        || setresuid(root.0, root.0, root.0).is_ok()
        || setresgid(root.1, root.1, root.1).is_ok()
    {
        bail!(
            "the kernel leaves this process more rights than those of {}",
            user.name
        );
    }
    umask(NixMode::from_bits_truncate(0o077));
    chdir("/")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, id: u32) -> User {
        User {
            name: name.to_owned(),
            passwd: Default::default(),
            uid: Uid::from_raw(id),
            gid: Gid::from_raw(id),
            gecos: Default::default(),
            dir: Default::default(),
            shell: Default::default(),
        }
    }

    #[test]
    fn whoever_is_not_the_worker_is_refused_before_it_is_heard() {
        let (keeper, helper) = UnixStream::pair().unwrap();
        // Nothing was asked yet: one that is heard first would wait.
        let refused = admit(&helper).unwrap_err().to_string();
        let expected = [
            "only root",
            "this host has no account",
            "only marquee-worker may",
        ];
        assert!(
            expected.iter().any(|why| refused.contains(why)),
            "{refused}"
        );
        drop(keeper);
    }

    #[test]
    fn what_is_not_the_workers_own_is_not_given_away() {
        let own = user("own", geteuid().as_raw());
        let other = user("other", geteuid().as_raw() + 1);
        let dir = tempfile::tempdir().unwrap();
        let open = |path: &std::path::Path, flags| {
            openat(
                rustix::fs::CWD,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .unwrap()
        };
        let folder = open(dir.path(), OFlags::DIRECTORY);
        assert!(is_of(&folder, &own).is_ok());
        assert!(is_of(&folder, &other).is_err());
        assert!(is_cgroup_of(&folder, &own).is_err(), "an ordinary folder");
        let device = open("/dev/null".as_ref(), OFlags::RDWR);
        assert!(is_of(&device, &own).is_err());
    }

    #[test]
    fn a_number_names_a_jobs_account_and_no_other() {
        let worker = user("worker", 500);
        let refused = of_job(JOB_USERS_MAX, &worker).unwrap_err().to_string();
        assert!(refused.contains("no account number"), "{refused}");
    }
}
