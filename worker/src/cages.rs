//! Which account of this host runs whose jobs: the programs of each project run under one of their own
//! ([`crate::process::cage`]).
//!
//! A project keeps its account for as long as the data folder lives, so that what it left anywhere on the host is
//! never another project's. Not here: how a child gets there, and what it is given (`rank::furnish`).

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use marquee_domain::project::ProjectName;
use marquee_domain::spec::JobKind;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{AccessFlags, User, access, geteuid};

use crate::config::{Caging, Config};
use crate::fault::at;
use crate::process::cage::{JOB_USERS_MAX, WORKER, job_user};
use crate::process::launcher::Launcher;
use crate::{durable, files};

/// What others may do with the folders on the way to a rank's: pass through, and list nothing.
const PASSED: u32 = 0o711;

/// The accounts for jobs of this host.
#[derive(Debug)]
pub struct Cages {
    socket: PathBuf,
    /// How many there are.
    users: u16,
    homes: PathBuf,
    scratch: PathBuf,
    /// Only command jobs run under them.
    for_commands: bool,
    file: PathBuf,
    taken: Mutex<BTreeMap<ProjectName, u16>>,
}

impl Cages {
    /// Those of this host, with the way to them opened. The text says why there are none.
    pub fn find(config: &Config, launcher: &dyn Launcher) -> Result<Self, String> {
        if config.cage == Caging::Off {
            return Err("cage is \"off\"".to_owned());
        }
        let users = accounts(config)?;
        may_ask(&config.cage_socket)?;
        let attempts = config.data_dir.join("attempts");
        if !launcher.can_cage(&attempts) {
            return Err(
                "the worker has no part of the cgroup tree (version 2, Linux 5.14) with which it could end what runs under another account; its unit gives it one (Delegate=yes)"
                    .to_owned(),
            );
        }
        let cages = Self {
            socket: config.cage_socket.clone(),
            users,
            homes: config.data_dir.join("homes"),
            scratch: config.data_dir.join("scratch"),
            for_commands: config.cage == Caging::Commands,
            file: config.data_dir.join("cages.json"),
            taken: Mutex::default(),
        };
        cages
            .open_the_way(&config.data_dir, &attempts)
            .and_then(|()| cages.read())
            .map_err(|error| format!("the data folder cannot be used for it: {error}"))
    }

    /// Where the helper is asked.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether jobs of this kind run under them.
    #[must_use]
    pub fn are_for(&self, kind: JobKind) -> bool {
        match kind {
            JobKind::Command => true,
            JobKind::Fetch | JobKind::Preprocess | JobKind::Train | JobKind::Eval => {
                !self.for_commands
            }
        }
    }

    /// How many projects can have an account.
    #[must_use]
    pub fn users(&self) -> u16 {
        self.users
    }

    /// The account of a project. It gets one with its first job.
    pub fn user_of(&self, project: &ProjectName) -> io::Result<u16> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = taken.get(project) {
            return Ok(*user);
        }
        let free = (0..self.users).find(|user| !taken.values().any(|other| other == user));
        let user = free.ok_or_else(|| {
            io::Error::other(format!(
                "all {} accounts for jobs of this host belong to other projects; give it more (marquee-job-{} and on, in a file of /etc/sysusers.d) and restart marquee-worker",
                self.users, self.users
            ))
        })?;
        let mut with_it = taken.clone();
        with_it.insert(project.clone(), user);
        // Before anything runs there: after a power cut, too, it is nobody else's.
        durable::write_json(&self.file, &with_it)?;
        *taken = with_it;
        Ok(user)
    }

    /// The home folder that the jobs of an account share, made where it is not there.
    pub fn home(&self, user: u16) -> io::Result<PathBuf> {
        let home = self.homes.join(job_user(user));
        if !home.is_dir() {
            files::make_folder(&home)?;
        }
        Ok(home)
    }

    fn read(self) -> io::Result<Self> {
        let taken = files::read_json(&self.file)?.unwrap_or_default();
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = taken;
        Ok(self)
    }

    /// Lets jobs' users through to their ranks' folders, and to nothing else of the data folder.
    fn open_the_way(&self, data_dir: &Path, attempts: &Path) -> io::Result<()> {
        // For all that this process makes from now on: the folder above is about to let others
        // through.
        umask(Mode::S_IRWXG | Mode::S_IRWXO);
        for folder in [attempts, &self.homes, &self.scratch] {
            files::make_folder(folder)?;
        }
        for entry in fs::read_dir(data_dir).map_err(|e| at(data_dir, e))? {
            let path = entry.map_err(|e| at(data_dir, e))?.path();
            let found = fs::symlink_metadata(&path).map_err(|e| at(&path, e))?;
            let mode = found.permissions().mode();
            let is_way = path == attempts || path == self.homes || path == self.scratch;
            if !is_way && !found.is_symlink() && mode & 0o077 != 0 {
                set_mode(&path, mode & 0o700)?;
            }
        }
        for folder in [data_dir, attempts, &self.homes, &self.scratch] {
            set_mode(folder, PASSED)?;
        }
        let is_closed = |above: &&Path| {
            fs::metadata(above).is_ok_and(|found| found.permissions().mode() & 0o001 == 0)
        };
        match data_dir.ancestors().find(is_closed) {
            Some(closed) => Err(io::Error::other(format!(
                "other accounts cannot pass through {}",
                closed.display()
            ))),
            None => Ok(()),
        }
    }
}

