//! A host with the accounts and the helper of a packaged worker, made of namespaces: nothing of the real one changes.
//!
//! As systemd does it by the units in `deploy/`: the helper runs as root for each connection, with a `/tmp` of its own;
//! the worker runs as `marquee-worker` in a cgroup that is its own; both see of `/proc` what `ProtectProc=invisible`
//! shows.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::daemon::{BINARY, is_root};

/// Ids that no host gives out by itself.
pub(crate) const WORKER: u32 = 61_500;
pub(crate) const JOBS: u32 = 61_510;
const JOB_USERS: u32 = 2;

#[derive(Debug)]
pub(crate) struct CageHost {
    root: tempfile::TempDir,
    cgroup: PathBuf,
}

impl CageHost {
    /// None where it cannot be had; then it says why.
    pub(crate) fn make() -> Option<Arc<Self>> {
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let mount = mounts.into_iter().find(|m| m.join("cgroup.procs").exists());
        let (true, Some(mount)) = (is_root(), mount) else {
            eprintln!("skipped: only root makes accounts, and it takes cgroups of version 2");
            return None;
        };
        // Not below /tmp, of which the helper sees none.
        let root = tempfile::tempdir_in("/var/tmp").unwrap();
        let name = root.path().file_name().unwrap().to_string_lossy();
        let cgroup = mount.join(format!("marquee-cage-{}", name.trim_start_matches('.')));
        if let Err(error) = fs::create_dir(&cgroup) {
            eprintln!("skipped: no cgroup can be made on this host: {error}");
            return None;
        }
        let host = Self { root, cgroup };
        // As Delegate=yes does.
        for name in [
            "",
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.threads",
        ] {
            chown(host.cgroup.join(name), Some(WORKER), Some(WORKER)).unwrap();
        }
        host.write_accounts();
        open(host.root.path(), 0o711);
        let keeper = env!("CARGO_BIN_EXE_marquee-keeper");
        for (name, built) in [("marquee-worker", BINARY), ("marquee-keeper", keeper)] {
            fs::copy(built, host.at(name)).unwrap();
            open(&host.at(name), 0o755);
        }
        if !host
            .command("")
            .arg("true")
            .status()
            .is_ok_and(|s| s.success())
        {
            eprintln!("skipped: no namespaces on this host");
            return None;
        }
        host.listen();
        Some(Arc::new(host))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write_accounts(&self) {
        let mut passwd = fs::read_to_string("/etc/passwd").unwrap();
        let mut group = fs::read_to_string("/etc/group").unwrap();
        let jobs = (0..JOB_USERS).map(|n| (format!("marquee-job-{n}"), JOBS + n));
        for (name, id) in [("marquee-worker".to_owned(), WORKER)]
            .into_iter()
            .chain(jobs)
        {
            passwd += &format!("{name}:x:{id}:{id}::/:/usr/sbin/nologin\n");
            group += &format!("{name}:x:{id}:\n");
        }
        for (name, text) in [("passwd", passwd), ("group", group)] {
            fs::write(self.at(name), text).unwrap();
            open(&self.at(name), 0o644);
        }
    }

    /// A command on this host, as root, after `then`.
    fn command(&self, then: &str) -> Command {
        let root = self.root.path().display();
        let script = format!(
            "set -e; mount --bind {root}/passwd /etc/passwd; mount --bind {root}/group /etc/group; \
             mount -t proc -o hidepid=invisible proc /proc; {then} exec \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script, "sh"]);
        command
    }

    /// What systemd does for marquee-cage.socket.
    fn listen(&self) {
        let path = self.socket();
        let listener = UnixListener::bind(&path).unwrap();
        chown(&path, Some(0), Some(WORKER)).unwrap();
        open(&path, 0o660);
        let mut program = self.command("mount -t tmpfs -o mode=1777 none /tmp; cd /;");
        // Root, but for the rights that the unit takes away.
        program
            .args(["setpriv", "--no-new-privs", "--inh-caps=-all"])
            .arg("--bounding-set=-all,+setuid,+setgid,+chown")
            .arg(self.at("marquee-worker"))
            .arg("cage")
            .env_clear();
        program.env("PATH", "/usr/bin:/bin");
        let log = fs::File::create(self.at("helper.log")).unwrap();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(socket) = socket else { return };
                program
                    .stdin(Stdio::from(OwnedFd::from(socket)))
                    .stdout(log.try_clone().unwrap())
                    .stderr(log.try_clone().unwrap());
                let Ok(mut child) = program.spawn() else {
                    return;
                };
                // This process's own end of the connection.
                program.stdin(Stdio::null());
                std::thread::spawn(move || child.wait());
            }
        });
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.at("cage.sock")
    }

    /// What the helper and its wardens have said.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.at("helper.log")).unwrap()
    }

    /// A folder for a worker.
    pub(crate) fn folder(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir_in(self.root.path()).unwrap();
        chown(folder.path(), Some(WORKER), Some(WORKER)).unwrap();
        open(folder.path(), 0o711);
        folder
    }

    /// A command as the worker's account, in its cgroup.
    pub(crate) fn as_worker(&self) -> Command {
        let join = format!(
            "umask 077; echo 0 > {}/cgroup.procs;",
            self.cgroup.display()
        );
        let mut command = self.command(&join);
        command.arg("setpriv").args([
            &format!("--reuid={WORKER}"),
            &format!("--regid={WORKER}"),
            "--clear-groups",
            "--no-new-privs",
        ]);
        // Where the one that the tests were started by cannot be entered.
        command.env("PATH", "/usr/bin:/bin");
        command
    }

    pub(crate) fn worker(&self) -> Command {
        let mut command = self.as_worker();
        command
            .arg(self.at("marquee-worker"))
            .env("HOME", self.root.path())
            .env("MARQUEE_WORKER__CAGE", "on")
            .env("MARQUEE_WORKER__CAGE_SOCKET", self.socket());
        command
    }

    /// All cgroups of ranks that are left.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let below = |folder: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let paths = entries.map(|entry| entry.path());
            paths.filter(|path| path.is_dir()).collect()
        };
        below(&self.cgroup)
            .iter()
            .flat_map(|one| below(one))
            .collect()
    }
}

impl Drop for CageHost {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the helper and its wardens: {}", self.said());
        }
        let _all_dead = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let since = std::time::Instant::now();
        while fs::remove_dir(&self.cgroup).is_err() && since.elapsed().as_secs() < 10 {
            let _swept = Command::new("find")
                .arg(&self.cgroup)
                .args(["-mindepth", "1", "-depth", "-type", "d", "-delete"])
                .stderr(Stdio::null())
                .status();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
