//! Where a cluster on one machine keeps its things, and the command lines of its daemons.
//!
//! `coordinator/` and `workers/<name>/` belong to the daemons, `log/<name>.log` holds what they
//! print, `coordinator.toml` and `worker.toml` may hold more settings, and `up.lock` keeps a second `marquee up` out.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use super::options::ClusterOptions;
use super::program::{Program, beside_us};
use crate::error::Result;

/// The folder of a cluster, locked for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Layout {
    folder: PathBuf,
    /// None after [`Layout::unlock`].
    lock: Option<File>,
}

impl Layout {
    /// Makes the folder if needed and locks it.
    pub(crate) fn lock(folder: &Path) -> Result<Self> {
        let folder = std::path::absolute(folder).context("cannot tell the data folder's path")?;
        let cannot = || {
            let folder = folder.display();
            format!("the data folder {folder} cannot be used; choose another with --data-dir")
        };
        // Passable for the account that a private Postgres may run as; what is in it is nobody else's business.
        make_private(&folder, 0o711).with_context(cannot)?;
        for inner in ["log", "workers"] {
            make_private(&folder.join(inner), 0o700).with_context(cannot)?;
        }
        let path = folder.join("up.lock");
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            // Until the lock is ours the pid in it is another's, and the error names it.
            .truncate(false)
            .open(&path)
            .with_context(cannot)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(&folder, &mut lock)),
            Err(TryLockError::Error(error)) => {
                return Err(anyhow::Error::new(error).context(cannot()).into());
            }
        }
        // Only now: what stood here until the lock was ours named its holder to everybody else.
        lock.set_len(0).with_context(cannot)?;
        write!(lock, "{}", std::process::id()).with_context(cannot)?;
        Ok(Self {
            folder,
            lock: Some(lock),
        })
    }

    /// Gives the folder back. The file stays: who has opened it and gets its lock now would hold one that a third cannot
    /// see once another file stood in its place.
    pub(crate) fn unlock(&mut self) {
        if let Some(lock) = self.lock.take() {
            // While the lock is held: afterwards the number in it may be the next one's.
            let _ = lock.set_len(0);
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that a program's output goes to.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.folder.join("log").join(format!("{name}.log"))
    }

    pub(super) fn coordinator_data(&self) -> PathBuf {
        self.folder.join("coordinator")
    }

    fn worker_data(&self, name: &str) -> PathBuf {
        self.folder.join("workers").join(name)
    }

    /// Lets a worker join no cluster but this one, also while it has never met it: should our coordinator fail,
    /// another one may listen in its place.
    pub(super) fn belong(&self, number: u32, cluster: &str) -> Result<()> {
        let folder = self.worker_data(&worker_name(number));
        let path = folder.join("cluster-id");
        match fs::read_to_string(&path) {
            Ok(known) if known.trim() == cluster => Ok(()),
            Ok(known) => Err(anyhow!(
                "the folder {} belongs to cluster {}, and the coordinator here is of cluster {cluster}; was its own \
                 folder removed or replaced? Then remove that of the worker too",
                folder.display(),
                known.trim()
            )
            .into()),
            Err(_) => {
                fs::create_dir_all(&folder)
                    .and_then(|()| fs::write(&path, format!("{cluster}\n")))
                    .with_context(|| format!("cannot write {}", path.display()))?;
                Ok(())
            }
        }
    }

    pub(super) fn coordinator(&self, options: &ClusterOptions) -> Result<Program> {
        let args = vec![
            "--listen".into(),
            options.listen.to_string().into(),
            "--data-dir".into(),
            self.coordinator_data().into(),
        ];
        self.program(
            "coordinator",
            "marquee-coordinator",
            "coordinator.toml",
            args,
        )
    }

    pub(super) fn worker(&self, options: &ClusterOptions, number: u32) -> Result<Program> {
        let name = worker_name(number);
        let port = options.listen.port();
        let host = match options.listen.ip() {
            // All addresses can be listened on and none of them dialled.
            IpAddr::V4(ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
            IpAddr::V6(ip) if ip.is_unspecified() => "[::1]".to_owned(),
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let args = vec![
            "--coordinator".into(),
            format!("http://{host}:{port}").into(),
            "--name".into(),
            name.as_str().into(),
            "--data-dir".into(),
            self.worker_data(&name).into(),
            "--cpu-slots".into(),
            options.slots_per_worker.to_string().into(),
            "--threads-per-slot".into(),
            options.threads_per_slot.to_string().into(),
            // The coordinator's data and the other workers' are here too.
            "--sandbox-hide".into(),
            self.folder.clone().into(),
        ];
        self.program(&name, "marquee-worker", "worker.toml", args)
    }

    /// The settings file is the cluster's own: the host's in /etc/marquee is for the daemons that
    /// systemd starts.
    fn program(
        &self,
        name: &str,
        binary: &str,
        settings: &str,
        mut args: Vec<OsString>,
    ) -> Result<Program> {
        let settings = self.folder.join(settings);
        if !settings.exists() {
            let text = format!(
                "# More settings for the {binary} of \"marquee up\"; deploy/ lists them.\n"
            );
            // Written even though it says nothing: a file that is named and missing is an error of
            // the daemon, and the user sees where settings belong.
            fs::write(&settings, text)
                .with_context(|| format!("cannot write {}", settings.display()))?;
        }
        args.extend(["--config".into(), settings.into()]);
        Ok(Program::new(name, beside_us(binary)?, args, self.log(name)))
    }
}

/// Makes a folder if needed, with parents as usual, and gives it the mode also where it was there before.
fn make_private(folder: &Path, mode: u32) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
}

fn worker_name(number: u32) -> String {
    format!("worker-{number}")
}

impl Drop for Layout {
    fn drop(&mut self) {
        self.unlock();
    }
}

fn in_use(folder: &Path, lock: &mut File) -> crate::error::CliError {
    let mut pid = String::new();
    let _ = lock.read_to_string(&mut pid);
    anyhow!(
        "another marquee (pid {}) runs in {}; use that one, stop it, or choose another folder with \
         --data-dir",
        if pid.is_empty() { "unknown" } else { &pid },
        folder.display()
    )
    .into()
}

/// The address, with a free port where it says 0. The port is chosen here and not by the coordinator,
/// since that must have the same one after a restart.
pub(crate) fn free_port(mut addr: SocketAddr) -> Result<SocketAddr> {
    if addr.port() == 0 {
        // Free from here until the coordinator takes it. Should another program be faster, that
        // start fails, with the coordinator's own words.
        let probe = TcpListener::bind(addr).with_context(|| format!("cannot listen on {addr}"))?;
        addr.set_port(probe.local_addr()?.port());
    }
    Ok(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_up_and_the_second_is_told_which() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Layout::lock(folder.path()).unwrap();
        let error = Layout::lock(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
        // Whoever opened the file while the first one had it, and locks it now, keeps all others out.
        let early = File::open(folder.path().join("up.lock")).unwrap();
        first.unlock();
        early.try_lock().unwrap();
        let error = Layout::lock(folder.path()).unwrap_err().to_string();
        assert!(error.contains("pid unknown"), "{error}");
        drop(early);
        Layout::lock(folder.path()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(folder.path()), 0o711);
        assert_eq!(mode(&folder.path().join("workers")), 0o700);
        assert_eq!(mode(&folder.path().join("log")), 0o700);
    }

    #[test]
    fn a_workers_folder_belongs_to_one_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::lock(folder.path()).unwrap();
        layout.belong(1, "c1").unwrap();
        layout.belong(1, "c1").unwrap();
        let error = layout.belong(1, "c2").unwrap_err().to_string();
        assert!(
            error.contains("worker-1") && error.contains("cluster c1"),
            "{error}"
        );
    }

    #[test]
    fn an_open_port_is_chosen_and_a_given_one_kept() {
        let chosen = free_port("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(chosen.port(), 0);
        let given = "127.0.0.1:7".parse().unwrap();
        assert_eq!(free_port(given).unwrap(), given);
    }
}
