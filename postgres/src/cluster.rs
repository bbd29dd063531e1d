//! The cluster's files: made once, aside and then renamed, so that a killed initdb leaves nothing
//! that looks like a cluster.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use uuid::Uuid;

use super::find::{self, Binaries};
use super::launch::{self, Rights};
use super::{PostgresError, io_error, leftover, socket};

/// The role of the private cluster.
const ROLE: &str = "marquee";
/// The database is the one that initdb makes. One of our own would have to be copied at the first
/// start, and its 300 files synced before the first stop.
const DATABASE: &str = "postgres";
/// The server's log is moved aside at a start where it is larger than this.
const LOG_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// A cluster that is ready to be started.
#[derive(Debug, Clone)]
pub struct Cluster {
    binaries: Binaries,
    rights: Rights,
    launcher: PathBuf,
    /// The folder that PostgreSQL calls PGDATA.
    pub(super) data: PathBuf,
    pub(super) log: PathBuf,
    socket_folder: PathBuf,
    password: String,
}

impl Cluster {
    /// Opens the cluster in `<data_dir>/postgres`, and makes it where there is none. `launcher` is
    /// our own binary. The caller holds the lock of `data_dir`, an absolute path.
    pub fn open(
        data_dir: &Path,
        postgres_bin: Option<&Path>,
        launcher: &Path,
    ) -> Result<Self, PostgresError> {
        let data = data_dir.join("postgres");
        let made_by = version_of(&data)?;
        let binaries = find::find(postgres_bin, made_by, &data)?;
        let rights = Rights::find(launcher, &binaries.folder.join("postgres"))?;
        let cluster = Self {
            socket_folder: socket::folder(data_dir, &rights)?,
            password: password(&data_dir.join("postgres.password"), &rights)?,
            log: data_dir.join("postgres.log"),
            launcher: launcher.to_owned(),
            binaries,
            rights,
            data,
        };
        if made_by.is_none() {
            cluster.make(data_dir)?;
        }
        leftover::clear(&cluster.data, &cluster.socket_folder)?;
        Ok(cluster)
    }

    /// Where clients find the database. It holds the password: not for logs.
    #[must_use]
    pub fn url(&self) -> String {
        let socket = percent_encode(self.socket_folder.as_os_str().as_encoded_bytes());
        // The parser wants a host; the parameter replaces it.
        format!(
            "postgres://{ROLE}:{}@localhost/{DATABASE}?host={socket}",
            self.password
        )
    }

    /// The major version of the server.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.binaries.major
    }

    fn make(&self, data_dir: &Path) -> Result<(), PostgresError> {
        let aside = data_dir.join("postgres.new");
        if aside.exists() {
            fs::remove_dir_all(&aside).map_err(io_error("remove", &aside))?;
        }
        fs::create_dir(&aside).map_err(io_error("create", &aside))?;
        give_to(&self.rights, &aside)?;
        tracing::info!(version = self.binaries.major, data = ?self.data, "making a private Postgres cluster");
        let output = self
            .command("initdb")
            .arg("--pgdata")
            .arg(&aside)
            .arg("--pwfile")
            .arg(data_dir.join("postgres.password"))
            // The C locale sorts alike on every system and after every upgrade of one.
            .args([
                "--username",
                ROLE,
                "--auth",
                "scram-sha-256",
                "--encoding",
                "UTF8",
            ])
            .args(["--locale", "C", "--no-instructions"])
            .output()
            .map_err(io_error("start", &self.launcher))?;
        if !output.status.success() {
            let text = [output.stdout, output.stderr].concat();
            let output = String::from_utf8_lossy(&text).trim_end().to_owned();
            return Err(PostgresError::Program {
                program: "initdb",
                output,
            });
        }
        fs::rename(&aside, &self.data).map_err(io_error("rename to", &self.data))
    }

    /// The command that runs the server.
    pub(super) fn server(&self) -> Result<Command, PostgresError> {
        if fs::metadata(&self.log).is_ok_and(|meta| meta.len() > LOG_MAX_BYTES) {
            let old = self.log.with_extension("log.old");
            fs::rename(&self.log, &old).map_err(io_error("rename", &self.log))?;
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.log);
        let log = log.map_err(io_error("open", &self.log))?;
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(&self.data)
            .arg("-k")
            .arg(&self.socket_folder);
        for setting in [
            "listen_addresses=",
            "unix_socket_permissions=0700",
            "port=5432",
            "cluster_name=marquee",
            "logging_collector=off",
            // Our statements are short; and without it the server needs no writable code pages,
            // which a hardened unit denies.
            "jit=off",
            "log_destination=stderr",
            "log_line_prefix=%m [%p] ",
        ] {
            command.arg("-c").arg(setting);
        }
        let also = log.try_clone().map_err(io_error("open", &self.log))?;
        command.stdout(Stdio::from(also)).stderr(Stdio::from(log));
        Ok(command)
    }

    /// Whether the server that is process `pid` says that it takes connections.
    pub(super) fn is_ready(&self, pid: u32) -> bool {
        // Line 1 is the process, line 8 the state (src/include/utils/pidfile.h of PostgreSQL).
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        let is_its_own = lines
            .next()
            .is_some_and(|line| line.trim() == pid.to_string());
        is_its_own && lines.nth(6).is_some_and(|line| line.trim() == "ready")
    }

    /// The signal that asks for a fast shutdown, and the one that asks to quit without.
    pub(super) const STOP: [Signal; 2] = [Signal::SIGINT, Signal::SIGQUIT];

    fn command(&self, program: &str) -> Command {
        launch::command(
            &self.launcher,
            &self.rights,
            &self.binaries.folder.join(program),
        )
    }
}

/// The major version of the cluster in `data`, if there is one.
pub(super) fn version_of(data: &Path) -> Result<Option<u32>, PostgresError> {
    let file = data.join("PG_VERSION");
    match fs::read_to_string(&file) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| {
            let error = io::Error::other(format!("it holds {text:?}, which is no major version"));
            io_error("read", &file)(error)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", &file)(error)),
    }
}

/// The password of the cluster's role, made on the first start.
fn password(file: &Path, rights: &Rights) -> Result<String, PostgresError> {
    match fs::read_to_string(file) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        // Empty: killed while it was written, so no cluster has it.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("read", file)(error)),
    }
    // Two random UUIDs: 244 random bits, and nothing that an URL would have to escape.
    let password = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    let mut open = options.open(file).map_err(io_error("create", file))?;
    writeln!(open, "{password}").map_err(io_error("write", file))?;
    open.sync_all().map_err(io_error("fsync", file))?;
    give_to(rights, file)?;
    Ok(password)
}

/// Gives a file to the account that the server runs as, where that is another than ours.
pub(super) fn give_to(rights: &Rights, path: &Path) -> Result<(), PostgresError> {
    match rights {
        Rights::Keep | Rights::Namespace => Ok(()),
        Rights::Account(user) => chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .map_err(io_error("give away", path)),
    }
}

fn percent_encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            text += &format!("%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_an_url_is_escaped() {
        assert_eq!(percent_encode(b"/run/a b/50%"), "%2Frun%2Fa%20b%2F50%25");
    }
}
