//! Postgres' own programs, which write and read the dump.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::AsyncReadExt as _;

/// How often is looked whether a dump is done; shorter than a transaction may lie idle.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What begins the password where it stands among a URL's parameters.
const PASSWORD_PARAMETER: &str = "password=";

/// Bytes of what `pg_dump` says on stderr that are kept.
const SAID_MAX_BYTES: u64 = 4_096;

/// Where the programs are looked for.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) data_dir: PathBuf,
    pub(super) postgres_bin: Option<PathBuf>,
    /// The Postgres is somebody else's, and this host may have the clients' programs alone.
    pub(super) is_elsewhere: bool,
}

/// The folder of `pg_dump` and `pg_restore`.
#[derive(Debug)]
pub(super) struct Tools {
    folder: PathBuf,
}

/// A `pg_dump` at work; killed when it is dropped.
#[derive(Debug)]
pub(super) struct Dumping {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Tools {
    /// Those of the private cluster's version, else of the newest that is installed.
    pub(super) fn find(place: &Place) -> anyhow::Result<Self> {
        let found = marquee_postgres::programs(&place.data_dir, place.postgres_bin.as_deref());
        let (folder, major) = match found {
            Ok(found) => found,
            Err(error) => match on_path().filter(|_| place.is_elsewhere) {
                Some(folder) => return Ok(Self { folder }),
                None => return Err(error.into()),
            },
        };
        if !folder.join("pg_dump").is_file() || !folder.join("pg_restore").is_file() {
            bail!(
                "{folder:?} has no pg_dump and pg_restore of Postgres {major}; on Debian they are in the package postgresql-client-{major}"
            );
        }
        Ok(Self { folder })
    }

    /// Whether they can read a server of this major version; an error with the way out where they cannot.
    pub(super) fn can_read(&self, server: u32) -> anyhow::Result<()> {
        let program = self.folder.join("pg_dump");
        let said = Command::new(&program)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("could not start {program:?}"))?;
        let text = String::from_utf8_lossy(&said.stdout);
        let Some(major) = major_of(&text).filter(|_| said.status.success()) else {
            bail!(
                "{program:?} does not say its version ({}): {}",
                said.status,
                String::from_utf8_lossy(&said.stderr).trim_end()
            );
        };
        if major < server {
            bail!(
                "{program:?} is of Postgres {major}, and the server of {server}: an older one cannot read it; install the programs of {server} on the coordinator's host (on Debian postgresql-client-{server}), and name their folder in postgres_bin if there are several"
            );
        }
        Ok(())
    }

