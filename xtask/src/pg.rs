//! A private Postgres for as long as one task needs it: own folder, unix socket only, no fsync.
//!
//! Invariant: when the task ends, in whatever way, the server ends and its folder goes. A small shell
//! stands between us and the server and waits on a pipe whose other end only we hold; the kernel
//! closes that end even when we are killed.
//!
//! The servers that keep jobs are started by the coordinator, with other settings; not from here.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;

/// How long a server on a busy machine may take to answer its first query.
const START_LIMIT: Duration = Duration::from_secs(60);
const START_POLL: Duration = Duration::from_millis(50);

/// Starts the command given as arguments and ends it (SIGINT: fast shutdown) when stdin closes;
/// removes the folder named first. A Ctrl-C reaches this shell too and must not end it early.
const GUARD: &str = r#"
folder=$1; shift
trap : INT TERM HUP
"$@" </dev/null &
server=$!
while read -r _; do :; done
kill -INT "$server"
wait "$server"
rm -rf "$folder"
"#;

/// A running server.
#[derive(Debug)]
pub(crate) struct PrivatePostgres {
    guard: Child,
    folder: PathBuf,
    psql: PathBuf,
}

impl PrivatePostgres {
    /// Creates a cluster with the programs in `bin` and waits until it answers.
    pub(crate) fn start(bin: &Path) -> Result<Self> {
        let psql = Some(bin.join("psql"))
            .filter(|program| process::is_executable(program))
            .or_else(|| process::on_path("psql"))
            .with_context(|| {
                format!(
                    "psql is neither in {} nor on PATH; it is in the package postgresql-client (Debian) or postgresql (Fedora)",
                    bin.display()
                )
            })?;
        // Directly below /tmp: a socket's path may not exceed 107 bytes.
        let folder = PathBuf::from(format!("/tmp/marquee-pg-{}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let data = folder.join("data");
        let initialised = process::read(
            unprivileged(&bin.join("initdb"))?
                .args(["--username=postgres", "--auth=trust", "--no-sync"])
                .args(["--encoding=UTF8", "--locale=C", "--pgdata"])
                .arg(&data),
        );
        if let Err(error) = initialised {
            std::fs::remove_dir_all(&folder)?;
            return Err(error);
        }
        let guard = start_guarded(bin, &folder, &data)?;
        let mut server = Self {
            guard,
            folder,
            psql,
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// For sqlx and everything else that takes a URL.
    pub(crate) fn url(&self) -> String {
        format!(
            "postgres://postgres@localhost/postgres?host={}",
            self.folder.display()
        )
    }

    /// Removed with everything in it when the server ends.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs a file of SQL in one transaction.
    pub(crate) fn apply(&self, file: &Path) -> Result<()> {
        process::read(
            self.psql()
                .args(["--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"])
                .arg("--file")
                .arg(file),
        )
        .map(|_| ())
    }

    fn psql(&self) -> Command {
        let mut command = Command::new(&self.psql);
        command
            .args(["--no-psqlrc", "--username=postgres", "--dbname=postgres"])
            .arg("--host")
            .arg(&self.folder);
        command
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let answer = process::read(self.psql().args(["--command", "select 1"]));
            if answer.is_ok() {
                return Ok(());
            }
            if start.elapsed() > START_LIMIT {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                bail!("the private Postgres did not answer; its log:\n{log}");
            }
            std::thread::sleep(START_POLL);
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        if let Err(error) = self.guard.wait() {
            eprintln!("warning: could not wait for the private Postgres to end: {error}");
        }
    }
}

fn start_guarded(bin: &Path, folder: &Path, data: &Path) -> Result<Child> {
    let log = std::fs::File::create(folder.join("log"))?;
    let server = unprivileged(&bin.join("postgres"))?;
    Command::new("sh")
        .args(["-c", GUARD, "sh"])
        .arg(folder)
        .arg(server.get_program())
        .args(server.get_args())
        .arg("-D")
        .arg(data)
        .arg("-k")
        .arg(folder)
        .args(["-c", "listen_addresses=", "-c", "fsync=off"])
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start sh")
}

/// Postgres refuses to run as root; in a user namespace without a mapping it does not see that it is.
fn unprivileged(program: &Path) -> Result<Command> {
    if !process::is_root() {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("unshare");
    command.arg("--user");
    if process::read(Command::new("unshare").args(["--user", "true"])).is_err() {
        bail!(
            "Postgres does not run as root, and \"unshare --user\" does not work here; run this as another user"
        );
    }
    command.arg(program);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_answers_and_leaves_nothing_behind() {
        let server = PrivatePostgres::start(&crate::setup::postgres_bin().unwrap()).unwrap();
        let folder = server.folder.clone();
        let migration = folder.join("one.sql");
        std::fs::write(
            &migration,
            "create table job (id int); insert into job values (1);",
        )
        .unwrap();
        server.apply(&migration).unwrap();
        std::fs::write(&migration, "insert into job values (2); select nonsense;").unwrap();
        let error = server.apply(&migration).unwrap_err().to_string();
        assert!(error.contains("nonsense"), "{error}");
        let count = process::read(
            server
                .psql()
                .args(["-At", "-c", "select count(*) from job"]),
        );
        assert_eq!(
            count.unwrap().trim(),
            "1",
            "a file is applied whole or not at all"
        );

        let pid_file = std::fs::read_to_string(folder.join("data/postmaster.pid")).unwrap();
        let pid = pid_file.lines().next().unwrap().to_owned();
        assert!(Path::new("/proc").join(&pid).exists());
        drop(server);
        assert!(
            !Path::new("/proc").join(&pid).exists(),
            "postgres {pid} still runs"
        );
        assert!(!folder.exists(), "{} is still there", folder.display());
    }
}
