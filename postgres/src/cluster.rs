//! The cluster's files: made once, aside and then renamed, so that a killed initdb leaves nothing
//! that looks like a cluster.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::find::{self, Binaries};
use crate::rights::Rights;
use crate::server::Server;
use crate::{PostgresError, launch, leftover, socket};

/// The role of the private cluster.
const ROLE: &str = "marquee";
/// The database is the one that initdb makes. One of our own would have to be copied at the first
/// start, and its 300 files synced before the first stop.
const DATABASE: &str = "postgres";
/// Where the kernel gives random bytes.
const RANDOM: &str = "/dev/urandom";
/// The server's log is moved aside at a start where it is larger than this.
const LOG_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// A cluster that is ready to be started.
#[derive(Debug, Clone)]
pub struct Cluster {
    binaries: Binaries,
    rights: Rights,
    launcher: PathBuf,
    /// The folder that PostgreSQL calls PGDATA.
    data: PathBuf,
    log: PathBuf,
    socket_folder: PathBuf,
    password: String,
    notes: Vec<String>,
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
        // Before the first file is made: with another account it would belong to the wrong one.
        let rights = launch::rights(launcher, &binaries.folder.join("postgres"))?;
        let mut cluster = Self {
            socket_folder: socket::folder(data_dir, &rights)?,
            password: password(&data_dir.join("postgres.password"), &rights)?,
            log: data_dir.join("postgres.log"),
            launcher: launcher.to_owned(),
            binaries,
            rights,
            data,
            notes: Vec::new(),
        };
        if made_by.is_none() {
            cluster.make(data_dir)?;
            let note = format!("made a private Postgres cluster in {:?}", cluster.data);
            cluster.notes.push(note);
        }
        // A server that a killed coordinator left behind still writes. Two on one folder would destroy it.
        let stopped = leftover::clear(&cluster.data, &cluster.socket_folder)?;
        cluster.notes.extend(stopped);
        Ok(cluster)
    }

    /// Where clients find the database. It holds the password: not for logs.
    #[must_use]
    pub fn url(&self) -> String {
        url(&self.socket_folder, &self.password)
    }

    /// What had to be done to open it, for a log.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Where the server writes its log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Starts the server, and returns when it takes connections. `given_up` waits for so long, and says
    /// whether to stop waiting for the server.
    pub fn start(
        &self,
        given_up: impl FnMut(std::time::Duration) -> bool,
    ) -> Result<Server, PostgresError> {
        Server::start(&mut self.server()?, &self.data, &self.log, given_up)
    }

    /// The major version of the server.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.binaries.major
    }

    fn make(&self, data_dir: &Path) -> Result<(), PostgresError> {
        let aside = data_dir.join("postgres.new");
        // An initdb that was killed leaves half a cluster, of which nothing can be used.
        if aside.exists() {
            fs::remove_dir_all(&aside).map_err(PostgresError::io("remove", &aside))?;
        }
        fs::create_dir(&aside).map_err(PostgresError::io("create", &aside))?;
        self.rights.give(&aside)?;
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
            // Checksums: a page that the disk changed, of logs or of anything else, is an error that says so.
            .args(["--locale", "C", "--no-instructions", "--data-checksums"])
            .output()
            .map_err(PostgresError::io("start", &self.launcher))?;
        if !output.status.success() {
            let text = [output.stdout, output.stderr].concat();
            let output = String::from_utf8_lossy(&text).trim_end().to_owned();
            return Err(PostgresError::Program {
                program: "initdb",
                output,
            });
        }
        fs::rename(&aside, &self.data).map_err(PostgresError::io("rename to", &self.data))
    }

    /// The command that runs the server.
    fn server(&self) -> Result<Command, PostgresError> {
        if fs::metadata(&self.log).is_ok_and(|meta| meta.len() > LOG_MAX_BYTES) {
            let old = self.log.with_extension("log.old");
            fs::rename(&self.log, &old).map_err(PostgresError::io("rename", &self.log))?;
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.log);
        let log = log.map_err(PostgresError::io("open", &self.log))?;
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(&self.data)
            .arg("-k")
            .arg(&self.socket_folder);
        for setting in [
            // No port at all: whoever reaches the socket's folder is already the right account.
            "listen_addresses=",
            "unix_socket_permissions=0700",
            // Only a part of the socket's name here. The usual one, so that a person's psql finds it with -h
            // alone.
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
        let also = log
            .try_clone()
            .map_err(PostgresError::io("open", &self.log))?;
        command.stdout(Stdio::from(also)).stderr(Stdio::from(log));
        Ok(command)
    }

    fn command(&self, program: &str) -> Command {
        launch::command(
            &self.launcher,
            &self.rights,
            &self.binaries.folder.join(program),
        )
    }
}

/// Where the private database is found through a socket in this folder.
pub(crate) fn url(socket_folder: &Path, password: &str) -> String {
    let socket = percent_encode(socket_folder.as_os_str().as_encoded_bytes());
    // The parser wants a host; the parameter replaces it.
    format!("postgres://{ROLE}:{password}@localhost/{DATABASE}?host={socket}")
}

/// The major version of the cluster in `data`, if there is one.
pub(crate) fn version_of(data: &Path) -> Result<Option<u32>, PostgresError> {
    let file = data.join("PG_VERSION");
    match fs::read_to_string(&file) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| {
            let error = io::Error::other(format!("it holds {text:?}, which is no major version"));
            PostgresError::io("read", &file)(error)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PostgresError::io("read", &file)(error)),
    }
}

/// The password of the cluster's role, made on the first start.
fn password(file: &Path, rights: &Rights) -> Result<String, PostgresError> {
    match fs::read_to_string(file) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        // Empty: killed while it was written, so no cluster has it.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(PostgresError::io("read", file)(error)),
    }
    let password = random_hex().map_err(PostgresError::io("read", Path::new(RANDOM)))?;
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    let mut open = options
        .open(file)
        .map_err(PostgresError::io("create", file))?;
    writeln!(open, "{password}").map_err(PostgresError::io("write", file))?;
    // The cluster is made with it next. A password that is lost then locks everybody out of a whole cluster.
    open.sync_all().map_err(PostgresError::io("fsync", file))?;
    rights.give(file)?;
    Ok(password)
}

/// 256 random bits as text that an URL need not escape.
fn random_hex() -> io::Result<String> {
    let mut bytes = [0; 32];
    fs::File::open(RANDOM)?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
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
    fn a_password_is_made_once_and_kept() {
        let folder = crate::fresh_folder().unwrap();
        let file = folder.join("password");
        let first = password(&file, &Rights::Keep).unwrap();
        assert_eq!(first.len(), 64);
        assert!(first.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(password(&file, &Rights::Keep).unwrap(), first);
        // A start that was killed while it wrote: no cluster has that password yet.
        fs::write(&file, "").unwrap();
        assert_ne!(password(&file, &Rights::Keep).unwrap(), first);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_path_in_an_url_is_escaped() {
        assert_eq!(percent_encode(b"/run/a b/50%"), "%2Frun%2Fa%20b%2F50%25");
    }
}