    fn dumping(&self, url: &str, snapshot: &str) -> Command {
        let mut command = self.command("pg_dump", url);
        command
            // A restored database is its new owner's, whatever that account is called.
            .args(["--format=custom", "--no-owner", "--no-privileges"])
            .arg(format!("--snapshot={snapshot}"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Begins to say what the snapshot of that name sees.
    pub(super) fn stream(&self, url: &str, snapshot: &str) -> anyhow::Result<Streaming> {
        let mut command = tokio::process::Command::from(self.dumping(url, snapshot));
        let mut child = command
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("could not start pg_dump")?;
        let stdout = child.stdout.take().context("its stdout is a pipe")?;
        let mut stderr = child.stderr.take().context("its stderr is a pipe")?;
        // Read all the time: with a full pipe it would wait for ever.
        let said = tokio::spawn(async move {
            let mut kept = Vec::new();
            let mut first = (&mut stderr).take(SAID_MAX_BYTES);
            let _ = first.read_to_end(&mut kept).await;
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            String::from_utf8_lossy(&kept).trim_end().to_owned()
        });
        Ok(Streaming {
            child,
            stdout,
            said,
        })
    }

    /// Begins to write what the snapshot of that name sees.
    pub(super) fn dump(&self, url: &str, snapshot: &str, file: &Path) -> anyhow::Result<Dumping> {
        let mut command = self.dumping(url, snapshot);
        command.arg("--file").arg(file);
        let child = command
            .stdout(Stdio::null())
            .spawn()
            .context("could not start pg_dump")?;
        Ok(Dumping { child, ended: None })
    }

    /// Fills an empty database: all of it, or nothing.
    pub(super) fn restore(&self, url: &str, file: &Path) -> anyhow::Result<()> {
        let mut command = self.command("pg_restore", url);
        command
            .args(["--no-owner", "--no-privileges", "--exit-on-error"])
            .arg("--single-transaction")
            .arg(file);
        let output = command
            .stdin(Stdio::null())
            .output()
            .context("could not start pg_restore")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("pg_restore failed ({}): {}", output.status, said.trim_end());
        }
        Ok(())
    }

    /// Other accounts see a command line: the password goes by the environment.
    fn command(&self, program: &str, url: &str) -> Command {
        let (url, password) = without_password(url);
        let mut command = Command::new(self.folder.join(program));
        command.arg("--no-password").arg("--dbname").arg(url);
        if let Some(password) = password {
            command.env("PGPASSWORD", password);
        }
        command
    }
}

/// A `pg_dump` that writes to us; killed when it is dropped.
#[derive(Debug)]
pub(super) struct Streaming {
    child: tokio::process::Child,
    stdout: tokio::process::ChildStdout,
    said: tokio::task::JoinHandle<String>,
}

impl Streaming {
    /// The next bytes, at most as many as there is room for; 0 at its end. Dropped while it waits, it has lost nothing.
    pub(super) async fn read(&mut self, bytes: &mut bytes::BytesMut) -> anyhow::Result<usize> {
        let read = self.stdout.read_buf(bytes).await;
        read.context("could not read what pg_dump writes")
    }

    /// Whether it went well; what was read is worth nothing otherwise.
    pub(super) async fn finish(mut self) -> anyhow::Result<()> {
        let status = self.child.wait().await?;
        if status.success() {
            return Ok(());
        }
        let said = self.said.await.unwrap_or_default();
        bail!("pg_dump failed ({status}): {said}");
    }
}

impl Dumping {
    pub(super) fn has_ended(&mut self) -> anyhow::Result<bool> {
        self.ended = self.child.try_wait()?;
        Ok(self.ended.is_some())
    }

    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let status = match self.ended {
            Some(status) => status,
            None => self.child.wait()?,
        };
        if !status.success() {
            let mut said = String::new();
            if let Some(stderr) = &mut self.child.stderr {
                stderr.read_to_string(&mut said)?;
            }
            bail!("pg_dump failed ({status}): {}", said.trim_end());
        }
        Ok(())
    }
}

impl Drop for Dumping {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The major version in what `pg_dump --version` says: `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `17beta1`.
fn major_of(said: &str) -> Option<u32> {
    let is_number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    let word = said.split_whitespace().find(is_number)?;
    let end = word.find(|c: char| !c.is_ascii_digit());
    word[..end.unwrap_or(word.len())].parse().ok()
}

/// The first folder of PATH with both programs.
fn on_path() -> Option<PathBuf> {
    let has_both = |folder: &PathBuf| {
        ["pg_dump", "pg_restore"]
            .iter()
            .all(|program| folder.join(program).is_file())
    };
    std::env::split_paths(&std::env::var_os("PATH")?).find(has_both)
}

/// The URL without its password, and the password in plain, wherever it stands: behind the user's name, or among the
/// parameters, which go before.
fn without_password(url: &str) -> (String, Option<String>) {
    let (url, password) = without_its_users_password(url);
    let Some((before, query)) = url.split_once('?') else {
        return (url, password);
    };
    let is_password = |parameter: &&str| parameter.starts_with(PASSWORD_PARAMETER);
    let (secret, others): (Vec<&str>, Vec<&str>) = query.split('&').partition(is_password);
    let Some(last) = secret.last() else {
        return (url, password);
    };
    let shown = if others.is_empty() {
        before.to_owned()
    } else {
        format!("{before}?{}", others.join("&"))
    };
    let password = percent_decoded(&last[PASSWORD_PARAMETER.len()..]);
    (shown, Some(password))
}

fn without_its_users_password(url: &str) -> (String, Option<String>) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (url.to_owned(), None);
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    // The last one: a password may hold an "@" that nobody escaped.
    let Some((user, host)) = authority.rsplit_once('@') else {
        return (url.to_owned(), None);
    };
    match user.split_once(':') {
        Some((name, password)) => (
            format!("{scheme}://{name}@{host}{after}"),
            Some(percent_decoded(password)),
        ),
        None => (url.to_owned(), None),
    }
}

/// Replaces `%41` and the like by what they stand for. A `%` without two digits behind it stays, as libpq has it.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        // A sign, which a number in Rust may have, is no digit here.
        let hex = after
            .get(..2)
            .filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        let hex = hex.and_then(|two| std::str::from_utf8(two).ok());
        let byte = hex.and_then(|two| u8::from_str_radix(two, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_taken_out_of_a_url_and_nothing_else_is() {
        for (url, without, password) in [
            (
                "postgres://marquee:pw@localhost/postgres?host=%2Frun%2Fx",
                "postgres://marquee@localhost/postgres?host=%2Frun%2Fx",
                Some("pw"),
            ),
            (
                "postgres://a:p%40%3Aw%@db/m",
                "postgres://a@db/m",
                Some("p@:w%"),
            ),
            (
                "postgres://a@db/m?options=x:y@z",
                "postgres://a@db/m?options=x:y@z",
                None,
            ),
            ("postgres:///m?host=/work", "postgres:///m?host=/work", None),
            (
                "postgres://a:pw@db?sslmode=x",
                "postgres://a@db?sslmode=x",
                Some("pw"),
            ),
            // Other accounts see a command line: a parameter is no better place there.
            (
                "postgres://a@db/m?password=p%20w",
                "postgres://a@db/m",
                Some("p w"),
            ),
            (
                "postgres://a@db/m?sslmode=x&password=pw&host=h",
                "postgres://a@db/m?sslmode=x&host=h",
                Some("pw"),
            ),
            (
                "postgres://a:one@db/m?password=two&password=three",
                "postgres://a@db/m",
                Some("three"),
            ),
            ("postgres:///m?password=", "postgres:///m", Some("")),
            (
                "postgres://a@db/m?passwords=x",
                "postgres://a@db/m?passwords=x",
                None,
            ),
            ("no url at all", "no url at all", None),
            ("postgres://:pw@db", "postgres://@db", Some("pw")),
            ("postgres://a:@db", "postgres://a@db", Some("")),
        ] {
            let found = without_password(url);
            assert_eq!(found, (without.to_owned(), password.map(str::to_owned)));
        }
    }

    #[test]
    fn what_is_no_escape_stays_as_it_is() {
        let cases = [
            ("", ""),
            ("plain", "plain"),
            ("%41%62", "Ab"),
            ("%4", "%4"),
            ("%", "%"),
            ("%zz%41", "%zzA"),
            ("%+1", "%+1"),
            ("%-1", "%-1"),
            ("% 1", "% 1"),
            ("%C3%A9", "\u{e9}"),
            ("100%\u{e9}", "100%\u{e9}"),
        ];
        for (text, plain) in cases {
            assert_eq!(percent_decoded(text), plain, "{text:?}");
        }
    }

    #[test]
    fn a_version_is_read_and_an_older_one_is_refused_with_the_way_out() {
        for (said, major) in [
            (
                "pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n",
                Some(15),
            ),
            ("pg_dump (PostgreSQL) 9.6.24\n", Some(9)),
            ("pg_dump (PostgreSQL) 18beta1", Some(18)),
            ("pg_dump (PostgreSQL) 17devel", Some(17)),
            ("pg_dump (PostgreSQL)", None),
            ("", None),
            ("pg_dump 99999999999", None),
        ] {
            assert_eq!(major_of(said), major, "{said:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        let tools = |script: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            let program = folder.path().join("pg_dump");
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            let folder = folder.path().to_owned();
            Tools { folder }
        };
        let fifteen = tools("echo 'pg_dump (PostgreSQL) 15.18'");
        fifteen.can_read(14).unwrap();
        fifteen.can_read(15).unwrap();
        let older = fifteen.can_read(16).unwrap_err().to_string();
        assert!(
            older.contains("of Postgres 15") && older.contains("postgresql-client-16"),
            "{older}"
        );
        let broken = tools("echo no libpq >&2; exit 127").can_read(14);
        let broken = broken.unwrap_err().to_string();
        assert!(broken.contains("no libpq"), "{broken}");
        std::fs::remove_file(folder.path().join("pg_dump")).unwrap();
        let folder = folder.path().to_owned();
        let missing = Tools { folder }.can_read(14).unwrap_err();
        assert!(missing.to_string().contains("could not start"), "{missing}");
    }
}
