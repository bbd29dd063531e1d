//! Postgres' own programs, which write and read the dump.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::config::Config;

/// How often is looked whether a dump is done; shorter than a transaction may lie idle.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What begins the password where it stands among a URL's parameters.
const PASSWORD_PARAMETER: &str = "password=";

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
    pub(super) fn find(config: &Config) -> anyhow::Result<Self> {
        let found = marquee_postgres::programs(&config.data_dir, config.postgres_bin.as_deref());
        let (folder, major) = match found {
            Ok(found) => found,
            // Of a Postgres elsewhere a host may have the clients' programs alone.
            Err(error) => match on_path().filter(|_| config.database_url.is_some()) {
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

    /// Begins to write what the snapshot of that name sees.
    pub(super) fn dump(&self, url: &str, snapshot: &str, file: &Path) -> anyhow::Result<Dumping> {
        let mut command = self.command("pg_dump", url);
        command
            // A restored database is its new owner's, whatever that account is called.
            .args(["--format=custom", "--no-owner", "--no-privileges"])
            .arg(format!("--snapshot={snapshot}"))
            .arg("--file")
            .arg(file);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
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
}
