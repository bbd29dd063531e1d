//! Finding the server binaries of an installed PostgreSQL.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{MAJOR_MIN, PostgresError};

/// A folder that holds working server binaries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    pub folder: PathBuf,
    pub major: u32,
}

/// Names the folder of the programs for whoever has no settings file: tests and tasks.
pub const BIN_VARIABLE: &str = "MARQUEE_POSTGRES_BIN";

/// Folders whose children are installations, and what leads from a child to its programs.
const VERSIONED: [(&str, &str, &str); 6] = [
    // Debian and Ubuntu.
    ("/usr/lib/postgresql", "", "bin"),
    // The PostgreSQL project's packages for RHEL and Fedora.
    ("/usr", "pgsql-", "bin"),
    // Homebrew on Apple silicon, on Intel, and on Linux.
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// The binaries to use: those in `configured` if it is given; else of all installed ones those of
/// version `wanted` (the one that made the cluster), or the newest for a new cluster.
pub(crate) fn find(
    configured: Option<&Path>,
    wanted: Option<u32>,
    data: &Path,
) -> Result<Binaries, PostgresError> {
    let mut found = match configured {
        Some(folder) => match look_into(folder) {
            Some(binaries) => vec![binaries],
            None => return Err(PostgresError::NotThere(folder.to_owned())),
        },
        None => installed(),
    };
    if found.is_empty() {
        return Err(not_found());
    }
    // A cluster that is there decides: its files are of one major version, and a newer server refuses them.
    let Some(made_by) = wanted else {
        return Ok(found.remove(0));
    };
    let majors: BTreeSet<String> = found.iter().map(|b| b.major.to_string()).collect();
    found
        .into_iter()
        .find(|binaries| binaries.major == made_by)
        .ok_or_else(|| {
            let found = majors.into_iter().collect::<Vec<_>>().join(", ");
            PostgresError::OtherVersion {
                data: data.to_owned(),
                made_by,
                found,
            }
        })
}

/// Those that [`BIN_VARIABLE`] names, else the newest that are installed.
pub fn by_environment() -> Result<Binaries, PostgresError> {
    match std::env::var_os(BIN_VARIABLE).filter(|value| !value.is_empty()) {
        Some(folder) => look_into(Path::new(&folder)).ok_or(PostgresError::NotThere(folder.into())),
        None => installed().into_iter().next().ok_or_else(not_found),
    }
}

fn not_found() -> PostgresError {
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    PostgresError::NotFound {
        install: install_line(std::env::consts::OS, &os_release).into(),
    }
}

/// All that are new enough, newest first.
#[must_use]
pub fn installed() -> Vec<Binaries> {
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(
        std::env::var_os("PATH")
            .iter()
            .flat_map(std::env::split_paths),
    );
    folders.extend(pg_config_bindir());
    for (parent, prefix, to_programs) in VERSIONED {
        for child in fs::read_dir(parent).into_iter().flatten().flatten() {
            if child.file_name().to_string_lossy().starts_with(prefix) {
                folders.push(child.path().join(to_programs));
            }
        }
    }
    let mut seen = BTreeSet::new();
    // Each is started once to ask for its version, which takes its time.
    folders.retain(|folder| seen.insert(folder.clone()));
    let mut found: Vec<Binaries> = folders
        .iter()
        .filter_map(|folder| look_into(folder))
        .collect();
    // The sort is stable, so that PATH goes before the usual places.
    found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
    found
}

fn pg_config_bindir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    Some(PathBuf::from(
        String::from_utf8(output.stdout).ok()?.trim_end(),
    ))
}

/// The programs in `folder`, where both are there, start, and are new enough.
#[must_use]
pub fn look_into(folder: &Path) -> Option<Binaries> {
    if !folder.is_absolute() || !folder.join("initdb").is_file() {
        return None;
    }
    // A distribution may put links to the programs into a common folder; what they lead to has its
    // libraries and tables beside it.
    let postgres = folder.join("postgres").canonicalize().ok()?;
    let output = Command::new(&postgres).arg("--version").output().ok()?;
    let major = major_of(&String::from_utf8_lossy(&output.stdout))?;
    let folder = postgres.parent()?.to_owned();
    (major >= MAJOR_MIN && folder.join("initdb").is_file()).then_some(Binaries { folder, major })
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_of(version: &str) -> Option<u32> {
    let (_, rest) = version.split_once("(PostgreSQL) ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// The line that installs the binaries on a system.
fn install_line(os: &str, os_release: &str) -> &'static str {
    let ids: Vec<&str> = os_release
        .lines()
        .filter_map(|line| {
            line.strip_prefix("ID=")
                .or_else(|| line.strip_prefix("ID_LIKE="))
        })
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .collect();
    let is = |id: &str| ids.contains(&id);
    if os == "macos" {
        "brew install postgresql@17"
    } else if is("fedora") || is("rhel") || is("centos") {
        "dnf install postgresql-server"
    } else if is("suse") || is("opensuse") {
        "zypper install postgresql-server"
    } else if is("arch") {
        "pacman -S postgresql"
    } else if is("alpine") {
        "apk add postgresql"
    } else {
        "apt install postgresql"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases_and_betas() {
        assert_eq!(
            major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_of("postgres (EnterpriseDB) x"), None);
    }

    #[test]
    fn the_install_line_is_that_of_the_system() {
        assert_eq!(
            install_line("linux", "NAME=x\nID=debian\n"),
            "apt install postgresql"
        );
        assert_eq!(
            install_line("linux", "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"),
            "dnf install postgresql-server"
        );
        assert_eq!(install_line("macos", ""), "brew install postgresql@17");
    }

    #[test]
    fn a_folder_without_programs_is_refused_by_name() {
        let folder = crate::fresh_folder().unwrap();
        let error = find(Some(&folder), None, Path::new("/data")).unwrap_err();
        assert!(matches!(error, PostgresError::NotThere(_)), "{error}");
        fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn a_cluster_of_a_version_that_is_not_installed_is_refused_with_both_versions() {
        let configured = std::env::var_os("MARQUEE_POSTGRES_BIN").map(PathBuf::from);
        let error = find(configured.as_deref(), Some(9), Path::new("/data")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("was made by PostgreSQL 9, which is not installed"),
            "{text}"
        );
    }
}