/// Why jobs under accounts of their own could not start a program of this folder.
#[must_use]
pub fn closed_to_others(bin_dir: &Path) -> Option<String> {
    let mode = |path: &Path| fs::metadata(path).map_or(0o777, |found| found.permissions().mode());
    let is_closed = |path: &&Path| mode(path) & 0o001 == 0;
    let programs = ["marquee-prep", "marquee-trainer"].map(|name| bin_dir.join(name));
    let closed = bin_dir.ancestors().find(is_closed).map(Path::to_owned);
    let closed = closed.or_else(|| {
        programs
            .into_iter()
            .find(|program| mode(program) & 0o005 != 0o005)
    });
    closed.map(|path| {
        format!(
            "{} is closed to other accounts, and jobs' programs lie there",
            path.display()
        )
    })
}

/// How many accounts for jobs this host has, and the helper with them. The text says what is missing.
pub fn accounts(config: &Config) -> Result<u16, String> {
    let is_socket =
        |path: &Path| fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let socket = &config.cage_socket;
    if !is_socket(socket) {
        return Err(format!(
            "nobody listens at {}; start marquee-cage.socket",
            socket.display()
        ));
    }
    let there_is = |user: &u16| matches!(User::from_name(&job_user(*user)), Ok(Some(_)));
    // Up to the first gap: accounts go by their numbers from 0 to this count (`user_of`), so that
    // one behind a gap would have a number that none is behind.
    let users = (0..JOB_USERS_MAX).take_while(there_is).count();
    match u16::try_from(users) {
        Ok(users) if users > 0 => Ok(users),
        Ok(_) | Err(_) => Err(format!(
            "this host has no account {}; run systemd-sysusers",
            job_user(0)
        )),
    }
}

/// Whether the helper would listen to this process.
fn may_ask(socket: &Path) -> Result<(), String> {
    let worker = User::from_name(WORKER).ok().flatten();
    if worker.is_none_or(|worker| worker.uid != geteuid()) {
        return Err(format!("this worker does not run as {WORKER}"));
    }
    // Connecting to a socket takes the right to write to it.
    if access(socket, AccessFlags::W_OK).is_err() {
        return Err(format!("{} is closed to {WORKER}", socket.display()));
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|e| at(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cages(dir: &Path, users: u16) -> Cages {
        let cages = Cages {
            socket: "/none".into(),
            users,
            homes: dir.join("homes"),
            scratch: dir.join("scratch"),
            for_commands: false,
            file: dir.join("cages.json"),
            taken: Mutex::default(),
        };
        cages.read().unwrap()
    }

    #[test]
    fn a_project_keeps_its_account_and_shares_it_with_none() {
        let dir = tempfile::tempdir().unwrap();
        let of = |cages: &Cages, name: &str| cages.user_of(&name.parse().unwrap());
        let first = cages(dir.path(), 2);
        assert_eq!(of(&first, "a").unwrap(), 0);
        assert_eq!(of(&first, "b").unwrap(), 1);
        assert_eq!(of(&first, "a").unwrap(), 0);
        let none_left = of(&first, "c").unwrap_err().to_string();
        assert!(none_left.contains("marquee-job-2"), "{none_left}");
        // The next daemon, with one more.
        let next = cages(dir.path(), 3);
        assert_eq!(of(&next, "b").unwrap(), 1);
        assert_eq!(of(&next, "c").unwrap(), 2);
    }

    #[test]
    fn the_way_is_open_and_what_lies_beside_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("attempts/1-1-0")).unwrap();
        fs::create_dir(at("cache")).unwrap();
        fs::write(at("worker-id"), "x").unwrap();
        for (name, mode) in [("cache", 0o755), ("worker-id", 0o644), ("attempts", 0o700)] {
            set_mode(&at(name), mode).unwrap();
        }
        let cages = cages(dir.path(), 1);
        // Under /tmp everybody may pass.
        cages.open_the_way(dir.path(), &at("attempts")).unwrap();
        let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;
        let seen = ["", "attempts", "homes", "cache", "worker-id"].map(mode);
        assert_eq!(seen, [0o711, 0o711, 0o711, 0o700, 0o600]);
        let within = at("cache/data");
        fs::create_dir_all(within.join("attempts")).unwrap();
        let closed = cages.open_the_way(&within, &within.join("attempts"));
        assert!(
            closed
                .unwrap_err()
                .to_string()
                .contains("cannot pass through")
        );
    }
}
